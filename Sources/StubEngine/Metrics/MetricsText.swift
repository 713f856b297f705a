/// Writes the Prometheus text format, version 1.0.0, the way that vLLM's client library does: labels sorted by name, whole
/// numbers with ".0", and beside each counter and histogram a gauge `…_created` with the Unix time of its beginning.
struct MetricsText {
    private(set) var text = ""
    private let createdSeconds: Double
    private let engineLabels: [(String, String)]
    /// Values that are told instead of those that are given, by the names of samples, and the names that have come.
    private let fakes: [String: Double]
    private var faked: Set<String> = []

    /// `rank` is the data-parallel rank, the value of the label `engine`.
    init(model: String, rank: Int, createdNanoseconds: UInt64, fakes: [String: Double] = [:]) {
        self.fakes = fakes
        engineLabels = [("engine", "\(rank)"), ("model_name", model)]
        createdSeconds = Double(createdNanoseconds) / 1e9
        text.reserveCapacity(48 << 10)
    }

    typealias Sample = (labels: [(String, String)], value: Double)

    /// Which labels a sample gets beside its own.
    enum Owner { case engine, model, process }

    private func labels(of owner: Owner) -> [(String, String)] {
        switch owner {
        case .engine: engineLabels
        case .model: Array(engineLabels.dropFirst())
        case .process: []
        }
    }

    mutating func gauge(_ name: String, _ help: String, _ value: Double, of owner: Owner = .engine) {
        gauge(name, help, [([], value)], of: owner)
    }

    mutating func gauge(_ name: String, _ help: String, _ samples: [Sample], of owner: Owner = .engine) {
        describe(name, help, "gauge")
        for sample in samples { line(name, sample.labels + labels(of: owner), sample.value) }
    }

    /// `name` without its suffix `_total`.
    mutating func counter(_ name: String, _ help: String, _ value: UInt64) { counter(name, help, [([], Double(value))]) }

    mutating func counter(_ name: String, _ help: String, _ samples: [Sample], of owner: Owner = .engine) {
        plainCounter(name + "_total", help, samples, of: owner)
        created(name, help, samples.map(\.labels), of: owner)
    }

    /// A counter of Python's own collectors, which has no `_created`.
    mutating func plainCounter(_ name: String, _ help: String, _ samples: [Sample], of owner: Owner = .process) {
        describe(name, help, "counter")
        for sample in samples { line(name, sample.labels + labels(of: owner), sample.value) }
    }

    mutating func histogram(_ name: String, _ help: String, _ histogram: Histogram, of owner: Owner = .engine) {
        self.histogram(name, help, [([], histogram)], of: owner)
    }

    mutating func histogram(
        _ name: String, _ help: String, _ histograms: [(labels: [(String, String)], value: Histogram)], of owner: Owner = .engine
    ) {
        describe(name, help, "histogram")
        for (own, histogram) in histograms {
            let all = own + labels(of: owner)
            var below: UInt64 = 0
            for (bound, count) in zip(histogram.bounds, histogram.buckets) {
                below += count
                line(name + "_bucket", [("le", "\(bound)")] + all, Double(below))
            }
            line(name + "_bucket", [("le", "+Inf")] + all, Double(histogram.count))
            line(name + "_count", all, Double(histogram.count))
            line(name + "_sum", all, histogram.sum)
        }
        created(name, help, histograms.map(\.labels), of: owner)
    }

    /// Count and sum without quantiles, which is all that Python's client has of it.
    mutating func summary(_ name: String, _ help: String, _ samples: [(labels: [(String, String)], count: UInt64, sum: Double)]) {
        describe(name, help, "summary")
        for sample in samples {
            line(name + "_count", sample.labels, Double(sample.count))
            line(name + "_sum", sample.labels, sample.sum)
        }
        created(name, help, samples.map(\.labels), of: .process)
    }

    private mutating func created(_ name: String, _ help: String, _ samples: [[(String, String)]], of owner: Owner) {
        describe(name + "_created", help, "gauge")
        for own in samples { line(name + "_created", own + labels(of: owner), createdSeconds) }
    }

    private mutating func describe(_ name: String, _ help: String, _ type: String) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    }

    /// Gauges of those names whose values are given and which nobody wrote.
    mutating func addFakes() {
        for (name, value) in fakes.sorted(by: { $0.key < $1.key }) where !faked.contains(name) {
            gauge(name, "Set by /admin/config.", value)
        }
    }

    private mutating func line(_ name: String, _ labels: [(String, String)], _ truth: Double) {
        var value = truth
        if let fake = fakes[name] {
            value = fake
            faked.insert(name)
        }
        text += name
        var separator = "{"
        for (label, content) in labels.sorted(by: { $0.0 < $1.0 }) {
            text += "\(separator)\(label)=\"\(escaped(content))\""
            separator = ","
        }
        text += separator == "{" ? " \(value)\n" : "} \(value)\n"
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
