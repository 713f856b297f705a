import Foundation

/// Workloads whose shape is more than a shared beginning, each from a schedule and a seed. Sizes in tokens.
extension LoadPlan {
    /// Their names, in the order of the functions that make them.
    private static let ownNames = ["toolagent", "reasoning", "rotating-zipf", "sibling-bursts", "no-prefix"]
    public static let standardNames = ownNames + ConversationShape.catalogue.keys.sorted()
    /// Every name of a workload.
    public static let names = SyntheticShape.named.keys.sorted() + standardNames

    /// One of `standardNames`; nil when there is none of that name.
    public init?(standard name: String, schedule: ArrivalSchedule, process: String, seed: UInt64) {
        if let shape = ConversationShape.catalogue[name] {
            self.init(name: name, conversations: shape, schedule: schedule, process: process, seed: seed)
            return
        }
        var draw = Draw(seed: seed)
        let requests: [PlannedRequest]
        switch name {
        case "toolagent": requests = Self.toolAgent(schedule, &draw)
        case "reasoning": requests = Self.reasoning(schedule, &draw)
        case "rotating-zipf": requests = Self.rotatingZipf(schedule, &draw)
        case "sibling-bursts": requests = Self.siblingBursts(schedule, &draw)
        case "no-prefix": requests = Self.noPrefix(schedule, &draw)
        default: return nil
        }
        self.init(
            name: name, parameters: (Self.ownParameters[name] ?? [:]).merging(["seed": "\(seed)", "requests": "\(requests.count)"]) { $1 },
            requests: requests, stages: schedule.stages,
            process: process)
    }

    /// What the functions below draw from, for reports.
    private static let ownParameters: [String: [String: String]] = [
        "toolagent": [
            "agents":
                "0.45: shared 4096, tools 2048 (8 sets, Zipf 1.2), own 512 x geometric 0.55 up to 16; answers 0.6: 3, else uniform 20 to 79",
            "others": "0.12: shared 2560, own uniform 512 to 1023; answers uniform 16 to 23",
            "conversations":
                "0.43: log-normal 9000 +- 9000 up to 80000, two thirds of it one of 400 histories (Zipf 0.8); answers log-normal 380 +- 300 up to 2000",
        ],
        "reasoning": [
            "shared_tokens": "250", "input_tokens": "log-normal 1000 +- 800, 1 to 16000",
            "output_tokens": "log-normal 8000 +- 6500, 500 to 32000", "turns": "1",
        ],
        "rotating-zipf": [
            "groups": "150, Zipf 1.2, ranks move by 37 every 60 s", "shared_tokens": "4000", "input_tokens": "uniform 300 to 699",
            "output_tokens": "uniform 100 to 299",
        ],
        "sibling-bursts": [
            "samples": "16 prompts, 8 of each, at once", "input_tokens": "uniform 2000 to 5999", "output_tokens": "uniform 150 to 449",
        ],
        "no-prefix": [
            "input_tokens": "log-normal 3000 +- 3000, 64 to 30000", "output_tokens": "log-normal 250 +- 200, 1 to 2000",
        ],
    ]

    private static func request(_ arrival: ArrivalSchedule.Arrival, _ blocks: [PromptBlock], output: Int) -> PlannedRequest {
        var request = PlannedRequest(offsetNanoseconds: arrival.offsetNanoseconds, user: blocks, outputTokens: max(1, output))
        request.stage = arrival.stage
        return request
    }

    /// A stand-in for Mooncake's toolagent trace (FAST'25), made after the composition of its published beginning: 45 % agents with
    /// 6,144 tokens of shared instructions and tools, 12 % others with 2,560, and conversations without a shared beginning.
    /// About 8,000 tokens in and 180 out on average.
    private static func toolAgent(_ schedule: ArrivalSchedule, _ draw: inout Draw) -> [PlannedRequest] {
        schedule.arrivals.enumerated().map { index, arrival in
            let unique = 1 << 40 | UInt64(index)
            let kind = draw.unit()
            if kind < 0.45 {
                // Geometric: each further block with probability 0.55.
                var blocks = 1
                while draw.unit() < 0.55, blocks < 16 { blocks += 1 }
                let output = draw.unit() < 0.6 ? 3 : 20 + Int(draw.unit() * 60)
                // Tools come in a few sets; one is most agents' own.
                let tools = draw.zipf(8, exponent: 1.2)
                return request(
                    arrival, [.init(id: 1, tokens: 4_096), .init(id: 10 + tools, tokens: 2_048), .init(id: unique, tokens: 512 * blocks)],
                    output: output)
            }
            if kind < 0.57 {
                return request(
                    arrival, [.init(id: 2, tokens: 2_560), .init(id: unique, tokens: 512 + Int(draw.unit() * 512))],
                    output: 16 + Int(draw.unit() * 8))
            }
            // Conversations: the turns of one share what was said before, here as a history drawn from 400.
            let history = 1_000 + draw.zipf(400, exponent: 0.8)
            let length = min(draw.logNormal(mean: 9_000, deviation: 9_000), 80_000)
            return request(
                arrival, [.init(id: history, tokens: length * 2 / 3), .init(id: unique, tokens: max(64, length / 3))],
                output: min(draw.logNormal(mean: 380, deviation: 300), 2_000))
        }
    }

    /// inference-perf's catalogue: 250 shared tokens, about 1,000 of a question, about 8,000 of an answer (heavy-tailed). Bound by
    /// decoding, nothing worth reusing.
    private static func reasoning(_ schedule: ArrivalSchedule, _ draw: inout Draw) -> [PlannedRequest] {
        schedule.arrivals.enumerated().map { index, arrival in
            let question = min(draw.logNormal(mean: 1_000, deviation: 800), 16_000)
            let answer = min(max(draw.logNormal(mean: 8_000, deviation: 6_500), 500), 32_000)
            return request(arrival, [.init(id: 1, tokens: 250), .init(id: 1 << 40 | UInt64(index), tokens: question)], output: answer)
        }
    }

    /// 150 shared beginnings of 4,000 tokens whose popularity follows Zipf's law with exponent 1.2, and every 60 seconds each takes the
    /// place of another: what was hot is cold and the other way round.
    private static func rotatingZipf(_ schedule: ArrivalSchedule, _ draw: inout Draw) -> [PlannedRequest] {
        schedule.arrivals.enumerated().map { index, arrival in
            let epoch = arrival.offsetNanoseconds / 60_000_000_000
            let prefix = (draw.zipf(150, exponent: 1.2) + epoch * 37) % 150
            return request(
                arrival, [.init(id: 1 + prefix, tokens: 4_000), .init(id: 1 << 40 | UInt64(index), tokens: 300 + Int(draw.unit() * 400))],
                output: 100 + Int(draw.unit() * 200))
        }
    }

    /// Each arrival is eight samples of each of 16 new prompts at the same instant, as reinforcement learning and self-consistency ask for.
    private static func siblingBursts(_ schedule: ArrivalSchedule, _ draw: inout Draw) -> [PlannedRequest] {
        schedule.arrivals.enumerated().flatMap { index, arrival in
            return (0..<16).flatMap { number in
                let prompt = PromptBlock(id: 1 << 40 | UInt64(16 * index + number), tokens: 2_000 + Int(draw.unit() * 4_000))
                return (0..<8).map { _ in request(arrival, [prompt], output: 150 + Int(draw.unit() * 300)) }
            }
        }
    }

    /// Prompts that share nothing: the best is the least work left.
    private static func noPrefix(_ schedule: ArrivalSchedule, _ draw: inout Draw) -> [PlannedRequest] {
        schedule.arrivals.enumerated().map { index, arrival in
            let length = min(max(draw.logNormal(mean: 3_000, deviation: 3_000), 64), 30_000)
            return request(
                arrival, [.init(id: 1 << 40 | UInt64(index), tokens: length)], output: min(draw.logNormal(mean: 250, deviation: 200), 2_000)
            )
        }
    }
}

/// Draws for workloads.
struct Draw {
    private var generator: SeededGenerator
    /// Cumulated weights by size and exponent.
    private var zipfTables: [String: [Double]] = [:]

    init(seed: UInt64) { generator = SeededGenerator(seed: seed ^ 0x7374_616e_6461_7264) }

    /// In [0, 1).
    mutating func unit() -> Double { Double(generator.next() >> 11) * 0x1p-53 }

    /// By the mean and the standard deviation of the values themselves, at least 1.
    mutating func logNormal(mean: Double, deviation: Double) -> Int { max(1, Int(logNormalValue(mean: mean, deviation: deviation))) }

    mutating func logNormalValue(mean: Double, deviation: Double) -> Double {
        let variance = log(1 + deviation * deviation / (mean * mean))
        return exp(log(mean) - variance / 2 + variance.squareRoot() * normal())
    }

    /// Standard normal (Box and Muller).
    mutating func normal() -> Double { (-2 * log(1 - unit())).squareRoot() * cos(2 * .pi * unit()) }

    /// A rank below `count`, the first the most frequent.
    mutating func zipf(_ count: Int, exponent: Double) -> UInt64 {
        let key = "\(count)/\(exponent)"
        if zipfTables[key] == nil {
            var sum = 0.0
            zipfTables[key] = (1...count).map { rank in
                sum += pow(Double(rank), -exponent)
                return sum
            }
        }
        let table = zipfTables[key] ?? [1]
        let value = unit() * (table.last ?? 1)
        return UInt64(table.firstIndex { value < $0 } ?? 0)
    }
}
