import Testing

@testable import Wire

@Suite struct GRPCTimeoutTests {
    private func parse(_ value: String) -> UInt64? { Array(value.utf8).withUnsafeBytes { GRPCTimeout.nanoseconds($0) } }

    private func written(_ nanoseconds: UInt64) -> String {
        withUnsafeTemporaryAllocation(byteCount: GRPCTimeout.maximumBytes, alignment: 1) { buffer in
            String(decoding: buffer[..<GRPCTimeout.write(nanoseconds: nanoseconds, into: buffer)], as: UTF8.self)
        }
    }

    @Test(
        arguments: [
            ("1n", 1), ("20u", 20_000), ("300m", 300_000_000), ("4S", 4_000_000_000), ("5M", 300_000_000_000), ("6H", 21_600_000_000_000),
            ("99999999n", 99_999_999), ("00000001S", 1_000_000_000), ("0S", 0), ("99999999H", UInt64.max),
        ] as [(String, UInt64)])
    func readsWhatTheSpecificationAllows(value: String, nanoseconds: UInt64) { #expect(parse(value) == nanoseconds) }

    @Test(arguments: ["", "S", "1", "1s", "1h", "123456789n", "-1S", "+1S", "1.5S", " 1S", "1S ", "1 S", "1SS", "0x1S"])
    func refusesTheRest(value: String) { #expect(parse(value) == nil) }

    @Test(
        arguments: [
            (1, "1n"), (99_999_999, "99999999n"), (100_000_000, "100000u"), (100_000_001, "100001u"), (600_000_000_000, "600000m"),
            (UInt64.max, "5124096H"),
        ] as [(UInt64, String)])
    func writesTheFinestUnitThatHolds(nanoseconds: UInt64, text: String) { #expect(written(nanoseconds) == text) }

    @Test func whatIsWrittenIsNeverLess() {
        var nanoseconds: UInt64 = 1
        for _ in 0..<63 {
            let back = parse(written(nanoseconds)) ?? 0
            #expect(back >= nanoseconds && back - nanoseconds <= nanoseconds / 1_000)
            nanoseconds = nanoseconds &* 2 &+ 1
        }
    }
}

@Suite struct CookieTests {
    @Test func crumbsAreJoinedInTheirOrder() {
        let block = HeaderBlock(byteCapacity: 1, fieldCapacity: 1)
        for (name, value) in [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "")] { block.append(name, value) }
        block.joinCookies()
        #expect(fields(block) == [["x", "y"], ["cookie", "a=1; b=2; "]])
        block.joinCookies()
        #expect(block.count == 2)
    }
}
