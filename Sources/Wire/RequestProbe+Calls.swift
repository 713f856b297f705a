import CSimdJSON
import CXXHash

/// gRPC: the same facts of a call's first message, and the same hashes as the request with `prompt` and `model` would have as JSON.
///
/// Budget: one walk over the message's fields, which jumps over what it does not know, and one of XXH3 over the prompt; no allocation.
extension RequestProbe {
    /// A message that claims more is not read: nobody's prompt is that long.
    private static let largestMessage = 64 << 20
    /// Bytes that UTF-8 never contains, before each prompt; as in the canonical prompt of a JSON body.
    private static let promptMarker: UInt8 = 0xF7
    private static let bytesPerToken = 4

    /// Reads the first message of `body`, or as much as is here of one that is longer: what it only claims to have counts for nothing. What is
    /// compressed, malformed or no message leaves nothing known, as does a message without a prompt; the engine will say what is wrong with it.
    ///
    /// - Parameter body: from its first byte on, framing included. Names stay in it: `model` is valid until `body` changes.
    /// - Parameter seed: as in `probe(_:seed:)`.
    public func probe(_ body: UnsafeRawBufferPointer, of call: InferenceCall, seed: UInt64) {
        clear()
        guard let end = GRPCFraming.firstMessageEnd(body), body[0] == 0, end <= Self.largestMessage else { return }
        let here = min(end, body.count)
        let message = ProtobufReader(UnsafeRawBufferPointer(rebasing: body[GRPCFraming.prefixBytes..<here]), missing: end &- here)
        hasher.begin(seed: seed)
        let isRead =
            switch call {
            case .generate: readGenerate(message)
            case .modelInfer, .modelStreamInfer: readInference(message)
            }
        guard isRead else { return clear() }
        facts.stream = facts.stream || call == .modelStreamInfer
    }

    /// Takes back the name that no group lists.
    public func forgetModel() { facts.model = swl_text() }

    // MARK: vLLM's GenerateRequest

    private enum GenerateField {
        static let tokenized = 2, text = 3, sampling = 4, stream = 5
        static let media = 7, mediaReferences = 10, furtherMedia = 11
        static let inputIDs = 2
        static let maxTokens = 8, replies = 15, promptLogprobs = 23
        static let mediaHashes = 6
    }

    private func readGenerate(_ message: ProtobufReader) -> Bool {
        var message = message
        var text: ProtobufReader?
        var tokenized: ProtobufReader?
        var media: UInt64 = 0
        while let (field, value) = message.next() {
            switch (field, value) {
            // Of a choice between fields the last one counts.
            case (GenerateField.tokenized, .bytes(let input)): (tokenized, text) = (input, nil)
            case (GenerateField.text, .bytes(let input)): (tokenized, text) = (nil, input)
            case (GenerateField.sampling, .bytes(let sampling)): guard readSampling(sampling) else { return false }
            case (GenerateField.stream, .number(let isStream)): facts.stream = isStream != 0
            case (GenerateField.media, .bytes(let batch)), (GenerateField.furtherMedia, .bytes(let batch)):
                guard Self.mixMedia(batch, into: &media) else { return false }
            case (GenerateField.mediaReferences, .bytes(let items)): media = Self.digest(items.bytes, media)
            default: break
            }
        }
        guard !message.isMalformed else { return false }
        hasher.mix(.model, UnsafeRawBufferPointer(start: nil, count: 0))
        // Placeholders in the prompt look alike whatever image they stand for.
        if media != 0 { withUnsafeBytes(of: media.littleEndian) { hasher.mix(.template, $0) } }
        if let text { append(text) }
        if let tokenized { return append(tokens: tokenized) }
        return true
    }

    private func readSampling(_ sampling: ProtobufReader) -> Bool {
        var sampling = sampling
        while let (field, value) = sampling.next() {
            guard case .number(let number) = value else { continue }
            switch field {
            case GenerateField.maxTokens: noteMaxTokens(UInt64(UInt32(truncatingIfNeeded: number)))
            case GenerateField.replies: facts.n = max(1, min(Int64(UInt32(truncatingIfNeeded: number)), Self.mostReplies))
            case GenerateField.promptLogprobs: facts.skips_cache = true
            default: break
            }
        }
        return !sampling.isMalformed
    }

    private static func mixMedia(_ batch: ProtobufReader, into digest: inout UInt64) -> Bool {
        var batch = batch
        while let (field, value) = batch.next() {
            if case (GenerateField.mediaHashes, .bytes(let hash)) = (field, value) { digest = Self.digest(hash.bytes, digest) }
        }
        return !batch.isMalformed
    }

    private static func digest(_ bytes: UnsafeRawBufferPointer, _ seed: UInt64) -> UInt64 {
        swl_xxh3(bytes.baseAddress, bytes.count, seed) | 1
    }

    // MARK: Open Inference Protocol's ModelInferRequest

    private enum InferenceField {
        static let model = 1, parameters = 4, inputs = 5, rawInputs = 7
        static let tensorName = 1, datatype = 2, contents = 5
        static let bytesContents = 8
        static let key = 1, value = 2
        static let int64 = 2, text = 3, uint64 = 5
    }

    private func readInference(_ message: ProtobufReader) -> Bool {
        var fields = message
        var text: ProtobufReader?
        var textPlace: Int?
        var inputs = 0
        var salts: (cache: UnsafeRawBufferPointer?, lora: UnsafeRawBufferPointer?)
        var hasRawInputs = false
        while let (field, value) = fields.next() {
            guard case .bytes(let content) = value else { continue }
            switch field {
            case InferenceField.model: if content.missing == 0 { facts.model = Self.text(content.bytes) }
            case InferenceField.parameters: guard readParameter(content, &salts.cache, &salts.lora) else { return false }
            case InferenceField.inputs:
                if textPlace == nil {
                    let tensor = Self.readTensor(content)
                    guard tensor.isMessage else { return false }
                    if tensor.isPrompt { (textPlace, text) = (inputs, tensor.element) }
                }
                inputs &+= 1
            case InferenceField.rawInputs: hasRawInputs = true
            default: break
            }
        }
        guard !fields.isMalformed else { return false }
        if hasRawInputs { text = textPlace.flatMap { Self.rawElement(of: message, at: $0) } }
        hasher.mix(.model, UnsafeRawBufferPointer(start: facts.model.bytes, count: facts.model.length))
        if let salt = salts.cache { hasher.mix(.cacheSalt, salt) }
        if let adapter = salts.lora { hasher.mix(.lora, adapter) }
        if let text { append(text) }
        return true
    }

    private func readParameter(
        _ entry: ProtobufReader, _ cacheSalt: inout UnsafeRawBufferPointer?, _ adapter: inout UnsafeRawBufferPointer?
    ) -> Bool {
        var entry = entry
        var key = UnsafeRawBufferPointer(start: nil, count: 0)
        var parameter: ProtobufReader?
        while let (field, value) = entry.next() {
            guard case .bytes(let content) = value else { continue }
            if field == InferenceField.key { key = content.bytes } else if field == InferenceField.value { parameter = content }
        }
        while let (field, value) = parameter?.next() {
            switch (field, value) {
            case (InferenceField.int64, .number(let number)) where key.equals("max_tokens"):
                noteMaxTokens(UInt64(max(0, Int64(bitPattern: number))))
            case (InferenceField.uint64, .number(let number)) where key.equals("max_tokens"): noteMaxTokens(number)
            case (InferenceField.text, .bytes(let text)) where key.equals("cache_salt"): cacheSalt = text.bytes
            case (InferenceField.text, .bytes(let text)) where key.equals("lora_name"): adapter = text.bytes
            default: break
            }
        }
        return !entry.isMalformed && parameter?.isMalformed != true
    }

    /// Whether a tensor holds the prompt, and the first of its elements, unless it stands among the raw inputs.
    private static func readTensor(_ tensor: ProtobufReader) -> (isMessage: Bool, isPrompt: Bool, element: ProtobufReader?) {
        var tensor = tensor
        var isNamed = false
        var holdsBytes = false
        var element: ProtobufReader?
        while let (field, value) = tensor.next() {
            guard case .bytes(var content) = value else { continue }
            switch field {
            case InferenceField.tensorName: isNamed = content.bytes.equals("text_input") || content.bytes.equals("prompt")
            case InferenceField.datatype: holdsBytes = content.bytes.equals("BYTES")
            case InferenceField.contents:
                while let (field, value) = content.next() {
                    guard case (InferenceField.bytesContents, .bytes(let text)) = (field, value), element == nil else { continue }
                    element = text
                }
                if content.isMalformed { return (false, false, nil) }
            default: break
            }
        }
        return (!tensor.isMalformed, isNamed && holdsBytes, element)
    }

    /// The first element of the raw input at `place`: four bytes of length (little-endian), then as many bytes.
    private static func rawElement(of message: ProtobufReader, at place: Int) -> ProtobufReader? {
        var fields = message
        var before = 0
        while let (field, value) = fields.next() {
            guard case (InferenceField.rawInputs, .bytes(let raw)) = (field, value) else { continue }
            guard before == place else {
                before &+= 1
                continue
            }
            guard raw.bytes.count >= 4 else { return nil }
            let length = Int(UInt32(littleEndian: raw.bytes.loadUnaligned(as: UInt32.self)))
            let here = min(length, raw.bytes.count &- 4)
            guard length &- here <= raw.missing else { return nil }
            return ProtobufReader(UnsafeRawBufferPointer(rebasing: raw.bytes[4..<(4 &+ here)]), missing: length &- here)
        }
        return nil
    }

    // MARK: The prompt

    private static let mostReplies: Int64 = 16_384

    private func noteMaxTokens(_ count: UInt64) {
        facts.max_tokens = Int64(min(count, UInt64(Int32.max)))
        facts.has_max_tokens = true
    }

    private static func text(_ bytes: UnsafeRawBufferPointer) -> swl_text {
        swl_text(bytes: bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), length: bytes.count)
    }

    private func append(_ text: ProtobufReader) {
        appendMarker()
        hasher.append(text.bytes)
    }

    private func appendMarker() { withUnsafeBytes(of: Self.promptMarker) { hasher.append($0) } }

    /// Ids as four bytes each, little-endian: about what a token of text weighs.
    private func append(tokens tokenized: ProtobufReader) -> Bool {
        appendMarker()
        var tokenized = tokenized
        var isRead = true
        while isRead, let (field, value) = tokenized.next() {
            guard field == GenerateField.inputIDs else { continue }
            switch value {
            case .number(let id):
                withUnsafeBytes(of: UInt32(truncatingIfNeeded: id).littleEndian) { hasher.append($0) }
                facts.prompt_tokens &+= 1
            case .bytes(let run): isRead = append(packed: run)
            case .fixed: break
            }
        }
        return isRead && !tokenized.isMalformed
    }

    private func append(packed run: ProtobufReader) -> Bool {
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: Self.chunkBytes / Self.bytesPerToken) { block in
            guard let ids = block.baseAddress else { return false }
            var run = run
            var total = 0
            while case let count = run.nextNumbers(into: ids, most: block.count), count > 0 {
                for index in 0..<count { ids[index] = ids[index].littleEndian }
                hasher.append(UnsafeRawBufferPointer(start: ids, count: count &* Self.bytesPerToken))
                total &+= count
            }
            facts.prompt_tokens &+= Int64(total)
            return !run.isMalformed
        }
    }
}
