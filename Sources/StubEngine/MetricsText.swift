/// Writes the Prometheus text format, version 1.0.0, the way that vLLM's client library does: labels sorted by name, whole
/// numbers with ".0", and beside each counter and histogram a gauge `…_created` with the Unix time of its beginning.
struct MetricsText {
    private(set) var text = ""
    private let createdSeconds: Double
    private let engineLabels: [(String, String)]

    init(model: String, createdNanoseconds: UInt64) {
        engineLabels = [("engine", "0"), ("model_name", model)]
        createdSeconds = Double(createdNanoseconds) / 1e9
        text.reserveCapacity(48 << 10)
    }

    typealias Sample = (labels: [(String, String)], value: Double)

    mutating func gauge(_ name: String, _ help: String, _ value: Double) { gauge(name, help, [([], value)]) }

    mutating func gauge(_ name: String, _ help: String, _ samples: [Sample]) {
        describe(name, help, "gauge")
        for sample in samples { line(name, sample.labels + engineLabels, sample.value) }
    }

    /// `name` without its suffix `_total`.
    mutating func counter(_ name: String, _ help: String, _ value: UInt64) { counter(name, help, [([], Double(value))]) }

    mutating func counter(_ name: String, _ help: String, _ samples: [Sample], hasEngineLabel: Bool = true) {
        let common = hasEngineLabel ? engineLabels : Array(engineLabels.dropFirst())
        describe(name + "_total", help, "counter")
        for sample in samples { line(name + "_total", sample.labels + common, sample.value) }
        describe(name + "_created", help, "gauge")
        for sample in samples { line(name + "_created", sample.labels + common, createdSeconds) }
    }

    mutating func histogram(_ name: String, _ help: String, _ histogram: Histogram) {
        describe(name, help, "histogram")
        var below: UInt64 = 0
        for (bound, count) in zip(histogram.bounds, histogram.buckets) {
            below += count
            line(name + "_bucket", [("le", "\(bound)")] + engineLabels, Double(below))
        }
        line(name + "_bucket", [("le", "+Inf")] + engineLabels, Double(histogram.count))
        line(name + "_count", engineLabels, Double(histogram.count))
        line(name + "_sum", engineLabels, histogram.sum)
        describe(name + "_created", help, "gauge")
        line(name + "_created", engineLabels, createdSeconds)
    }

    private mutating func describe(_ name: String, _ help: String, _ type: String) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    }

    private mutating func line(_ name: String, _ labels: [(String, String)], _ value: Double) {
        text += name
        var separator = "{"
        for (label, content) in labels.sorted(by: { $0.0 < $1.0 }) {
            text += "\(separator)\(label)=\"\(escaped(content))\""
            separator = ","
        }
        text += "} \(value)\n"
    }

    private func escaped(_ value: String) -> String {
        var escaped = ""
        for character in value {
            switch character {
            case "\\": escaped += "\\\\"
            case "\"": escaped += "\\\""
            case "\n": escaped += "\\n"
            default: escaped.append(character)
            }
        }
        return escaped
    }
}
