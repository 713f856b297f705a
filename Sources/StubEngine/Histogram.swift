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

    mutating func observe(_ value: Double) {
        count &+= 1
        sum += value
        if let index = bounds.firstIndex(where: { value <= $0 }) { buckets[index] &+= 1 }
    }

    mutating func observe(nanoseconds: UInt64) { observe(Double(nanoseconds) / 1e9) }

    // The bounds that vLLM's families have.
    static let lengths: [Double] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000]
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
}
