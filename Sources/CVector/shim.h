#pragma once
#include <stddef.h>
#include <stdint.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

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

/// The least of `count` numbers at `numbers`, a multiple of 16; both are multiples of four.
static inline float swl_least(const float *numbers, size_t count) {
#if defined(__SSE2__)
    // Four at a time, for each waits for the one before it.
    __m128 least[4];
    for (size_t lane = 0; lane < 4; lane += 1) { least[lane] = _mm_set1_ps(__builtin_inff()); }
    size_t place = 0;
    for (; place + 16 <= count; place += 16) {
        for (size_t lane = 0; lane < 4; lane += 1) { least[lane] = _mm_min_ps(least[lane], _mm_load_ps(numbers + place + 4 * lane)); }
    }
    for (; place < count; place += 4) { least[0] = _mm_min_ps(least[0], _mm_load_ps(numbers + place)); }
    __m128 all = _mm_min_ps(_mm_min_ps(least[0], least[1]), _mm_min_ps(least[2], least[3]));
    all = _mm_min_ps(all, _mm_movehl_ps(all, all));
    return _mm_cvtss_f32(_mm_min_ss(all, _mm_shuffle_ps(all, all, 1)));
#else
    float least = __builtin_inff();
    for (size_t place = 0; place < count; place += 1) { least = numbers[place] < least ? numbers[place] : least; }
    return least;
#endif
}

/// Writes the places, ascending, of those of `count` numbers at `numbers` that are at most `limit` into `places`, but no more than `most`.
/// The numbers are such as `swl_least` takes. Returns how many places there are, or something above `most` when they are more.
static inline size_t swl_places_within(const float *numbers, size_t count, float limit, uint32_t *places, size_t most) {
    size_t found = 0;
    for (size_t place = 0; place < count; place += 4) {
#if defined(__SSE2__)
        uint32_t within = (uint32_t)_mm_movemask_ps(_mm_cmple_ps(_mm_load_ps(numbers + place), _mm_set1_ps(limit)));
#else
        uint32_t within = 0;
        for (size_t lane = 0; lane < 4; lane += 1) { within |= (uint32_t)(numbers[place + lane] <= limit) << lane; }
#endif
        for (; within != 0; within &= within - 1) {
            if (found == most) { return most + 1; }
            places[found] = (uint32_t)(place + (size_t)__builtin_ctz(within));
            found += 1;
        }
    }
    return found;
}
