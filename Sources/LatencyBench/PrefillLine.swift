/// Seconds to a first token as a line over the prefill work that it took (`CostRule.prefillWork`): what `Routing` presumes of an engine, whose
/// prefill rate is the inverse of the slope. The slope is the median of those of all pairs of points and the intercept the median of what is
/// left (Theil, 1950; Sen, 1968), so that nearly a third of the points may be anywhere.
struct PrefillLine {
    struct Point {
        var work: Double
        var seconds: Double
    }

    let fixedSeconds: Double
    let secondsPerToken: Double

    /// Nil where all points have as much work. An intercept below zero, which the router presumes of no engine, is taken to be zero, and the
    /// slope is then the median of the rays from there: a line through prompts that grow dearer with their length starts too low.
    init?(_ points: [Point]) {
        let slopes = points.indices.flatMap { first in
            points[(first + 1)...].filter { $0.work != points[first].work }.map {
                ($0.seconds - points[first].seconds) / ($0.work - points[first].work)
            }
        }
        guard !slopes.isEmpty else { return nil }
        let slope = Quantiles(slopes).median
        let intercept = Quantiles(points.map { $0.seconds - slope * $0.work }).median
        fixedSeconds = max(intercept, 0)
        secondsPerToken = intercept < 0 ? Quantiles(points.map { $0.seconds / $0.work }).median : slope
    }

    func seconds(work: Double) -> Double { fixedSeconds + secondsPerToken * work }
}

/// Quantiles of a handful of values, between two of them by their distance (type 7 of Hyndman and Fan, 1996). 0 of none.
struct Quantiles {
    private let sorted: [Double]

    init(_ values: [Double]) { sorted = values.sorted() }

    /// - Parameter share: 0...1.
    func at(_ share: Double) -> Double {
        guard let last = sorted.indices.last else { return 0 }
        let place = share * Double(last)
        let below = Int(place)
        return sorted[below] + (place - Double(below)) * (sorted[min(below + 1, last)] - sorted[below])
    }

    var median: Double { at(0.5) }
}
