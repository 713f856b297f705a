import Testing

@testable import Wire

@Suite struct GRPCFramingTests {
    private enum Seen: Equatable {
        case message([UInt8], isCompressed: Bool)
        case failed(GRPCMessageSplitter.Failure)
    }

    /// Feeds `pieces` and gathers whole messages.
    private func split(_ pieces: [ArraySlice<UInt8>], maximum: Int = 1000) -> (seen: [Seen], isAtBoundary: Bool) {
        var splitter = GRPCMessageSplitter(maximumMessageBytes: maximum)
        var seen: [Seen] = []
        var current: [UInt8] = []
        var isCompressed = false
        feeding: for piece in pieces {
            let failed = piece.withUnsafeBytes { bytes in
                var input = bytes
                while true {
                    switch splitter.next(&input) {
                    case .message(let count, let compressed):
                        isCompressed = compressed
                        current = []
                        if count == 0 { seen.append(.message([], isCompressed: compressed)) }
                    case .payload(let slice, let isLast):
                        current += slice
                        if isLast { seen.append(.message(current, isCompressed: isCompressed)) }
                    case .needsMore:
                        #expect(input.isEmpty)
                        return false
                    case .failed(let failure):
                        seen.append(.failed(failure))
                        return true
                    }
                }
            }
            if failed { break feeding }
        }
        return (seen, splitter.isAtBoundary)
    }

    private func encoded(_ message: [UInt8], isCompressed: Bool = false) -> [UInt8] {
        var buffer = [UInt8](repeating: 0xAA, count: message.count + GRPCFraming.prefixBytes)
        let count = buffer.withUnsafeMutableBytes { out in
            message.withUnsafeBytes { GRPCFraming.encode($0, isCompressed: isCompressed, into: out) }
        }
        #expect(count == buffer.count)
        return buffer
    }

    @Test func encodesThePrefix() {
        #expect(encoded([7, 8]) == [0, 0, 0, 0, 2, 7, 8])
        #expect(encoded([], isCompressed: true) == [1, 0, 0, 0, 0])
        #expect(Array(encoded([UInt8](repeating: 1, count: 0x01_0203)).prefix(5)) == [0, 0, 1, 2, 3])
    }

    @Test func doesNotEncodeWhatDoesNotFit() {
        var buffer = [UInt8](repeating: 9, count: 6)
        buffer.withUnsafeMutableBytes { out in
            #expect([UInt8]([1, 2]).withUnsafeBytes { GRPCFraming.encode($0, into: out) } == nil)
            #expect(GRPCFraming.encodePrefix(messageBytes: 1 << 32, into: out) == nil)
            #expect(GRPCFraming.encodePrefix(messageBytes: -1, into: out) == nil)
            #expect(GRPCFraming.encodePrefix(messageBytes: 1, into: UnsafeMutableRawBufferPointer(rebasing: out[..<4])) == nil)
        }
        #expect(buffer == [9, 9, 9, 9, 9, 9])
    }

    @Test func everySplitGivesTheSameMessages() {
        let bytes = encoded([1, 2, 3]) + encoded([]) + encoded([4], isCompressed: true) + encoded([UInt8](repeating: 5, count: 300))
        let whole: [Seen] = [
            .message([1, 2, 3], isCompressed: false), .message([], isCompressed: false), .message([4], isCompressed: true),
            .message([UInt8](repeating: 5, count: 300), isCompressed: false),
        ]
        for first in 0...bytes.count {
            let result = split([bytes[..<first], bytes[first...]])
            #expect(result.seen == whole)
            #expect(result.isAtBoundary)
        }
        #expect(split(bytes.indices.map { bytes[$0...$0] }).seen == whole)
    }

    @Test func aCutBodyIsNotAtABoundary() {
        let bytes = encoded([1, 2, 3])
        for count in 1..<bytes.count { #expect(!split([bytes[..<count]]).isAtBoundary) }
        #expect(split([]).isAtBoundary)
    }

    @Test func brokenStreamsFailAndStayFailed() {
        #expect(split([[2, 0, 0, 0, 0]]).seen == [.failed(.badCompressedFlag)])
        #expect(split([[0, 0xFF, 0xFF, 0xFF, 0xFF]]).seen == [.failed(.messageTooLarge)])
        #expect(split([encoded([1, 2, 3])[...]], maximum: 2).seen == [.failed(.messageTooLarge)])
        #expect(split([encoded([1, 2])[...]], maximum: 2).seen == [.message([1, 2], isCompressed: false)])
        var splitter = GRPCMessageSplitter(maximumMessageBytes: 10)
        for bytes: [UInt8] in [[9], [0, 0, 0, 0, 0]] {
            bytes.withUnsafeBytes { raw in
                var input = raw
                guard case .failed(.badCompressedFlag) = splitter.next(&input) else {
                    Issue.record("a broken stream went on")
                    return
                }
            }
        }
        #expect(!splitter.isAtBoundary)
    }
}
