import Glibc

/// A straight line `y = intercept + slope · x` fitted online by least squares with exponential forgetting.
///
/// Two pseudo-observations keep a constant small weight: the fit is determined from the start, also when all traffic has the same size. One is
/// that of the prior at 0; the other lies on the prior line, or as far above as the observations so far say, less what an intercept may explain
/// of each: else prompts of one size that take far longer than presumed would be taken for a huge intercept, and the slope for none. An observation may not be further than a factor of four from what was predicted, so that one
/// stall does not move the line far, while a rate that really changed is followed within a few answers.
struct LineFit: BitwiseCopyable {
    private(set) var intercept: Double
    private(set) var slope: Double
    private let priorIntercept: Double
    private let priorSlope: Double
    private var weight = 0.0
    private var sumX = 0.0
    private var sumY = 0.0
    private var sumXX = 0.0
    private var sumXY = 0.0

    /// Each observation weighs this much less when the next one comes: a memory of about 50.
    private static let forgetting = 0.98
    /// Times the mean of x up to which an observation may be off by a factor of four.
    private static let usualReach = 4.0
    /// Where the second pseudo-observation lies on the x axis; the first lies at 0.
    private let priorX: Double
    private static let priorWeight = 0.25
    /// How far above the prior's an intercept is likely: of a time to first token two or three steps.
    private static let usualIntercept = 0.05

    init(intercept: Double, slope: Double, priorX: Double) {
        self.priorX = priorX
        self.intercept = intercept
        self.slope = slope
        priorIntercept = intercept
        priorSlope = slope
    }

    mutating func observe(x: Double, y: Double) {
        let predicted = intercept + slope * x
        // Far out an observation is a lever as long as the square of its distance: one prompt of a hundred times the usual size, misjudged by
        // four, would outweigh all others for hundreds of answers. So the further out, the less may it be from what was predicted.
        let mean = (sumX + Self.priorWeight * priorX) / (weight + 2 * Self.priorWeight)
        let factor = 1 + 3 * min(Self.usualReach * mean / max(x, 1e-9), 1)
        let bounded = min(max(y, predicted / factor), predicted * factor + 0.005)
        weight = weight * Self.forgetting + 1
        sumX = sumX * Self.forgetting + x
        sumY = sumY * Self.forgetting + bounded
        sumXX = sumXX * Self.forgetting + x * x
        sumXY = sumXY * Self.forgetting + x * bounded
        solve()
    }

    /// The slope of the ray from the usual intercept through prior and observations, no less than the prior's.
    private var usualSlope: Double {
        let priorXX = Self.priorWeight * priorX * priorX
        let aboveUsual = max(sumXY - (priorIntercept + Self.usualIntercept) * sumX, 0)
        return max((priorSlope * priorXX + aboveUsual) / (priorXX + sumXX), priorSlope)
    }

    private mutating func solve() {
        let priorY = priorIntercept + usualSlope * priorX
        let w = weight + 2 * Self.priorWeight
        let x = sumX + Self.priorWeight * priorX
        let y = sumY + Self.priorWeight * (priorIntercept + priorY)
        let xx = sumXX + Self.priorWeight * priorX * priorX
        let xy = sumXY + Self.priorWeight * priorX * priorY
        let determinant = w * xx - x * x
        guard determinant > 1e-9 * w * xx else { return }
        let fitted = (w * xy - x * y) / determinant
        slope = min(max(fitted, priorSlope / 100), priorSlope * 100)
        intercept = min(max((y - slope * x) / w, 0), 5)
    }
}

/// The ratio of two sums with exponential forgetting: large samples count for more, as they should for tokens per byte.
struct RatioEstimate: BitwiseCopyable {
    private var numerator: Double
    private var denominator: Double
    private static let forgetting = 0.98

    /// A prior worth a sample of `denominator`.
    init(numerator: Double, denominator: Double) {
        self.numerator = numerator
        self.denominator = denominator
    }

    var value: Double { numerator / denominator }

    mutating func observe(numerator: Double, denominator: Double) {
        self.numerator = self.numerator * Self.forgetting + numerator
        self.denominator = self.denominator * Self.forgetting + denominator
    }
}

/// Events per second over about the last five seconds; what is older fades as in `AgedValue`. In eight bytes: each group has one.
struct ArrivalRate: BitwiseCopyable {
    private var weight: Float = 0
    /// Modulo 2³²: seven weeks.
    private var lastMilliseconds: UInt32 = 0
    private static var memoryMilliseconds: Float { 5_000 }

    mutating func observe(nowMicroseconds now: UInt64) {
        weight = weight * left(nowMicroseconds: now) + 1
        lastMilliseconds = UInt32(truncatingIfNeeded: now / 1_000)
    }

    @inline(__always)
    func perSecond(nowMicroseconds now: UInt64) -> Double {
        Double(weight * left(nowMicroseconds: now)) * 1_000 / Double(Self.memoryMilliseconds)
    }

    @inline(__always)
    private func left(nowMicroseconds now: UInt64) -> Float {
        let age = UInt32(truncatingIfNeeded: now / 1_000) &- lastMilliseconds
        // Another loop's clock may be a little ahead of this one's.
        let isAhead = age > .max - 60_000
        let left = max(1 - Float(isAhead ? 0 : age) / (4 * Self.memoryMilliseconds), 0)
        return left * left * left * left
    }
}
