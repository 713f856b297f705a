/// What `/metrics` is to say of a sample instead of the truth.
enum FakeMetric: Sendable, Equatable {
    case fixed(Double)
    /// From one value to another within a period: `oscillate:0:100:10s` goes and comes back, `ramp` stays, `rampreset` begins anew,
    /// `squarewave` jumps at its half.
    case moving(Motion, from: Double, to: Double, periodNanoseconds: UInt64)

    enum Motion: String, Sendable { case oscillate, ramp, rampreset, squarewave }

    /// The longest period, ns: a day.
    private static let longestPeriod = 86_400_000_000_000.0
    /// Names that one stub fakes at most.
    static let maximumCount = 256

    init(name: String, value: JSONValue) throws(FaultError) {
        switch value {
        case .number(let number): self = .fixed(number)
        case .string(let text):
            let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 4, let motion = Motion(rawValue: parts[0]), let start = Double(parts[1]), let end = Double(parts[2]),
                start.isFinite, end.isFinite, let period = Self.nanoseconds(parts[3])
            else { throw Self.wrong(name) }
            self = .moving(motion, from: start, to: end, periodNanoseconds: period)
        default: throw Self.wrong(name)
        }
    }

    /// Reads a whole table; names are those of samples in the text format.
    static func table(_ fields: [String: JSONValue]) throws(FaultError) -> [String: FakeMetric] {
        guard fields.count <= maximumCount else { throw FaultError(message: "fake_metrics: at most \(maximumCount) names") }
        var table: [String: FakeMetric] = [:]
        for (name, value) in fields {
            let isName = name.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"):
                    true
                case UInt8(ascii: "_"), UInt8(ascii: ":"): true
                default: false
                }
            }
            guard isName, !name.isEmpty, name.first?.isNumber == false else {
                throw FaultError(message: "fake_metrics: '\(name)' is no name of a metric")
            }
            table[name] = try FakeMetric(name: name, value: value)
        }
        return table
    }

    /// - Parameter elapsed: since it was set, ns.
    func value(afterNanoseconds elapsed: UInt64) -> Double {
        switch self {
        case .fixed(let value): return value
        case .moving(let motion, let start, let end, let period):
            let turns = Double(elapsed) / Double(period)
            let phase = turns - turns.rounded(.down)
            let share =
                switch motion {
                case .oscillate: 1 - abs(2 * phase - 1)
                case .ramp: min(1, turns)
                case .rampreset: phase
                case .squarewave: phase < 0.5 ? 0.0 : 1.0
                }
            return start + (end - start) * share
        }
    }

    private static func nanoseconds(_ text: String) -> UInt64? {
        let (digits, unit) = text.hasSuffix("ms") ? (text.dropLast(2), 1e6) : (text.dropLast(text.hasSuffix("s") ? 1 : 0), 1e9)
        guard let number = Double(digits), number > 0, number * unit >= 1, number * unit <= longestPeriod else { return nil }
        return UInt64(number * unit)
    }

    private static func wrong(_ name: String) -> FaultError {
        FaultError(
            message: "fake_metrics.\(name): expected a number or MOTION:FROM:TO:PERIOD, as oscillate:0:100:10s; motions are oscillate, "
                + "ramp, rampreset, squarewave")
    }
}
