#include "PromptHasher.hpp"

void swl_prompt_hasher_begin(swl_prompt_hasher *hasher, uint64_t seed) {
    hasher->chain = seed;
    hasher->total_bytes = 0;
    hasher->count = 0;
    hasher->staged = 0;
}

void swl_prompt_hasher_salt(swl_prompt_hasher *hasher, uint64_t kind, const void *bytes, size_t length) {
    // Adding the kind instead of hashing it keeps one call per salt; XXH3 spreads it.
    hasher->chain = XXH3_64bits_withSeed(bytes, length, hasher->chain + kind);
}

void swl_prompt_hasher_append(swl_prompt_hasher *hasher, const void *bytes, size_t length) {
    swiftlet::append(*hasher, static_cast<const uint8_t *>(bytes), length);
}

namespace swiftlet {

uint64_t hash_with_baseline(const void *bytes, size_t length) noexcept {
    return XXH3_64bits(bytes, length);
}

}  // namespace swiftlet
