import EngineModel
import Foundation

/// A request for embeddings that can be served.
struct EmbeddingRequest {
    private struct Body: Decodable {
        var model: String?
        var input: CompletionBody.PromptInput?
        var encodingFormat: String?
        var dimensions: Int?

        enum CodingKeys: String, CodingKey {
            case model, input, dimensions
            case encodingFormat = "encoding_format"
        }
    }

    let model: String
    let prompts: [Prompt]
    let isBase64: Bool
    let dimensions: Int

    static let dimensions = 96

    init(json: Data, catalog: ModelCatalogue, configuration: StubConfiguration) throws(WireError) {
        let body = try JSONBody.decode(Body.self, from: json)
        guard body.input != nil else { throw .missing("input", in: json) }
        model = try catalog.resolve(body.model).name
        switch body.encodingFormat {
        case nil, "float": isBase64 = false
        case "base64": isBase64 = true
        case let other?: throw .invalid("encoding_format must be float or base64, got \(other).", param: "encoding_format")
        }
        dimensions = body.dimensions ?? Self.dimensions
        guard (1...Self.dimensions).contains(dimensions) else {
            throw .invalid("dimensions must be from 1 to \(Self.dimensions), got \(dimensions).", param: "dimensions")
        }
        let lists = try PromptTokens.lists(of: body.input)
        guard lists.count <= StubLimits.embeddings else {
            throw .invalid("at most \(StubLimits.embeddings) inputs, got \(lists.count).", param: "input")
        }
        guard lists.allSatisfy({ $0.count < configuration.maximumModelTokens }) else {
            throw .invalid("an input is longer than max_model_len=\(configuration.maximumModelTokens).", param: "input")
        }
        prompts = lists.map { Prompt(tokens: $0, blockSize: configuration.engine.blockSize, root: BlockHash.root()) }
    }

    /// A vector of length 1 that depends on the text alone.
    static func vector(of prompt: Prompt, dimensions: Int) -> [Float] {
        var state = prompt.contentHash
        var values: [Float] = (0..<dimensions).map { _ in
            state = (state ^ (state >> 30)) &* 0xbf58_476d_1ce4_e5b9 &+ 0x9e37_79b9_7f4a_7c15
            return Float(Int32(truncatingIfNeeded: state >> 32)) / Float(Int32.max)
        }
        let length = values.reduce(0) { $0 + $1 * $1 }.squareRoot()
        guard length > 0 else { return values }
        for index in values.indices { values[index] /= length }
        return values
    }
}

/// The engine computes each input and gives one token, as it does for a pooling model's last hidden state.
final class EmbeddingGeneration: Generation {
    private let request: EmbeddingRequest
    private let exchange: StubExchange

    init(request: EmbeddingRequest, exchange: StubExchange, id: String) {
        self.request = request
        self.exchange = exchange
        super.init(
            choices: request.prompts.map { Choice(request: SequenceRequest(id: 0, prompt: $0, outputTokens: 1)) }, requestID: id)
    }

    override func completed() {
        exchange.generationEnded()
        let data = request.prompts.enumerated().map { index, prompt in
            let vector = EmbeddingRequest.vector(of: prompt, dimensions: request.dimensions)
            let text =
                request.isBase64
                ? JSONText.string(
                    Data(vector.flatMap { withUnsafeBytes(of: $0.bitPattern.littleEndian, Array.init) }).base64EncodedString())
                : "[\(vector.map { "\($0)" }.joined(separator: ","))]"
            return "{\"index\":\(index),\"object\":\"embedding\",\"embedding\":\(text)}"
        }
        let tokens = request.prompts.reduce(0) { $0 + $1.tokenCount }
        exchange.answer(
            status: 200,
            json: "{\"id\":\(JSONText.string("embd-" + requestID)),\"object\":\"list\",\"created\":\(exchange.host.wallSeconds),"
                + "\"model\":\(JSONText.string(request.model)),\"data\":[\(data.joined(separator: ","))],"
                + "\"usage\":{\"prompt_tokens\":\(tokens),\"total_tokens\":\(tokens),\"completion_tokens\":0,"
                + "\"prompt_tokens_details\":null,\"completion_tokens_details\":null}}")
    }

    override func engineDied() {
        exchange.generationEnded()
        exchange.endWithDeadEngine()
    }

    override func aborted() { engineDied() }
}
