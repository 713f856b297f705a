import Routing
import Workload

/// Rules that others publish, on our accounts, index and reports. Ties are broken at random.
struct PublishedRule {
    enum Kind: String, CaseIterable {
        case roundRobin = "round-robin"
        case random
        case powerOfTwo = "power-of-two"
        case leastRequest = "least-request"
        /// vLLM's internal data-parallel balancer.
        case vllm
        /// Least uncached tokens ahead, the request's own included.
        case leastTokens = "least-tokens"
        case boundedHit = "bounded-hit"
        /// KubeAI: consistent hashing with bounded loads.
        case boundedHash = "chwbl"
        /// SGLang's model gateway: by the first 256 tokens; its tree; its load.
        case prefixHash = "smg-prefix-hash"
        case cacheAware = "smg-cache-aware"
        case smgLeastLoad = "smg-least-load"
        case ray
        case aibrix
        case preble
        /// NVIDIA's: linear, and the port of the product rule.
        case dynamo
        case dynamoProduct = "dynamo-lmetric"
        case lmetric
        case bailian
        case llmdLegacy = "llm-d-legacy"
        case llmdPrecise = "llm-d-precise"
        case llmdSticky = "llm-d-sticky"
        case llmdStickyDecode = "llm-d-sticky-decode"
        /// llm-d's latency predictor, were its predictions true: the engines are played ahead.
        case oracle
        case mooncake
        case dualMap = "dualmap"
        case prequal
        case gorgo
        case session

        /// Parameters as they are published.
        var defaults: [String: Double] {
            switch self {
            case .boundedHit: ["bound": 16_384]
            case .boundedHash: ["load": 1.25]
            case .prefixHash: ["load": 1.25]
            case .cacheAware: ["match": 0.5, "absolute": 32, "relative": 1.1]
            case .smgLeastLoad: ["rate": 2_000, "pressure": 0.15]
            case .ray: ["spread": 10, "match": 0.1]
            case .aibrix: ["spread": 8, "deviations": 1]
            case .preble: ["window": 180]
            case .dynamo: ["prefill": 1, "queue": 1, "temperature": 0, "ttl": 0]
            case .lmetric: ["hotspot": 0]
            case .bailian: ["hit": 0.7, "sampled": 1]
            case .llmdLegacy: ["prefix": 3, "queue": 2, "kv": 2, "cold": 2]
            case .llmdPrecise: ["hit": 10, "load": 1, "kv": 0]
            case .llmdSticky, .llmdStickyDecode: ["match": 0.8, "seconds": 18]
            case .oracle: ["match": 0.8, "penalty": 5, "explore": 0.01, "weighted": 0]
            case .mooncake: ["quadratic": 60_000]
            case .dualMap: ["slo": 2]
            case .prequal: ["probes": 3, "pool": 16, "seconds": 1, "quantile": 0.84]
            case .gorgo: ["prefill": 1, "queue": 1]
            default: [:]
            }
        }

        /// What a parameter of that name may be: a share, a count, seconds, a rate, or else a weight or tokens.
        func range(of parameter: String) -> ClosedRange<Double> {
            switch parameter {
            case "hit" where self == .bailian: 0...1
            case "match", "quantile", "sampled", "explore", "weighted": 0...1
            case "probes": 0...64
            case "pool": 1...1_024
            case "seconds", "window", "slo", "penalty", "ttl": 0...86_400
            case "rate", "quadratic": 1...1e9
            default: 0...1e9
            }
        }
    }

    struct Probe {
        var slot: UInt32
        var sequences: Double
        var latency: Double
        var at: UInt64
    }

    let kind: Kind
    var parameters: [String: Double]
    let rate: Double
    let decodeStep: Double
    var generator: SeededGenerator
    var counter = 0
    var sessions: [Int: UInt32] = [:]
    /// By slot: when a group last got a prompt of which nobody held anything.
    var lastCold: [UInt32: Int] = [:]
    var probes: [Probe] = []
    /// Preble's window of what was sent where, and its sums by slot.
    var window: [(at: UInt64, slot: UInt32, seconds: Double)] = []
    var windowStart = 0
    var windowSums: [UInt32: Double] = [:]
    /// By slot: mean of the latest times to a first token.
    var recentTTFT: [UInt32: Double] = [:]
    /// LMetric's.
    var hotspots = HotspotDetector()
    /// Dynamo's, where engines tell it nothing.
    var routedBlocks = RoutedBlocks()

    init(_ kind: Kind, parameters: [String: Double], fleet: SimulatedFleet, seed: UInt64) {
        self.kind = kind
        self.parameters = kind.defaults.merging(parameters) { $1 }
        rate = fleet.prefillTokensPerSecond
        decodeStep = fleet.decodeStepSeconds
        generator = SeededGenerator(seed: seed ^ 0x7075_626c_6973_6864)
    }

    func parameter(_ name: String) -> Double { parameters[name] ?? 0 }

    /// A first token came from the group in `slot` after so many seconds.
    mutating func saw(seconds: Double, slot: UInt32) {
        guard kind == .prequal else { return }
        recentTTFT[slot, default: seconds] += 0.2 * (seconds - recentTTFT[slot, default: seconds])
    }

    /// Those in other slots are gone, and with them what they held.
    mutating func keep(slots: Set<UInt32>) { routedBlocks.keep(slots: slots) }

    // MARK: Choosing by a score

    mutating func random(below count: Int) -> Int {
        Int(truncatingIfNeeded: generator.next().multipliedFullWidth(by: UInt64(count)).high)
    }

    /// In [0, 1).
    mutating func unit() -> Double { Double(generator.next() >> 11) * 0x1p-53 }

    /// Whether that which happens to a share of all requests happens to this one.
    mutating func happens(_ share: Double) -> Bool { share > 0 && unit() < share }

    /// A position drawn in proportion to its weight; when none has any, all alike.
    mutating func weighted(_ weights: [Double]) -> Int {
        let sum = weights.reduce(0, +)
        guard sum > 0 else { return random(below: weights.count) }
        var left = unit() * sum
        for (position, weight) in weights.enumerated() {
            left -= weight
            if left < 0 { return position }
        }
        return weights.lastIndex { $0 > 0 } ?? 0
    }

    /// The position of the least score, of several one at random; `.infinity` is never taken while there is another.
    mutating func least(_ candidates: [Candidate], _ score: (Candidate) -> Double) -> Int {
        var best = 0
        var leastScore = Double.infinity
        var ties = 1
        for position in candidates.indices {
            let value = score(candidates[position])
            if value < leastScore {
                (best, leastScore, ties) = (position, value, 1)
            } else if value == leastScore {
                ties += 1
                if random(below: ties) == 0 { best = position }
            }
        }
        return best
    }
}
