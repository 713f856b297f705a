import EventLoop
import Testing

@testable import ReplicaSync

/// A datagram as `envelope` seals it; of `count` bytes of payload where the contents do not matter.
func sealed(_ envelope: Envelope, _ payload: [UInt8] = [], key: EnvelopeKey? = nil) -> [UInt8] {
    var datagram = [UInt8](repeating: 0, count: ReplicaBounds.datagramBytes)
    let count = datagram.withUnsafeMutableBytes { datagram in
        payload.withUnsafeBytes { envelope.seal($0, key: key, into: datagram) }
    }
    return Array(datagram.prefix(count ?? 0))
}

/// What `open` makes of it, its payload copied.
func opened(_ datagram: [UInt8], key: EnvelopeKey? = nil) -> Result<(envelope: Envelope, payload: [UInt8]), Envelope.Refusal> {
    datagram.withUnsafeBytes { Envelope.open($0, key: key).map { ($0.envelope, Array($0.payload)) } }
}

func refusal(_ datagram: [UInt8], key: EnvelopeKey? = nil) -> Envelope.Refusal? {
    if case .failure(let refusal) = opened(datagram, key: key) { refusal } else { nil }
}

let secret = Array("sixteen bytes ok".utf8)

func makeKey(_ secret: [UInt8] = secret) throws -> EnvelopeKey { try #require(EnvelopeKey(secret)) }

extension Envelope {
    /// One that tests need not spell out.
    static func of(_ sender: UInt64, clock: UInt64 = 1_000, number: UInt64 = 0, _ purpose: Envelope.Purpose = .news) -> Envelope {
        Envelope(sender: sender, clockMicroseconds: clock, number: number, purpose: purpose)
    }
}

let somewhere = SocketAddress("127.0.0.1:7946")!
