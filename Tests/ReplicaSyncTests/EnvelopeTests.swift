import Testing

@testable import ReplicaSync

@Suite struct EnvelopeTests {
    private let envelope = Envelope(sender: 0x0102_0304_0506_0708, clockMicroseconds: 1_700_000_000_000_000, number: 7)

    /// Written down byte for byte: replicas of two versions must read each other. The tag is Python's (hmac, hashlib).
    @Test func theBytesAreTheseAndNoOthers() throws {
        let head: [UInt8] = [
            0x53, 0x57, 0x4c, 0x52, 2, 1, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0x00, 0x40, 0x1e, 0x18, 0x24, 0x0a, 0x06, 0x00, 7, 0, 0, 0, 0, 0, 0,
            0,
        ]
        let tag: [UInt8] = [
            0x93, 0x2c, 0x84, 0x2a, 0xc8, 0x01, 0xa2, 0x38, 0xf3, 0x55, 0xe3, 0xf6, 0x86, 0xc5, 0x95, 0xd2,
        ]
        #expect(sealed(envelope, Array("news".utf8), key: try makeKey()) == head + Array("news".utf8) + tag)
    }

    @Test(arguments: [0, 1, 15, 16, 17, 1_400, 59_999, 60_000], [true, false])
    func whatIsSealedIsOpened(count: Int, isSigned: Bool) throws {
        let key = isSigned ? try makeKey() : nil
        let payload = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        for purpose in Envelope.Purpose.allCases {
            var envelope = envelope
            envelope.purpose = purpose
            let datagram = sealed(envelope, payload, key: key)
            #expect(datagram.count == 32 + count + (isSigned ? 16 : 0))
            let read = try opened(datagram, key: key).get()
            #expect(read.envelope == envelope && read.payload == payload)
        }
    }

    @Test func aPayloadThatIsTooLongIsNeitherSealedNorOpened() throws {
        #expect(sealed(envelope, [UInt8](repeating: 1, count: 60_001)).isEmpty)
        let longest = sealed(envelope, [UInt8](repeating: 1, count: 60_000))
        #expect(refusal(longest) == nil)
        #expect(refusal(longest + [1]) == .malformed)
        let key = try makeKey()
        #expect(refusal(sealed(envelope, [UInt8](repeating: 1, count: 60_000), key: key) + [1], key: key) == .malformed)
    }

    /// Every bit of a signed datagram counts.
    @Test func aChangedBitIsRefused() throws {
        let key = try makeKey()
        let datagram = sealed(envelope, Array("news".utf8), key: key)
        for place in datagram.indices {
            for bit in 0..<8 {
                var changed = datagram
                changed[place] ^= 1 << UInt8(bit)
                #expect(refusal(changed, key: key) != nil, "bit \(bit) of byte \(place)")
            }
        }
    }

    @Test(arguments: [true, false]) func whatIsCutShortIsRefused(isSigned: Bool) throws {
        let key = isSigned ? try makeKey() : nil
        let datagram = sealed(envelope, key: key)
        for count in 0..<datagram.count { #expect(refusal(Array(datagram.prefix(count)), key: key) != nil, "\(count) bytes") }
    }

    @Test func whatIsSignedAndWhatIsNotDoNotMix() throws {
        let (key, other) = (try makeKey(), try makeKey(Array("another secret, longer than a block of SHA-256, which is hashed first".utf8)))
        #expect(refusal(sealed(envelope, key: key), key: other) == .unauthenticated)
        #expect(refusal(sealed(envelope, key: other), key: other) == nil)
        #expect(refusal(sealed(envelope), key: key) == .unauthenticated)
        #expect(refusal(sealed(envelope, key: key)) == .unauthenticated)
        // A tag that is not said to be one does not pass for payload.
        var stripped = sealed(envelope, key: key)
        stripped[5] = 0
        #expect(refusal(stripped, key: key) == .unauthenticated)
    }

    @Test func whatIsNotOursIsMalformed() {
        let datagram = sealed(envelope, [1])
        for (place, value) in [(0, 0x54), (3, 0), (5, 6), (5, 12), (5, 16), (6, 1), (7, 1)] as [(Int, UInt8)] {
            var changed = datagram
            changed[place] = value
            #expect(refusal(changed) == .malformed, "byte \(place)")
        }
        var other = datagram
        for version: UInt8 in [0, 1, 3] {
            other[4] = version
            #expect(refusal(other) == .unknownVersion(version))
        }
    }

    /// RFC 4231, test cases 1, 2 and 6; one key serves many messages.
    @Test func tagsAreThoseOfTheStandard() throws {
        let cases: [(key: [UInt8], text: String, tag: [UInt8])] = [
            (Array(repeating: 0x0b, count: 20), "Hi There", [0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53]),
            (Array("Jefe".utf8), "what do ya want for nothing?", [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]),
            (
                Array(repeating: 0xaa, count: 131), "Test Using Larger Than Block-Size Key - Hash Key First",
                [0x60, 0xe4, 0x31, 0x59, 0x1e, 0xe0, 0xb6, 0x7f]
            ),
        ]
        for entry in cases {
            let key = try makeKey(entry.key)
            for text in ["another message", entry.text, "", entry.text] {
                var tag = [UInt8](repeating: 0, count: EnvelopeKey.tagBytes)
                let bytes = Array(text.utf8)
                #expect(tag.withUnsafeMutableBytes { tag in bytes.withUnsafeBytes { key.sign($0, into: tag) } })
                if text == entry.text { #expect(Array(tag.prefix(8)) == entry.tag) }
                #expect(tag.withUnsafeBytes { tag in bytes.withUnsafeBytes { key.verify(tag, of: $0) } })
            }
        }
    }
}
