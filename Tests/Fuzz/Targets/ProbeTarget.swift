import Wire

/// What a probe found, copied out.
private struct Probed: Equatable {
    var isJSON: Bool
    var model: [UInt8]?, user: [UInt8]?, cacheSalt: [UInt8]?
    var stream: Bool, includeUsage: Bool
    var maxTokens: Int?, n: Int, seed: Int?, temperature: Double?
    var promptBytes: Int, hashes: [UInt64]

    /// The body stands in a block of exactly its size and the padding, so that a read beyond is seen by AddressSanitizer.
    init(_ body: some Collection<UInt8>, _ probe: RequestProbe, seed: UInt64 = 7) {
        let block = UnsafeMutableRawBufferPointer.allocate(byteCount: body.count + RequestProbe.padding, alignment: 1)
        defer { block.deallocate() }
        // What follows a body is other bytes, not nothing.
        block.initializeMemory(as: UInt8.self, repeating: UInt8(ascii: "\""))
        block.copyBytes(from: body)
        probe.probe(UnsafeRawBufferPointer(rebasing: block[..<body.count]), seed: seed)
        isJSON = probe.isJSON
        model = probe.model.map { Array($0) }
        user = probe.user.map { Array($0) }
        cacheSalt = probe.cacheSalt.map { Array($0) }
        stream = probe.stream
        includeUsage = probe.includeUsage
        maxTokens = probe.maxTokens
        n = probe.n
        self.seed = probe.seed
        temperature = probe.temperature
        promptBytes = probe.promptBytes
        hashes = Array(probe.prefixHashes)
    }
}

/// `max_tokens` by its three names, in the order in which engines look; a value that is no integer counts as absent.
private func maxTokens(of body: ReferenceJSON) -> Int? {
    for name in ["max_completion_tokens", "max_tokens", "max_output_tokens"] {
        if let value = body.member(name)?.integer { return min(max(0, value), Int(Int32.max)) }
    }
    return nil
}

@Sendable func fuzzRequestProbe(_ input: UnsafeRawBufferPointer) throws {
    let probe = RequestProbe(maximumChunks: 64, chunkBytes: 16)
    let found = Probed(input, probe)
    try check(found.hashes.count <= 64, "hashes are bounded")
    try checkEqual(
        Probed(input, RequestProbe(maximumChunks: 64, chunkBytes: 16, libraryOnly: true)), found, "simdjson's reading and the faster pass'")
    try check(found.n >= 1 && (found.maxTokens ?? 0) >= 0, "counts are no debts")
    var plain = Array(input)
    if plain.starts(with: [0xEF, 0xBB, 0xBF]) { plain.removeFirst(3) }
    guard let body = ReferenceJSON.parse(plain) else { return }
    try check(found.isJSON, "what is JSON is read as JSON")
    try checkEqual(found.model, body.member("model")?.text, "model")
    try checkEqual(found.user, body.member("user")?.text, "user")
    try checkEqual(found.cacheSalt, body.member("cache_salt")?.text, "cache_salt")
    try checkEqual(found.stream, body.member("stream")?.isTrue ?? false, "stream")
    try checkEqual(
        found.includeUsage, body.member("stream_options")?.member("include_usage")?.isTrue ?? false, "stream_options.include_usage")
    try checkEqual(found.maxTokens, maxTokens(of: body), "max_tokens")
    try checkEqual(found.seed, body.member("seed")?.integer, "seed")
    // Other blanks and other escapes are the same request: every field and every hash.
    try checkEqual(Probed(body.compact(), probe), found, "a body and the same one written without blanks")
    // The reader is used for one request after another.
    _ = Probed([UInt8(ascii: "{")], probe)
    try checkEqual(Probed(input, probe), found, "a body read twice")
}
