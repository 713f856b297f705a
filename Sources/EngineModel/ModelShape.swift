/// The dimensions of a dense decoder-only transformer: all that the cost of running it depends on.
public struct ModelShape: Sendable, Equatable {
    /// As in ``EnginePreset/name``.
    public var name: String
    public var layers: Int
    /// Width of the residual stream.
    public var hidden: Int
    /// Width of all query heads together, and of all key (or value) heads.
    public var queryWidth: Int
    public var keyValueWidth: Int
    /// Width of the feed-forward part, and how many matrices it has: three when it is gated, two when not.
    public var feedForward: Int
    public var feedForwardMatrices: Int
    public var vocabulary: Int
    /// Whether the input and the output share one embedding matrix.
    public var tiesEmbeddings: Bool

    public init(
        name: String, layers: Int, hidden: Int, queryWidth: Int, keyValueWidth: Int, feedForward: Int, feedForwardMatrices: Int = 3,
        vocabulary: Int, tiesEmbeddings: Bool = false
    ) {
        self.name = name
        self.layers = layers
        self.hidden = hidden
        self.queryWidth = queryWidth
        self.keyValueWidth = keyValueWidth
        self.feedForward = feedForward
        self.feedForwardMatrices = feedForwardMatrices
        self.vocabulary = vocabulary
        self.tiesEmbeddings = tiesEmbeddings
    }

    /// Weights and KV entries are 16-bit floats.
    static let bytesPerValue = 2.0

    /// Parameters of one layer's matrices.
    var layerParameters: Double {
        Double(hidden * (2 * queryWidth + 2 * keyValueWidth) + feedForwardMatrices * hidden * feedForward)
    }
    /// Parameters of the matrix that turns the last layer's output into logits.
    var headParameters: Double { Double(hidden * vocabulary) }

    /// Bytes of all weights, over all GPUs.
    public var weightBytes: Double {
        (Double(layers) * layerParameters + headParameters * (tiesEmbeddings ? 1 : 2)) * Self.bytesPerValue
    }
    /// Bytes that one token takes in the KV cache, over all GPUs.
    public var keyValueBytesPerToken: Double { 2 * Double(layers * keyValueWidth) * Self.bytesPerValue }

    /// Bytes of a LoRA adapter of `rank` on every matrix of every layer.
    public func adapterBytes(rank: Int) -> Double {
        let attention = 2 * (hidden + queryWidth) + 2 * (hidden + keyValueWidth)
        let feedForward = feedForwardMatrices * (hidden + feedForward)
        return Double(layers * rank * (attention + feedForward)) * Self.bytesPerValue
    }
}

// From each model's published configuration.
extension ModelShape {
    public static let llama2With7B = ModelShape(
        name: "llama-2-7b", layers: 32, hidden: 4_096, queryWidth: 4_096, keyValueWidth: 4_096, feedForward: 11_008, vocabulary: 32_000)
    public static let llama2With13B = ModelShape(
        name: "llama-2-13b", layers: 40, hidden: 5_120, queryWidth: 5_120, keyValueWidth: 5_120, feedForward: 13_824,
        vocabulary: 32_000)
    public static let llama2With70B = ModelShape(
        name: "llama-2-70b", layers: 80, hidden: 8_192, queryWidth: 8_192, keyValueWidth: 1_024, feedForward: 28_672,
        vocabulary: 32_000)
    public static let llama3With8B = ModelShape(
        name: "llama-3-8b", layers: 32, hidden: 4_096, queryWidth: 4_096, keyValueWidth: 1_024, feedForward: 14_336,
        vocabulary: 128_256)
    public static let llama3With70B = ModelShape(
        name: "llama-3-70b", layers: 80, hidden: 8_192, queryWidth: 8_192, keyValueWidth: 1_024, feedForward: 28_672,
        vocabulary: 128_256)
    public static let optWith13B = ModelShape(
        name: "opt-13b", layers: 40, hidden: 5_120, queryWidth: 5_120, keyValueWidth: 5_120, feedForward: 20_480,
        feedForwardMatrices: 2, vocabulary: 50_272, tiesEmbeddings: true)
    public static let qwen3With32B = ModelShape(
        name: "qwen3-32b", layers: 64, hidden: 5_120, queryWidth: 8_192, keyValueWidth: 1_024, feedForward: 25_600,
        vocabulary: 151_936)

    /// Models that a preset can have.
    public static let all = [llama2With7B, llama2With13B, llama2With70B, llama3With8B, llama3With70B, optWith13B, qwen3With32B]
}
