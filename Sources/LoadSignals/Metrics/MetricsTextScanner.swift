import Glibc
import Wire

/// Reads Prometheus' text exposition format (version 0.0.4, and OpenMetrics as far as they agree) as it arrives in pieces, and gives a
/// reading the samples of engines' families. Nothing else is kept: of 90 KB that vLLM says some twenty lines count.
///
/// Malformed lines are counted and passed over, and so is a last line without an end, which may be half a number.
public struct MetricsTextScanner {
    /// A longer line is passed over. vLLM's longest has 1.3 KB.
    public static let longestLine = 64 << 10

    public private(set) var malformedLines = 0
    private var line: [UInt8] = []
    private var skipsLine = false
    private var labels = SampleLabels()

    public init() {}

    public mutating func consume(_ bytes: UnsafeRawBufferPointer, into reading: inout EngineReading) {
        guard let base = bytes.baseAddress else { return }
        var start = 0
        while start < bytes.count {
            guard let found = memchr(base + start, 10, bytes.count - start) else { break }
            let end = UnsafeRawPointer(found) - base
            take(UnsafeRawBufferPointer(rebasing: bytes[start..<end]), into: &reading)
            start = end + 1
        }
        keep(UnsafeRawBufferPointer(rebasing: bytes[start...]))
    }

    /// No more comes.
    public mutating func finish() {
        if !line.isEmpty || skipsLine { malformedLines += 1 }
        line.removeAll()
        skipsLine = false
    }

    /// The beginning of a line whose end is still to come.
    private mutating func keep(_ beginning: UnsafeRawBufferPointer) {
        guard !skipsLine else { return }
        if line.count + beginning.count > Self.longestLine {
            line.removeAll()
            skipsLine = true
        } else {
            line.append(contentsOf: beginning)
        }
    }

    /// A line's end is here, and what of it was not kept.
    private mutating func take(_ end: UnsafeRawBufferPointer, into reading: inout EngineReading) {
        if line.isEmpty, !skipsLine, end.count <= Self.longestLine { return parse(end, into: &reading) }
        keep(end)
        if skipsLine { malformedLines += 1 }
        skipsLine = false
        let whole = line
        whole.withUnsafeBytes { parse($0, into: &reading) }
        line.removeAll(keepingCapacity: true)
    }

    private mutating func parse(_ line: UnsafeRawBufferPointer, into reading: inout EngineReading) {
        guard let first = line.first, first != UInt8(ascii: "#"), first != 13 else { return }
        var index = 0
        while index < line.count, line[index] != UInt8(ascii: "{"), line[index] != 32, line[index] != 9 { index += 1 }
        guard let family = EngineFamily(UnsafeRawBufferPointer(rebasing: line[..<index])) else { return }
        labels.clear()
        if index < line.count, line[index] == UInt8(ascii: "{") {
            guard let end = labels.read(line, from: index) else { return malformedLines += 1 }
            index = end
        }
        let start = SampleLabels.skipBlanks(line, index)
        var end = start
        while end < line.count, line[end] != 32, line[end] != 9, line[end] != 13 { end += 1 }
        // What follows the value is a timestamp or an exemplar.
        guard let value = UnsafeRawBufferPointer(rebasing: line[start..<end]).decimalNumber else { return malformedLines += 1 }
        reading.take(family, labels, value)
    }
}
