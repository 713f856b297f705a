#pragma once
#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/// XXH3, 64 bits, of `length` bytes at `bytes`, seeded (xxHash specification 0.8: "XXH3 algorithm").
static inline uint64_t swl_xxh3(const void *bytes, size_t length, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, length, seed);
}

/// Asks for the cache line of `address`, which will be read and written soon.
static inline void swl_prefetch(const void *address) { __builtin_prefetch(address, 1, 2); }

/// Which of the first fifteen of the sixteen numbers at `line`, a multiple of 16, are `value` in the bits of `mask`: bit n for number n.
static inline uint32_t swl_find_in_line(const uint32_t *line, uint32_t mask, uint32_t value) {
#if defined(__SSE2__)
    const __m128i *vectors = (const __m128i *)line;
    const __m128i bits = _mm_set1_epi32((int)mask), wanted = _mm_set1_epi32((int)value);
    const __m128i first = _mm_packs_epi32(
        _mm_cmpeq_epi32(_mm_and_si128(_mm_load_si128(vectors), bits), wanted),
        _mm_cmpeq_epi32(_mm_and_si128(_mm_load_si128(vectors + 1), bits), wanted));
    const __m128i second = _mm_packs_epi32(
        _mm_cmpeq_epi32(_mm_and_si128(_mm_load_si128(vectors + 2), bits), wanted),
        _mm_cmpeq_epi32(_mm_and_si128(_mm_load_si128(vectors + 3), bits), wanted));
    return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(first, second)) & 0x7fff;
#else
    uint32_t found = 0;
    for (int place = 0; place < 15; place += 1) { found |= (uint32_t)((line[place] & mask) == value) << place; }
    return found;
#endif
}
