import CXXHash
import Testing

@testable import Wire

@Suite struct PromptHasherTests {
    /// The formula of the doc comment, by xxHash's own library.
    private func reference(_ bytes: [UInt8], seed: UInt64, chunk: Int) -> [UInt64] {
        var chain = seed
        return stride(from: 0, to: bytes.count - bytes.count % chunk, by: chunk).map { start in
            let own = bytes[start..<(start + chunk)].withUnsafeBytes { swl_xxh3($0.baseAddress, chunk, 0) }
            chain = withUnsafeBytes(of: own.littleEndian) { swl_xxh3($0.baseAddress, 8, chain) }
            return chain
        }
    }

    private func bytes(_ count: Int, seed: UInt64) -> [UInt8] {
        var generator = SplitMix64(state: seed)
        return (0..<count).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
    }

    @Test(arguments: [16, 64, 256, 1000]) func chainsFullChunks(chunk: Int) {
        let hasher = PromptHasher(maximumChunks: 100, chunkBytes: chunk)
        for count in [0, 1, chunk - 1, chunk, chunk + 1, 5 * chunk + 3] {
            let prompt = bytes(count, seed: UInt64(count))
            hasher.begin(seed: 42)
            prompt.withUnsafeBytes { hasher.append($0) }
            #expect(Array(hasher.hashes) == reference(prompt, seed: 42, chunk: chunk))
            #expect(hasher.byteCount == count)
        }
    }

    @Test func slicingChangesNothing() {
        let prompt = bytes(4000, seed: 1)
        let hasher = PromptHasher(maximumChunks: 100, chunkBytes: 64)
        let whole = reference(prompt, seed: 7, chunk: 64)
        var generator = SplitMix64(state: 2)
        for _ in 0..<50 {
            hasher.begin(seed: 7)
            var at = 0
            while at < prompt.count {
                let count = min(Int(generator.next() % 200), prompt.count - at)
                prompt[at..<(at + count)].withUnsafeBytes { hasher.append($0) }
                at += count
            }
            #expect(Array(hasher.hashes) == whole)
        }
    }

    @Test func stopsHashingAtItsBoundAndGoesOnCounting() {
        let prompt = bytes(1000, seed: 3)
        let hasher = PromptHasher(maximumChunks: 3, chunkBytes: 64)
        hasher.begin(seed: 0)
        for byte in prompt { withUnsafeBytes(of: byte) { hasher.append($0) } }
        #expect(Array(hasher.hashes) == Array(reference(prompt, seed: 0, chunk: 64).prefix(3)))
        #expect(hasher.byteCount == 1000)
    }

    @Test func saltsOfDifferentKindsDiffer() {
        let prompt = bytes(64, seed: 4)
        let hasher = PromptHasher(maximumChunks: 1, chunkBytes: 64)
        var seen = Set<UInt64>()
        for salt in [PromptHasher.Salt.model, .cacheSalt, .lora] {
            for text in ["a", "b", ""] {
                hasher.begin(seed: 9)
                Array(text.utf8).withUnsafeBytes { hasher.mix(salt, $0) }
                prompt.withUnsafeBytes { hasher.append($0) }
                seen.insert(hasher.hashes[0])
            }
        }
        #expect(seen.count == 9)
    }
}

/// Sebastiano Vigna's SplitMix64: seeded numbers for tests.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
