import Routing

/// One textual form of a value, shared by the file, the flags and the printed configuration, so that the three cannot
/// disagree. `parse(print(value))` is `value` for every value that `parse` can give.
struct Syntax<Value> {
    /// Ends the sentence "expected …".
    let expected: String
    let parse: (String) -> Value?
    let print: (Value) -> String
}

extension Syntax where Value == String {
    /// Free text of 1 to `bytes` bytes, without control characters: it ends up in log lines, labels and headers.
    static func text(_ noun: String, atMost bytes: Int = 256) -> Self {
        Syntax(expected: "\(noun) of 1 to \(bytes) bytes without control characters") { text in
            let isClean = text.unicodeScalars.allSatisfy { $0.properties.generalCategory != .control }
            return (1...bytes).contains(text.utf8.count) && isClean ? text : nil
        } print: {
            yamlQuoted($0)
        }
    }

    static var file: Self { .text("a file", atMost: 4_096) }
}

extension Syntax where Value == Bool {
    static var flag: Self {
        Syntax(expected: "true or false") {
            ["true": true, "false": false][$0]
        } print: {
            "\($0)"
        }
    }
}

extension Syntax where Value: CaseIterable & RawRepresentable<String> {
    static var choice: Self {
        let names = Value.allCases.map(\.rawValue)
        return Syntax(expected: "one of \(names.joined(separator: ", "))") {
            Value(rawValue: $0)
        } print: {
            $0.rawValue
        }
    }
}

extension Syntax where Value: FixedWidthInteger {
    static func count(_ range: ClosedRange<Value>) -> Self {
        Syntax(expected: "a whole number from \(range.lowerBound) to \(range.upperBound)") { text in
            wholeNumber(text).flatMap { range.contains($0) ? $0 : nil }
        } print: {
            "\($0)"
        }
    }

    /// Bytes, written with a binary unit or bare.
    static func size(_ range: ClosedRange<Value>) -> Self {
        scaled(units: [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)], bareUnit: "B", range: range, noun: "a size")
    }

    /// Nanoseconds, written with a unit.
    static func duration(_ range: ClosedRange<Value>) -> Self {
        scaled(
            units: [
                ("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
            ], bareUnit: nil, range: range, noun: "a duration")
    }

    /// A whole number with a unit; printed with the largest unit that divides it.
    private static func scaled(units: [(name: String, scale: Value)], bareUnit: String?, range: ClosedRange<Value>, noun: String) -> Self {
        let print = { (value: Value) in
            let unit = units.last { value != 0 && value % $0.scale == 0 } ?? units[0]
            return "\(value / unit.scale)\(unit.name)"
        }
        let names = units.map(\.name).joined(separator: ", ")
        let expected = "\(noun) from \(print(range.lowerBound)) to \(print(range.upperBound)) in \(names)"
        return Syntax(expected: expected) { text in
            let digits = text.prefix { $0.isASCII && $0.isNumber }
            let name = digits.count == text.count ? bareUnit : String(text.dropFirst(digits.count))
            guard let number: Value = wholeNumber(String(digits)), let unit = units.first(where: { $0.name == name }) else { return nil }
            let (value, overflow) = number.multipliedReportingOverflow(by: unit.scale)
            return !overflow && range.contains(value) ? value : nil
        } print: {
            print($0)
        }
    }

    /// Digits only: `Int` alone would take a sign. Underscores group digits, as in YAML 1.1.
    private static func wholeNumber(_ text: String) -> Value? {
        let digits = text.filter { $0 != "_" }
        guard let first = text.first, first != "_", digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return Value(digits)
    }
}

extension Syntax where Value == Double {
    static func number(_ range: ClosedRange<Double>) -> Self {
        Syntax(expected: "a number from \(range.lowerBound) to \(range.upperBound)") { text in
            decimal(text).flatMap { range.contains($0) ? $0 : nil }
        } print: {
            "\($0)"
        }
    }

    /// Milliseconds in the text, seconds in the value.
    static func milliseconds(_ range: ClosedRange<Double>) -> Self {
        Syntax(expected: "milliseconds, a number from \(range.lowerBound) to \(range.upperBound)") { text in
            decimal(text).flatMap { range.contains($0) ? $0 / 1_000 : nil }
        } print: { seconds in
            // The product may be one unit in the last place away from the number that was divided.
            let product = seconds * 1_000
            let exact = [product, product.nextUp, product.nextDown].first { $0 / 1_000 == seconds }
            return "\(exact ?? product)"
        }
    }

    /// Decimal notation only: `Double` alone would take `nan`, `inf` and hexadecimal.
    private static func decimal(_ text: String) -> Double? {
        let digits = text.filter { $0 != "_" }
        guard text.first?.isNumber == true, digits.utf8.allSatisfy({ "0123456789.eE+-".utf8.contains($0) }) else { return nil }
        return Double(digits)
    }
}

extension Syntax where Value == SocketAddressText {
    /// For listening, where port 0 takes any free one.
    static var listenAddress: Self {
        Syntax(expected: "HOST:PORT with an address or [IPv6] and a port from 0 to 65535") {
            SocketAddressText($0)
        } print: {
            yamlQuoted($0.description)
        }
    }

    /// To write to.
    static var peerAddress: Self {
        Syntax(expected: "HOST:PORT with a name, an address or [IPv6] and a port from 1 to 65535") { text in
            SocketAddressText(text).flatMap { $0.port == 0 ? nil : $0 }
        } print: {
            yamlQuoted($0.description)
        }
    }
}

extension Syntax where Value == Endpoint {
    /// The scheme names the protocol that the endpoint speaks; a path has no place, since the request's own is forwarded.
    static var endpoint: Self {
        let schemes: [(prefix: String, protocol: UpstreamProtocol, isTLS: Bool)] = [
            ("http://", .http1, false), ("h2c://", .http2, false), ("https://", .http1, true), ("h2://", .http2, true),
        ]
        return Syntax(
            expected: "http://HOST:PORT, h2c://HOST:PORT, or with TLS https:// or h2://, with a port from 1 to 65535 and no path"
        ) { text in
            guard let scheme = schemes.first(where: { text.hasPrefix($0.prefix) }) else { return nil }
            var authority = text.dropFirst(scheme.prefix.count)
            if authority.hasSuffix("/") { authority.removeLast() }
            guard let address = SocketAddressText(String(authority)), address.port != 0 else { return nil }
            return Endpoint(host: address.host, port: address.port, protocol: scheme.protocol, isTLS: scheme.isTLS)
        } print: { endpoint in
            let scheme = schemes.first { $0.protocol == endpoint.protocol && $0.isTLS == endpoint.isTLS }?.prefix ?? ""
            return yamlQuoted("\(scheme)\(SocketAddressText(host: endpoint.host, port: endpoint.port))")
        }
    }
}

/// A double-quoted YAML scalar (YAML 1.2, 7.3.1). `text` holds no control characters: every syntax above refuses them.
func yamlQuoted(_ text: String) -> String {
    var quoted = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"", "\\": quoted += "\\\(scalar)"
        // Line separators would fold the line; the byte order mark and the non-characters are not printable in YAML.
        case "\u{2028}", "\u{2029}", "\u{FEFF}", "\u{FFFE}", "\u{FFFF}": quoted += "\\u" + String(scalar.value, radix: 16)
        default: quoted.unicodeScalars.append(scalar)
        }
    }
    return quoted + "\""
}
