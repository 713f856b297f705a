#pragma once
// A chunk is hashed where it lies; only one that straddles two slices is copied. xxHash is inlined, so this target links
// nothing for it; the digests are those of its library.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "CSimdJSON.h"
#include "ChunkHash.hpp"

namespace swiftlet {

inline void close_chunk(swl_prompt_hasher &hasher, const uint8_t *chunk) noexcept {
    // The chunk's own hash waits for no other, so that the processor works on several at once; only this mixing is a chain.
    const uint64_t own = chunk_hash(chunk, hasher.chunk_bytes);
    hasher.chain = XXH3_64bits_withSeed(&own, sizeof own, hasher.chain);
    hasher.hashes[hasher.count++] = hasher.chain;
}

inline void append(swl_prompt_hasher &hasher, const uint8_t *bytes, size_t length) noexcept {
    hasher.total_bytes += length;
    if (hasher.count == hasher.capacity) { return; }
    const size_t chunk = hasher.chunk_bytes;
    if (hasher.staged != 0) {
        const size_t room = chunk - hasher.staged;
        const size_t taken = length < room ? length : room;
        std::memcpy(hasher.staging + hasher.staged, bytes, taken);
        hasher.staged += uint32_t(taken);
        if (taken < room) { return; }
        close_chunk(hasher, hasher.staging);
        hasher.staged = 0;
        bytes += taken;
        length -= taken;
    }
    while (length >= chunk && hasher.count < hasher.capacity) {
        close_chunk(hasher, bytes);
        bytes += chunk;
        length -= chunk;
    }
    if (length == 0 || hasher.count == hasher.capacity) { return; }
    std::memcpy(hasher.staging, bytes, length);
    hasher.staged = uint32_t(length);
}

/// Of all that was appended and what seeds it; 0 when not all of it was hashed.
inline uint64_t digest(const swl_prompt_hasher &hasher) noexcept {
    if (hasher.count == hasher.capacity) { return 0; }
    return XXH3_64bits_withSeed(hasher.staging, hasher.staged, hasher.chain) | 1;
}

/// Gathers small pieces (markers, keys, token ids) before they reach the hasher: a tool's schema is hundreds of pieces of a few
/// bytes, and one append for each measured four times the parse.
class PromptWriter {
  public:
    explicit PromptWriter(swl_prompt_hasher &hasher) noexcept : hasher_(hasher) {}
    PromptWriter(const PromptWriter &) = delete;
    PromptWriter &operator=(const PromptWriter &) = delete;
    ~PromptWriter() noexcept { flush(); }

    void byte(uint8_t byte) noexcept {
        reserve(1);
        buffer_[used_++] = byte;
    }

    /// A text of simdjson's string buffer, where 32 bytes may be read at any entry (its padding is 64).
    void text(swl_text text) noexcept {
        if (text.length > block) { return bytes(text.bytes, text.length); }
        reserve(block);
        std::memcpy(buffer_ + used_, text.bytes, block);
        used_ += text.length;
    }

    template <typename Number>
    void number(Number number) noexcept {
        reserve(sizeof number);
        std::memcpy(buffer_ + used_, &number, sizeof number);
        used_ += sizeof number;
    }

    /// Of all that was written so far, see above.
    uint64_t digest() noexcept {
        flush();
        return swiftlet::digest(hasher_);
    }

    template <size_t size>
    void literal(const char (&literal)[size]) noexcept {
        bytes(reinterpret_cast<const uint8_t *>(literal), size - 1);
    }

  private:
    static constexpr size_t block = 32;

    void bytes(const uint8_t *bytes, size_t length) noexcept {
        if (length > sizeof buffer_ / 2) {
            flush();
            return append(hasher_, bytes, length);
        }
        reserve(length);
        std::memcpy(buffer_ + used_, bytes, length);
        used_ += length;
    }

    void reserve(size_t length) noexcept {
        if (used_ + length > sizeof buffer_) { flush(); }
    }

    void flush() noexcept {
        append(hasher_, buffer_, used_);
        used_ = 0;
    }

    swl_prompt_hasher &hasher_;
    size_t used_ = 0;
    uint8_t buffer_[512];
};

}  // namespace swiftlet
