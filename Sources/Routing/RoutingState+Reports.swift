import Glibc

extension RoutingState {
    // MARK: Learning from answers

    /// Learns the prefill rate from one time to first token, with so much prefill work ahead and own.
    ///
    /// The fleet learns one factor and one overhead, so that a group without traffic is judged by what the others showed: were
    /// each to learn alone, a prior that is too slow would keep all traffic where it first fell. A group learns only by how much
    /// it deviates.
    mutating func learnPrefill(_ slot: UInt32, work: Double, seconds: Double) {
        let expected = work * loads[slot].secondsPerToken
        prefillFit.observe(x: expected, y: seconds)
        let prefill = prefillFit.slope * expected
        let predicted = prefillFit.intercept + prefill
        guard prefill > 0 else { return }
        // A short prompt's time is mostly overhead and says little of the rate.
        let ratio = (max(seconds, 0) + Self.noiseSeconds) / (predicted + Self.noiseSeconds)
        let surprise = min(max(log(ratio), -Self.greatestSurprise), Self.greatestSurprise)
        setPrefillDeviation(slot, loads[slot].prefillDeviation + 0.1 * (prefill / predicted) * surprise)
        meanDeviation += 0.02 * (loads[slot].prefillDeviation - meanDeviation)
    }

    /// Steps of the engine and wakes of both processes move a time to first token by this much, whatever the rate.
    private static var noiseSeconds: Double { 0.005 }

    /// One observation counts as at most a factor of four.
    private static var greatestSurprise: Double { 1.386 }

    /// Natural logarithm of the factor by which a group may differ from the fleet without consequence.
    private static var deviationTolerance: Double { 0.25 }

    mutating func setPrefillDeviation(_ slot: UInt32, _ deviation: Double) {
        // A group is at most 32 times slower or faster than described.
        loads[slot].prefillDeviation = min(max(deviation, -3.466), 3.466)
        // Within a quarter groups count as alike: differences that small come from the hosts' noise, and acting on them would
        // send every cold prompt of a quiet fleet to one group, and make replicas of the router disagree.
        let beyond = max(0, abs(loads[slot].prefillDeviation) - Self.deviationTolerance)
        let counted = loads[slot].prefillDeviation < 0 ? -beyond : beyond
        loads[slot].secondsPerToken = loads[slot].describedSecondsPerToken * exp(counted)
        sketch(slot)
    }

    /// Draws one group's deviation towards the mean of those that answer, a group per decision: after half a minute of silence
    /// a group is taken to be like the others, whether it was slow or never seen.
    mutating func fadeOneDeviation(now: UInt64) {
        guard !order.isEmpty else { return }
        fadeCursor = fadeCursor + 1 < order.count ? fadeCursor + 1 : 0
        let slot = order[fadeCursor]
        let elapsed = now.seconds(since: loads[slot].deviationFadedAt)
        loads[slot].deviationFadedAt = now
        if abs(loads[slot].stepDeviation) > 0.005 { setStepDeviation(slot, loads[slot].stepDeviation * (1 - min(elapsed / 30, 1))) }
        let distance = meanDeviation - loads[slot].prefillDeviation
        guard abs(distance) > 0.005 else { return }
        setPrefillDeviation(slot, loads[slot].prefillDeviation + distance * min(elapsed / 30, 1))
    }

    /// Learns how long a decode step takes from the mean of one answer's so far, by what this batch should make of it.
    /// Several answers of one request say nothing: they do not all go on to the end.
    mutating func learnStep(_ slot: UInt32, tokens: Int, of index: UInt32, now: UInt64) {
        let first = leases.bookings[index].firstTokenAt
        guard tokens >= Self.fewestSteps, first > 0, now > first, leases.bookings[index].sequences == 1 else { return }
        let load = loads[slot]
        let growth = cost.growth(fullness: load.tokensPresent * load.tokenShare)
        let observed = now.seconds(since: first) / Double(tokens - 1)
        let ratio = log(observed / (load.describedStepSeconds * (1 + growth)))
        take(.step(logRatio: ratio), of: slot)
    }

    mutating func learnStep(_ slot: UInt32, logRatio: Double) {
        let logScale = log(stepScale)
        let surprise = min(max(logRatio - logScale, -Self.greatestSurprise), Self.greatestSurprise)
        stepScale = exp(min(max(logScale + 0.02 * surprise, -3.466), 3.466))
        setStepDeviation(slot, loads[slot].stepDeviation + 0.05 * (surprise - loads[slot].stepDeviation))
    }

    /// Bytes of a prompt that count in what tokens per byte are learned.
    static var mostTellingBytes: Double { 32_768 }

    /// Answers shorter than that say more of how their bytes were sent than of steps.
    private static var fewestSteps: Int { 8 }

    mutating func setStepDeviation(_ slot: UInt32, _ deviation: Double) {
        loads[slot].stepDeviation = min(max(deviation, -3.466), 3.466)
        let beyond = max(0, abs(loads[slot].stepDeviation) - Self.deviationTolerance)
        loads[slot].decodeStepSeconds = loads[slot].describedStepSeconds * exp(loads[slot].stepDeviation < 0 ? -beyond : beyond)
    }

    /// Learns tokens per byte and output length, and corrects the shadow of the engine's cache.
    mutating func learn(from usage: Usage, events: Int, index: UInt32, slot: UInt32) {
        let sequences = Int(leases.bookings[index].sequences)
        if events > 0, usage.completionTokens > 0 {
            take(.events(tokens: Double(min(usage.completionTokens, 1 << 20)), count: Double(events)), of: slot)
        }
        if usage.completionTokens > 0 {
            learnLength(max(usage.completionTokens / sequences, 1), isWhole: true, of: index, slot: slot)
        }
        let booking = leases.bookings[index]
        guard booking.promptBytes > 0, usage.promptTokens > 0 else { return }
        let promptTokens = Double(min(usage.promptTokens, 1 << 30))
        if !booking.hasKnownTokens {
            // What is long counts for more, but not a megabyte of digits for all others' prose.
            let share = min(Self.mostTellingBytes / booking.promptBytes, 1)
            take(.text(tokens: share * min(promptTokens, booking.promptBytes * 4), bytes: share * booking.promptBytes), of: slot)
        }
        if let cached = usage.cachedTokens {
            learnDeferredPrefill(slot, cachedTokens: Double(min(max(cached, 0), 1 << 30)), promptTokens: promptTokens, booking: booking)
            correctShadow(slot, cachedTokens: Double(min(max(cached, 0), 1 << 30)), promptTokens: promptTokens, booking: booking)
        }
    }

    /// An answer has so many tokens or is taken to get them: it takes the place of what was taught of it before, so that every answer counts
    /// once. Answers that go on have a say, for of a fleet's first ones the short ones end long before the others.
    mutating func learnLength(_ tokens: Int, isWhole: Bool, of index: UInt32, slot: UInt32) {
        let length = log(Double(min(tokens, 1 << 20)))
        let former = leases.bookings[index].taughtLength
        take(isWhole ? .wholeLength(length, former: former) : .length(length, former: former), of: slot)
        leases.bookings[index].taughtLength = length
    }

    /// Learns the prefill rate from a request of which it was not known at its first token how much there was to prefill.
    private mutating func learnDeferredPrefill(_ slot: UInt32, cachedTokens: Double, promptTokens: Double, booking: Booking) {
        guard booking.awaitsUsage, booking.isQuiet, booking.isStreamed, booking.firstTokenAt > booking.bookedAt else { return }
        let own = cost.prefillWork(uncached: max(promptTokens - cachedTokens, leastRequestTokens), promptTokens: promptTokens)
        take(.prefill(work: booking.workAheadAtBooking + own, seconds: booking.firstTokenAt.seconds(since: booking.bookedAt)), of: slot)
    }

    /// One client's changed answers are not to send all others away from theirs: something is always expected.
    private static var leastContinuationYield: Double { 0.25 }

    /// The engine found another share of the prompt in its cache than the shadow promised.
    private mutating func correctShadow(_ slot: UInt32, cachedTokens: Double, promptTokens: Double, booking: Booking) {
        let predicted = promptTokens * booking.matchedBytes / booking.promptBytes
        // Engines count whole blocks and never the last one, and a ratio of tokens to bytes is no tokeniser.
        let slack = 64 + 0.05 * predicted
        let continuation = min(Double(booking.continuation.tokens), promptTokens - predicted)
        // Our own answer is nobody else's doing.
        if booking.continuation != .ambiguous {
            learnOthers(
                cachedTokens: cachedTokens, promptTokens: promptTokens, predicted: predicted + continuation, slack: slack,
                rank: booking.rank)
        }
        // Templates that drop what was thought, and clients that change what was said, make the answer another one.
        if continuation > slack {
            let found = min(max((cachedTokens - predicted) / continuation, Self.leastContinuationYield), 1)
            continuationYield += 0.05 * (found - continuationYield)
        }
        if cachedTokens > predicted + slack { loads[slot].shadowScale = min(loads[slot].shadowScale * 1.01, 1) }
        // What was still being computed when this request was booked may miss for reasons that say nothing about eviction.
        guard booking.matchIsPrefilled, predicted > slack else { return }
        let found = min(cachedTokens / (predicted - leastRequestTokens), 1)
        loads[slot].hitYield += 0.1 * (Float(found) - loads[slot].hitYield)
        guard cachedTokens < predicted - slack else { return }
        loads[slot].shadowScale = max(loads[slot].shadowScale * 0.98, 0.1)
        // Least recently used goes first: an engine that lost a block lost all that are older. With nothing cached at all it
        // lost the root, the path's most recent block.
        let lost = cachedTokens < leastRequestTokens ? booking.insertion.rootStamp : booking.insertion.matchStamp
        index.forget(of: loads[slot].holder, upTo: lost)
    }

    // MARK: Reports

    mutating func reportSaturated(_ slot: UInt32, retryAfterSeconds: Int?, now: UInt64) {
        let asked = UInt64(min(max(retryAfterSeconds ?? 0, 0), 3_600)) * 1_000_000_000
        let bounded = min(max(asked, saturationNanoseconds), longestSaturationNanoseconds)
        // Several answers may come at once: a later one without a time does not shorten what an earlier one asked for.
        loads[slot].saturatedUntil = max(loads[slot].saturatedUntil, now &+ bounded)
        sketch(slot, now: now)
        admission.call()
    }

    /// An error may be the fault of its prompt, which fails everywhere; that is why the group is spared and not taken out: were all
    /// groups spared, all would go on.
    mutating func reportServerError(_ slot: UInt32, now: UInt64) {
        // Those that were under way when the last one counted tell nothing new.
        if loads[slot].errorsInRow >= Self.toleratedErrors && now < loads[slot].saturatedUntil { return }
        loads[slot].errorsInRow = min(loads[slot].errorsInRow, 250) + 1
        guard loads[slot].errorsInRow >= Self.toleratedErrors else { return }
        let pause = saturationNanoseconds << min(UInt64(loads[slot].errorsInRow - Self.toleratedErrors), 8)
        loads[slot].saturatedUntil = max(loads[slot].saturatedUntil, now &+ min(pause, longestSaturationNanoseconds))
        sketch(slot, now: now)
        admission.call()
    }

    /// It has answered a prompt.
    mutating func endErrors(_ slot: UInt32, now: UInt64) {
        if loads[slot].errorsInRow >= Self.toleratedErrors { loads[slot].saturatedUntil = min(loads[slot].saturatedUntil, now) }
        loads[slot].errorsInRow = 0
        sketch(slot, now: now)
        admission.call()
    }

    /// Errors in a row from which on they are the group's.
    static var toleratedErrors: UInt8 { 3 }

    mutating func reportUnreachable(_ slot: UInt32, now: UInt64) {
        // All requests in flight fail together when an engine dies; that is one failure, not many.
        if loads[slot].failures > 0 && now < loads[slot].ejectedUntil { return }
        loads[slot].failures = min(loads[slot].failures, 250) + 1
        let doublings = min(UInt64(loads[slot].failures) - 1, 10)
        loads[slot].ejectedUntil = now &+ min(firstEjectionNanoseconds << doublings, longestEjectionNanoseconds)
        loads[slot].isProbing = false
        // One reset may be a connection that was closed while idle; an engine that is still away a second later has lost its cache.
        if loads[slot].failures >= 2 { forgetCache(slot) }
        sketch(slot, now: now)
        admission.call()
    }

    mutating func reportReachable(_ slot: UInt32, now: UInt64) {
        // Streams that began before may end well while the engine refuses new ones.
        if loads[slot].failures == 0 || now < loads[slot].ejectedUntil { return }
        // One that was away for longer than a reset has started anew.
        if loads[slot].failures >= 2 { startWarmUp(slot, now: now) }
        loads[slot].failures = 0
        loads[slot].isProbing = false
        sketch(slot, now: now)
        admission.call()
    }

    mutating func forgetCache(_ slot: UInt32) {
        index.removeHolder(loads[slot].holder)
        loads[slot].holder = index.addHolder()
        slotOfHolder[Int(loads[slot].holder)] = slot
        loads[slot].heldTokens = 0
        refreshPinned(slot)
    }
}
