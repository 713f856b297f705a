import Routing
import Testing

@testable import Configuration

@Suite struct SyntaxTests {
    /// SplitMix64, so that a failure comes back.
    struct Seeded: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = state
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            return z ^ (z >> 31)
        }
    }

    @Test(arguments: [
        ("127.0.0.1:8080", "127.0.0.1", 8080), ("[::1]:0", "::1", 0), ("a-b.svc_1.local:65535", "a-b.svc_1.local", 65_535),
        ("[fe80::1:2]:443", "fe80::1:2", 443),
    ])
    func anAddressIsReadAndPrinted(text: String, host: String, port: UInt16) {
        let address = SocketAddressText(text)
        #expect(address == SocketAddressText(host: host, port: port))
        #expect(address?.description == text)
    }

    @Test(arguments: [
        "", ":", "h", "h:", ":80", "h:65536", "h:+1", "h:-1", "h:8080x", "h:٣", "::1:80", "[::1]", "[h]:80", "[::1]80", "[]:80", "a b:80",
        "a..b:80", "-a:80", "a-:80", "1.2.3:80", "256.1.1.1:80", "a/b:80", "user@h:80", "h:80:80", "ü:80",
    ])
    func whatIsNoAddressIsRefused(text: String) {
        #expect(SocketAddressText(text) == nil)
    }

    @Test func printedQuantitiesAreReadBack() {
        var random = Seeded(state: 7)
        let duration = Syntax<UInt64>.duration(0...UInt64.max)
        let size = Syntax<Int>.size(0...Int.max)
        let step = Syntax<Double>.milliseconds(0.001...60_000)
        let rate = Syntax<Double>.number(1...1e9)
        for _ in 0..<5_000 {
            let bits = random.next() >> UInt64.random(in: 0...63, using: &random)
            #expect(duration.parse(duration.print(bits)) == bits)
            let bytes = Int(bits >> 1)
            #expect(size.parse(size.print(bytes)) == bytes)
            let seconds = Double.random(in: 0.000_001...60, using: &random)
            let readable = step.parse(step.print(seconds))
            // Seconds that no millisecond text gives may move by one unit in the last place, and from there on stay.
            #expect(readable.flatMap { step.parse(step.print($0)) } == readable && readable != nil)
            let perSecond = Double.random(in: 1...1e9, using: &random)
            #expect(rate.parse(rate.print(perSecond)) == perSecond)
        }
        #expect(duration.print(600_000_000_000) == "10m" && duration.print(1_500_000_000) == "1500ms" && duration.print(0) == "0ns")
        #expect(size.print(64 << 20) == "64MiB" && size.print(1_000) == "1000B" && size.parse("1000") == 1_000)
    }

    @Test(arguments: ["1", "s", "", "1.5s", "-1s", "1 s", "1S", "١s", "_1s"]) func whatIsNoDurationIsRefused(text: String) {
        #expect(Syntax<UInt64>.duration(0...UInt64.max).parse(text) == nil)
    }

    @Test(arguments: ["nan", "inf", "-1", "0x1p4", "1e", "", "1e400", "1,5"]) func whatIsNoNumberIsRefused(text: String) {
        #expect(Syntax<Double>.number(0...1e9).parse(text) == nil)
    }

    @Test(arguments: ["true", "null", "~", "1.0", "a: b", "#x", "\"q\" \\ '", "- x", "ünï 🚀", "\u{2028}\u{FEFF}\u{FFFE}", "{{}}", " edge "])
    func aNameThatYAMLWouldReadOtherwiseSurvivesPrinting(name: String) throws {
        var configuration = SwiftletConfiguration()
        configuration.groups = [
            GroupDescription(name: name, leader: Endpoint(host: "::1", port: 1, protocol: .http2), models: [name, "second"])
        ]
        #expect(try SwiftletConfiguration.load(text: configuration.effectiveYAML(), file: "again") == configuration)
    }

    @Test func misspellingsAreMeasuredByEdits() {
        #expect(editDistance("", "abc") == 3)
        #expect(editDistance("listeners", "lsiteners") == 1)
        #expect(editDistance("kitten", "sitting") == 3)
        #expect(editDistance(String(repeating: "a", count: 1_000), "b") == .max)
    }
}
