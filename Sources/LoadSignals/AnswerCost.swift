/// Seconds that answers to one cheap question cost an engine, as far as the time until they are there tells. Of that the engine's steps and
/// other requests may have most: a quick answer is believed at once, a slow one by a tenth.
struct AnswerCost {
    private(set) var seconds = 0.0

    private static let shareOfASlowAnswer = 0.1

    mutating func observe(seconds answer: Double) { seconds = min(answer, seconds + Self.shareOfASlowAnswer * (answer - seconds)) }
}
