#pragma once
// Each 256-byte chunk is hashed where it lies; only a chunk that straddles two slices is copied. xxHash is inlined so that
// the chunk length is a constant to the compiler's eye and no second library is linked; the digests are the library's.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "CSimdJSON.h"

namespace swiftlet {

inline void close_chunk(swl_prompt_hasher &hasher, const uint8_t *chunk) noexcept {
    hasher.chain = XXH3_64bits_withSeed(chunk, hasher.chunk_bytes, hasher.chain);
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

}  // namespace swiftlet
