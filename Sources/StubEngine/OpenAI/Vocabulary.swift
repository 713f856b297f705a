import EngineModel
import Foundation

/// The texts of tokens that `/tokenize` has named. A token's id is a hash, so its text can only be looked up, not computed.
struct Vocabulary {
    private var texts: [UInt32: String] = Self.replies

    /// Nearly all that a reply can be made of.
    private static let replies: [UInt32: String] = {
        var texts: [UInt32: String] = [:]
        for seed in 0..<64 {
            var reply = Reply(seed: UInt64(seed), continuesText: seed % 2 == 0)
            for _ in 0..<64 {
                let token = reply.next()
                texts[token.id(of: nil)] = String(decoding: token.text(of: nil), as: UTF8.self)
            }
        }
        return texts
    }()

    /// `/tokenize`: a prompt, or a chat's messages.
    mutating func tokenize(_ json: Data, catalog: ModelCatalogue, maximumTokens: Int) throws(WireError) -> String {
        let body = try JSONBody.decode(TokenizeBody.self, from: json)
        _ = try catalog.resolve(body.model)
        let tokens: [UInt32]
        if let messages = body.messages {
            for message in messages {
                if case .text(let text) = message.content { learn(text) }
            }
            tokens = PromptTokens.chat(messages, tools: body.tools, opensReply: body.opensReply ?? true)
        } else if let prompt = body.prompt {
            learn(prompt)
            tokens = PromptTokens.tokens(of: prompt)
        } else {
            throw .validation(kind: "missing", location: "body.prompt", reason: "Field required")
        }
        let names =
            body.returnsTexts == true ? "[" + tokens.map { JSONText.string(texts[$0] ?? "<special>") }.joined(separator: ",") + "]" : "null"
        return "{\"count\":\(tokens.count),\"max_model_len\":\(maximumTokens),\"tokens\":\(CompletionGeneration.list(tokens)),"
            + "\"token_strs\":\(names)}"
    }

    /// `/detokenize`: what this stub never saw is U+FFFD.
    func detokenize(_ json: Data, catalog: ModelCatalogue) throws(WireError) -> String {
        let body = try JSONBody.decode(DetokenizeBody.self, from: json)
        _ = try catalog.resolve(body.model)
        return "{\"prompt\":\(JSONText.string(body.tokens.map { texts[$0] ?? "\u{fffd}" }.joined()))}"
    }

    private mutating func learn(_ text: String) {
        var text = text
        text.withUTF8 { bytes in
            let bytes = UnsafeRawBufferPointer(bytes)
            var start = 0
            while start < bytes.count, texts.count < StubLimits.vocabulary {
                let end = Tokeniser.pieceEnd(in: bytes, from: start)
                let piece = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
                texts[Tokeniser.id(of: piece)] = String(decoding: piece, as: UTF8.self)
                start = end
            }
        }
    }

    private struct TokenizeBody: Decodable {
        var model: String?
        var prompt: String?
        var messages: [CompletionBody.Message]?
        var tools: JSONValue?
        var opensReply: Bool?
        var returnsTexts: Bool?

        enum CodingKeys: String, CodingKey {
            case model, prompt, messages, tools
            case opensReply = "add_generation_prompt"
            case returnsTexts = "return_token_strs"
        }
    }

    private struct DetokenizeBody: Decodable {
        var model: String?
        var tokens: [UInt32]
    }
}
