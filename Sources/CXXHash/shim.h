#pragma once
#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>

/// XXH3, 64 bits, of `length` bytes at `bytes`, seeded (xxHash specification 0.8: "XXH3 algorithm").
static inline uint64_t swl_xxh3(const void *bytes, size_t length, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, length, seed);
}
