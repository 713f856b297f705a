/// A deterministic stand-in for a model's tokeniser.
///
/// A piece ends before a space or a line break that follows anything else, and after six bytes; English text comes to about four
/// and a half bytes per token, as with real vocabularies. A token's id is a hash of its piece, so equal text gives equal ids on
/// every engine. The reply's tokens are pieces by the same rule: a conversation's next turn, which repeats the reply, finds
/// the blocks that the reply filled.
public enum Tokeniser {
    /// The longest piece, in bytes of UTF-8.
    public static let maximumPieceBytes = 6

    /// Appends the tokens of `text`. Each call starts a new piece.
    public static func append(_ text: String, to tokens: inout [UInt32]) {
        var text = text
        text.withUTF8 { append(UnsafeRawBufferPointer($0), to: &tokens) }
    }

    /// Appends the tokens of UTF-8 `bytes`. Each call starts a new piece.
    public static func append(_ bytes: UnsafeRawBufferPointer, to tokens: inout [UInt32]) {
        var start = 0
        while start < bytes.count {
            let end = pieceEnd(in: bytes, from: start)
            tokens.append(id(of: UnsafeRawBufferPointer(rebasing: bytes[start..<end])))
            start = end
        }
    }

    /// The token that opens a turn of a chat template.
    public static func startOfTurn(role: String) -> UInt32 {
        UInt32(truncatingIfNeeded: BlockHash.hash(of: role, seed: 0x7475_726e))
    }

    /// The token that closes a turn; also what an engine samples when its reply is done.
    public static let endOfTurn = UInt32(truncatingIfNeeded: BlockHash.hash(of: "end", seed: 0x7475_726e))

    /// The id of the token that `piece`, one piece of UTF-8, is.
    public static func id(of piece: UnsafeRawBufferPointer) -> UInt32 {
        UInt32(truncatingIfNeeded: BlockHash.hash(of: piece, seed: 0))
    }

    /// Where the piece that begins at `start` ends; `start` lies in `bytes`.
    public static func pieceEnd(in bytes: UnsafeRawBufferPointer, from start: Int) -> Int {
        let limit = min(bytes.count, start + maximumPieceBytes)
        var end = start + 1
        while end < limit, !(isBlank(bytes[end]) && !isBlank(bytes[end - 1])) { end += 1 }
        return end
    }

    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x0a }
}
