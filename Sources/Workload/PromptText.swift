/// Text for token counts, the same for the same id wherever it stands: blocks with equal ids are equal text, so a trace's hash ids give
/// back the shared prefixes that they were made of. Words of two to five letters, each behind its blank: about one token each.
public enum PromptText {
    private static let words: [[UInt8]] = {
        var generator = SeededGenerator(seed: 0x5745_4654)
        let letters = Array("etaoinshrdlucmfw".utf8)
        return (0..<4_096).map { _ in
            let length = 3 + Int(truncatingIfNeeded: generator.next() % 3)
            return [0x20] + (0..<length).map { _ in letters[Int(truncatingIfNeeded: generator.next() & 15)] }
        }
    }()

    /// Appends `tokens` words of block `id`. Nothing in it needs escaping in JSON.
    public static func append(id: UInt64, tokens: Int, to text: inout [UInt8]) {
        var generator = SeededGenerator(seed: id &* 0x2545_f491_4f6c_dd1d ^ 0x6d0f_27bd)
        var remaining = tokens
        while remaining > 0 {
            // Five words from one draw.
            var draw = generator.next()
            for _ in 0..<min(5, remaining) {
                text.append(contentsOf: words[Int(truncatingIfNeeded: draw & 4_095)])
                draw >>= 12
            }
            remaining -= 5
        }
    }
}
