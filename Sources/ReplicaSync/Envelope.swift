/// What every datagram between replicas begins with. All integers are little-endian.
///
///     offset  bytes
///     0       4      "SWLR"
///     4       1      version, 2
///     5       1      1 when a tag follows the payload, and the purpose: 0, 2, 4 or 8, see `Purpose`
///     6       2      zero
///     8       8      sender, drawn at its start
///     16      8      the sender's wall clock in microseconds since 1970, higher than in every datagram before
///     24      8      how many datagrams the sender has made before this one
///     32      …      payload, up to 60,000 bytes; none: the sender is alive and has nothing new to tell
///     end     16     with flag 1: the first 16 bytes of HMAC-SHA256 over all before it (RFC 2104, section 5)
package struct Envelope: Equatable {
    package static let headerBytes = 32
    static let version: UInt8 = 2
    private static let magic: UInt32 = 0x524c_5753

    package var sender: UInt64
    package var clockMicroseconds: UInt64
    package var number: UInt64
    package var purpose = Purpose.news

    package enum Purpose: UInt8, CaseIterable {
        /// What all replicas are told.
        case news = 0
        /// The sender takes its leave.
        case farewell = 2
        /// The sender has just begun, and asks this one replica for what it does not know.
        case question = 4
        /// What one replica has asked for; empty: that this is to come, and behind it, that this was all. Its number is that of the news to come,
        /// of which it is none.
        case handover = 8
    }

    package init(sender: UInt64, clockMicroseconds: UInt64, number: UInt64, purpose: Purpose = .news) {
        self.sender = sender
        self.clockMicroseconds = clockMicroseconds
        self.number = number
        self.purpose = purpose
    }

    /// Why a datagram is none of ours, or none that we believe.
    package enum Refusal: Error, Equatable {
        case malformed
        /// Another version's, which a rolling upgrade may bring.
        case unknownVersion(UInt8)
        /// With a key: no tag, or a wrong one. Without: a tag that nobody here can check.
        case unauthenticated
    }

    /// Writes the datagram.
    /// - Parameter datagram: has room for `ReplicaBounds.datagramBytes`.
    /// - Returns: its length; nil when the payload is too long, or OpenSSL refuses.
    package func seal(_ payload: UnsafeRawBufferPointer, key: EnvelopeKey?, into datagram: UnsafeMutableRawBufferPointer) -> Int? {
        guard payload.count <= ReplicaBounds.payloadBytes else { return nil }
        let flags = purpose.rawValue | (key == nil ? 0 : Self.hasTag)
        datagram.storeBytes(of: Self.magic.littleEndian, as: UInt32.self)
        datagram.storeBytes(of: Self.version, toByteOffset: 4, as: UInt8.self)
        datagram.storeBytes(of: flags, toByteOffset: 5, as: UInt8.self)
        datagram.storeBytes(of: 0, toByteOffset: 6, as: UInt16.self)
        datagram.storeBytes(of: sender.littleEndian, toByteOffset: 8, as: UInt64.self)
        datagram.storeBytes(of: clockMicroseconds.littleEndian, toByteOffset: 16, as: UInt64.self)
        datagram.storeBytes(of: number.littleEndian, toByteOffset: 24, as: UInt64.self)
        if !payload.isEmpty { UnsafeMutableRawBufferPointer(rebasing: datagram[Self.headerBytes...]).copyMemory(from: payload) }
        let end = Self.headerBytes + payload.count
        guard let key else { return end }
        let tag = UnsafeMutableRawBufferPointer(rebasing: datagram[end..<end + EnvelopeKey.tagBytes])
        return key.sign(UnsafeRawBufferPointer(rebasing: datagram[..<end]), into: tag) ? end + EnvelopeKey.tagBytes : nil
    }

    /// Reads what `seal` wrote, after the tag was found right.
    /// - Returns: the payload as a part of `datagram`.
    package static func open(
        _ datagram: UnsafeRawBufferPointer, key: EnvelopeKey?
    ) -> Result<(envelope: Envelope, payload: UnsafeRawBufferPointer), Refusal> {
        guard datagram.count >= headerBytes, UInt32(littleEndian: datagram.loadUnaligned(as: UInt32.self)) == magic else {
            return .failure(.malformed)
        }
        guard datagram[4] == version else { return .failure(.unknownVersion(datagram[4])) }
        let flags = datagram[5]
        guard let purpose = Purpose(rawValue: flags & ~hasTag), datagram[6] == 0, datagram[7] == 0 else { return .failure(.malformed) }
        var end = datagram.count
        if flags & hasTag != 0 { end -= EnvelopeKey.tagBytes }
        guard (headerBytes...headerBytes + ReplicaBounds.payloadBytes).contains(end) else { return .failure(.malformed) }
        switch (key, flags & hasTag != 0) {
        case (nil, false): break
        case (let key?, true):
            let isRight = key.verify(
                UnsafeRawBufferPointer(rebasing: datagram[end...]), of: UnsafeRawBufferPointer(rebasing: datagram[..<end]))
            guard isRight else { return .failure(.unauthenticated) }
        case (nil, true), (_?, false): return .failure(.unauthenticated)
        }
        func word(_ offset: Int) -> UInt64 { UInt64(littleEndian: datagram.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) }
        let envelope = Envelope(sender: word(8), clockMicroseconds: word(16), number: word(24), purpose: purpose)
        return .success((envelope, UnsafeRawBufferPointer(rebasing: datagram[headerBytes..<end])))
    }

    private static let hasTag: UInt8 = 1
}
