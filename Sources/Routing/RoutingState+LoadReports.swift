/// Others' load on a group: what its engine reported, less what was ours when it did, aged.
///
/// Our own account is exact and the base of every decision; a report only adds what it cannot know. So a report that is late,
/// frozen, missing or a lie costs at most the advantage that a true one would have given.
extension RoutingState {
    /// Others' figures are aged at most this often; between two agings a decision pays one comparison per group.
    private static var agingNanoseconds: UInt64 { 4_000_000 }

    /// Time constants in seconds: a queue's figure lives as long as the queue takes to drain, a batch's as long as an answer takes.
    private static var queueTimeConstants: ClosedRange<Double> { 0.25...10 }
    private static var batchTimeConstants: ClosedRange<Double> { 0.5...20 }

    mutating func reportLoad(_ report: LoadReport, of slot: UInt32, now: UInt64) {
        startTrackingOwnLoad()
        let madeAt = min(report.madeAt, now)
        let through = sharing.accounts.isEmpty ? madeAt : min(madeAt &+ Self.replicaLagNanoseconds, now)
        let own = history.peak(slot, from: min(report.notBefore, madeAt), through: through, current: ownLoad(slot), now: now)
        let seen = inferOthers(from: report, own: own, slot: slot, now: now)

        let queueLife = (seen.queuedTokens ?? 0) * loads[slot].secondsPerToken * prefillFit.slope
        let batchLife = outputTokensExpected * loads[slot].decodeStepSeconds
        let queueConstant = min(max(queueLife, Self.queueTimeConstants.lowerBound), Self.queueTimeConstants.upperBound)
        let batchConstant = min(max(batchLife, Self.batchTimeConstants.lowerBound), Self.batchTimeConstants.upperBound)
        func take(_ value: Double?, into old: inout AgedValue, _ timeConstant: Double) {
            if let value, madeAt >= old.at { old = AgedValue(value, at: madeAt, timeConstant: timeConstant) }
        }
        if report.awaitingFirstToken != nil { others[slot].toldPrefillAt = max(others[slot].toldPrefillAt, madeAt, 1) }
        // An answer's report may know of the queue alone, and least of all of a prefill that another has told of.
        let mayLower = report.awaitingFirstToken != nil || !tellsPrefill(slot, now: now)
        if mayLower || (seen.queuedTokens ?? 0) > loads[slot].othersQueuedTokens - sharing.loads[slot].queuedTokens {
            take(seen.waiting, into: &others[slot].waiting, queueConstant)
            take(seen.queuedTokens, into: &others[slot].queuedTokens, queueConstant)
        }
        take(seen.running, into: &others[slot].running, batchConstant)
        take(seen.activeTokens, into: &others[slot].activeTokens, batchConstant)
        fleetOthers.observe(
            waiting: mayLower ? seen.waiting : nil, queuedTokens: mayLower ? seen.queuedTokens : nil, running: seen.running,
            activeTokens: seen.activeTokens, groups: order.count, at: madeAt)
        noteOthers()
        keepForPeople(report, slot: slot, at: madeAt)
        ageOthers(slot, now: now)
    }

    /// Whether the engine has said of late who is being prefilled.
    private func tellsPrefill(_ slot: UInt32, now: UInt64) -> Bool {
        others[slot].toldPrefillAt != 0 && now.seconds(since: others[slot].toldPrefillAt) < Self.prefillToldSeconds
    }

    /// Three readings of an engine that is asked every five seconds.
    private static var prefillToldSeconds: Double { 15 }
    /// Longer than any pause between two answers of an engine that tells them: other reports come in between.
    private static var queuedTokensShownSeconds: Double { 60 }

    /// Sequences and tokens of others; nil is what the report says nothing of.
    private mutating func inferOthers(
        from report: LoadReport, own: OwnLoad, slot: UInt32, now: UInt64
    ) -> (waiting: Double?, running: Double?, activeTokens: Double?, queuedTokens: Double?) {
        let ownInFlight = Double(own.inFlight)
        // Of an engine that does not tell who is being prefilled its queue is all that is known: those of ours that wait for their first token
        // are in the queue or being prefilled, so the queue has no more of them.
        var waiting = (report.awaitingFirstToken ?? report.waiting).map { max($0 - Double(own.awaitingFirstToken), 0) }
        var running: Double?
        if let batch = report.running {
            let total = max(batch + (report.waiting ?? 0) - ownInFlight, 0)
            waiting = waiting.map { min($0, total) }
            running = max(total - (waiting ?? 0), 0)
        } else if let inFlight = report.inFlight {
            let queued = waiting ?? others[slot].waiting.value(now: now, mean: fleetOthers.waiting)
            // Such a count is one of HTTP requests.
            running = max(inFlight - Double(own.requests) - queued, 0)
        }
        var tokens: Double?
        if let usage = report.kvUsage {
            // With nobody else there the engine holds more than we know of only because our prompts share it in ways we do not see.
            let isOursAlone = sharing.loads[slot].inFlight == 0 && running.map { $0 + (waiting ?? 0) < 0.5 } ?? false
            tokens = isOursAlone ? 0 : max(usage * loads[slot].kvCapacityTokens - Double(own.activeTokens), 0)
        } else if let running {
            let sequences = running + Double(sharing.loads[slot].inFlight)
            tokens = min(sequences * (meanUncachedTokens + outputTokensExpected), loads[slot].kvCapacityTokens)
        }
        let queuedTokens = waiting.map { waiting in
            if let told = report.queuedTokens {
                // No more than falls to others by their number, for of ours it may count what is cached as well. Who is prefilled in chunks is not
                // among those that wait, and is surely not ours where none of ours is without a first token.
                let share = own.awaitingFirstToken == 0 ? 1 : min(waiting / max(report.waiting ?? 0, 1), 1)
                return min(max(told - Double(own.queuedTokens), 0), told * share)
            }
            guard let inBatch = report.prefillTokens, waiting > 0 else { return waiting * meanUncachedTokens }
            return max(inBatch + (report.waiting ?? 0) * meanUncachedTokens - Double(own.queuedTokens), 0)
        }
        return (waiting, running, tokens, queuedTokens)
    }

    private mutating func keepForPeople(_ report: LoadReport, slot: UInt32, at time: UInt64) {
        if let running = report.running { others[slot].reportedRunning = running }
        if let waiting = report.waiting { others[slot].reportedWaiting = waiting }
        if let awaiting = report.awaitingFirstToken { others[slot].reportedAwaitingFirstToken = awaiting }
        if report.awaitingFirstToken != nil { others[slot].reportedPrefillTokens = report.prefillTokens ?? -1 }
        if let tokens = report.queuedTokens {
            others[slot].reportedQueuedTokens = tokens
            others[slot].toldQueuedTokensAt = time
        }
        if let inFlight = report.inFlight { others[slot].reportedInFlight = inFlight }
        if let usage = report.kvUsage { others[slot].reportedKVUsage = usage }
        others[slot].reportedAt = max(others[slot].reportedAt, time, 1)
        others[slot].reports += 1
    }

    /// Brings others' figures to what is left of them at `now`.
    mutating func ageOthers(_ slot: UInt32, now: UInt64) {
        let fleet = fleetOthers.weight(now: now)
        let waiting = others[slot].waiting.value(now: now, mean: fleetOthers.waiting * fleet)
        let replicas = sharing.loads[slot]
        loads[slot].othersWaiting = waiting + Double(replicas.awaitingFirstToken)
        // Replicas say what theirs take. Of those whom only an engine tells of no length is known, and a token counts as behind no context.
        let reportedTokens = others[slot].queuedTokens.value(now: now, mean: fleetOthers.queuedTokens * fleet)
        loads[slot].othersQueuedTokens = reportedTokens + replicas.queuedTokens
        loads[slot].othersQueuedWork = reportedTokens + replicas.queuedWork
        loads[slot].othersRunning =
            others[slot].running.value(now: now, mean: fleetOthers.running * fleet)
            + Double(replicas.inFlight - replicas.awaitingFirstToken)
        var activeTokens = others[slot].activeTokens.value(now: now, mean: fleetOthers.activeTokens * fleet)
        // Replicas do not tell what theirs hold. An engine reports what they hold now: half an answer each is yet to come. Of one that does not,
        // what they take on average is the best that is known.
        let isReported = others[slot].activeTokens.at != 0
        loads[slot].othersExpectedTokens = isReported ? Float(0.5 * Double(replicas.inFlight) * outputTokensExpected) : 0
        if replicas.inFlight > 0, !isReported {
            activeTokens = max(activeTokens, Double(replicas.inFlight) * (meanUncachedTokens + outputTokensExpected))
        }
        loads[slot].othersActiveTokens = Float(min(activeTokens, loads[slot].kvCapacityTokens))
        loads[slot].othersDueAt = now &+ Self.agingNanoseconds
        sketch(slot)
    }

    func reportedLoad(_ slot: UInt32, now: UInt64) -> ReportedLoad? {
        let load = others[slot]
        guard load.reports > 0 else { return nil }
        func said(_ value: Double) -> Double? { value < 0 ? nil : value }
        let tellsPrefill = tellsPrefill(slot, now: now)
        let queuedTokensAge = now.seconds(since: load.toldQueuedTokensAt)
        let tellsQueuedTokens = load.reportedQueuedTokens >= 0 && queuedTokensAge <= Self.queuedTokensShownSeconds
        return ReportedLoad(
            running: said(load.reportedRunning), waiting: said(load.reportedWaiting),
            awaitingFirstToken: tellsPrefill ? said(load.reportedAwaitingFirstToken) : nil,
            prefillTokens: tellsPrefill ? said(load.reportedPrefillTokens) : nil,
            queuedTokens: tellsQueuedTokens ? load.reportedQueuedTokens : nil,
            queuedTokensAgeSeconds: tellsQueuedTokens ? queuedTokensAge : nil, inFlight: said(load.reportedInFlight),
            kvUsage: said(load.reportedKVUsage),
            ageSeconds: now.seconds(since: load.reportedAt), reports: load.reports)
    }

    // MARK: Our own load

    /// Nobody pays for the history before the first report.
    private mutating func startTrackingOwnLoad() {
        guard !tracksOwnLoad else { return }
        tracksOwnLoad = true
        for slot in order { loads[slot].othersDueAt = 0 }
    }

    /// A slot's new group has neither a past nor reports.
    func clearReports(_ slot: UInt32) {
        others[slot] = OthersLoad()
        guard tracksOwnLoad else { return }
        history.clear(slot)
        loads[slot].othersDueAt = 0
    }

    mutating func ownLoad(_ slot: UInt32) -> OwnLoad {
        let replicas = sharing.loads[slot]
        return OwnLoad(
            requests: loads[slot].requests &+ replicas.inFlight, inFlight: loads[slot].inFlight &+ replicas.inFlight,
            awaitingFirstToken: loads[slot].awaitingFirstToken &+ replicas.awaitingFirstToken,
            activeTokens: Float(loads[slot].ownTokensInBatch),
            queuedTokens: Float(loads[slot].queuedTokens + replicas.queuedTokens))
    }
}
