import Foundation

/// A scale from values to 0...1, with round numbers to mark.
public struct Axis: Sendable {
    public var label: String
    public var isLogarithmic: Bool

    public init(_ label: String, isLogarithmic: Bool = false) {
        self.label = label
        self.isLogarithmic = isLogarithmic
    }

    /// The axis laid over `values`: those that are finite (and above zero, on a logarithmic axis).
    func fitted(to values: [Double]) -> FittedAxis {
        let usable = values.filter { $0.isFinite && (!isLogarithmic || $0 > 0) }
        var low = usable.min() ?? (isLogarithmic ? 1 : 0)
        var high = usable.max() ?? 1
        if isLogarithmic {
            low = Self.roundLogarithmic(low, isUp: false)
            high = Self.roundLogarithmic(high, isUp: true)
            if high <= low { high = low * 10 }
        } else {
            low = min(0, low)
            if high <= low { high = low + 1 }
            let step = Self.roundStep(high - low)
            high = ceil(high / step) * step
        }
        return FittedAxis(label: label, isLogarithmic: isLogarithmic, low: low, high: high)
    }

    /// The next 1, 2 or 5 times a power of ten.
    private static func roundLogarithmic(_ value: Double, isUp: Bool) -> Double {
        let power = pow(10, floor(log10(value)))
        // A millionth for what binary fractions lose.
        let ratio = value / power * (isUp ? 1 - 1e-6 : 1 + 1e-6)
        return power * (isUp ? ratio <= 1 ? 1 : ratio <= 2 ? 2 : ratio <= 5 ? 5 : 10 : ratio >= 5 ? 5 : ratio >= 2 ? 2 : 1)
    }

    /// 1, 2 or 5 times a power of ten, four to eight of which make up `span`.
    static func roundStep(_ span: Double) -> Double {
        let raw = span / 6
        let power = pow(10, floor(log10(raw)))
        let ratio = raw / power
        return power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10)
    }
}

struct FittedAxis {
    var label: String
    var isLogarithmic: Bool
    var low: Double
    var high: Double

    /// Nil for what has no place on the axis.
    func position(_ value: Double) -> Double? {
        guard value.isFinite, !isLogarithmic || value > 0 else { return nil }
        let share = isLogarithmic ? log(value / low) / log(high / low) : (value - low) / (high - low)
        return min(1, max(0, share))
    }

    var ticks: [Double] {
        if isLogarithmic {
            let powers = (Int(floor(log10(low) + 1e-9))...Int(ceil(log10(high) - 1e-9))).map { pow(10, Double($0)) }
            // Between powers of ten only where there are few of them.
            let all = powers.count > 4 ? powers : powers.flatMap { [$0, $0 * 2, $0 * 5] }
            return all.filter { $0 >= low * (1 - 1e-9) && $0 <= high * (1 + 1e-9) }
        }
        let step = Axis.roundStep(high - low)
        return (0...Int(((high - low) / step).rounded())).map { low + Double($0) * step }
    }

    /// 1,200 → "1200", 0.05 → "0.05", 3e6 → "3M".
    static func text(_ value: Double) -> String {
        if abs(value) >= 1e6 { return String(format: "%gM", value / 1e6) }
        return String(format: "%g", (value * 1e6).rounded() / 1e6)
    }
}
