/// What the engine reported at the end of an answer, in tokens.
public struct Usage: Sendable {
    public var promptTokens: Int
    /// Prompt tokens that came from the KV cache; nil when the engine does not say.
    public var cachedTokens: Int?
    public var completionTokens: Int

    public init(promptTokens: Int, cachedTokens: Int?, completionTokens: Int) {
        self.promptTokens = promptTokens
        self.cachedTokens = cachedTokens
        self.completionTokens = completionTokens
    }
}
