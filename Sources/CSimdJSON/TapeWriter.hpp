#pragma once
#include <cstddef>
#include <cstdint>

namespace swiftlet {

/// One pass over a JSON document that writes the words and texts `Tape` reads: what simdjson's two stages write, without the counts
/// of containers. It takes what clients send nearly always, and only where the processor has AVX2. Whatever it is not sure of (a number
/// with an exponent, a lone surrogate, nesting beyond 64, more than `most_words`, anything that
/// may be no JSON) it declines with false, and
/// simdjson judges. 64 bytes past the end must be readable, and the buffers as large as `dom::document::allocate(length)` makes them.
bool write_tape(const uint8_t *body, size_t length, uint64_t *words, size_t most_words, uint8_t *texts) noexcept;

}  // namespace swiftlet
