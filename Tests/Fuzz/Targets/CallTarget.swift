import Wire

/// Protobuf read in the plainest way: all fields of a message, or nil when it is none.
private struct ReferenceFields {
    enum Value { case number(UInt64), bytes([UInt8]), fixed }
    var fields: [(number: Int, value: Value)] = []

    static func varint(_ bytes: inout ArraySlice<UInt8>) -> UInt64? {
        var value: UInt64 = 0
        for place in 0..<10 {
            guard let byte = bytes.popFirst() else { return nil }
            value |= UInt64(byte & 0x7F) << UInt64(7 * place)
            if byte < 0x80 { return value }
        }
        return nil
    }

    init?(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            guard let key = Self.varint(&rest), key >> 3 > 0, key >> 3 < 1 << 29 else { return nil }
            let value: Value
            switch key & 7 {
            case 0:
                guard let number = Self.varint(&rest) else { return nil }
                value = .number(number)
            case 2:
                guard let length = Self.varint(&rest), length <= UInt64(rest.count) else { return nil }
                value = .bytes(Array(rest.prefix(Int(length))))
                rest = rest.dropFirst(Int(length))
            case 1, 5:
                let length = key & 7 == 1 ? 8 : 4
                guard rest.count >= length else { return nil }
                value = .fixed
                rest = rest.dropFirst(length)
            default: return nil
            }
            fields.append((Int(key >> 3), value))
        }
    }

    func all(_ number: Int) -> [[UInt8]] {
        fields.compactMap { field in if field.number == number, case .bytes(let bytes) = field.value { bytes } else { nil } }
    }

    func numbers(_ number: Int) -> [UInt64] {
        fields.compactMap { field in if field.number == number, case .number(let value) = field.value { value } else { nil } }
    }
}

/// What routing needs of a message.
private struct Expected: Equatable {
    var model: [UInt8]?
    var prompt: [UInt8] = []
    var promptTokens: Int?
    var stream = false
    var maxTokens: Int?
    var n = 1
    var skipsCache = false
    var cacheSalt: [UInt8]?, adapter: [UInt8]?, hasMedia = false
}

private func littleEndian(_ id: UInt64) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: id >> (8 * UInt64($0))) } }

private func generate(_ message: [UInt8]) -> Expected? {
    guard let request = ReferenceFields(message) else { return nil }
    var expected = Expected(stream: (request.numbers(5).last ?? 0) != 0)
    for sampling in request.all(4) {
        guard let sampling = ReferenceFields(sampling) else { return nil }
        if let limit = sampling.numbers(8).last { expected.maxTokens = min(Int(UInt32(truncatingIfNeeded: limit)), Int(Int32.max)) }
        if let n = sampling.numbers(15).last { expected.n = min(max(Int(UInt32(truncatingIfNeeded: n)), 1), 16_384) }
        if !sampling.numbers(23).isEmpty { expected.skipsCache = true }
    }
    for media in request.all(7) + request.all(11) where ReferenceFields(media) == nil { return nil }
    expected.hasMedia =
        !request.all(10).isEmpty || (request.all(7) + request.all(11)).contains { !(ReferenceFields($0)?.all(6) ?? []).isEmpty }
    let inputs = request.fields.filter { field in if case .bytes = field.value { field.number == 2 || field.number == 3 } else { false } }
    guard let input = inputs.last, case .bytes(let content) = input.value else { return expected }
    expected.prompt = [0xF7]
    if input.number == 3 {
        expected.prompt += content
        return expected
    }
    guard let tokenized = ReferenceFields(content) else { return nil }
    var ids: [UInt64] = []
    for (number, value) in tokenized.fields where number == 2 {
        switch value {
        case .number(let id): ids.append(id)
        case .bytes(let run):
            var rest = run[...]
            while !rest.isEmpty {
                guard let id = ReferenceFields.varint(&rest) else { return nil }
                ids.append(id)
            }
        case .fixed: break
        }
    }
    expected.prompt += ids.flatMap(littleEndian)
    expected.promptTokens = ids.isEmpty ? nil : ids.count
    return expected
}

private func infer(_ message: [UInt8]) -> Expected? {
    guard let request = ReferenceFields(message) else { return nil }
    var expected = Expected(model: request.all(1).last)
    for entry in request.all(4) {
        guard let entry = ReferenceFields(entry) else { return nil }
        guard let value = entry.all(2).last else { continue }
        guard let parameter = ReferenceFields(value) else { return nil }
        let key = String(decoding: entry.all(1).last ?? [], as: UTF8.self)
        for (number, value) in parameter.fields {
            switch (key, number, value) {
            case ("max_tokens", 2, .number(let limit)): expected.maxTokens = min(max(Int(Int64(bitPattern: limit)), 0), Int(Int32.max))
            case ("max_tokens", 5, .number(let limit)): expected.maxTokens = Int(min(limit, UInt64(Int32.max)))
            case ("cache_salt", 3, .bytes(let salt)): expected.cacheSalt = salt
            case ("lora_name", 3, .bytes(let name)): expected.adapter = name
            default: break
            }
        }
    }
    var text: [UInt8]?
    for (place, tensor) in request.all(5).enumerated() {
        guard let tensor = ReferenceFields(tensor) else { return nil }
        var element: [UInt8]?
        for contents in tensor.all(5) {
            guard let contents = ReferenceFields(contents) else { return nil }
            element = element ?? contents.all(8).first
        }
        let name = String(decoding: tensor.all(1).last ?? [], as: UTF8.self)
        guard name == "text_input" || name == "prompt", tensor.all(2).last == Array("BYTES".utf8) else { continue }
        text = element
        let raw = request.all(7)
        if !raw.isEmpty {
            text = nil
            if place < raw.count, raw[place].count >= 4 {
                let length = raw[place][..<4].reversed().reduce(0) { $0 << 8 | Int($1) }
                if length <= raw[place].count - 4 { text = Array(raw[place][4..<(4 + length)]) }
            }
        }
        break
    }
    if let text { expected.prompt = [0xF7] + text }
    return expected
}

private func framed(_ message: some Collection<UInt8>, length: Int? = nil) -> [UInt8] {
    [0] + littleEndian(UInt64(length ?? message.count)).reversed() + message
}

private struct ProbedCall: Equatable {
    var model: [UInt8]?, promptBytes: Int, promptTokens: Int?, stream: Bool, maxTokens: Int?, n: Int, skipsCache: Bool, hashes: [UInt64]

    /// The body stands in a block of exactly its size, so that a read beyond is seen by AddressSanitizer.
    init(_ body: [UInt8], _ call: InferenceCall, _ probe: RequestProbe) {
        let block = UnsafeMutableRawBufferPointer.allocate(byteCount: body.count, alignment: 1)
        defer { block.deallocate() }
        block.copyBytes(from: body)
        probe.probe(UnsafeRawBufferPointer(block), of: call, seed: 7)
        model = probe.model.map { Array($0) }
        promptBytes = probe.promptBytes
        promptTokens = probe.promptTokens
        stream = probe.stream
        maxTokens = probe.maxTokens
        n = probe.n
        skipsCache = probe.skipsCache
        hashes = Array(probe.prefixHashes)
    }
}

private func readRequest(_ message: [UInt8], _ call: InferenceCall, cut: Int) throws {
    let probe = RequestProbe(maximumChunks: 64, chunkBytes: 16)
    let found = ProbedCall(framed(message), call, probe)
    let hasher = PromptHasher(maximumChunks: 64, chunkBytes: 16)
    hasher.begin(seed: 7)
    if var expected = call == .generate ? generate(message) : infer(message) {
        if call == .modelStreamInfer { expected.stream = true }
        hasher.salt(.model, expected.model ?? [])
        if let salt = expected.cacheSalt { hasher.salt(.cacheSalt, salt) }
        if let adapter = expected.adapter { hasher.salt(.lora, adapter) }
        expected.prompt.withUnsafeBytes { hasher.append($0) }
        try checkEqual(found.model, expected.model, "model")
        try checkEqual(found.promptBytes, expected.prompt.count, "the prompt's length")
        try checkEqual(found.promptTokens, expected.promptTokens, "tokens of the prompt")
        try checkEqual(found.stream, expected.stream, "stream")
        try checkEqual(found.maxTokens, expected.maxTokens, "max_tokens")
        try checkEqual(found.n, expected.n, "n")
        try checkEqual(found.skipsCache, expected.skipsCache, "whether the cache is skipped")
        if !expected.hasMedia { try checkEqual(found.hashes, Array(hasher.hashes), "hashes of the prompt") }
    } else {
        try checkEqual(found, ProbedCall([], call, probe), "what is no message leaves nothing known")
    }
    // What is here of a longer message, and the probe's next request.
    let cut = min(cut, message.count)
    let part = ProbedCall(framed(message[..<cut], length: message.count), call, probe)
    try check(part.hashes.count <= 64 && part.n >= 1 && (part.maxTokens ?? 0) >= 0 && part.promptBytes >= 0, "bounds of a part")
    try check(part.promptBytes <= 1 + 4 * message.count, "a prompt is as long as its message has room for")
    try checkEqual(ProbedCall(framed(message), call, probe), found, "a message read twice")
}

extension PromptHasher {
    fileprivate func salt(_ salt: Salt, _ bytes: [UInt8]) { bytes.withUnsafeBytes { mix(salt, $0) } }
}

private struct Answered: Equatable {
    var hasBegun: Bool, events: Int, usage: ResponseScanner.Usage?
}

private func readAnswer(_ body: UnsafeRawBufferPointer, _ call: InferenceCall, seed: UInt8) -> Answered {
    var scanner = ResponseScanner(kind: .call(call))
    for piece in Pieces.cut(body, seed: seed) { scanner.consume(piece) }
    scanner.finish()
    return Answered(hasBegun: scanner.firstEventSeen, events: scanner.dataEvents, usage: scanner.usage)
}

/// The first byte: its rest by six says which method and which direction, the whole of it cuts. A request is one message, an answer framed
/// messages.
@Sendable func fuzzCall(_ input: UnsafeRawBufferPointer) throws {
    guard let (control, input) = input.split else { return }
    let call = InferenceCall.allCases[Int(control % 3)]
    guard control % 6 >= 3 else { return try readRequest(Array(input), call, cut: Int(control / 6) * max(1, input.count / 42)) }
    let whole = readAnswer(input, call, seed: 0)
    try checkEqual(readAnswer(input, call, seed: 1), whole, "messages byte by byte and whole")
    try checkEqual(readAnswer(input, call, seed: control), whole, "messages in pieces and whole")
    try check(whole.events <= input.count / 5, "every event is a message")
    if let usage = whole.usage {
        try check(usage.promptTokens > 0 && usage.completionTokens >= 0 && (usage.cachedTokens ?? 0) >= 0, "counts are no debts")
    }
}
