/// A prompt as the engine sees it: how many tokens, and the chained hashes of the blocks that they fill.
///
/// The tokens themselves are gone, except for those behind the last full block: the reply's first tokens join them there.
public struct Prompt: Sendable {
    /// Length in tokens, at least 1.
    public let tokenCount: Int
    /// One hash per full block, first to last; `tokenCount / blockSize` of them.
    public let blockHashes: [UInt64]
    /// Names the text alone, whatever the salt or the adapter: the same words give the same value.
    public let contentHash: UInt64
    let root: UInt64
    let tail: [UInt32]

    /// Hashes `tokens` into blocks of `blockSize`. `root` is ``BlockHash/root(cacheSalt:adapter:)``.
    public init(tokens: [UInt32], blockSize: Int, root: UInt64) {
        let size = max(1, blockSize)
        var hashes: [UInt64] = []
        hashes.reserveCapacity(tokens.count / size)
        var parent = root
        var start = 0
        (contentHash, tail) = tokens.withUnsafeBufferPointer { buffer in
            while buffer.count - start >= size {
                parent = BlockHash.next(after: parent, tokens: UnsafeBufferPointer(rebasing: buffer[start..<(start + size)]))
                hashes.append(parent)
                start += size
            }
            return (BlockHash.hash(of: UnsafeRawBufferPointer(buffer), seed: 0), Array(buffer[start...]))
        }
        tokenCount = tokens.count
        blockHashes = hashes
        self.root = root
    }

    /// A prompt of which only the block hashes are known, as in a published trace. Full blocks without a hash and the tokens behind
    /// the last one are taken to be unlike anything else: `uniqueness` sets them apart.
    public init(tokenCount: Int, blockHashes: [UInt64], blockSize: Int, uniqueness: UInt64) {
        let size = max(1, blockSize)
        let full = max(0, tokenCount) / size
        var hashes = blockHashes.count > full ? Array(blockHashes.prefix(full)) : blockHashes
        while hashes.count < full { hashes.append(BlockHash.next(after: hashes.last ?? 0, salt: uniqueness)) }
        self.tokenCount = max(0, tokenCount)
        self.blockHashes = hashes
        contentHash = uniqueness
        root = BlockHash.root()
        tail = (0..<(self.tokenCount - full * size)).map {
            UInt32(truncatingIfNeeded: uniqueness &+ UInt64($0) &* 0x9e37_79b9_7f4a_7c15)
        }
    }

    /// A prompt made of pieces of which only names are known: equal names in equal places are equal text. A KV block's hash is made of
    /// the pieces that lie in it, whatever their lengths. The tokens behind the last full block are like no other's.
    public init(pieces: [(id: UInt64, tokens: Int)], blockSize: Int, uniqueness: UInt64) {
        let size = max(1, blockSize)
        var hashes: [UInt64] = []
        hashes.reserveCapacity(pieces.reduce(0) { $0 + $1.tokens } / size)
        var parent: UInt64 = 0
        var filled = 0
        var total = 0
        for piece in pieces {
            var offset = 0
            while offset < piece.tokens {
                let count = min(size - filled, piece.tokens - offset)
                // Which part of the piece this is, in one word: a piece is far shorter than 2⁴⁰ tokens, a block than 2²⁴.
                parent = BlockHash.next(after: parent ^ (UInt64(offset) << 24 | UInt64(count)), salt: piece.id)
                offset += count
                filled += count
                guard filled == size else { continue }
                hashes.append(parent)
                filled = 0
            }
            total += max(0, piece.tokens)
        }
        self.init(tokenCount: total, blockHashes: hashes, blockSize: size, uniqueness: uniqueness)
    }

    /// No prompt.
    static let none = Prompt(tokenCount: 0, blockHashes: [], blockSize: 1, uniqueness: 0)
}
