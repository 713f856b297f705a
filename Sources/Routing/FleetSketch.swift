import CVector

/// A rough cost of every group, kept up to date with each booking: a decision among a thousand groups reads it once from end to end, 16
/// bytes a group and four groups at a time, and looks closely at a few dozen.
struct FleetSketch: ~Copyable {
    /// Of four groups with slots in a row, one in each lane.
    struct Sketches: BitwiseCopyable {
        /// Seconds that a request pays there whatever it is: the way, and the price of KV memory.
        var fixed: SIMD4<Float>
        /// Seconds per prefill token, before the fleet's factor; infinite while the group takes nothing.
        var perToken: SIMD4<Float>
        /// Prefill work ahead.
        var workAhead: SIMD4<Float>
        /// What those that decode count for when a prefill holds them up.
        var heldUp: SIMD4<Float>
    }

    /// What the rough cost of one request depends on besides the group.
    struct Weights {
        var tokens: Float
        /// On the seconds per token.
        var scale: Float

        @inline(__always)
        func estimates(_ groups: borrowing Sketches) -> SIMD4<Float> {
            let work = groups.workAhead + tokens + tokens * groups.heldUp
            return groups.fixed + groups.perToken * scale * work
        }
    }

    struct Times: BitwiseCopyable {
        /// No transition is earlier.
        var nextTransitionAt: UInt64 = .max
        /// The latest time that anybody spoke of.
        var clock: UInt64 = 0
    }

    let sketches: LazyBuffer<Sketches>
    /// When time alone changes what a group takes; `.max`: never.
    let transitionAt: LazyBuffer<UInt64>
    /// One element, behind a pointer like all that a change of a load touches.
    private let timesBuffer: LazyBuffer<Times>
    var times: Times {
        get { timesBuffer[0] }
        nonmutating set { timesBuffer[0] = newValue }
    }
    /// Whether there are so many groups that it pays.
    var isKept = false
    /// Whether the last search found all cheap ones to be few, so that the next one may expect that.
    var areFewCheap = false
    /// Whose reports age next, as a position in the state's `order`.
    var agingCursor = 0

    /// Scratch of one decision by slot: the estimates, four together, and the collection that made it a candidate. Explanations collect
    /// too, and take the number of no decision.
    let estimates: LazyBuffer<SIMD4<Float>>
    let candidateOf: LazyBuffer<UInt64>
    var collections: UInt64 = 0
    /// And the slots of a few that stand out.
    let few: LazyBuffer<UInt32>

    init(groups: Int) {
        sketches = LazyBuffer(count: groups / 4 + 1)
        transitionAt = LazyBuffer(count: groups)
        timesBuffer = LazyBuffer(count: 1)
        estimates = LazyBuffer(count: groups / 4 + 1)
        candidateOf = LazyBuffer(count: groups)
        few = LazyBuffer(count: Self.mostCheap)
    }

    /// Groups among the roughly cheapest that are scored.
    static var mostCheap: Int { 20 }

    private var numbers: UnsafePointer<Float> { estimates.bytes.assumingMemoryBound(to: Float.self) }

    @inline(__always)
    func estimate(of slot: UInt32) -> Float { numbers[Int(slot)] }

    /// The least of the first `slots` estimates, a multiple of four.
    @inline(__always)
    func leastEstimate(slots: Int) -> Float { swl_least(numbers, slots) }

    /// Fills `few` with the slots whose estimates are at most `limit`, unless they are more than `most`.
    /// - Returns: how many they are; `most` and one when they are more.
    @inline(__always)
    func findFew(slots: Int, limit: Float, most: Int) -> Int {
        few.withBase { swl_places_within(numbers, slots, limit, $0, most) }
    }

    /// Has the slot take nothing until it is sketched again.
    func clear(_ slot: UInt32) { sketches[slot >> 2].perToken[Int(slot & 3)] = .infinity }

    /// Seconds per prefill token of one group.
    @inline(__always)
    func perToken(of slot: UInt32) -> Float { sketches[slot >> 2].perToken[Int(slot & 3)] }
}

extension RoutingState {
    /// Pools of up to so many groups are scored group by group.
    static var closeLook: Int { 64 }
    /// Groups that hold part of the prompt and are scored.
    private static var mostHolders: Int { 20 }
    /// How often a cold group's slowness is looked at.
    private static var warmUpStepNanoseconds: UInt64 { 100_000_000 }
    /// Groups whose reports are aged with each decision.
    private static var agedPerDecision: Int { 4 }

    /// Whether the sketch pays.
    var isWide: Bool { policy == .leastCost && order.count > Self.closeLook }

    /// Begins or ends keeping the sketch, as the number of groups requires.
    mutating func keepSketchIfWide() {
        fleet.isKept = isWide
        fleet.times.nextTransitionAt = .max
        if fleet.isKept { for slot in order { sketch(slot) } }
    }

    /// Brings a group's sketch to what its load has become.
    @inline(__always)
    mutating func sketch(_ slot: UInt32) {
        if fleet.isKept { updateSketch(slot) }
    }

    /// The same for what depends on the time.
    @inline(__always)
    mutating func sketch(_ slot: UInt32, now: UInt64) {
        fleet.times.clock = max(fleet.times.clock, now)
        sketch(slot)
    }

    private mutating func updateSketch(_ slot: UInt32) {
        let now = fleet.times.clock
        let isOut = !loads[slot].isUsed || !loads[slot].isReady || loads[slot].isEjected(now: now) || now < loads[slot].saturatedUntil
        let fullness = loads[slot].tokensInUse * loads[slot].tokenShare
        let growth = cost.growth(fullness: fullness)
        let tokenSeconds = loads[slot].decodeStepSeconds * stepScale * (1 + growth)
        let present = loads[slot].tokensInUse(
            atMicroseconds: now / 1_000, tokenSeconds: tokenSeconds, youngGrowth: cost.youngGrowth)
        let answer = outputTokensExpected * loads[slot].describedStepSeconds * stepScale * (1 + growth)
        // What a request takes of the cache is not known here: as much as they do on average.
        let share = (meanUncachedTokens + outputTokensExpected) * loads[slot].tokenShare
        let memory =
            cost.memoryPrice(fullness: fullness + 0.5 * share, share: share, answerSeconds: answer)
            + cost.memoryWaitPrice(fullness: present * loads[slot].tokenShare, answerSeconds: answer)
        let (group, lane) = (slot >> 2, Int(slot & 3))
        fleet.sketches[group].fixed[lane] = Float(loads[slot].distanceSeconds + memory)
        fleet.sketches[group].perToken[lane] = isOut ? .infinity : Float(loads[slot].secondsPerToken * (1 + loads[slot].warmUpSlowness))
        fleet.sketches[group].workAhead[lane] = Float(loads[slot].workAhead)
        fleet.sketches[group].heldUp[lane] = Float(cost.decodesHeldUp(loads[slot].decodingSequences, fullness: fullness))
        var transition = loads[slot].presumedPrefilledAt
        if loads[slot].failures > 0 && now < loads[slot].ejectedUntil { transition = min(transition, loads[slot].ejectedUntil) }
        if now < loads[slot].saturatedUntil { transition = min(transition, loads[slot].saturatedUntil) }
        if loads[slot].warmUpEndsAt != 0 { transition = min(transition, now &+ Self.warmUpStepNanoseconds) }
        fleet.transitionAt[slot] = transition
        fleet.times.nextTransitionAt = min(fleet.times.nextTransitionAt, transition)
    }

    /// Does what has become due by time alone.
    private mutating func passTime(now: UInt64) {
        fleet.times.clock = max(fleet.times.clock, now)
        if tracksOwnLoad {
            for _ in 0..<Self.agedPerDecision {
                fleet.agingCursor = fleet.agingCursor + 1 < order.count ? fleet.agingCursor + 1 : 0
                let slot = order[fleet.agingCursor]
                if loads[slot].othersDueAt <= now { ageOthers(slot, now: now) }
            }
        }
        guard fleet.times.nextTransitionAt <= now else { return }
        fleet.times.nextTransitionAt = .max
        for position in 0..<order.count {
            let slot = order[position]
            if fleet.transitionAt[slot] > now {
                fleet.times.nextTransitionAt = min(fleet.times.nextTransitionAt, fleet.transitionAt[slot])
                continue
            }
            if loads[slot].presumedPrefilledAt <= now { presumePrefilled(slot, now: now) }
            if loads[slot].warmUpEndsAt != 0 { continueWarmUp(slot, now: now) }
            sketch(slot)
        }
    }

    struct Survey {
        /// The roughly cheapest group, and its estimate.
        var slot: UInt32
        var estimate: Float
        var promptTokens: Double
    }

    /// Estimates what the request costs on each group of a large pool.
    /// - Returns: nil when no group is free.
    mutating func surveyFleet(_ slots: ContiguousArray<UInt32>, _ request: borrowing RoutingRequest, now: UInt64) -> Survey? {
        passTime(now: now)
        let promptTokens = Double(request.promptBytes) * tokensPerByte(of: request)
        let (slot, estimate) = estimateAll(slots, promptTokens: promptTokens)
        return estimate < .infinity ? Survey(slot: slot, estimate: estimate, promptTokens: promptTokens) : nil
    }

    /// Fills `candidates` with those of a large pool that may turn out the cheapest: the roughly cheapest ones, and those that hold
    /// most of the prompt, whose match `index` has just found.
    ///
    /// Of more cheap ones than are looked at, those count that follow a place that depends on the prompt alone, so that replicas of the
    /// router, which order pools alike, look at the same ones.
    /// - Returns: how many candidates there are; 0 when none of the right protocol was found.
    mutating func collectFromSketch(
        _ slots: ContiguousArray<UInt32>, _ cheapest: Survey, _ request: borrowing RoutingRequest, hashes: UnsafeBufferPointer<UInt64>,
        tried: TriedGroups, now: UInt64
    ) -> Int {
        fleet.collections &+= 1
        let servesAll = slots.count == order.count
        let filter = Filter(needsHTTP1: request.needsHTTP1, needsHTTP2: request.needsHTTP2, tried: tried)
        var count = 0
        admit(cheapest.slot, filter, to: &count)
        // What `least-cost` levels, and what the sketch leaves out.
        let prefill =
            fleet.perToken(of: cheapest.slot)
            * Float(
                prefillFit.slope * cost.prefillWork(uncached: cheapest.promptTokens, promptTokens: cheapest.promptTokens))
        let limit = cheapest.estimate + Float(Self.learnedNoiseShare) * prefill + Float(Self.learnedNoiseSeconds)
        let followsOrder = othersHits.areExpected && !hashes.isEmpty
        let depth = followsOrder ? index.commonDepth(hashes) : Int(index.matchFloor)
        let key = hashes.isEmpty ? mix64(sequence) : hashes[min(depth, hashes.count - 1)]
        let start = mix64(key)
        var first = Int(truncatingIfNeeded: start.multipliedFullWidth(by: UInt64(slots.count)).high)
        if followsOrder {
            first = firstPosition(slots, behind: start)
            admitInOrder(slots, from: first, filter, to: &count)
        }
        let room = FleetSketch.mostCheap - count
        let found = servesAll && fleet.areFewCheap ? fleet.findFew(slots: sketchedSlots, limit: limit, most: room) : .max
        if found <= room {
            for place in 0..<found { admit(fleet.few[place], filter, to: &count) }
        } else {
            admitCheap(slots, first..<slots.count, limit: limit, filter, to: &count)
            admitCheap(slots, 0..<first, limit: limit, filter, to: &count)
            fleet.areFewCheap = count < FleetSketch.mostCheap
        }
        for place in 0..<min(index.visitedCount, Self.mostHolders) {
            let slot = slotOfHolder[Int(index.visited[place])]
            // The model seeds the hashes, so that holders of a match serve it, unless the group has changed its list since.
            if servesAll || slots.contains(slot) { admit(slot, filter, to: &count) }
        }
        for place in 0..<count { index.prefetch(holder: loads[candidates[place]].holder) }
        if tracksOwnLoad {
            for place in 0..<count where loads[candidates[place]].othersDueAt <= now { ageOthers(candidates[place], now: now) }
        }
        return count
    }

    private struct Filter {
        var needsHTTP1: Bool
        var needsHTTP2: Bool
        var tried: TriedGroups

        /// Else nothing of the group's load is read before all that will be has been asked for.
        var needsProtocol: Bool { needsHTTP1 || needsHTTP2 }
    }

    /// Makes the group one more candidate, unless it is one already or may not be.
    private mutating func admit(_ slot: UInt32, _ filter: Filter, to count: inout Int) {
        guard fleet.candidateOf[slot] != fleet.collections, fleet.perToken(of: slot) < .infinity,
            !filter.needsProtocol || (loads[slot].speaksHTTP2 ? !filter.needsHTTP1 : !filter.needsHTTP2),
            filter.tried.count == 0 || !filter.tried.contains(GroupID(slot: slot, generation: loads[slot].generation))
        else { return }
        fleet.candidateOf[slot] = fleet.collections
        loads.prefetch(slot, bytes: GroupLoad.decisiveBytes)
        candidates[count] = slot
        count += 1
    }

    /// The position of the first group whose name's hash is not below `start`, in a pool that is sorted by them; else 0.
    private mutating func firstPosition(_ slots: ContiguousArray<UInt32>, behind start: UInt64) -> Int {
        var low = 0
        var high = slots.count
        while low < high {
            let middle = (low + high) / 2
            if loads[slots[middle]].identity < start { low = middle + 1 } else { high = middle }
        }
        return low < slots.count ? low : 0
    }

    /// Admits the first three free groups from that position on: the first in the order, see `orderCandidates`.
    private mutating func admitInOrder(_ slots: ContiguousArray<UInt32>, from first: Int, _ filter: Filter, to count: inout Int) {
        var position = first
        var found = 0
        for _ in 0..<slots.count where found < 3 {
            if fleet.perToken(of: slots[position]) < .infinity {
                admit(slots[position], filter, to: &count)
                found += 1
            }
            position = position + 1 < slots.count ? position + 1 : 0
        }
    }

    /// Admits those at these positions whose estimate is within `limit`, until there are enough candidates.
    private mutating func admitCheap(
        _ slots: ContiguousArray<UInt32>, _ positions: Range<Int>, limit: Float, _ filter: Filter, to count: inout Int
    ) {
        for position in positions where fleet.estimate(of: slots[position]) <= limit {
            guard count < FleetSketch.mostCheap else { return }
            admit(slots[position], filter, to: &count)
        }
    }

    /// Slots of which there are sketches, some perhaps of no group.
    private var sketchedSlots: Int { (records.count + 3) & ~3 }

    /// Estimates the cost on each group of the pool, and finds the least.
    private mutating func estimateAll(_ slots: ContiguousArray<UInt32>, promptTokens: Double) -> (slot: UInt32, estimate: Float) {
        let prompt = max(promptTokens, leastRequestTokens)
        let tokens = Float(cost.prefillWork(uncached: prompt, promptTokens: prompt))
        let weights = FleetSketch.Weights(tokens: tokens, scale: Float(prefillFit.slope))
        if slots.count * 2 >= records.count {
            for group in 0..<(sketchedSlots / 4) { fleet.estimates[group] = weights.estimates(fleet.sketches[group]) }
            let least = fleet.leastEstimate(slots: sketchedSlots)
            // Alike on several it is that of the first in the pool's order; or that of a group of another pool, then the search below tells.
            if least < .infinity {
                let isAlone = slots.count == order.count && fleet.findFew(slots: sketchedSlots, limit: least, most: 1) == 1
                if isAlone { return (fleet.few[0], least) }
                if let slot = slots.first(where: { fleet.estimate(of: $0) == least }) { return (slot, least) }
            }
        } else {
            for slot in slots { fleet.estimates[slot >> 2] = weights.estimates(fleet.sketches[slot >> 2]) }
        }
        var best = slots[0]
        var least = Float.infinity
        for slot in slots where fleet.estimate(of: slot) < least {
            least = fleet.estimate(of: slot)
            best = slot
        }
        return (best, least)
    }
}
