#include "ChunkHash.hpp"

// Before the attribute below, which must not reach what these bring.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>

// The target is compiled for any x86-64; these functions alone may use AVX2, and are called where there is some.
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#define XXH_INLINE_ALL
#define XXH_VECTOR 2  // XXH_AVX2
#include <xxhash.h>

static uint64_t hash_with_avx2(const void *bytes, size_t length) noexcept {
    return XXH3_64bits(bytes, length);
}
#pragma clang attribute pop

static bool has_avx2() noexcept {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2");
}
#endif

namespace swiftlet {

#if defined(__x86_64__)
const ChunkHash chunk_hash = has_avx2() ? hash_with_avx2 : hash_with_baseline;
#else
const ChunkHash chunk_hash = hash_with_baseline;
#endif

}  // namespace swiftlet
