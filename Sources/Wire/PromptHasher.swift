import CSimdJSON

/// Cuts a prompt into chunks of fixed length and chains their hashes, so that equal entries at place `i` mean equal prompts up to
/// the end of chunk `i`:
///
///     h₋₁ = seed, mixed with each salt
///     hᵢ  = XXH3-64(XXH3-64(chunkᵢ), seed: hᵢ₋₁)          (xxHash specification 0.8; integers in little-endian order)
///
/// Only full chunks are hashed. Budget: no allocation after `init`; only chunks that straddle two slices are copied.
/// Not Sendable: one per event loop.
public final class PromptHasher {
    /// What keeps two caches apart, besides the prompt's text. Raw values are part of the chain: routers that are to agree must share them.
    public enum Salt: UInt64 {
        case model = 1
        case cacheSalt = 2
        case lora = 3
        case template = 4
    }

    var state: swl_prompt_hasher

    /// - Parameters:
    ///   - maximumChunks: hashes kept per prompt; what follows is counted, not hashed.
    ///   - chunkBytes: bytes per chunk, 16 to 65,536.
    public init(maximumChunks: Int, chunkBytes: Int) {
        precondition(maximumChunks > 0 && maximumChunks <= 1 << 24, "maximumChunks is out of range")
        precondition(chunkBytes >= 16 && chunkBytes <= 65_536, "chunkBytes is out of range")
        state = swl_prompt_hasher(
            hashes: .allocate(capacity: maximumChunks), staging: .allocate(capacity: chunkBytes), chain: 0, total_bytes: 0,
            capacity: UInt32(maximumChunks), count: 0, chunk_bytes: UInt32(chunkBytes), staged: 0)
    }

    deinit {
        state.hashes.deallocate()
        state.staging.deallocate()
    }

    /// Forgets the last prompt and starts a chain.
    public func begin(seed: UInt64) {
        swl_prompt_hasher_begin(&state, seed)
    }

    /// Mixes `bytes` into the chain's start. Call between `begin` and the first `append`, in the order of `Salt`'s cases.
    public func mix(_ salt: Salt, _ bytes: UnsafeRawBufferPointer) {
        swl_prompt_hasher_salt(&state, salt.rawValue, bytes.baseAddress, bytes.count)
    }

    /// Appends prompt bytes; how they are sliced does not change the hashes.
    public func append(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        swl_prompt_hasher_append(&state, base, bytes.count)
    }

    /// One hash per full chunk, valid until the next `begin`.
    public var hashes: UnsafeBufferPointer<UInt64> {
        UnsafeBufferPointer(start: state.hashes, count: Int(state.count))
    }

    /// All bytes appended, hashed or not.
    public var byteCount: Int { Int(truncatingIfNeeded: state.total_bytes) }
}
