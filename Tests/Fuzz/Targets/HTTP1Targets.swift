import Wire

private let parserLimits = (bytes: 2_048, fields: 20)

/// A head's fields, as they are compared.
private func fields(_ block: HeaderBlock, except dropped: KnownHeader? = nil) -> [[String]] {
    (0..<block.count).filter { block.known(at: $0) != dropped || dropped == nil }.map {
        [text(block.name(at: $0)), text(block.value(at: $0))]
    }
}

/// One character per byte, so that what is no UTF-8 stays apart.
func text(_ bytes: UnsafeRawBufferPointer) -> String {
    var result = ""
    for byte in bytes { result.unicodeScalars.append(UnicodeScalar(byte)) }
    return result
}

private func bytes(_ text: String) -> [UInt8] { text.unicodeScalars.map { UInt8(truncatingIfNeeded: $0.value) } }

/// No byte that would end a line or a message elsewhere.
private func checkNothingInjected(_ block: HeaderBlock) throws {
    for index in 0..<block.count {
        try check(!block.name(at: index).contains { $0 <= 32 || $0 == 127 || $0 == 58 }, "a field's name is a token")
        try check(!block.value(at: index).contains { $0 == 13 || $0 == 10 || $0 == 0 }, "a field's value holds no CR, LF or NUL")
    }
}

/// A head is found at the same place however much of it is here, and its beginning is never taken for a defect.
private func measure(_ input: UnsafeRawBufferPointer, _ parser: HTTP1HeadParser) throws -> Int? {
    let length = (try? parser.measureHead(input)) ?? nil
    guard let length else { return nil }
    for shorter in Set([0, 1, length / 2, length - 1]) {
        let part = UnsafeRawBufferPointer(rebasing: input[..<shorter])
        let found: Int?
        do throws(HTTP1Defect) {
            found = try parser.measureHead(part)
        } catch {
            throw FuzzFinding(description: "a head of \(length) is refused as \(error) when \(shorter) bytes of it are here")
        }
        try checkEqual(found, nil, "\(shorter) bytes of a head of \(length)")
    }
    return length
}

private struct Request: Equatable {
    var method: String, target: String, authority: String, version: HTTPVersion, framing: BodyFraming, fields: [[String]]
}

private func parseRequest(_ head: UnsafeRawBufferPointer, _ parser: HTTP1HeadParser) throws -> Request? {
    let request = RequestHead()
    guard let framing = try? parser.parseRequest(head, into: request) else { return nil }
    try checkNothingInjected(request.headers)
    try check(!request.target.contains { $0 <= 32 || $0 == 127 }, "the target holds no blank and no control byte")
    _ = parser.connectionPersists(request.headers, isHTTP10: request.version == .http10)
    return Request(
        method: text(request.methodBytes), target: text(request.target), authority: text(request.authority), version: request.version,
        framing: framing, fields: fields(request.headers, except: .host))
}

/// Written again as it goes upstream, a head means the same.
@Sendable func fuzzRequestHead(_ input: UnsafeRawBufferPointer) throws {
    let parser = HTTP1HeadParser(maximumHeadBytes: parserLimits.bytes, maximumFields: parserLimits.fields)
    guard let length = try measure(input, parser) else { return }
    try check(length <= parserLimits.bytes, "heads beyond the limit are refused")
    guard let request = try parseRequest(UnsafeRawBufferPointer(rebasing: input[..<length]), parser) else { return }
    guard request.method != "CONNECT" else { return }
    var again = "\(request.method) \(request.target) HTTP/1.\(request.version == .http10 ? 0 : 1)\r\n"
    if !request.authority.isEmpty || request.version != .http10 { again += "host: \(request.authority)\r\n" }
    for field in request.fields { again += "\(field[0]): \(field[1])\r\n" }
    let roomy = HTTP1HeadParser(maximumHeadBytes: parserLimits.bytes * 2, maximumFields: parserLimits.fields + 1)
    try bytes(again + "\r\n").withUnsafeBytes { bytes in
        try checkEqual(try measure(bytes, roomy), bytes.count, "a head written again is one head")
        try checkEqual(try parseRequest(bytes, roomy), request, "a request head written again")
    }
}

private struct Response: Equatable {
    var status: Int, framing: BodyFraming, keepsAlive: Bool, fields: [[String]]
}

private func parseResponse(_ head: UnsafeRawBufferPointer, _ parser: HTTP1HeadParser, toHead: Bool) throws -> Response? {
    let response = ResponseHead()
    guard let (framing, keepsAlive) = try? parser.parseResponse(head, into: response, toHead: toHead) else { return nil }
    try checkNothingInjected(response.headers)
    try check((100...999).contains(response.status), "a status has three digits")
    return Response(status: response.status, framing: framing, keepsAlive: keepsAlive, fields: fields(response.headers))
}

@Sendable func fuzzResponseHead(_ input: UnsafeRawBufferPointer) throws {
    guard let (control, input) = input.split else { return }
    let parser = HTTP1HeadParser(maximumHeadBytes: parserLimits.bytes, maximumFields: parserLimits.fields)
    guard let length = try measure(input, parser) else { return }
    let toHead = control & 1 == 1
    guard let response = try parseResponse(UnsafeRawBufferPointer(rebasing: input[..<length]), parser, toHead: toHead) else { return }
    guard input.count > 7, input[7] == UInt8(ascii: "1") else { return }
    var again = "HTTP/1.1 \(response.status) X\r\n"
    for field in response.fields { again += "\(field[0]): \(field[1])\r\n" }
    let roomy = HTTP1HeadParser(maximumHeadBytes: parserLimits.bytes * 2, maximumFields: parserLimits.fields)
    try bytes(again + "\r\n").withUnsafeBytes { bytes in
        try checkEqual(try parseResponse(bytes, roomy, toHead: toHead), response, "a response head written again")
    }
}

private enum ChunkedOutcome: Equatable {
    case complete(body: [UInt8], inputBytes: Int)
    case incomplete(body: [UInt8])
    case broken
}

private func decodeChunks(_ input: UnsafeRawBufferPointer, seed: UInt8) throws -> ChunkedOutcome {
    var decoder = ChunkedDecoder()
    var body: [UInt8] = []
    var taken = 0
    for piece in Pieces.cut(input, seed: seed) {
        // A block of exactly this size, so that one byte too far is seen by AddressSanitizer.
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: piece.count, alignment: 1)
        defer { copy.deallocate() }
        copy.copyMemory(from: piece)
        guard let progress = try? decoder.decode(copy) else { return .broken }
        try check(progress.bodyBytes <= progress.inputBytes && progress.inputBytes <= piece.count, "no more comes out than went in")
        body += copy[..<progress.bodyBytes]
        taken += progress.inputBytes
        if progress.isComplete { return .complete(body: body, inputBytes: taken) }
        try checkEqual(progress.inputBytes, piece.count, "an incomplete message takes all its input")
    }
    return .incomplete(body: body)
}

@Sendable func fuzzChunked(_ input: UnsafeRawBufferPointer) throws {
    guard let (seed, input) = input.split else { return }
    let whole = try decodeChunks(input, seed: 0)
    try checkEqual(try decodeChunks(input, seed: 1), whole, "chunks byte by byte and whole")
    try checkEqual(try decodeChunks(input, seed: seed), whole, "chunks in pieces and whole")
}
