/// What a router tells its replicas, as records of 64-bit words, least significant byte first. Of no use to any other version: whoever carries
/// them says which it is.
///
/// Nothing in a record is a difference to an earlier one, so that one that is lost costs what it said and no more.
enum ReplicaRecord {
    /// What the sender has on a group by now: header, group, requests in flight and those of them without a first token,
    /// the latter's uncached tokens, and the prefill work that these are.
    static var load: UInt8 { 1 }
    /// A prompt was placed on a group: header with the bytes of a chunk and the number of chunks, group, and the chunks' chained hashes.
    static var placement: UInt8 { 2 }
    /// A turn was answered by a group: header with the tokens behind its last chunk and the number of chunks, group, digest.
    static var turn: UInt8 { 3 }
    /// What an answer taught: header with the kind of lesson in place of a count, the group that answered, and the lesson's numbers.
    static var lesson: UInt8 { 4 }

    /// A prompt was placed on a group before the one who is told began: as `placement`.
    static var formerPlacement: UInt8 { 5 }
    /// A placement that the sender has told of came to nothing: header, group, and the hash of the last chunk that was told.
    static var takenBack: UInt8 { 6 }

    static var loadWords: Int { 5 }
    static var turnWords: Int { 3 }
    static var lessonWords: Int { 3 }
    static var takenBackWords: Int { 3 }
    static var placementWords: Int { 2 }
    /// Of a longer prompt the beginning is told.
    static var mostChunks: Int { 7_000 }
    static var chunkBytes: ClosedRange<Int> { 1...(1 << 20) }

    @inline(__always)
    static func header(_ kind: UInt8, count: Int = 0, argument: UInt32 = 0) -> UInt64 {
        UInt64(kind) | UInt64(count) << 16 | UInt64(argument) << 32
    }

    static func write(_ turn: FormerTurns.Turn, group: UInt64, to words: UnsafeMutablePointer<UInt64>) {
        words[0] = header(Self.turn, count: Int(turn.chunks), argument: turn.tokens)
        words[1] = group
        words[2] = turn.digest
    }

    static func kind(_ header: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: header) }
    static func count(_ header: UInt64) -> Int { Int(UInt16(truncatingIfNeeded: header >> 16)) }
    static func argument(_ header: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: header >> 32) }

    /// Words of the record that begins so; nil when there is no such record.
    static func length(_ header: UInt64) -> Int? {
        guard header & 0xff00 == 0 else { return nil }
        switch kind(header) {
        case load: return count(header) == 0 && argument(header) == 0 ? loadWords : nil
        case turn: return turnWords
        case takenBack: return count(header) == 0 && argument(header) == 0 ? takenBackWords : nil
        case lesson: return Lesson.kinds.contains(count(header)) && argument(header) == 0 ? lessonWords : nil
        case placement, formerPlacement:
            guard (1...mostChunks).contains(count(header)), chunkBytes.contains(Int(argument(header))) else { return nil }
            return placementWords + count(header)
        default: return nil
        }
    }
}

/// Messages for a router's replicas, one after the other in storage that is used again.
public struct ReplicaMessages: Sendable {
    private var words: [UInt64] = []
    /// Where each message ends.
    private var ends: [Int] = []

    /// Below what an Ethernet frame carries in a datagram, with room for what others put around it. A longer record goes alone.
    static let usualWords = 160
    public static let mostBytes = 8 * (ReplicaRecord.placementWords + ReplicaRecord.mostChunks)

    public init() {}

    public var count: Int { ends.count }
    /// Placements among the records of all of them.
    public private(set) var placements = 0

    /// The bytes of one message; valid during the call.
    public func withMessage<Result>(_ index: Int, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        words.withUnsafeBytes { all in
            body(UnsafeRawBufferPointer(rebasing: all[(8 * (index > 0 ? ends[index - 1] : 0))..<(8 * ends[index])]))
        }
    }

    public mutating func removeAll() {
        words.removeAll(keepingCapacity: true)
        ends.removeAll(keepingCapacity: true)
        placements = 0
    }

    /// - Parameter beginsMessage: whether it is put apart from what comes before.
    mutating func append(record: UnsafeBufferPointer<UInt64>, beginsMessage: Bool = false) {
        let begin = ends.count > 1 ? ends[ends.count - 2] : 0
        if let end = ends.last, !beginsMessage, end - begin + record.count <= Self.usualWords {
            ends[ends.count - 1] = end + record.count
        } else {
            ends.append(words.count + record.count)
        }
        for word in record { words.append(word.littleEndian) }
        if let header = record.first, ReplicaRecord.kind(header) == ReplicaRecord.placement { placements += 1 }
    }
}

/// A message that came, record by record.
// @unchecked: reads bytes that the caller of `receiveReplicaMessage` keeps valid, and changes nothing.
struct ReplicaMessageReader: @unchecked Sendable {
    private let bytes: UnsafeRawBufferPointer
    private var next = 0

    /// Nil when the bytes are no whole records.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count % 8 == 0, bytes.count <= ReplicaMessages.mostBytes else { return nil }
        self.bytes = bytes
        var place = 0
        while place < bytes.count / 8 {
            guard let length = ReplicaRecord.length(word(place)) else { return nil }
            place += length
        }
        guard place == bytes.count / 8 else { return nil }
    }

    private func word(_ place: Int) -> UInt64 { UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8 * place, as: UInt64.self)) }

    struct Record {
        var header: UInt64
        var group: UInt64
        /// Where its further words begin, and how many they are.
        fileprivate var place: Int
        var count: Int
    }

    mutating func nextRecord() -> Record? {
        guard 8 * next < bytes.count, let length = ReplicaRecord.length(word(next)) else { return nil }
        defer { next += length }
        return Record(header: word(next), group: word(next + 1), place: next + 2, count: length - 2)
    }

    func word(_ index: Int, of record: Record) -> UInt64 { word(record.place + index) }
}

/// What came of a replica's message.
public enum ReplicaMessageOutcome: Sendable, Equatable {
    /// Records of each kind, of groups that are known here or not.
    case applied(placements: Int, loads: Int)
    /// Not whole records: nothing of it counts.
    case malformed
    /// More routers than are kept apart.
    case tooManyReplicas
}
