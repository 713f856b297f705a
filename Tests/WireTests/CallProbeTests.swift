import Testing

@testable import Wire

/// What a probe said of a call, as values that outlive it.
struct ProbedCall: Equatable {
    var model: String?
    var hashes: [UInt64]
    var promptBytes: Int
    var promptTokens: Int?
    var stream: Bool
    var maxTokens: Int?
    var n: Int
    var skipsCache: Bool

    private init(_ probe: RequestProbe) {
        model = probe.model.map { String(decoding: $0, as: UTF8.self) }
        hashes = Array(probe.prefixHashes)
        promptBytes = probe.promptBytes
        promptTokens = probe.promptTokens
        stream = probe.stream
        maxTokens = probe.maxTokens
        n = probe.n
        skipsCache = probe.skipsCache
    }

    init(_ body: [UInt8], _ call: InferenceCall = .generate, seed: UInt64 = 7) {
        let probe = RequestProbe(maximumChunks: 4_096, chunkBytes: 16)
        body.withUnsafeBytes { probe.probe($0, of: call, seed: seed) }
        self.init(probe)
    }

    init(json: String, seed: UInt64 = 7) {
        let probe = RequestProbe(maximumChunks: 4_096, chunkBytes: 16)
        let padded = Array(json.utf8) + Array(repeating: 0, count: RequestProbe.padding)
        padded.withUnsafeBytes { probe.probe(UnsafeRawBufferPointer(rebasing: $0[..<json.utf8.count]), seed: seed) }
        self.init(probe)
    }

    static let nothing = ProbedCall([])
}

@Suite struct InferenceCallTests {
    @Test func knowsItsMethodsByTheirPaths() {
        func call(_ path: String) -> InferenceCall? { Array(path.utf8).withUnsafeBytes { InferenceCall(path: $0) } }
        #expect(call("/vllm.grpc.engine.VllmEngine/Generate") == .generate)
        #expect(call("/inference.GRPCInferenceService/ModelInfer") == .modelInfer)
        #expect(call("/inference.GRPCInferenceService/ModelStreamInfer") == .modelStreamInfer)
        for other in ["", "/x.Y/Z", "/vllm.grpc.engine.VllmEngine/Generatf", "/inference.GRPCInferenceService/ModelReady"] {
            #expect(call(other) == nil)
        }
    }
}

@Suite struct GenerateProbeTests {
    private static let text = String(repeating: "It was a bright cold day in April. ", count: 4)
    private static let ids: [UInt64] = (0..<60).map { $0 * $0 * 97 }
    private static let sampling = Fields().fixed32(1).number(8, 77).number(15, 3)

    private func request(_ input: Fields, stream: Bool = true) -> [UInt8] {
        (Fields().text(1, "id-1") + input).message(4, Self.sampling).number(5, stream ? 1 : 0).framed
    }

    @Test func readsTextAsTheSamePromptInJSON() {
        let read = ProbedCall(request(Fields().text(3, Self.text)))
        let json = ProbedCall(json: #"{"prompt":"\#(Self.text)"}"#)
        #expect(read.hashes.count == 8)
        #expect(read.hashes == json.hashes)
        #expect((read.promptBytes, read.promptTokens) == (1 + Self.text.utf8.count, nil))
        #expect((read.model, read.stream, read.maxTokens, read.n, read.skipsCache) == (nil, true, 77, 3, false))
    }

    @Test func readsTokenIDsAsTheSamePromptInJSON() {
        let read = ProbedCall(request(Fields().message(2, Fields().text(1, "for reference").packed(2, Self.ids)), stream: false))
        let json = ProbedCall(json: #"{"prompt":\#(Self.ids)}"#)
        #expect(read.hashes.count == 15)
        #expect(read.hashes == json.hashes)
        #expect((read.promptBytes, read.promptTokens, read.stream) == (241, 60, false))
        #expect(json.promptTokens == 60)
    }

    @Test func inJSONTokensAreCountedWhereThereIsNothingElse() {
        #expect(ProbedCall(json: #"{"prompt":[[1,2],[3]]}"#).promptTokens == 3)
        #expect(ProbedCall(json: #"{"input":[1,2]}"#).promptTokens == 2)
        for other in [#""abc""#, #"[1,"a"]"#, "[]", #"["",""]"#, "null", "[1.5]"] {
            #expect(ProbedCall(json: #"{"prompt":\#(other)}"#).promptTokens == nil)
        }
        #expect(ProbedCall(json: #"{"prompt":[1],"system":"x"}"#).promptTokens == nil)
    }

    @Test func idsMayBePackedOrNotAndInAnyNumberOfRuns() {
        let packed = ProbedCall(request(Fields().message(2, Fields().packed(2, Self.ids))))
        let single = Self.ids.reduce(Fields()) { $0.number(2, $1) }
        #expect(ProbedCall(request(Fields().message(2, single))) == packed)
        let mixed = Fields().packed(2, Array(Self.ids[..<7])).number(2, Self.ids[7]).packed(2, []).packed(2, Array(Self.ids[8...]))
        #expect(ProbedCall(request(Fields().message(2, mixed))) == packed)
    }

    @Test func idsAreThirtyTwoBitsWhateverTheirVarints() {
        let plain = ProbedCall(request(Fields().message(2, Fields().packed(2, [1, 0xFFFF_FFFF, 300]))))
        let long = Fields().bytes(2, [0x81, 0x00] + Fields.varint(0xFFFF_FFFF_FFFF) + [0xAC, 0x82, 0x80, 0x00])
        #expect(ProbedCall(request(Fields().message(2, long))) == plain)
        let tooLong = Fields().bytes(2, Array(repeating: 0x80, count: 10) + [1])
        #expect(ProbedCall(request(Fields().message(2, tooLong))) == .nothing)
        #expect(ProbedCall(request(Fields().message(2, Fields().bytes(2, [0x80])))) == .nothing)
    }

    @Test func theOrderOfFieldsAndUnknownOnesChangeNothing() {
        let input = Fields().message(2, Fields().packed(2, Self.ids))
        let read = ProbedCall(request(input))
        let parts = [Fields().text(1, "id-1"), input, Fields().message(4, Self.sampling), Fields().number(5, 1)]
        for first in parts.indices {
            let turned = (parts[first...] + parts[..<first]).reduce(Fields(), +)
            #expect(ProbedCall(turned.framed) == read)
            let strange = Fields().number(8, 9).fixed64(200) + turned.fixed32(201).text(9_999, "what the next version has")
            #expect(ProbedCall(strange.framed) == read)
        }
    }

    @Test func fieldsOfAnotherTypeAreUnknownOnes() {
        let read = ProbedCall(request(Fields().text(3, Self.text)))
        let disguised = Fields().number(2, 1).number(3, 4).fixed32(4).number(4, 9).text(5, "true").fixed64(3)
        #expect(ProbedCall((disguised + Fields().text(3, Self.text).message(4, Self.sampling).number(5, 1)).framed) == read)
        #expect(ProbedCall((Fields().text(3, Self.text) + disguised).message(4, Self.sampling).number(5, 1).framed) == read)
    }

    @Test func ofSeveralInputsTheLastCounts() {
        let text = Fields().text(3, Self.text)
        let tokens = Fields().message(2, Fields().packed(2, Self.ids))
        #expect(ProbedCall((tokens + text).framed) == ProbedCall(text.framed))
        #expect(ProbedCall((text + tokens).framed) == ProbedCall(tokens.framed))
    }

    @Test func numbersAreKeptInTheirBounds() {
        func sampled(_ sampling: Fields) -> ProbedCall { ProbedCall(Fields().text(3, "x").message(4, sampling).framed) }
        #expect(sampled(Fields()).maxTokens == nil && sampled(Fields()).n == 1)
        #expect(sampled(Fields().number(8, 0).number(15, 0)).maxTokens == 0)
        #expect(sampled(Fields().number(15, 0)).n == 1)
        #expect(sampled(Fields().number(8, .max).number(15, .max)).maxTokens == Int(Int32.max))
        #expect(sampled(Fields().number(15, .max)).n == 16_384)
        // A sampling message in two parts is one message.
        let two = ProbedCall(Fields().text(3, "x").message(4, Fields().number(8, 5)).message(4, Fields().number(15, 2)).framed)
        #expect((two.maxTokens, two.n) == (5, 2))
    }

    @Test func aPromptWhoseProbabilitiesAreWantedIsComputedAnew() {
        let asking = Fields().text(3, Self.text).message(4, Fields().number(23, 0))
        #expect(ProbedCall(asking.framed).skipsCache)
        #expect(!ProbedCall(Fields().text(3, Self.text).message(4, Fields().number(22, 0)).framed).skipsCache)
    }

    @Test func placeholdersOfOtherImagesAreAnotherPrompt() {
        let input = Fields().message(2, Fields().packed(2, Self.ids))
        func with(_ hash: String) -> ProbedCall { ProbedCall(input.message(7, Fields().text(5, "pixels \(hash)").text(6, hash)).framed) }
        #expect(with("a").hashes != ProbedCall(input.framed).hashes && with("a").hashes != with("b").hashes)
        // Where the pixels lie is another place each time.
        let elsewhere = input.message(7, Fields().text(6, "a").text(5, "other"))
        #expect(ProbedCall(elsewhere.framed) == with("a"))
        let references = Set(["u", "v"].map { ProbedCall(input.message(10, Fields().text(2, $0)).framed).hashes })
        #expect(references.count == 2 && !references.contains(ProbedCall(input.framed).hashes))
        #expect(ProbedCall(input.bytes(7, [0x08]).framed) == .nothing)
    }

    @Test func tenantsShareNothing() {
        let body = request(Fields().text(3, Self.text))
        #expect(Set(ProbedCall(body, seed: 1).hashes).isDisjoint(with: ProbedCall(body, seed: 2).hashes))
    }

    @Test func whatCannotBeReadLeavesNothingKnown() {
        let message = Fields().text(3, Self.text).message(4, Self.sampling)
        #expect(ProbedCall(message.framed) != .nothing)
        #expect(ProbedCall(Fields.frame(message.bytes, flag: 1)) == .nothing)
        #expect(ProbedCall(Fields.frame(message.bytes, flag: 2)) == .nothing)
        #expect(ProbedCall(Fields.frame(message.bytes, length: 64 << 20)) == .nothing)
        #expect(ProbedCall(Fields.frame(message.bytes + [0x0F])) == .nothing)
        #expect(ProbedCall(Fields().text(3, Self.text).bytes(4, [0x08]).framed) == .nothing)
        for end in 0...5 { #expect(ProbedCall(Array(message.framed[..<end])) == .nothing) }
        #expect(ProbedCall(Fields().framed) == .nothing)
    }

    /// The message ends too early: at every byte nothing is known, or what a shorter message would say.
    @Test func amputatedMessagesAreShorterOnesOrNone() {
        let message = request(Fields().message(2, Fields().packed(2, Self.ids))).dropFirst(5)
        for end in message.indices {
            let read = ProbedCall(Fields.frame(Array(message[..<end])))
            guard read != .nothing else { continue }
            #expect(told(Array(message[..<end])).isMalformed == false)
        }
    }

    /// The message goes on where the body ends: what is here counts, and what is only claimed does not.
    @Test(arguments: [false, true]) func ofALongMessageTheBeginningIsRead(isTokenized: Bool) {
        let input = isTokenized ? Fields().message(2, Fields().packed(2, Self.ids.map { $0 + 20_000 })) : Fields().text(3, Self.text)
        let body = request(input)
        let whole = ProbedCall(body)
        var longest = 0
        for end in 5..<body.count {
            let read = ProbedCall(Array(body[..<end]))
            #expect(read.hashes == Array(whole.hashes[..<read.hashes.count]), "cut at \(end)")
            longest = max(longest, read.hashes.count)
            guard read.promptBytes > 1 else { continue }
            // An id takes three bytes of the message, and four here.
            #expect(read.promptBytes <= min(whole.promptBytes, 4 * end / (isTokenized ? 3 : 4)))
            if isTokenized { #expect(read.promptTokens == (read.promptBytes - 1) / 4) }
        }
        #expect(longest == whole.hashes.count)
    }

    @Test func aSecondMessageIsNotReadAndTheProbeForgets() {
        let first = request(Fields().text(3, Self.text))
        #expect(ProbedCall(first + request(Fields().text(3, "another"))) == ProbedCall(first))
        let probe = RequestProbe(maximumChunks: 4_096, chunkBytes: 16)
        first.withUnsafeBytes { probe.probe($0, of: .generate, seed: 7) }
        Fields().framed.withUnsafeBytes { probe.probe($0, of: .generate, seed: 7) }
        #expect(probe.prefixHashes.isEmpty && probe.promptBytes == 0 && probe.maxTokens == nil && !probe.stream)
    }
}

@Suite struct InferenceProbeTests {
    private static let text = String(repeating: "All happy families are alike. ", count: 4)

    private func tensor(_ name: String = "text_input", _ datatype: String = "BYTES", _ contents: Fields? = nil) -> Fields {
        let tensor = Fields().text(1, name).text(2, datatype).packed(3, [1])
        return contents.map { tensor.message(5, $0) } ?? tensor
    }

    private func parameter(_ key: String, _ value: Fields) -> Fields { Fields().message(4, Fields().text(1, key).message(2, value)) }

    private func element(_ text: String) -> [UInt8] {
        withUnsafeBytes(of: UInt32(text.utf8.count).littleEndian) { Array($0) } + Array(text.utf8)
    }

    private var typed: Fields { Fields().text(1, "m").text(3, "id").message(5, tensor(contents)) }
    private var contents: Fields { Fields().text(8, Self.text) }
    private func tensor(_ contents: Fields) -> Fields { tensor("text_input", "BYTES", contents) }

    @Test func readsTheTextAsTheSamePromptInJSON() {
        let read = ProbedCall(typed.framed, .modelInfer)
        let json = ProbedCall(json: #"{"model":"m","prompt":"\#(Self.text)"}"#)
        #expect(read.hashes == json.hashes && read.hashes.count == 7)
        #expect((read.model, read.promptBytes, read.promptTokens, read.stream, read.n) == ("m", 1 + Self.text.utf8.count, nil, false, 1))
        let streamed = ProbedCall(typed.framed, .modelStreamInfer)
        #expect(streamed.stream && streamed.hashes == read.hashes)
    }

    @Test func theRawFormIsTheSameText() {
        let read = ProbedCall(typed.framed, .modelInfer)
        let raw = Fields().text(1, "m").message(5, tensor("max_tokens", "INT32")).message(5, tensor()).bytes(7, [9, 0, 0, 0]).bytes(
            7, element(Self.text))
        #expect(ProbedCall(raw.framed, .modelInfer) == read)
        let turned = Fields().bytes(7, [9, 0, 0, 0]).message(5, tensor("max_tokens", "INT32")).bytes(7, element(Self.text)).message(
            5, tensor()
        ).text(1, "m")
        #expect(ProbedCall(turned.framed, .modelInfer) == read)
        // Only the first element of the tensor is the prompt.
        let two = Fields().text(1, "m").message(5, tensor()).bytes(7, element(Self.text) + element("more"))
        #expect(ProbedCall(two.framed, .modelInfer) == read)
        let twoTyped = Fields().text(1, "m").message(5, tensor(contents.text(8, "more")))
        #expect(ProbedCall(twoTyped.framed, .modelInfer) == read)
    }

    @Test func aRawElementEndsWithinItsTensor() {
        for raw: [UInt8] in [[], [1], [1, 0, 0], [1, 0, 0, 0], [0xFF, 0xFF, 0xFF, 0xFF, 97]] {
            let read = ProbedCall(Fields().text(1, "m").message(5, tensor()).bytes(7, raw).framed, .modelInfer)
            #expect(read.promptBytes == 0 && read.model == "m")
        }
        // There are raw inputs, but none for the text.
        let other = Fields().message(5, tensor("seed", "INT64")).message(5, tensor(contents)).bytes(7, [0, 0, 0, 0])
        #expect(ProbedCall(other.framed, .modelInfer).promptBytes == 0)
    }

    @Test func onlyATensorOfTextIsAPrompt() {
        for (name, datatype, isPrompt) in [
            ("text_input", "BYTES", true), ("prompt", "BYTES", true), ("text_input", "INT32", false), ("input_ids", "BYTES", false),
        ] {
            let read = ProbedCall(Fields().message(5, tensor(name, datatype, contents)).framed, .modelInfer)
            #expect((read.promptBytes > 0) == isPrompt, "\(name) of \(datatype)")
        }
        let both = Fields().message(5, tensor("prompt", "BYTES", contents)).message(
            5, tensor("text_input", "BYTES", Fields().text(8, "second")))
        #expect(ProbedCall(both.framed, .modelInfer).promptBytes == 1 + Self.text.utf8.count)
    }

    @Test func readsParameters() {
        func read(_ parameters: Fields) -> ProbedCall { ProbedCall((typed + parameters).framed, .modelInfer) }
        let plain = read(Fields())
        #expect(plain.maxTokens == nil)
        #expect(read(parameter("max_tokens", Fields().number(2, 40))).maxTokens == 40)
        #expect(read(parameter("max_tokens", Fields().number(5, 41))).maxTokens == 41)
        #expect(read(parameter("max_tokens", Fields().number(2, UInt64(bitPattern: -3)))).maxTokens == 0)
        #expect(read(parameter("max_tokens", Fields().number(5, .max))).maxTokens == Int(Int32.max))
        #expect(read(parameter("max_tokens", Fields().text(3, "40"))) == plain)
        #expect(read(parameter("temperature", Fields().fixed64(4))) == plain)
        // An entry of a map whose value comes before its key.
        #expect(read(Fields().message(4, Fields().message(2, Fields().number(2, 6)).text(1, "max_tokens"))).maxTokens == 6)
        let salted = read(parameter("cache_salt", Fields().text(3, "s")))
        #expect(salted.hashes == ProbedCall(json: #"{"model":"m","cache_salt":"s","prompt":"\#(Self.text)"}"#).hashes)
        let adapted = read(parameter("lora_name", Fields().text(3, "s")))
        #expect(Set([plain.hashes, salted.hashes, adapted.hashes]).count == 3)
    }

    @Test func modelsShareNothing() {
        let other = Fields().text(1, "n").message(5, tensor(contents))
        #expect(Set(ProbedCall(other.framed, .modelInfer).hashes).isDisjoint(with: ProbedCall(typed.framed, .modelInfer).hashes))
        #expect(ProbedCall(Fields().message(5, tensor(contents)).framed, .modelInfer).model == nil)
    }

    @Test func whatIsMalformedInsideIsMalformed() {
        for broken in [
            typed.bytes(4, [0x0A]), typed.message(4, Fields().text(1, "k").bytes(2, [0x08])), Fields().bytes(5, [0x0A, 9]),
            Fields().message(5, tensor(Fields().raw([0x42, 9]))), typed.raw([0x08]),
        ] {
            #expect(ProbedCall(broken.framed, .modelInfer) == .nothing)
        }
    }

    @Test func everyCutIsSurvived() {
        let raw = Fields().text(1, "m").message(5, tensor()).bytes(7, element(Self.text)) + parameter("max_tokens", Fields().number(2, 40))
        for message in [typed, raw] {
            let whole = ProbedCall(message.framed, .modelInfer)
            for end in 5..<message.framed.count {
                let read = ProbedCall(Array(message.framed[..<end]), .modelInfer)
                #expect(read.hashes == Array(whole.hashes[..<read.hashes.count]), "cut at \(end)")
                #expect(read.promptBytes <= min(whole.promptBytes, end), "cut at \(end)")
                _ = ProbedCall(Fields.frame(Array(message.bytes[..<(end - 5)])), .modelInfer)
            }
        }
    }
}
