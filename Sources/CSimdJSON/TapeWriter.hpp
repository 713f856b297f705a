#pragma once
#include <cstddef>
#include <cstdint>

namespace swiftlet {

/// Where a tape goes.
struct TapeRoom {
    uint64_t *words;
    size_t most_words;
    uint8_t *texts;
    size_t most_text_bytes;
};

/// One pass over a JSON document that writes the words and texts `Tape` reads: what simdjson's two stages write, without the counts
/// of containers. It takes what clients send nearly always, and only where the processor has AVX2. Whatever it is not sure of (a number
/// with an exponent, a lone surrogate, nesting beyond 64, what may not fit the room, anything that may be no JSON) it declines with
/// false, and simdjson judges. 64 bytes past the end must be readable.
bool write_tape(const uint8_t *body, size_t length, const TapeRoom &room) noexcept;

}  // namespace swiftlet
