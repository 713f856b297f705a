/// LMetric's two stages against a prefix that many ask for and few hold (OSDI'26, section 5.2). A class of requests is what begins with the same
/// blocks; it is safe as long as x / (1 − x) ≤ |M| / (N − |M|), with x its share of the arrivals, M its holders and N all groups. An alarm is
/// believed when holders have had the best score for 2|M| requests of the class in a row; then they are no candidates, and the load decides
/// among those that are left.
struct HotspotDetector {
    /// Latest arrivals over which shares are counted; the paper gives no number. What begins none of them is forgotten.
    static let window = 128
    /// Of a class's tokens, the part that a group must be expected to hold to be one of its holders: hits are learned, and a little less than whole.
    static let heldShare = 0.8

    private var arrivals: [[UInt64]] = []
    private var oldest = 0
    /// By a chained hash: arrivals that have it, and those of them in a row under alarm for which a holder had the best score.
    private var counts: [UInt64: Int] = [:]
    private var streaks: [UInt64: Int] = [:]

    static func holds(_ tokens: Double, blocks: Int) -> Bool { tokens >= heldShare * Double(blocks * simulatedBlockTokens) }

    /// Counts an arrival.
    /// - Parameters:
    ///   - held: tokens of the prompt that each candidate holds.
    ///   - best: the candidate with the best score.
    ///   - factor: how many times the safe bound raises the alarm; 1 as published.
    /// - Returns: the blocks of the shortest hot prefix, whose holders are to be left out; nil when none is hot.
    mutating func arrived(_ hashes: UnsafeBufferPointer<UInt64>, held: [Double], best: Int, factor: Double) -> Int? {
        count(hashes)
        var hot: Int?
        for blocks in classes(of: hashes) {
            let holders = held.count { Self.holds($0, blocks: blocks) }
            let share = Double(counts[hashes[blocks - 1]] ?? 0) / Double(Self.window)
            // As products: neither side has a quotient when all ask or all hold.
            let isAlarmed = holders > 0 && share * Double(held.count - holders) > factor * Double(holders) * (1 - share)
            let isHolderBest = Self.holds(held[best], blocks: blocks)
            let streak = isAlarmed && isHolderBest ? (streaks[hashes[blocks - 1]] ?? 0) + 1 : 0
            streaks[hashes[blocks - 1]] = streak
            if hot == nil, streak > 2 * holders { hot = blocks }
        }
        return hot
    }

    /// Lengths in blocks of the beginnings that other arrivals have too: each is the longest that so many share.
    private func classes(of hashes: UnsafeBufferPointer<UInt64>) -> [Int] {
        var found: [Int] = []
        for blocks in 1..<max(hashes.count + 1, 1) {
            let shared = counts[hashes[blocks - 1]] ?? 0
            if shared < 2 { break }
            if blocks == hashes.count || counts[hashes[blocks]] != shared { found.append(blocks) }
        }
        return found
    }

    private mutating func count(_ hashes: UnsafeBufferPointer<UInt64>) {
        for hash in hashes { counts[hash, default: 0] += 1 }
        guard arrivals.count == Self.window else { return arrivals.append(Array(hashes)) }
        for hash in arrivals[oldest] {
            let left = (counts[hash] ?? 1) - 1
            counts[hash] = left > 0 ? left : nil
            if left == 0 { streaks[hash] = nil }
        }
        arrivals[oldest] = Array(hashes)
        oldest = (oldest + 1) % Self.window
    }
}
