/// A strict reader of Prometheus's text format, version 0.0.4: what it does not refuse, a scraper takes.
struct PrometheusParser {
    struct Sample {
        var name: String
        var labels: [String: String]
        var value: Double
    }

    struct Family {
        var name: String
        var type: String
        var samples: [Sample] = []
    }

    struct Refusal: Error, CustomStringConvertible {
        var description: String
    }

    private(set) var families: [Family] = []

    init(_ bytes: [UInt8]) throws {
        guard let text = String(validating: bytes, as: UTF8.self) else { throw Refusal(description: "not UTF-8") }
        guard text.hasSuffix("\n") else { throw Refusal(description: "no newline at the end") }
        var announced: String?
        var identities: Set<String> = []
        for line in text.dropLast().split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasPrefix("# HELP ") {
                let words = line.split(separator: " ", maxSplits: 3)
                guard words.count == 4, !words[3].contains("\\") else { throw Refusal(description: "HELP: \(line)") }
                announced = String(words[2])
            } else if line.hasPrefix("# TYPE ") {
                let words = line.split(separator: " ")
                guard words.count == 4, ["counter", "gauge", "histogram"].contains(words[3]) else {
                    throw Refusal(description: "TYPE: \(line)")
                }
                let name = String(words[2])
                guard announced == name else { throw Refusal(description: "TYPE without HELP: \(name)") }
                guard name.wholeMatch(of: /swiftlet_[a-z0-9_]+/) != nil else { throw Refusal(description: "name \(name)") }
                guard !families.contains(where: { $0.name == name }) else { throw Refusal(description: "twice: \(name)") }
                families.append(Family(name: name, type: String(words[3])))
            } else {
                let sample = try Self.sample(line)
                guard let family = families.last, Self.belongs(sample, to: family) else {
                    throw Refusal(description: "sample outside its family: \(line)")
                }
                let identity = sample.name + sample.labels.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)\u{0}" }.joined()
                guard identities.insert(identity).inserted else { throw Refusal(description: "sample twice: \(line)") }
                families[families.count - 1].samples.append(sample)
            }
        }
        for family in families { try Self.check(family) }
    }

    func values(_ name: String) -> [([String: String], Double)] {
        families.flatMap(\.samples).filter { $0.name == name }.map { ($0.labels, $0.value) }
    }

    func value(_ name: String, _ labels: [String: String] = [:]) -> Double? {
        values(name).first { $0.0 == labels }?.1
    }

    private static func belongs(_ sample: Sample, to family: Family) -> Bool {
        guard family.type == "histogram" else { return sample.name == family.name }
        return ["_bucket", "_sum", "_count"].contains { sample.name == family.name + $0 }
    }

    private static func sample(_ line: Substring) throws -> Sample {
        var rest = line
        let name = rest.prefix { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
        rest.removeFirst(name.count)
        var labels: [String: String] = [:]
        if rest.first == "{" {
            rest.removeFirst()
            while rest.first != "}" {
                if !labels.isEmpty {
                    guard rest.first == "," else { throw Refusal(description: "no comma: \(line)") }
                    rest.removeFirst()
                }
                let key = rest.prefix { $0.isASCII && ($0.isLetter || $0 == "_") }
                rest.removeFirst(key.count)
                guard !key.isEmpty, rest.hasPrefix("=\"") else { throw Refusal(description: "label: \(line)") }
                rest.removeFirst(2)
                guard labels.updateValue(try quoted(&rest), forKey: String(key)) == nil else {
                    throw Refusal(description: "label twice: \(line)")
                }
            }
            rest.removeFirst()
        }
        guard !name.isEmpty, rest.first == " ", let value = Double(rest.dropFirst()), !rest.dropFirst().contains(" ") else {
            throw Refusal(description: "value: \(line)")
        }
        return Sample(name: String(name), labels: labels, value: value)
    }

    /// A label value after its opening quote, which goes with its closing one.
    private static func quoted(_ rest: inout Substring) throws -> String {
        var value = ""
        while let character = rest.unicodeScalars.popFirst() {
            switch character {
            case "\"": return value
            case "\\":
                switch rest.unicodeScalars.popFirst() {
                case "\\": value += "\\"
                case "\"": value += "\""
                case "n": value += "\n"
                default: throw Refusal(description: "escape before \(rest)")
                }
            default: value.unicodeScalars.append(character)
            }
        }
        throw Refusal(description: "quote without end")
    }

    private static func check(_ family: Family) throws {
        switch family.type {
        case "counter":
            guard family.name.hasSuffix("_total"), family.samples.allSatisfy({ $0.value >= 0 && $0.value.isFinite }) else {
                throw Refusal(description: "counter \(family.name)")
            }
        case "histogram":
            let groups = Dictionary(grouping: family.samples) { $0.labels.filter { $0.key != "le" } }
            for (labels, samples) in groups {
                let buckets = samples.filter { $0.name.hasSuffix("_bucket") }
                let bounds = buckets.map { Double($0.labels["le"] ?? "") ?? .nan }
                let isOrdered = zip(bounds, bounds.dropFirst()).allSatisfy { $0 < $1 } && bounds.last == .infinity
                let isCumulative = zip(buckets, buckets.dropFirst()).allSatisfy { $0.value <= $1.value }
                let counts = samples.filter { $0.name.hasSuffix("_count") }.map(\.value)
                let sums = samples.filter { $0.name.hasSuffix("_sum") }
                guard isOrdered, isCumulative, sums.count == 1, counts == [buckets.last?.value ?? .nan] else {
                    throw Refusal(description: "histogram \(family.name) \(labels)")
                }
            }
        default: break
        }
    }
}
