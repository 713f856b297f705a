import EngineModel
import Foundation
import Testing

@testable import StubEngine

@Suite struct CompletionRequestTests {
    private let configuration = StubConfiguration(models: ["base", "alias"], maximumModelTokens: 1_000)
    private let catalogue = ModelCatalogue(names: ["base", "alias"], adapters: [.init(name: "lora", path: "/lora")])

    private func read(_ json: String, _ kind: CompletionRequest.Kind = .text) throws(WireError) -> CompletionRequest {
        try CompletionRequest(kind: kind, json: Data(json.utf8), catalog: catalogue, configuration: configuration)
    }

    @Test func whatIsLeftOutHasVLLMsDefaults() throws {
        let text = try read(#"{"prompt":"once upon a time"}"#)
        #expect(text.model == "base")
        #expect(text.maximumTokens == 16)
        #expect(!text.isStream)
        #expect(text.n == 1)
        #expect(text.logprobs == nil)
        // A chat goes on until the model ends its turn, or its context is full.
        let chat = try read(#"{"messages":[{"role":"user","content":"hello"}]}"#, .chat)
        #expect(chat.maximumTokens == 1_000 - chat.promptTokens)
        #expect(chat.choices[0].request.endsTurn)
    }

    @Test func aliasesAnswerAsTheFirstNameAndAdaptersAsThemselves() throws {
        #expect(try read(#"{"model":"alias","prompt":"x"}"#).model == "base")
        #expect(try read(#"{"model":"","prompt":"x"}"#).model == "base")
        #expect(try read(#"{"model":null,"prompt":"x"}"#).model == "base")
        let adapted = try read(
            #"{"model":"lora","prompt":"a longer text of more than sixteen tokens, so that there is one block at the least"}"#)
        #expect(adapted.model == "lora")
        #expect(adapted.choices[0].request.adapter == BlockHash.adapter(named: "lora"))
        let plain = try read(#"{"prompt":"a longer text of more than sixteen tokens, so that there is one block at the least"}"#)
        #expect(plain.choices[0].request.adapter == nil)
        #expect(plain.choices[0].request.prompt.blockHashes != adapted.choices[0].request.prompt.blockHashes)
        #expect(plain.choices[0].request.replySeed == adapted.choices[0].request.replySeed)
    }

    @Test func ofEqualKeysTheLastOneCounts() throws {
        let error = #expect(throws: WireError.self) { try read(#"{"model":"base","model":"nope","prompt":"x"}"#) }
        #expect(error?.status == 404)
        #expect(try read(#"{"model":"nope","model":"base","prompt":"x"}"#).model == "base")
    }

    @Test func severalPromptsAndRepliesAreTheirProduct() throws {
        let request = try read(#"{"prompt":["one","two two"],"n":3,"seed":4}"#)
        #expect(request.choices.count == 6)
        #expect(request.promptTokens == 3)
        #expect(Set(request.choices.map(\.request.replySeed)).count == 6)
        #expect(try read(#"{"prompt":[[1,2,3],[4]]}"#).promptTokens == 4)
        #expect(try read(#"{"prompt":[1,2,3]}"#).promptTokens == 3)
        #expect(try read(#"{"prompt":"x","n":128}"#).choices.count == 128)
        #expect(throws: WireError.self) { try read(#"{"prompt":"x","n":129}"#) }
        #expect(throws: WireError.self) { try read(#"{"prompt":["x","y"],"n":65}"#) }
    }

    @Test func equalRequestsGetEqualReplies() throws {
        let json = #"{"prompt":"x","seed":7,"max_tokens":40,"ignore_eos":true}"#
        #expect(try read(json).choices[0].request.replySeed == read(json).choices[0].request.replySeed)
        #expect(try read(json.replacing("7", with: "8")).choices[0].request.replySeed != read(json).choices[0].request.replySeed)
    }

    @Test func aReplyStopsAtTheWord() throws {
        let whole = try read(#"{"prompt":"x","max_tokens":60,"ignore_eos":true}"#).choices[0].request
        var reply = Reply(seed: whole.replySeed, continuesText: true)
        let text = String(decoding: (0..<60).flatMap { _ in reply.next().text(of: nil) }, as: UTF8.self)
        let word = String(text.split(separator: " ")[7])
        var cut = try read(#"{"prompt":"x","max_tokens":60,"ignore_eos":true,"stop":["\#(word)"]}"#).choices[0]
        let shown = play(&cut)
        #expect(cut.request.outputTokens < 60)
        #expect(cut.produced == cut.request.outputTokens)
        let place = try #require(text.range(of: word)).lowerBound
        #expect(shown == String(text[..<place]))
        #expect(cut.endsByStop)
        #expect(cut.stopReasonJSON == JSONText.string(word))
    }

    /// Gives a choice its tokens as the engine does. Returns the text that its client sees.
    private func play(_ choice: inout Generation.Choice) -> String {
        var reply = Reply(seed: choice.request.replySeed, continuesText: true)
        var shown: [UInt8] = []
        while !choice.isComplete {
            let token = reply.next()
            if let end = choice.count(token) { #expect(end > choice.produced) }
            shown.append(contentsOf: token.text(of: nil)[..<choice.visibleBytes(of: token.text(of: nil))])
        }
        return String(decoding: shown, as: UTF8.self)
    }

    @Test func aStopOfSeveralTokensIsHeldBackFromItsFirstByte() throws {
        let whole = try read(#"{"prompt":"x","max_tokens":60,"ignore_eos":true}"#).choices[0].request
        var reply = Reply(seed: whole.replySeed, continuesText: true)
        let text = String(decoding: (0..<60).flatMap { _ in reply.next().text(of: nil) }, as: UTF8.self)
        // From within one word, over several, into another.
        for (start, length) in [(0, 1), (3, 20), (9, 40), (30, 2)] {
            let from = text.index(text.startIndex, offsetBy: start)
            let stop = String(text[from..<text.index(from, offsetBy: length)])
            var cut = try read(#"{"prompt":"x","max_tokens":60,"ignore_eos":true,"stop":["\#(stop)"]}"#).choices[0]
            #expect(play(&cut) == String(text[..<(try #require(text.range(of: stop)).lowerBound)]))
            #expect(cut.stopReasonJSON == JSONText.string(stop))
        }
    }

    @Test func nothingIsLookedAtBeforeItIsNeeded() throws {
        let conditions = StopMatch.Conditions(texts: ["zzzz", "e"], minimumTokens: 131_000)
        var scanner = StopScanner(reply: Reply(seed: 1, continuesText: true), limit: 131_000, conditions: conditions)
        scanner.scan(beyond: 0, textBytes: 0)
        #expect(scanner.tokens == 1)
        scanner.scan(beyond: 40, textBytes: 0)
        #expect(scanner.tokens == 41)
        #expect(scanner.match == nil)
    }

    @Test func stopStringsAreBounded() throws {
        func stops(_ count: Int, _ bytes: Int) -> String {
            let word = String(repeating: "z", count: bytes)
            return #"{"prompt":"x","stop":["# + Array(repeating: "\"\(word)\"", count: count).joined(separator: ",") + "]}"
        }
        #expect(try read(stops(64, 1_024)).choices.count == 1)
        #expect(throws: WireError.self) { try read(stops(65, 1)) }
        #expect(throws: WireError.self) { try read(stops(1, 1_025)) }
    }

    @Test(arguments: [
        (#""top_p":0"#, "top_p"), (#""top_p":1.01"#, "top_p"), (#""min_tokens":-1"#, "min_tokens"),
        (#""min_tokens":9,"max_tokens":8"#, "min_tokens"), (#""logprobs":-1"#, "logprobs"), (#""top_logprobs":-1"#, "top_logprobs"),
        (#""stop":["a",""]"#, "stop"), (#""stop":"""#, "stop"),
    ])
    func samplingOutOfRangeIsRefused(field: String, parameter: String) throws {
        let error = #expect(throws: WireError.self) { try read(#"{"prompt":"x",\#(field)}"#) }
        #expect(error?.status == 400)
        #expect(error?.param == parameter)
    }

    @Test func samplingAtItsBoundsIsTaken() throws {
        #expect(try read(#"{"prompt":"x","top_p":1,"min_tokens":8,"max_tokens":8,"logprobs":0,"stop":[]}"#).maximumTokens == 8)
        #expect(try read(#"{"prompt":"x","top_p":0.001,"min_tokens":0}"#).maximumTokens == 16)
    }

    @Test func streamOptionsAreForStreams() throws {
        let stream = try read(#"{"prompt":"x","stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#)
        #expect(stream.isStream && stream.includesUsage && stream.includesContinuousUsage)
        #expect(throws: WireError.self) { try read(#"{"prompt":"x","stream_options":{"include_usage":true}}"#) }
    }

    @Test(
        arguments: [
            (#"{"prompt":""}"#, CompletionRequest.Kind.text, 400, "prompt"), (#"{"prompt":[]}"#, .text, 400, nil),
            (#"{"prompt":"x","max_tokens":0}"#, .text, 400, "max_tokens"), (#"{"prompt":"x","max_tokens":1001}"#, .text, 400, "max_tokens"),
            (#"{"prompt":"x","n":0}"#, .text, 400, nil), (#"{"prompt":"x","temperature":2.1}"#, .text, 400, "temperature"),
            (#"{"prompt":"x","cache_salt":""}"#, .text, 400, "cache_salt"), (#"{"prompt":"x","logprobs":21}"#, .text, 400, "logprobs"),
            (#"{"prompt":"x","model":"nope"}"#, .text, 404, "model"), (#"{"prompt":"x""#, .text, 400, "body.13"),
            (#"{}"#, .chat, 400, "body.messages"), (#"{"messages":[]}"#, .messages, 400, "body.max_tokens"),
            (#"{}"#, .responses, 400, "body.input"),
            (#"{"messages":[{"content":"x"}]}"#, .chat, 400, "body.messages.0.role"), (#"{"messages":7}"#, .chat, 400, "body.messages"),
            ("", .chat, 400, "body"),
        ] as [(String, CompletionRequest.Kind, Int, String?)])
    func whatVLLMRefusesIsRefusedAlike(json: String, kind: CompletionRequest.Kind, status: Int, param: String?) {
        let error = #expect(throws: WireError.self) { try read(json, kind) }
        #expect(error?.status == status)
        #expect(error?.param == param)
    }

    @Test func aPromptAsLongAsTheContextIsRefusedAndOneShorterGetsOneToken() throws {
        let tokens = Array(repeating: "1", count: 1_000).joined(separator: ",")
        let error = #expect(throws: WireError.self) { try read(#"{"prompt":[\#(tokens)]}"#) }
        #expect(error?.param == "input_tokens")
        let shorter = Array(repeating: "1", count: 999).joined(separator: ",")
        #expect(try read(#"{"prompt":[\#(shorter)],"max_tokens":50}"#).maximumTokens == 1)
    }

    @Test func aChatsNextTurnBeginsWithTheTokensOfTheOneBefore() throws {
        let first = PromptTokens.chat([.init(role: "user", content: .text("Hello there"))], tools: nil)
        let second = PromptTokens.chat(
            [
                .init(role: "user", content: .text("Hello there")), .init(role: "assistant", content: .text("the cache keeps")),
                .init(role: "user", content: .text("Go on")),
            ], tools: nil)
        #expect(Array(second.prefix(first.count)) == first)
        // Tools come before all turns: with others nothing is shared.
        let tools = PromptTokens.chat([.init(role: "user", content: .text("Hello there"))], tools: try value(#"[{"type":"function"}]"#))
        #expect(tools[0] != first[0])
    }

    @Test func anEchoAloneNeedsNoTokens() throws {
        let request = try read(#"{"prompt":["one","two"],"echo":true,"max_tokens":0,"n":2}"#)
        #expect(request.echoesOnly)
        #expect(request.choices.map(\.request.outputTokens) == [1, 1, 1, 1])
        #expect(try !read(#"{"prompt":"one","echo":true,"max_tokens":1}"#).echoesOnly)
        #expect(throws: WireError.self) { try read(#"{"prompt":"one","echo":true,"max_tokens":-1}"#) }
        #expect(throws: WireError.self) { try read(#"{"prompt":"one","max_tokens":0}"#) }
    }

    @Test func contentPartsAreReadAsText() throws {
        let parts = try read(
            #"{"messages":[{"role":"user","content":[{"type":"text","text":"one"},{"type":"image_url","image_url":{"url":"data:x"}}]}]}"#,
            .chat)
        let text = try read(#"{"messages":[{"role":"user","content":"one"}]}"#, .chat)
        #expect(parts.promptTokens > text.promptTokens)
    }
}

@Suite struct CatalogueTests {
    @Test func adaptersComeAndGo() throws {
        var catalogue = ModelCatalogue(names: ["base"])
        try catalogue.load(.init(name: "a", path: "/a"), inPlace: false)
        #expect(throws: WireError.self) { try catalogue.load(.init(name: "a", path: "/b"), inPlace: false) }
        try catalogue.load(.init(name: "a", path: "/b"), inPlace: true)
        #expect(catalogue.adapters == [.init(name: "a", path: "/b")])
        #expect(catalogue.name(of: BlockHash.adapter(named: "a")) == "a")
        #expect(throws: WireError.self) { try catalogue.load(.init(name: "c", path: ""), inPlace: false) }
        try catalogue.unload("a")
        #expect(throws: WireError.self) { try catalogue.unload("a") }
        #expect(throws: WireError.self) { _ = try catalogue.resolve("a") }
    }

    @Test func thereIsABoundToAdapters() throws {
        var catalogue = ModelCatalogue(names: ["base"])
        for index in 0..<StubLimits.adapters { try catalogue.load(.init(name: "\(index)", path: "/x"), inPlace: false) }
        #expect(throws: WireError.self) { try catalogue.load(.init(name: "more", path: "/x"), inPlace: false) }
    }
}
