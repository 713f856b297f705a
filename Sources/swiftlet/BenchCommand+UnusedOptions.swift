import ArgumentParser

/// Options of which it matters whether they were given: where another one leaves nothing for them to do, the run would not be what was asked
/// for, and that is an error.
extension LoadOptions {
    var rate: String { givenRate ?? "10" }
    var duration: String { givenDuration ?? "10" }
    var arrival: String { givenArrival ?? "poisson" }
    var seed: UInt64 { givenSeed ?? 1 }
    var salt: UInt64 { givenSalt ?? 0 }

    /// Those of a synthetic workload.
    private var givenShape: [String] {
        Self.names([
            ("--workload", givenWorkload != nil), ("--prompt-groups", groups != nil), ("--prompts-per-group", promptsPerGroup != nil),
            ("--system-tokens", systemTokens != nil), ("--input-tokens", inputTokens != nil), ("--output-tokens", outputTokens != nil),
            ("--turns", turns != nil), ("--think-seconds", thinkSeconds != nil),
        ])
    }

    private var givenTraceOptions: [String] {
        Self.names([("--time-scale", timeScale != 1), ("--length-scale", lengthScale != 1), ("--trace-skip", traceSkip != 0)])
    }

    /// A trace has its text and arrivals; a synthetic workload has nothing to scale.
    func checkTraceAlone() throws {
        guard trace != nil else { return try Self.refuse(givenTraceOptions, "they are for --trace") }
        let others = [("--arrival", givenArrival != nil), ("--seed", givenSeed != nil), ("--salt", givenSalt != nil)]
        try Self.refuse(givenShape + Self.names(others), "--trace brings its own requests")
    }

    /// For runs that play a trace at its own times.
    func checkTraceTimes() throws {
        guard trace != nil else { return }
        let times = [("--rate", givenRate != nil), ("--duration", givenDuration != nil), ("--stage-gap", stageGap != 0)]
        try Self.refuse(Self.names(times), "--trace brings its own times; --time-scale stretches them")
    }

    /// For `overhead --peers`, whose prompts are those of --prompt-bytes.
    func checkNoWorkload() throws {
        try Self.refuse(
            givenShape + givenTraceOptions + Self.names([("--trace", trace != nil), ("--limit", limit != nil)]),
            "with --peers the prompts are those of --prompt-bytes")
    }

    /// Names of those that were given.
    private static func names(_ options: [(String, Bool)]) -> [String] { options.filter { $0.1 }.map { $0.0 } }

    private static func refuse(_ names: [String], _ reason: String) throws {
        guard names.isEmpty else { throw ValidationError("\(names.joined(separator: ", ")): would not be heeded: \(reason)") }
    }
}
