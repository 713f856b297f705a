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
            low = pow(10, floor(log10(low)))
            high = pow(10, ceil(log10(high)))
            if high <= low { high = low * 10 }
        } else {
            low = min(0, low)
            if high <= low { high = low + 1 }
            let step = Self.roundStep(high - low)
            high = ceil(high / step) * step
        }
        return FittedAxis(label: label, isLogarithmic: isLogarithmic, low: low, high: high)
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
            let decades = Int((log10(high) - log10(low)).rounded())
            return (0...max(1, decades)).map { low * pow(10, Double($0)) }
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
