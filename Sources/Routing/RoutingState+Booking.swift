import Glibc

extension RoutingState {
    /// Output tokens of an answer about which nothing is known.
    var outputTokensExpected: Double { exp(outputLogMean) }

    /// Share of its KV cache in use up to which a group's times to first token teach its prefill rate. Beyond, they tell as much of the batch
    /// whose steps they share and of waits for memory, and a fleet that learns from them takes its busy groups for slow ones.
    private static var quietShare: Double { 0.25 }

    /// Tokens that others are presumed to have brought, as a share of those to prefill, above which a time to first token says nothing of the
    /// rate before it is known how many there were.
    private static var presumedShare: Double { 0.1 }

    /// Uncached tokens of one request that count in what they are on average.
    private static var mostTellingTokens: Double { 65_536 }

    /// Charges the chosen group with the request.
    mutating func book(
        _ request: borrowing RoutingRequest, hashes: UnsafeBufferPointer<UInt64>, inputs: CostInputs, slot: UInt32,
        reason: DecisionReason, now: UInt64
    ) -> Decision {
        let holder = loads[slot].holder
        var depth = 0
        var insertion = PrefixIndex.Insertion()
        var matchIsPrefilled = false
        let formerTurn = policy.usesPrefixIndex ? formerTurn(of: request) : .unknown
        let continuation =
            policy.usesPrefixIndex ? continuation(on: slot, of: formerTurn, tokensPerChunk: inputs.tokensPerChunk) : .none
        learnLaterTurns(from: formerTurn)
        if !hashes.isEmpty {
            depth = index.depth(of: holder)
            insertion = index.insert(
                hashes, holder: holder,
                quota: loads[slot].shadowBlocks(tokensPerChunk: inputs.tokensPerChunk, ownShare: 1 - othersHits.loadShare))
            matchIsPrefilled = depth > 0 && self.index.isPrefilled(insertion.matchStamp, on: holder)
        }
        self.index.retain(insertion)
        let cached = inputs.cachedTokens(on: loads[slot], depth: depth).rounded()
        // Of what no engine will take no more than it has room for.
        let room = max(loads[slot].kvCapacityTokens, leastRequestTokens)
        let uncached = min(inputs.promptTokens - cached, room).rounded()
        let work = cost.prefillWork(uncached: uncached, promptTokens: min(inputs.promptTokens, room)).rounded()
        let presumed = cached - inputs.ownCachedTokens(on: loads[slot], depth: depth)
        let sequences = Int32(min(max(request.sequences, 1), RoutingRequest.mostSequences))
        let output = max(min(inputs.outputTokens * Double(sequences), loads[slot].kvCapacityTokens), inputs.outputTokens).rounded()
        let terms = inputs.terms(on: loads[slot], depth: depth)
        // `roomWait` ends with one mean answer; of what waits beside a full cache each cacheful takes one more.
        let backlog = max(loads[slot].tokensInUse * loads[slot].tokenShare - 1, 0) * terms.roomWait
        let presumedSeconds = 2 * (terms.timeToFirstToken + terms.memoryWait) + backlog

        let active = output + (hashes.isEmpty ? inputs.promptTokens.rounded() : 0)

        let index = leases.open()
        leases.bookings[index] = Booking(
            generation: leases.bookings[index].generation, nextFree: 0, slot: slot, groupGeneration: loads[slot].generation,
            awaitsFirstToken: true, isProbe: loads[slot].failures > 0, isStreamed: request.isStreamed,
            sequences: sequences, matchIsPrefilled: matchIsPrefilled, hasKnownTokens: request.promptTokens != nil, olderUnstreamed: 0,
            newerUnstreamed: 0, sequence: sequence,
            bookedAt: now,
            presumedPrefilledAt: now &+ UInt64(min(max(presumedSeconds, 0), 3_600) * 1e9),
            isQuiet: loads[slot].tokensInUse + uncached + output <= Self.quietShare * loads[slot].kvCapacityTokens,
            rank: inputs.followsOrder ? loads[slot].orderRank : othersHits.areExpected ? OthersHits.orderless : OthersHits.unranked,
            awaitsUsage: presumed > Self.presumedShare * uncached,
            activeTokens: active, uncachedTokens: uncached, prefillWork: work, outputTokens: output,
            workAheadAtBooking: loads[slot].workAhead, promptBytes: Double(max(request.promptBytes, 0)),
            matchedBytes: Double(min(max(depth &* request.chunkBytes, 0), max(request.promptBytes, 0))),
            tailTokens: max(inputs.promptTokens - Double(hashes.count) * inputs.tokensPerChunk, 0), continuation: continuation,
            promptDigest: policy.usesPrefixIndex ? request.promptDigest : 0, holder: holder, chunks: UInt16(hashes.count),
            insertion: insertion)
        if !request.isStreamed { appendUnstreamed(index, slot: slot) }

        leases.openSequences += Int(sequences)
        let before = tracksOwnLoad ? ownLoad(slot) : OwnLoad()
        loads[slot].isProbing = loads[slot].failures > 0
        loads[slot].requests += 1
        loads[slot].inFlight += sequences
        loads[slot].awaitingFirstToken += sequences
        loads[slot].queuedTokens += uncached
        loads[slot].queuedWork += work
        loads[slot].activeTokens += active
        loads[slot].activeOutputTokens += output
        loads[slot].lastChosen = sequence
        loads[slot].arrivals.observe(nowMicroseconds: now / 1_000)
        arrivals.observe(nowMicroseconds: now / 1_000)
        loads[slot].decisions += 1
        if inputs.adapter != 0 { adapters[slot].touch(inputs.adapter, now: now) }
        // Anybody may send megabytes that no engine will take.
        let telling = min(uncached, min(16 * (meanUncachedTokens + 1_024), Self.mostTellingTokens))
        meanUncachedTokens += 0.02 * (telling - meanUncachedTokens)
        if !hashes.isEmpty {
            loads[slot].broughtTokens += uncached
            refreshShadow(slot, tokensPerChunk: inputs.tokensPerChunk)
        }
        if sharing.isOn { tellPlacement(hashes, chunkBytes: request.chunkBytes, slot: slot) }
        tellLoad(slot)
        if tracksOwnLoad { history.changed(slot, from: before, to: ownLoad(slot), now: now) }
        sketch(slot)
        return Decision(
            group: GroupID(slot: slot, generation: loads[slot].generation), endpoint: endpoint(of: slot),
            lease: Lease(index: index, generation: leases.bookings[index].generation), reason: reason,
            predictedCachedTokens: Int(cached), terms: terms)
    }

    @inline(__always)
    private func endpoint(of slot: UInt32) -> Endpoint {
        records[Int(slot)]?.description.leader ?? Endpoint(host: "", port: 0)
    }

    mutating func refreshShadow(_ slot: UInt32, tokensPerChunk: Double) {
        let holder = loads[slot].holder
        loads[slot].heldTokens = Double(index.count(of: holder)) * tokensPerChunk
        refreshPinned(slot)
    }

    mutating func refreshPinned(_ slot: UInt32) {
        let holder = loads[slot].holder
        loads[slot].pinnedTokens = loads[slot].heldTokens * Double(index.countInUse(of: holder)) / Double(max(index.count(of: holder), 1))
        loads[slot].promptTokensInUse = max(loads[slot].pinnedTokens, loads[slot].broughtTokens)
    }

    // MARK: The life of a lease

    /// The first token is on its way: the prompt is prefilled and its work has left the queue.
    mutating func firstToken(_ lease: Lease, now: UInt64) {
        guard let index = leases.index(of: lease), leases.bookings[index].awaitsFirstToken else { return }
        guard let slot = liveSlot(of: index) else { return }
        leases.bookings[index].firstTokenAt = now
        let booking = leases.bookings[index]
        if booking.isStreamed && booking.promptBytes > 0 && booking.isQuiet && !booking.awaitsUsage {
            take(.prefill(work: booking.workAheadAtBooking + booking.prefillWork, seconds: now.seconds(since: booking.bookedAt)), of: slot)
        }
        leaveQueue(index, slot: slot, now: now)
        // Engines prefill in the order of arrival, so what was booked before is prefilled too.
        while let oldest = oldestUnstreamed(of: slot), leases.bookings[oldest].sequence < booking.sequence {
            leaveQueue(oldest, slot: slot, now: now)
        }
        self.index.repay()
    }

    /// An answer goes on and has come in so many events. Answers take minutes where groups are slow or full: to learn from their ends alone
    /// would be to learn of a slow group when it is full.
    mutating func streamed(_ lease: Lease, events: Int, isHeldBack: Bool, now: UInt64) {
        guard let index = leases.index(of: lease), let slot = liveSlot(of: index) else { return }
        let tokens = Int(Double(min(max(events, 0), 1 << 20)) * min(tokensPerEvent.value, 1_024))
        if !isHeldBack { learnStep(slot, tokens: tokens, of: index, now: now) }
        count(tokens, of: index, slot: slot, now: now)
    }

    /// So much of an answer has been generated. One that is longer than it was taken to be is expected to become twice as long as it is:
    /// the lengths of answers have heavy tails.
    private mutating func count(_ tokens: Int, of index: UInt32, slot: UInt32, now: UInt64) {
        guard !leases.bookings[index].awaitsFirstToken else { return }
        let before = tracksOwnLoad ? ownLoad(slot) : OwnLoad()
        loads[slot].generatedTokens += Double(tokens) - leases.bookings[index].generatedTokens
        leases.bookings[index].generatedTokens = Double(tokens)
        let sequences = Int(leases.bookings[index].sequences)
        loads[slot].decodesSince &+= (now / 1_000 &- leases.bookings[index].decodesSince) &* UInt64(sequences)
        leases.bookings[index].decodesSince = now / 1_000
        if Double(tokens / sequences) >= outputTokensExpected { learnLength(2 * tokens / sequences, isWhole: false, of: index, slot: slot) }
        let expected = min(Double(2 * tokens), loads[slot].kvCapacityTokens.rounded())
        let excess = expected - leases.bookings[index].outputTokens
        guard Double(tokens) >= leases.bookings[index].outputTokens, excess > 0 else { return }
        leases.bookings[index].outputTokens += excess
        leases.bookings[index].activeTokens += excess
        loads[slot].activeOutputTokens += excess
        loads[slot].activeTokens += excess
        if tracksOwnLoad { history.changed(slot, from: before, to: ownLoad(slot), now: now) }
        sketch(slot)
    }

    mutating func settle(_ lease: Lease, usage: Usage?, events: Int, isHeldBack: Bool, now: UInt64) {
        guard let index = leases.index(of: lease) else { return }
        if let slot = liveSlot(of: index) {
            leaveQueue(index, slot: slot, now: now)
            if let usage {
                learn(from: usage, events: events, index: index, slot: slot)
                if !isHeldBack { learnStep(slot, tokens: usage.completionTokens, of: index, now: now) }
            }
            noteContinuation(index, usage: usage, events: events)
            if loads[slot].errorsInRow > 0, leases.bookings[index].promptBytes > 0 { endErrors(slot, now: now) }
            if leases.bookings[index].isProbe { reportReachable(slot, now: now) }
        }
        release(index, now: now)
    }

    /// What the engine holds of a conversation when it has answered: the next turn repeats the answer.
    private mutating func noteContinuation(_ index: UInt32, usage: Usage?, events: Int) {
        let booking = leases.bookings[index]
        let completion = usage.map { Double(max($0.completionTokens, 0)) } ?? Double(events) * tokensPerEvent.value
        let tokens = booking.tailTokens + completion / Double(booking.sequences)
        let held = UInt32(min(max(tokens, 0), 1_000_000_000))
        self.index.noteContinuation(of: booking.insertion, tokens: held)
        let turn = FormerTurns.Turn(
            digest: booking.promptDigest, tokens: held, stamp: self.index.holders[Int(booking.holder)].clock, holder: booking.holder,
            chunks: booking.chunks)
        formerTurns.note(turn)
        if sharing.isOn { tellTurn(turn, slot: booking.slot) }
    }

    /// - Parameter prefixHeld: whether the engine may have prefilled the prompt although no first token was seen.
    /// - Parameter isServerError: see `RoutingTable.cancel`. An error without a prompt is some other API's.
    mutating func cancel(_ lease: Lease, prefixHeld: Bool, isServerError: Bool, now: UInt64) {
        guard let index = leases.index(of: lease) else { return }
        if let slot = liveSlot(of: index) {
            let booking = leases.bookings[index]
            if booking.awaitsFirstToken && !prefixHeld {
                if sharing.isOn { tellTakenBack(booking.insertion, slot: slot) }
                self.index.undo(booking.insertion, holder: loads[slot].holder)
            }
            if booking.awaitsFirstToken { leaveQueue(index, slot: slot, isPrefilled: prefixHeld, now: now) }
            // The probe told nothing; the next request may be one.
            if booking.isProbe {
                loads[slot].isProbing = false
                admission.call()
            }
            if isServerError, booking.promptBytes > 0 { reportServerError(slot, now: now) }
        }
        release(index, now: now)
    }

    /// The slot of the group that a booking charges, or nil when that group is gone.
    private mutating func liveSlot(of index: UInt32) -> UInt32? {
        slot(of: GroupID(slot: leases.bookings[index].slot, generation: leases.bookings[index].groupGeneration))
    }

    private mutating func leaveQueue(_ index: UInt32, slot: UInt32, isPrefilled: Bool = true, now: UInt64) {
        guard leases.bookings[index].awaitsFirstToken else { return }
        let mayMakeRoom = !admission.isEmpty && (admission.isAwaited(slot) || isBusy(slot))
        let before = tracksOwnLoad ? ownLoad(slot) : OwnLoad()
        leases.bookings[index].awaitsFirstToken = false
        leases.bookings[index].decodesSince = now / 1_000
        let sequences = leases.bookings[index].sequences
        loads[slot].decodesSince &+= now / 1_000 &* UInt64(sequences)
        loads[slot].awaitingFirstToken -= sequences
        loads[slot].queuedTokens -= leases.bookings[index].uncachedTokens
        loads[slot].queuedWork -= leases.bookings[index].prefillWork
        if tracksOwnLoad { history.changed(slot, from: before, to: ownLoad(slot), now: now) }
        tellLoad(slot)
        if !leases.bookings[index].isStreamed { removeUnstreamed(index, slot: slot) }
        if isPrefilled { self.index.notePrefilled(leases.bookings[index].insertion) }
        sketch(slot)
        if mayMakeRoom, !isBusy(slot) { admission.call() }
    }

    private mutating func release(_ index: UInt32, now: UInt64) {
        if let slot = liveSlot(of: index) {
            let booking = leases.bookings[index]
            let before = tracksOwnLoad ? ownLoad(slot) : OwnLoad()
            loads[slot].requests -= 1
            loads[slot].inFlight -= booking.sequences
            if !booking.awaitsFirstToken { loads[slot].decodesSince &-= booking.decodesSince &* UInt64(booking.sequences) }
            loads[slot].generatedTokens -= booking.generatedTokens
            loads[slot].activeTokens -= booking.activeTokens
            if booking.chunks > 0 {
                loads[slot].broughtTokens -= booking.uncachedTokens
                if booking.insertion.deepest != 0 { self.index.release(booking.insertion) }
                refreshPinned(slot)
            }
            loads[slot].activeOutputTokens -= booking.outputTokens
            tellLoad(slot)
            if tracksOwnLoad { history.changed(slot, from: before, to: ownLoad(slot), now: now) }
            sketch(slot)
        }
        leases.openSequences -= Int(leases.bookings[index].sequences)
        if leases.isFull { admission.call() }
        leases.close(index)
        self.index.repay()
    }

    // MARK: Answers that are not streamed

    /// Takes bookings out of the queue whose prefill must be long over; without a stream nobody tells.
    mutating func presumePrefilled(_ slot: UInt32, now: UInt64) {
        while let oldest = oldestUnstreamed(of: slot), leases.bookings[oldest].presumedPrefilledAt <= now {
            leaveQueue(oldest, slot: slot, now: now)
        }
    }

    private mutating func oldestUnstreamed(of slot: UInt32) -> UInt32? {
        let link = loads[slot].firstUnstreamed
        return link == 0 ? nil : link - 1
    }

    private mutating func appendUnstreamed(_ index: UInt32, slot: UInt32) {
        let last = loads[slot].lastUnstreamed
        leases.bookings[index].olderUnstreamed = last
        if last != 0 { leases.bookings[last - 1].newerUnstreamed = index + 1 } else { loads[slot].firstUnstreamed = index + 1 }
        loads[slot].lastUnstreamed = index + 1
        updatePresumption(slot)
    }

    private mutating func removeUnstreamed(_ index: UInt32, slot: UInt32) {
        let older = leases.bookings[index].olderUnstreamed
        let newer = leases.bookings[index].newerUnstreamed
        if older != 0 { leases.bookings[older - 1].newerUnstreamed = newer } else { loads[slot].firstUnstreamed = newer }
        if newer != 0 { leases.bookings[newer - 1].olderUnstreamed = older } else { loads[slot].lastUnstreamed = older }
        updatePresumption(slot)
    }

    private mutating func updatePresumption(_ slot: UInt32) {
        loads[slot].presumedPrefilledAt = oldestUnstreamed(of: slot).map { leases.bookings[$0].presumedPrefilledAt } ?? .max
    }
}
