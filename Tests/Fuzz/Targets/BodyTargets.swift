import Wire

private func splitMessages(_ input: UnsafeRawBufferPointer, seed: UInt8) throws -> [String] {
    var splitter = GRPCMessageSplitter(maximumMessageBytes: 1_024)
    var transcript: [String] = []
    var open: Int?
    var payload: [UInt8] = []
    for piece in Pieces.cut(input, seed: seed) {
        var rest = piece
        var steps = 0
        stepping: while true {
            steps += 1
            try check(steps <= 2 * piece.count + 2, "every step takes bytes")
            switch splitter.next(&rest) {
            case .message(let bytes, let isCompressed):
                try check(open == nil, "a message begins when none is open")
                transcript.append("message \(bytes) \(isCompressed)")
                open = bytes > 0 ? bytes : nil
            case .payload(let bytes, let isLast):
                guard let expected = open else { throw FuzzFinding(description: "payload outside a message") }
                payload += bytes
                try checkEqual(isLast, payload.count == expected, "the last piece fills the message")
                guard isLast else { continue stepping }
                transcript.append("\(payload)")
                payload = []
                open = nil
            case .needsMore:
                try check(rest.isEmpty, "more is asked for when the input is used up")
                break stepping
            case .failed(let failure): return transcript + ["failed \(failure)"]
            }
        }
    }
    try check(!splitter.isAtBoundary || open == nil, "the end of a body inside a message is seen")
    return transcript + ["\(payload) \(splitter.isAtBoundary)"]
}

@Sendable func fuzzGRPCFraming(_ input: UnsafeRawBufferPointer) throws {
    guard let (seed, input) = input.split else { return }
    let whole = try splitMessages(input, seed: 0)
    try checkEqual(try splitMessages(input, seed: 1), whole, "messages byte by byte and whole")
    try checkEqual(try splitMessages(input, seed: seed), whole, "messages in pieces and whole")
}

private struct Scanned: Equatable {
    var firstEventSeen: Bool, dataEvents: Int, doneSeen: Bool, errorSeen: Bool, usage: ResponseScanner.Usage?
}

private func scan(_ input: UnsafeRawBufferPointer, _ kind: ResponseScanner.Kind, seed: UInt8) -> Scanned {
    var scanner = ResponseScanner(kind: kind)
    for piece in Pieces.cut(input, seed: seed) { scanner.consume(piece) }
    scanner.finish()
    return Scanned(
        firstEventSeen: scanner.firstEventSeen, dataEvents: scanner.dataEvents, doneSeen: scanner.doneSeen, errorSeen: scanner.errorSeen,
        usage: scanner.usage)
}

@Sendable func fuzzResponseScanner(_ input: UnsafeRawBufferPointer) throws {
    guard let (seed, input) = input.split else { return }
    for kind in [ResponseScanner.Kind.eventStream, .json, .other] {
        let whole = scan(input, kind, seed: 0)
        try checkEqual(scan(input, kind, seed: 1), whole, "\(kind) byte by byte and whole")
        try checkEqual(scan(input, kind, seed: seed), whole, "\(kind) in pieces and whole")
        try check(whole.dataEvents <= input.count / 6 + 1, "an event has at least `data:` and a line end")
        if let usage = whole.usage { try check(usage.promptTokens >= 0 && usage.completionTokens >= 0, "counts are no debts") }
    }
}
