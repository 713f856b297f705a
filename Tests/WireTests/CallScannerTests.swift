import Testing

@testable import Wire

@Suite struct CallScannerTests {
    private struct Scanned: Equatable {
        var begun: Bool
        var events: Int
        var usage: ResponseScanner.Usage?
    }

    private func scan(_ body: [UInt8], _ call: InferenceCall = .generate, pieces: Int? = nil) -> Scanned {
        var scanner = ResponseScanner(kind: .call(call))
        var rest = body[...]
        while !rest.isEmpty {
            let piece = Array(rest.prefix(pieces ?? rest.count))
            rest = rest.dropFirst(piece.count)
            piece.withUnsafeBytes { scanner.consume($0) }
        }
        scanner.finish()
        #expect(!scanner.errorSeen && !scanner.doneSeen)
        return Scanned(begun: scanner.firstEventSeen, events: scanner.dataEvents, usage: scanner.usage)
    }

    /// The same in pieces of every length.
    private func scanAnyhow(_ body: [UInt8], _ call: InferenceCall = .generate) -> Scanned {
        let whole = scan(body, call)
        for length in 1..<max(2, body.count) { #expect(scan(body, call, pieces: length) == whole, "in pieces of \(length)") }
        return whole
    }

    private func bytes(_ hex: String) -> [UInt8] {
        stride(from: 0, to: hex.count, by: 2).compactMap { UInt8(hex.dropFirst($0).prefix(2), radix: 16) }
    }

    private func chunk(_ ids: [UInt64], prompt: UInt64 = 200, cached: UInt64 = 192, index: UInt64 = 0) -> [UInt8] {
        Fields().message(1, Fields().packed(1, ids).number(2, prompt).number(3, UInt64(ids.count)).number(4, cached).number(7, index))
            .framed
    }

    private func complete(_ ids: [UInt64], prompt: UInt64 = 200, cached: UInt64 = 192, extra: Fields = Fields()) -> [UInt8] {
        let fields = Fields().packed(1, ids).text(2, "length").number(3, prompt).number(4, UInt64(ids.count)).number(5, cached)
        return Fields().message(2, fields + extra).framed
    }

    /// As vLLM 0.32 was recorded to answer: the completion repeats the last chunk.
    @Test func aStreamOfVLLM() {
        let chunks = ["0a0c0a02cf0c10c801180120c001", "0a0c0a02c60610c801180120c001", "0a0b0a017a10c801180120c001"].flatMap {
            Fields.frame(bytes($0))
        }
        let body = chunks + complete([122])
        #expect(
            scanAnyhow(body) == Scanned(begun: true, events: 3, usage: .init(promptTokens: 200, cachedTokens: 192, completionTokens: 3)))
        let first = Fields.frame(bytes("0a0c0a02cf0c10c801180120c001"))
        #expect(scan(Array(first.dropLast())) == Scanned(begun: false, events: 0))
        #expect(scan(first).begun)
    }

    @Test func anAnswerInOnePiece() {
        let body = Fields.frame(bytes("12170a08cf0cc6067a308c0112066c656e67746818c8012005"))
        #expect(scanAnyhow(body) == Scanned(begun: true, events: 0, usage: .init(promptTokens: 200, cachedTokens: 0, completionTokens: 5)))
        let withProbabilities =
            "124c0a04cf0cc60612066c656e67746818c801200228c00132340a0897a060c0261021c01204cf0cc6061a100a0897a060c097a068c0"
        let read = scanAnyhow(Fields.frame(bytes(withProbabilities + "1204cf0cbf091a100a08261021c0261069c01204c606fc09")))
        #expect(read.usage == .init(promptTokens: 200, cachedTokens: 192, completionTokens: 2))
    }

    @Test func severalRepliesAddUpAndTheFirstHadThePromptToCompute() {
        let body = complete([1, 2, 3], cached: 64) + complete([4], cached: 192) + complete([5, 6], cached: 192)
        #expect(scanAnyhow(body).usage == .init(promptTokens: 200, cachedTokens: 64, completionTokens: 6))
        let streamed = chunk([1], cached: 64) + chunk([2], index: 1) + complete([1]) + chunk([3], index: 1) + complete([3])
        #expect(
            scanAnyhow(streamed)
                == Scanned(begun: true, events: 3, usage: .init(promptTokens: 200, cachedTokens: 64, completionTokens: 3)))
    }

    @Test func withoutTokensNothingHasBegun() {
        #expect(
            scanAnyhow(chunk([]))
                == Scanned(begun: false, events: 0, usage: .init(promptTokens: 200, cachedTokens: 192, completionTokens: 0)))
        let aborted = Fields().message(2, Fields().text(2, "abort")).framed
        #expect(scanAnyhow(aborted) == Scanned(begun: false, events: 0))
        #expect(scanAnyhow(Fields().framed) == Scanned(begun: false, events: 0))
        #expect(scanAnyhow([]) == Scanned(begun: false, events: 0))
        // Ids that are not packed are ids.
        #expect(scanAnyhow(Fields().message(1, Fields().number(1, 5)).framed).events == 1)
    }

    @Test func whatIsUnknownIsJumpedOver() {
        let strange = Fields().text(9, "what the next version has").fixed32(8).fixed64(10).number(11, .max).bytes(12, [])
        let body = complete([1, 2], extra: strange)
        #expect(scanAnyhow(body).usage?.completionTokens == 2)
        let outside = Fields().fixed64(3).text(4, "x").number(5, 6) + Fields().message(1, Fields().packed(1, [1]).number(2, 9)).fixed32(7)
        #expect(
            scanAnyhow(outside.framed)
                == Scanned(begun: true, events: 1, usage: .init(promptTokens: 9, cachedTokens: 0, completionTokens: 0)))
    }

    @Test func whatIsMalformedCountsForNothingAndTheNextMessageAsEver() {
        let well = Fields().message(1, Fields().packed(1, [1]).number(2, 200))
        let broken: [[UInt8]] = [
            well.bytes + [0x08], well.bytes + [0x12, 5, 1], well.bytes + [0x0F], well.bytes + [0x00, 0x00],
            Array(repeating: 0x80, count: 11),
            // Parts that end inside of a field: after its key, in its number, in its bytes, before those that are fixed.
            Fields().bytes(1, [0x0A, 1, 7, 0x10]).bytes, Fields().bytes(1, [0x0A, 1, 7, 0x10, 0x80]).bytes,
            Fields().bytes(1, [0x0A, 1, 7, 0x0A, 2, 1]).bytes, Fields().bytes(1, [0x0A, 1, 7, 0x0D, 1, 2]).bytes,
            Fields().bytes(1, [0x0A, 1, 7, 0x0A]).bytes,
        ]
        for message in broken {
            #expect(scanAnyhow(Fields.frame(message)) == Scanned(begun: false, events: 0), "\(message)")
            #expect(scanAnyhow(Fields.frame(message) + chunk([1])) == scan(chunk([1])), "\(message)")
        }
        #expect(scan([9] + chunk([1])) == Scanned(begun: false, events: 0), "no framing")
    }

    @Test func aCompressedMessageIsTakenToCarryTokens() {
        #expect(scanAnyhow(Fields.frame([1, 2, 3], flag: 1) + Fields.frame([], flag: 1)) == Scanned(begun: true, events: 1))
    }

    @Test func anInferenceIsAnEvent() {
        let tensor = Fields().text(1, "text_output").text(2, "BYTES").message(5, Fields().text(8, "word"))
        let response = Fields().text(1, "m").text(3, "id").message(5, tensor)
        #expect(scanAnyhow(response.framed, .modelInfer) == Scanned(begun: true, events: 1))
        #expect(scanAnyhow(Fields().text(1, "m").bytes(6, [0, 0, 0, 0]).framed, .modelInfer) == Scanned(begun: true, events: 1))
        #expect(scanAnyhow(Fields().text(1, "m").framed, .modelInfer) == Scanned(begun: false, events: 0))
        let streamed = Fields().message(2, response).framed
        #expect(scanAnyhow(streamed + streamed, .modelStreamInfer) == Scanned(begun: true, events: 2))
        let failed = Fields().text(1, "no such model").message(2, response).framed
        #expect(scanAnyhow(failed, .modelStreamInfer) == Scanned(begun: false, events: 0))
        #expect(scanAnyhow(Fields().message(2, Fields().text(3, "id")).framed, .modelStreamInfer) == Scanned(begun: false, events: 0))
    }
}

@Suite struct FirstMessageTests {
    @Test func tellsWhatIsStillAwaited() {
        func awaited(_ bytes: [UInt8]) -> Int { bytes.withUnsafeBytes { GRPCFraming.bytesAwaited($0) } }
        let body = Fields.frame([1, 2, 3])
        #expect((0...body.count).map { awaited(Array(body[..<$0])) } == [5, 4, 3, 2, 1, 3, 2, 1, 0])
        #expect(awaited(body + [0]) == 0)
        #expect(awaited(Fields.frame([])) == 0)
        #expect(awaited([1]) == 0 && awaited([7, 0]) == 0)
        #expect(awaited([0, 0xFF, 0xFF, 0xFF, 0xFF]) == 0xFFFF_FFFF)
    }
}
