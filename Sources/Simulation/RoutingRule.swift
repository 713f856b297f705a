public import Routing

/// What is wrong with a rule's text.
public struct RuleError: Error, CustomStringConvertible {
    public let description: String
}

/// A rule with its parameters, written as `name` or `name:key=value:key=value`.
public struct RoutingRule: Sendable {
    public let text: String
    public private(set) var parameters: [String: Double] = [:]
    let published: PublishedRule.Kind?
    /// The rule of `least-cost`, changed by the parameters.
    public private(set) var cost = CostRule()

    /// The product's own rule.
    public static let own = "least-cost"
    /// Every name.
    public static var names: [String] { [own] + PublishedRule.Kind.allCases.map(\.rawValue) }

    public init(_ text: String) throws(RuleError) {
        self.text = text
        let parts = text.split(separator: ":").map(String.init)
        guard let name = parts.first, name == Self.own || PublishedRule.Kind(rawValue: name) != nil else {
            throw RuleError(description: "expected one of \(Self.names.joined(separator: ", ")), found '\(text)'")
        }
        published = PublishedRule.Kind(rawValue: name)
        for part in parts.dropFirst() {
            let pair = part.split(separator: "=").map(String.init)
            guard pair.count == 2, let value = Double(pair[1]), value.isFinite else {
                throw RuleError(description: "expected key=value in '\(text)', found '\(part)'")
            }
            if let published {
                guard published.defaults[pair[0]] != nil else {
                    throw RuleError(description: "\(name) has no parameter '\(pair[0])'; it has \(published.defaults.keys.sorted())")
                }
                parameters[pair[0]] = value
            } else {
                guard cost.set(pair[0], to: value) else {
                    throw RuleError(description: "\(name) has no parameter '\(pair[0])'; it has \(CostRule.names)")
                }
            }
        }
    }

    var needsRollout: Bool { published == .oracle }
}
