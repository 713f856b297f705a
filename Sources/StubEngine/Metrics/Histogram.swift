/// A Prometheus histogram with fixed bounds.
struct Histogram {
    let bounds: [Double]
    private(set) var buckets: [UInt64]
    private(set) var count: UInt64 = 0
    private(set) var sum = 0.0

    init(bounds: [Double]) {
        self.bounds = bounds
        buckets = Array(repeating: 0, count: bounds.count)
    }

    mutating func observe(_ value: Double, count times: UInt64 = 1) {
        count &+= times
        sum += value * Double(times)
        if let index = bounds.firstIndex(where: { value <= $0 }) { buckets[index] &+= times }
    }

    mutating func observe(nanoseconds: UInt64) { observe(Double(nanoseconds) / 1e9) }

    // The bounds that vLLM's families have.
    /// 1, 2, 5, 10… up to the longest that a request can be.
    static func lengths(upTo maximum: Int) -> [Double] {
        var bounds: [Double] = []
        var decade = 1
        while decade <= maximum {
            for mantissa in [1, 2, 5] where mantissa * decade <= maximum { bounds.append(Double(mantissa * decade)) }
            decade *= 10
        }
        return bounds
    }
    static let stepTokens: [Double] = [1, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384]
    static let replies: [Double] = [1, 2, 5, 10, 20]
    static let preemptions: [Double] = [1, 2, 3, 4, 5, 10, 20]
    static let firstToken: [Double] = [
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2_560,
    ]
    static let tokenGaps: [Double] = [
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
    ]
    static let phases: [Double] = [
        0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1_920, 7_680,
    ]
    static let httpDurations: [Double] = [
        0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60,
    ]
    static let httpDurationsByHandler: [Double] = [0.1, 0.5, 1]
    /// Of the stub itself: how late it was.
    static let lateness: [Double] = [
        0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10,
    ]
}
