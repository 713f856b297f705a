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

    /// What every published rule has beside its own: tokens in a group's queue from which on requests wait in the router, as the product's do
    /// (`holdFrom`), but in the order of arrival.
    static let hold = "hold"

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
            guard let range = range(of: pair[0]) else {
                throw RuleError(description: "\(name) has no parameter '\(pair[0])'; it has \(parameterNames)")
            }
            guard range.contains(value) else {
                let (low, high) = (range.lowerBound, range.upperBound)
                throw RuleError(description: "\(pair[0]) of \(name) is from \(low) to \(high), found '\(pair[1])' in '\(text)'")
            }
            if published == nil { _ = cost.set(pair[0], to: value) } else { parameters[pair[0]] = value }
        }
    }

    var parameterNames: [String] { published.map { $0.defaults.keys.sorted() + [Self.hold] } ?? CostRule.names }

    /// What the parameter may be; nil when the rule has none of that name.
    func range(of parameter: String) -> ClosedRange<Double>? {
        guard let published else { return CostRule.range(of: parameter) }
        if parameter == Self.hold { return 0...1e9 }
        return published.defaults[parameter] == nil ? nil : published.range(of: parameter)
    }

    /// Whether a rule of that text is another's, and one that can be had.
    static func isRival(_ text: String) -> Bool {
        let name = text.split(separator: ":").first.map(String.init) ?? ""
        return name != own && name != PublishedRule.Kind.oracle.rawValue
    }

    var needsRollout: Bool { published == .oracle }

    /// Whom the suite compares with the product's rule, which comes first: every published rule as it is published, and those that have
    /// knobs with what their authors also ship, or with the value that did best here, of several, on other seeds than the suite's.
    public static let judged: [String] =
        [own] + PublishedRule.Kind.allCases.filter { $0 != .oracle }.map(\.rawValue) + [
            "chwbl:load=1.5", "smg-prefix-hash:load=2", "smg-cache-aware:match=0.3:absolute=32:relative=1.5", "ray:spread=80",
            "aibrix:spread=64:deviations=2", "preble:window=600", "dynamo:temperature=0.5", "dynamo:temperature=0.1", "dynamo:prefill=16",
            "dynamo:ttl=120", "dynamo:prefill=2:queue=0",
            "lmetric:hotspot=1", "bailian:hit=0.55", "bailian:sampled=0", "bailian:hit=0.45:sampled=0",
            "llm-d-legacy:kv=3", "llm-d-legacy:queue=1:cold=1", "llm-d-legacy:cold=0", "llm-d-legacy:prefix=1:queue=1:kv=1:cold=0",
            "llm-d-precise:kv=1", "llm-d-sticky:seconds=2", "llm-d-sticky:seconds=14", "llm-d-sticky-decode:seconds=1",
            "mooncake:quadratic=200000", "dualmap:slo=0.1", "prequal:quantile=0.7", "gorgo:prefill=2",
        ]

    /// The product's rule as it is, and then without each of its constants that is not 0 already, one at a time: the terms' own make a term
    /// vanish, the others what they shape. Without `lateness` nothing changes but for requests that come with wishes.
    public static func ablations() throws(RuleError) -> [RoutingRule] {
        var rules = [try RoutingRule(own)]
        for name in CostRule.names {
            let without = try RoutingRule("\(own):\(name)=0")
            if without.cost != rules[0].cost { rules.append(without) }
        }
        return rules
    }
}
