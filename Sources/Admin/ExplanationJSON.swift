import Foundation
import Routing

/// A decision and its reasons. Tokens and seconds, as the names say.
private struct ExplanationJSON: Encodable {
    struct Group: Encodable {
        var name: String
        var chosen: Bool
        var obstacle: String?
        var cachedTokens: Int
        /// Of `cachedTokens`, what other routers are expected to have placed there.
        var othersTokens: Int
        var timeToFirstTokenSeconds: Double
        /// Every term of the cost, see `CostTerms`; `total` is what `least-cost` compares.
        var seconds: [String: Double]
    }

    var policy: String
    var reason: String?
    var failure: String?
    var group: String?
    /// Whether it would wait in the router before it goes there, or to another that has room sooner.
    var waits: Bool
    var promptTokens: Int
    var expectedOutputTokens: Int
    var groups: [Group]

    init(_ explanation: Explanation) {
        policy = explanation.policy.rawValue
        switch explanation.outcome {
        case .success(let reason): self.reason = reason.rawValue
        case .failure(.noReadyGroup): failure = "no_ready_group"
        case .failure(.modelNotFound): failure = "model_not_found"
        case .failure(.leasesExhausted): failure = "queue_full"
        }
        group = explanation.groups.first(where: \.isChosen)?.name
        waits = explanation.waits
        promptTokens = explanation.promptTokens
        expectedOutputTokens = explanation.outputTokens
        groups = explanation.groups.map { group in
            Group(
                name: group.name, chosen: group.isChosen, obstacle: group.obstacle?.rawValue, cachedTokens: group.cachedTokens,
                othersTokens: group.othersTokens, timeToFirstTokenSeconds: group.terms.timeToFirstToken,
                seconds: Dictionary(group.terms.named, uniquingKeysWith: { first, _ in first }))
        }
    }
}

func explanationJSON(_ explanation: Explanation) -> String {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(ExplanationJSON(explanation)) else { return "{}" }
    return String(decoding: data, as: UTF8.self) + "\n"
}
