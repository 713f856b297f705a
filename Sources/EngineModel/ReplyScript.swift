/// The text of a reply that is given and not made up, as the tokens that ``Tokeniser`` makes of it.
///
/// Immutable, and a class so that a sequence without one, as all in simulations are, carries no more than a pointer.
public final class ReplyScript: Sendable {
    let pieces: [Reply.Piece]
    /// How many tokens each of the texts came to.
    public let counts: [Int]

    /// Texts that follow each other, each beginning a token of its own; what goes beyond `maximumTokens` is left out. A character that
    /// several tokens share is part of the last one's text, so that every text is whole.
    public init(_ texts: [String], maximumTokens: Int = .max) {
        var pieces: [Reply.Piece] = []
        var counts: [Int] = []
        for var text in texts {
            let before = pieces.count
            text.withUTF8 { Self.append(UnsafeRawBufferPointer($0), to: &pieces, maximum: maximumTokens) }
            counts.append(pieces.count - before)
        }
        self.pieces = pieces
        self.counts = counts
    }

    public var tokenCount: Int { pieces.count }

    private static func append(_ bytes: UnsafeRawBufferPointer, to pieces: inout [Reply.Piece], maximum: Int) {
        var start = 0
        var shown = 0
        while start < bytes.count, pieces.count < maximum {
            let end = Tokeniser.pieceEnd(in: bytes, from: start)
            var whole = end
            while whole > shown, whole < bytes.count, bytes[whole] & 0xc0 == 0x80 { whole -= 1 }
            pieces.append(
                Reply.Piece(
                    text: Array(bytes[shown..<whole]), id: Tokeniser.id(of: UnsafeRawBufferPointer(rebasing: bytes[start..<end]))))
            start = end
            shown = whole
        }
    }
}
