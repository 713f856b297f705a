/// What the placements that replicas told of lately have added to the index, for one that came to nothing: the engine refused it, or the client
/// left before it had an answer. Then it is taken back as our own is, by who told of it, and as far as nobody has placed it again since.
///
/// A table of fixed size in which a later placement takes the place of an earlier one: that stays in the index until it is the oldest.
struct ToldPlacements: ~Copyable {
    struct Entry: BitwiseCopyable {
        var replica: UInt64
        /// Of the last chunk that was told.
        var hash: UInt64
        var insertion: PrefixIndex.Insertion
    }

    private let entries = LazyBuffer<Entry>(count: Self.places)

    /// 224 KiB, touched as placements come: those of four seconds at a thousand a second.
    private static var places: Int { 1 << 12 }

    @inline(__always)
    private static func place(_ hash: UInt64, _ holder: UInt16) -> Int { Int(mix64(hash ^ UInt64(holder)) >> 52) }

    func note(_ insertion: PrefixIndex.Insertion, hash: UInt64, by replica: UInt64) {
        guard insertion.newBlocks > 0 else { return }
        entries[Self.place(hash, insertion.holder)] = Entry(replica: replica, hash: hash, insertion: insertion)
    }

    /// Takes out what that placement added; nil when it is not known, any more or at all.
    func take(_ hash: UInt64, on holder: UInt16, by replica: UInt64) -> PrefixIndex.Insertion? {
        let place = Self.place(hash, holder)
        let entry = entries[place]
        guard entry.insertion.newBlocks > 0, entry.hash == hash, entry.insertion.holder == holder, entry.replica == replica else {
            return nil
        }
        entries[place].insertion.newBlocks = 0
        return entry.insertion
    }
}
