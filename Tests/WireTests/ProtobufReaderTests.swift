import Testing

@testable import Wire

@Suite struct ProtobufReaderTests {
    private static let all = Fields().number(1, 5).text(2, "ab").fixed32(3).fixed64(4).number(16, 300).bytes(5, []).number(
        (1 << 29) - 1, .max)
    private static let fields = ["1=5", "2:[97, 98]", "3 fixed", "4 fixed", "16=300", "5:[]", "536870911=18446744073709551615"]

    @Test func tellsFieldsOfAllTypesInTheirOrder() {
        let (fields, isMalformed) = told(Self.all.bytes)
        #expect(fields == Self.fields)
        #expect(!isMalformed)
        #expect(told([]).fields.isEmpty && !told([]).isMalformed)
    }

    @Test func aMessageCutBetweenFieldsIsAMessageAndElsewhereMalformed() {
        var borders: Set<Int> = []
        for count in Self.fields.indices {
            borders.insert(
                (0..<Self.all.bytes.count).first { told(Array(Self.all.bytes[..<$0])).fields.count == count } ?? Self.all.bytes.count)
        }
        for end in 0..<Self.all.bytes.count {
            let (fields, isMalformed) = told(Array(Self.all.bytes[..<end]))
            #expect(fields == Array(Self.fields[..<fields.count]))
            #expect(isMalformed != borders.contains(end), "cut at \(end)")
        }
    }

    @Test func ofAMessageThatIsNotAllHereTheRestIsMissing() {
        for end in 0..<Self.all.bytes.count {
            let (fields, isMalformed) = told(Array(Self.all.bytes[..<end]), missing: Self.all.bytes.count - end)
            #expect(!isMalformed, "cut at \(end)")
            for (found, whole) in zip(fields, Self.fields) where found != whole { #expect(["2:[]+2", "2:[97]+1"].contains(found)) }
        }
    }

    @Test func aFieldEndsWithinItsMessageWhetherThatIsHereOrNot() {
        #expect(told([0x12, 3, 97, 98]).isMalformed)
        #expect(told([0x12, 3, 97, 98], missing: 1).fields == ["2:[97, 98]+1"])
        #expect(told([0x12, 4, 97, 98], missing: 1).isMalformed)
        #expect(told([0x12] + Fields.varint(.max) + [97]).isMalformed)
        #expect(told([0x12] + Fields.varint(1 << 63) + [97], missing: 5).isMalformed)
        #expect(told([0x0D, 1, 2, 3], missing: 1).fields.isEmpty && !told([0x0D, 1, 2, 3], missing: 1).isMalformed)
    }

    @Test func numbersHaveTenBytesAtMost() {
        #expect(told([0x08, 0x80, 0x00]).fields == ["1=0"])
        #expect(told([0x08] + Array(repeating: 0x80, count: 9) + [0x01]).fields == ["1=\(UInt64(1) << 63)"])
        // Of the tenth only the lowest bit counts, as for protobuf's parsers.
        #expect(told([0x08] + Array(repeating: 0xFF, count: 9) + [0x7F]).fields == ["1=\(UInt64.max)"])
        #expect(told([0x08] + Array(repeating: 0x80, count: 10) + [0x01]).isMalformed)
        #expect(told(Array(repeating: 0x80, count: 11)).isMalformed)
    }

    /// Lengths from one byte to ten, in runs and mixed, cut anywhere: many at once are what they are one by one.
    @Test func packedNumbersAreReadInBlocksAsOneByOne() {
        var random: UInt64 = 5
        func next() -> UInt64 {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return random >> 33
        }
        for _ in 0..<40 {
            var run: [UInt8] = []
            for _ in 0..<60 {
                // Overlong ones among them.
                let length = next() % 4 == 0 ? Int(next() % 10) : Int(next() % 3)
                run += (0..<length).map { _ in UInt8(truncatingIfNeeded: next()) | 0x80 } + [UInt8(truncatingIfNeeded: next()) & 0x7F]
            }
            for end in [run.count, run.count - 1, Int(next()) % run.count] {
                let bytes = Array(run[..<end])
                bytes.withUnsafeBytes { bytes in
                    for most in [1, 7, 1_000] {
                        var (single, block) = (ProtobufReader(bytes), ProtobufReader(bytes))
                        var (expected, found) = ([UInt32](), [UInt32]())
                        while let number = single.nextNumber() { expected.append(UInt32(truncatingIfNeeded: number)) }
                        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: most) { numbers in
                            guard let base = numbers.baseAddress else { return }
                            while case let count = block.nextNumbers(into: base, most: most), count > 0 { found += numbers[..<count] }
                        }
                        #expect(found == expected)
                        #expect(block.isMalformed == single.isMalformed)
                    }
                }
            }
        }
    }

    @Test func whatProtobufHasNotIsMalformed() {
        #expect(told([0x00, 0x01]).isMalformed, "field 0")
        #expect(told(Fields.varint(1 << 32) + [1]).isMalformed, "a field beyond the largest")
        for wireType: UInt8 in [3, 4, 6, 7] { #expect(told([0x08 | wireType, 0]).isMalformed) }
        #expect(told([0x08]).isMalformed && told([0x0A]).isMalformed && told([0x0D]).isMalformed)
    }
}
