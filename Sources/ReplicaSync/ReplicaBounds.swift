/// Every bound of replica sync, in one place; their relations are tested.
package enum ReplicaBounds {
    /// Other routers that are listened to at once. One more is refused until another is gone.
    static let replicas = 256
    /// Addresses that are written to: those of all configured peers and of what their names resolve to.
    static let peers = 256
    /// Bytes of one payload: what the routing table makes of one message at most.
    package static let payloadBytes = 60_000
    /// A UDP datagram over IPv4 carries 65,507 bytes.
    package static let datagramBytes = Envelope.headerBytes + payloadBytes + EnvelopeKey.tagBytes

    /// Silence after which a replica is taken to be gone, and its load to be nobody's.
    static let silenceNanoseconds: UInt64 = 3_000_000_000
    /// Silence of our own after which we say that we are still there: two of three may be lost.
    static let heartbeatNanoseconds: UInt64 = 1_000_000_000
    /// How far a signed datagram's clock may be from ours: what was recorded is good for no longer.
    static let clockMicroseconds: UInt64 = 60_000_000
    /// Replicas that are gone and remembered by how far their clock had come, so that nobody plays them back. One that has left may be played
    /// back for `clockMicroseconds`; with so many restarts in that time the oldest is forgotten.
    static let departed = 1_024

    /// Datagrams, and bytes of them, that are read at once. Then the rest of the control loop has its turn, and the next are read a
    /// millisecond later: a flood costs what 64,000 small datagrams a second cost, or 256 MB of large ones, and the kernel drops the rest.
    static let datagramsPerRead = 64
    static let bytesPerRead = 256 << 10
    static let pauseNanoseconds: UInt64 = 1_000_000
    /// Asked of the kernel for what waits to be read, or to be sent; it may grant less (net.core.rmem_max, wmem_max).
    static let socketBufferBytes: CInt = 1 << 20

    /// How long an answer of the DNS is good for: at least, so that a TTL of 0 is no storm of questions, and at most, so that a new replica is
    /// soon known to all.
    static let shortestTTLNanoseconds: UInt64 = 1_000_000_000
    static let longestTTLNanoseconds: UInt64 = 10_000_000_000
    /// Between the first answer that a name is gone and asking again to be sure.
    static let confirmationNanoseconds: UInt64 = 250_000_000

    /// Replicas that are handed over to at once; others ask again.
    static let handovers = 4
    /// Between two pieces of a handover; and the slices of some 8 KiB in each, and bytes, but for the last slice: 3 MB/s, a million chunks
    /// in four seconds, and longer for prompts that begin alike. Faster, and what a receiver's kernel keeps would run over, which nobody
    /// makes good.
    static let handoverNanoseconds: UInt64 = 20_000_000
    static let handoverSlices = 8
    static let handoverBytes = 64 << 10
    /// Who has asked is not heard again for so long.
    static let handoverPauseNanoseconds: UInt64 = 60_000_000_000
    /// How often a router that has begun asks, and how long it waits for an answer: a name's new address may take that long to be known.
    static let handoverQuestions = 10
    static let handoverQuestionNanoseconds: UInt64 = 1_000_000_000

    /// How often it is told that this was all, one piece after the other: two of three may be lost.
    static let handoverEnds = 3
    /// Silence within a handover after which the next is asked, and how many may begin to tell until nobody is.
    static let handoverSilenceNanoseconds: UInt64 = 2_000_000_000
    static let handoverTellers = 3

    /// How long a router that has begun answers no such question before its own is answered: by then those who have been there for longer know
    /// it. And how long at most while it is being told.
    static let beginningNanoseconds: UInt64 = 5_000_000_000
    static let longestBeginningNanoseconds: UInt64 = 60_000_000_000

    /// Between two warnings of one kind.
    static let warningNanoseconds: UInt64 = 60_000_000_000
}
