#pragma once
#include <cstddef>
#include <cstdint>

namespace swiftlet {

/// XXH3 of 64 bits. A chunk is long enough that wider vectors than every x86-64 has nearly halve it.
using ChunkHash = uint64_t (*)(const void *bytes, size_t length) noexcept;

uint64_t hash_with_baseline(const void *bytes, size_t length) noexcept;

/// The fastest that this machine has; all give the same.
extern const ChunkHash chunk_hash;

}  // namespace swiftlet
