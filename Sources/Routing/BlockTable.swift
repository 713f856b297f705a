import CVector

/// A hash table of block numbers that has room for its keys elsewhere: it tells which few blocks may be the wanted one.
///
/// It is made of lines of 64 bytes, a cache line each: fifteen entries, and a count of those that belong to this line or one before it but
/// found their place further on. So whether a key is there, to add one and to remove one costs the one cache line that its hash tells,
/// which can be fetched ahead; chained blocks would have to be waited for one after the other. What bits an entry does not need for
/// the block's number hold some of the key's, so that few other blocks are looked at: with a million blocks one of 500 lookups does.
struct BlockTable: ~Copyable {
    private let entries: LazyBuffer<UInt32>
    private let lineShift: UInt64
    private let lineMask: Int
    /// How many lines from its own on an entry may stand in.
    private let reach: Int
    /// The bits of an entry that are the key's.
    private let tagMask: UInt32
    /// Odd; spreads keys over lines, so that a line cannot be aimed at without knowing it.
    private let multiplier: UInt64

    /// - Parameters:
    ///   - blockLimit: the largest block number, which are from 1 on; as many entries fit.
    ///   - seed: where keys fall; no influence on what is found.
    init(blockLimit: Int, seed: UInt64, inHugePages: Bool) {
        // At most half full: then one line in a hundred overflows.
        var bits: UInt64 = 5
        while 1 << bits < 2 * blockLimit { bits += 1 }
        entries = LazyBuffer(count: 1 << Int(bits), inHugePages: inHugePages)
        lineShift = 64 - (bits - 4)
        lineMask = 1 << Int(bits - 4) - 1
        reach = min(Self.mostReach, lineMask + 1)
        var numbers: UInt32 = 1
        while Int(numbers) < blockLimit { numbers = numbers << 1 | 1 }
        tagMask = ~numbers
        multiplier = mix64(seed) | 1
    }

    var byteCount: Int { entries.byteCount }

    /// Far more than chance ever asks for; who makes keys that meet shall not make others walk along them.
    private static var mostReach: Int { 16 }
    private static var entriesPerLine: Int { 16 }
    private static var overflow: Int { 15 }

    @inline(__always)
    private func spread(_ key: UInt64) -> UInt64 { key &* multiplier }

    @inline(__always)
    private func line(_ spread: UInt64) -> Int { Int(truncatingIfNeeded: spread &>> lineShift) }

    @inline(__always)
    private func tag(_ spread: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: spread &>> 16) & tagMask }

    @inline(__always)
    private func find(_ value: UInt32, _ mask: UInt32, inLine line: Int) -> UInt32 {
        swl_find_in_line(entries.bytes.assumingMemoryBound(to: UInt32.self) + line &* Self.entriesPerLine, mask, value)
    }

    @inline(__always)
    private func next(_ line: Int) -> Int { (line &+ 1) & lineMask }

    @inline(__always)
    private func overflows(_ line: Int) -> Bool { entries[line &* Self.entriesPerLine &+ Self.overflow] != 0 }

    /// Asks for the key's line ahead of its use.
    @inline(__always)
    func prefetch(_ key: UInt64) { entries.prefetch(line(spread(key)) &* Self.entriesPerLine) }

    /// The first block with the key's tag that is as asked for; 0 when there is none.
    @inline(__always)
    func first(_ key: UInt64, where isWanted: (UInt32) -> Bool) -> UInt32 {
        let spread = spread(key)
        let tag = tag(spread)
        var line = line(spread)
        var left = reach
        while true {
            var found = find(tag, tagMask, inLine: line)
            while found != 0 {
                let block = entries[line &* Self.entriesPerLine &+ found.trailingZeroBitCount] & ~tagMask
                if block != 0 && isWanted(block) { return block }
                found &= found &- 1
            }
            if !overflows(line) { return 0 }
            line = next(line)
            left &-= 1
            if left == 0 { return 0 }
        }
    }

    /// - Returns: false when there is no place within reach, which takes keys that were made to meet.
    @inline(__always)
    mutating func insert(_ block: UInt32, at key: UInt64) -> Bool {
        let spread = spread(key)
        let line = line(spread)
        return replace(0, with: block | tag(spread), inLine: line) || replace(0, with: block | tag(spread), behind: line, counting: 1)
    }

    /// Removes a block that was inserted at that key.
    @inline(__always)
    mutating func remove(_ block: UInt32, at key: UInt64) {
        let spread = spread(key)
        let line = line(spread)
        if !replace(block | tag(spread), with: 0, inLine: line) { _ = replace(block | tag(spread), with: 0, behind: line, counting: ~0) }
    }

    @inline(__always)
    private func replace(_ former: UInt32, with entry: UInt32, inLine line: Int) -> Bool {
        let found = find(former, ~0, inLine: line)
        if found == 0 { return false }
        entries[line &* Self.entriesPerLine &+ found.trailingZeroBitCount] = entry
        return true
    }

    /// The same in the lines after one, all within reach; adds `change` to the count of each that is passed.
    @inline(never)
    private func replace(_ former: UInt32, with entry: UInt32, behind first: Int, counting change: UInt32) -> Bool {
        var line = first
        for passed in 1..<reach {
            line = next(line)
            guard replace(former, with: entry, inLine: line) else { continue }
            for _ in 0..<passed {
                line = (line &- 1) & lineMask
                entries[line &* Self.entriesPerLine &+ Self.overflow] &+= change
            }
            return true
        }
        return false
    }
}
