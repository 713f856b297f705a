import Wire

/// The labels of one sample of Prometheus' text format: views into its line.
struct SampleLabels {
    private struct Label {
        var name: Range<Int>
        var value: Range<Int>
        var hasEscapes: Bool
    }

    /// No engine comes near; a sample with more is malformed.
    static let most = 128

    private var line = UnsafeRawBufferPointer(start: nil, count: 0)
    private var labels: [Label] = []
    /// All of them as they were written: tells series of one family apart.
    private(set) var text = UnsafeRawBufferPointer(start: nil, count: 0)

    /// Reads `{name="value",…}` from `start`, where its brace is. Returns where it ends, or nil when it is malformed.
    mutating func read(_ line: UnsafeRawBufferPointer, from start: Int) -> Int? {
        clear()
        self.line = line
        var index = start + 1
        while true {
            index = Self.skipBlanks(line, index)
            guard index < line.count else { return nil }
            if line[index] == UInt8(ascii: "}") { break }
            guard labels.count < Self.most, let next = readOne(line, from: index) else { return nil }
            index = Self.skipBlanks(line, next)
            guard index < line.count else { return nil }
            if line[index] == UInt8(ascii: ",") { index += 1 } else if line[index] != UInt8(ascii: "}") { return nil }
        }
        text = UnsafeRawBufferPointer(rebasing: line[(start + 1)..<index])
        return index + 1
    }

    mutating func clear() {
        labels.removeAll(keepingCapacity: true)
        text = UnsafeRawBufferPointer(start: nil, count: 0)
    }

    private mutating func readOne(_ line: UnsafeRawBufferPointer, from start: Int) -> Int? {
        var index = start
        while index < line.count, line[index] != UInt8(ascii: "=") { index += 1 }
        guard index + 1 < line.count, index > start, line[index + 1] == UInt8(ascii: "\"") else { return nil }
        let name = start..<index
        let first = index + 2
        index = first
        var hasEscapes = false
        while index < line.count, line[index] != UInt8(ascii: "\"") {
            if line[index] == UInt8(ascii: "\\") {
                hasEscapes = true
                index += 1
            }
            index += 1
        }
        guard index < line.count else { return nil }
        labels.append(Label(name: name, value: first..<index, hasEscapes: hasEscapes))
        return index + 1
    }

    static func skipBlanks(_ line: UnsafeRawBufferPointer, _ start: Int) -> Int {
        var index = start
        while index < line.count, line[index] == 32 || line[index] == 9 { index += 1 }
        return index
    }

    /// The value as it was written; of a label that is there twice, the first.
    func value(_ name: StaticString) -> UnsafeRawBufferPointer? {
        for label in labels where UnsafeRawBufferPointer(rebasing: line[label.name]).equals(name) {
            return UnsafeRawBufferPointer(rebasing: line[label.value])
        }
        return nil
    }

    /// The value with `\\`, `\"` and `\n` resolved.
    func string(_ name: StaticString) -> String? {
        for label in labels where UnsafeRawBufferPointer(rebasing: line[label.name]).equals(name) {
            let raw = line[label.value]
            guard label.hasEscapes else { return String(decoding: raw, as: UTF8.self) }
            var bytes: [UInt8] = []
            var isEscaped = false
            for byte in raw {
                if !isEscaped, byte == UInt8(ascii: "\\") {
                    isEscaped = true
                } else {
                    bytes.append(isEscaped && byte == UInt8(ascii: "n") ? 10 : byte)
                    isEscaped = false
                }
            }
            return String(decoding: bytes, as: UTF8.self)
        }
        return nil
    }
}
