extension RoutingState {
    /// Makes the given groups the ones that exist. The first of several with one name counts.
    mutating func replaceGroups(_ groups: [GroupDescription], now: UInt64) {
        defer { noteFirstGroups(now: now) }
        var wanted: [String: Int] = [:]
        for (position, group) in groups.enumerated() where wanted[group.name] == nil && wanted.count < limits.groups {
            wanted[group.name] = position
        }
        var restarted: Set<String> = []
        for (name, slot) in slotOfName {
            let isKept = wanted[name].map { isSameEngine(slot, groups[$0]) } ?? false
            if !isKept {
                remove(slot)
                if wanted[name] != nil { restarted.insert(name) }
            }
        }
        order.removeAll(keepingCapacity: true)
        for (position, group) in groups.enumerated() where wanted[group.name] == position {
            let slot = slotOfName[group.name] ?? add(group, isRestart: restarted.contains(group.name), now: now)
            describe(slot, as: group)
            order.append(slot)
        }
        rebuildCatalog()
    }

    /// Adds or changes the given groups, takes the named ones away, and leaves all others as they are: the cost is that of what changed.
    /// Returns the names of those for which there is no room.
    mutating func updateGroups(_ groups: [GroupDescription], removing names: [String], now: UInt64) -> [String] {
        defer { noteFirstGroups(now: now) }
        var changes = CatalogChanges()
        var leftOut: [String] = []
        for name in names { if let slot = slotOfName[name] { withdraw(slot, &changes) } }
        for group in groups {
            let isRestart = slotOfName[group.name] != nil
            if let slot = slotOfName[group.name] {
                if isSameEngine(slot, group) {
                    let models = records[Int(slot)]?.models
                    describe(slot, as: group)
                    if records[Int(slot)]?.models != models { changes.served.insert(slot) }
                    continue
                }
                withdraw(slot, &changes)
            }
            guard order.count < limits.groups else {
                leftOut.append(group.name)
                continue
            }
            let slot = add(group, isRestart: isRestart, now: now)
            describe(slot, as: group)
            order.append(slot)
            changes.served.insert(slot)
        }
        updateCatalog(changes)
        return leftOut
    }

    /// Slots whose groups went, and those whose groups came since or serve something else.
    private struct CatalogChanges {
        var removed: [UInt32] = []
        var served: Set<UInt32> = []
    }

    private mutating func withdraw(_ slot: UInt32, _ changes: inout CatalogChanges) {
        remove(slot)
        if let place = order.firstIndex(of: slot) { order.remove(at: place) }
        changes.removed.append(slot)
        changes.served.remove(slot)
    }

    /// How long after the first groups others are taken to have been there as well.
    private static var startNanoseconds: UInt64 { 30_000_000_000 }

    private mutating func noteFirstGroups(now: UInt64) {
        if firstGroupsAt == nil, !order.isEmpty { firstGroupsAt = now }
    }

    mutating func startWarmUp(_ slot: UInt32, now: UInt64) {
        guard placement.warmUpNanoseconds > 0 else { return }
        loads[slot].warmUpSlowness = PlacementSettings.coldSlowness
        loads[slot].warmUpEndsAt = now &+ placement.warmUpNanoseconds
    }

    /// Brings a cold group's slowness to what is left of it at `now`.
    mutating func continueWarmUp(_ slot: UInt32, now: UInt64) {
        let left = loads[slot].warmUpEndsAt.seconds(since: now) / (Double(placement.warmUpNanoseconds) * 1e-9)
        loads[slot].warmUpSlowness = PlacementSettings.coldSlowness * min(left, 1)
        if left == 0 { loads[slot].warmUpEndsAt = 0 }
    }

    /// Whether what was learned of the group in `slot` holds for `group`: an engine that started anew has an empty cache.
    private func isSameEngine(_ slot: UInt32, _ group: GroupDescription) -> Bool {
        guard let old = records[Int(slot)]?.description else { return false }
        return old.leader == group.leader && old.incarnation == group.incarnation
    }

    private mutating func add(_ group: GroupDescription, isRestart: Bool, now: UInt64) -> UInt32 {
        let slot: UInt32
        if let free = freeSlots.popLast() {
            slot = free
        } else {
            slot = UInt32(records.count)
            records.append(nil)
            // And the others of its four, which may never be.
            for slot in slot...(slot | 3) { fleet.clear(slot) }
        }
        var name = group.name
        let identity = name.withUTF8 { ModelCatalog.hash(UnsafeRawBufferPointer($0)) }
        loads[slot] = GroupLoad(generation: loads[slot].generation &+ 1, holder: index.addHolder(), identity: identity)
        let rank = nextRank(slot)
        records[Int(slot)] = GroupRecord(description: group, models: boundedModels(group.models), rank: rank)
        slotOfHolder[Int(loads[slot].holder)] = slot
        adapters[slot] = AdapterSlots()
        clearReports(slot)
        takePriors(slot, of: group)
        // What was there when the router started is not cold, it only looks so to us; and discovery may find it piece by piece.
        let isNew = firstGroupsAt.map { now >= $0 &+ Self.startNanoseconds } ?? false
        if isRestart || isNew { startWarmUp(slot, now: now) }
        slotOfName[group.name] = slot
        slotOfIdentity[identity] = slot
        return slot
    }

    /// The group's index entries go at once. Its open bookings stay open until they are ended, and touch nothing any more.
    private mutating func remove(_ slot: UInt32) {
        index.removeHolder(loads[slot].holder)
        loads[slot].isUsed = false
        fleet.clear(slot)
        if let record = records[Int(slot)] { slotOfName[record.description.name] = nil }
        if slotOfIdentity[loads[slot].identity] == slot { slotOfIdentity[loads[slot].identity] = nil }
        sharing.openSequences -= Int(sharing.loads[slot].inFlight)
        sharing.loads[slot] = .none
        records[Int(slot)] = nil
        freeSlots.append(slot)
    }

    /// Takes over what changed in the description and keeps what was learned, unless its prior changed.
    private mutating func describe(_ slot: UInt32, as group: GroupDescription) {
        setReady(slot, group.isReady && !drained.contains(group.name))
        loads[slot].distanceSeconds = locality.seconds(to: group)
        loads[slot].speaksHTTP2 = group.leader.protocol == .http2
        defer { sketch(slot) }
        guard let old = records[Int(slot)]?.description, old != group else { return }
        if old.models != group.models {
            let models = boundedModels(group.models)
            records[Int(slot)]?.models = models
        }
        records[Int(slot)]?.description = group
        if old.priors != group.priors { takePriors(slot, of: group) }
    }

    private mutating func takePriors(_ slot: UInt32, of group: GroupDescription) {
        let priors = group.priors
        loads[slot].describedSecondsPerToken = 1 / priors.prefillTokensPerSecond
        setPrefillDeviation(slot, meanDeviation)
        loads[slot].describedStepSeconds = priors.decodeStepSeconds
        setStepDeviation(slot, 0)
        if records[Int(slot)]?.knowsCapacity != true { loads[slot].kvCapacityTokens = Double(priors.kvCapacityTokens) }
    }

    mutating func setModels(_ models: [String], adapters: [String: String], of slot: UInt32) {
        let bounded = boundedModels(models)
        let parents = adapters.filter { bounded.contains($0.key) }
        guard records[Int(slot)]?.models != bounded || records[Int(slot)]?.parents != parents else { return }
        records[Int(slot)]?.models = bounded
        records[Int(slot)]?.parents = parents
        updateCatalog(CatalogChanges(served: [slot]))
    }

    /// Takes a group out, or back in, by an operator's word. The name is remembered, so that a restart for maintenance does not undo it.
    mutating func setDrained(_ isDrained: Bool, group name: String) -> Bool {
        guard let slot = slotOfName[name], let description = records[Int(slot)]?.description else { return false }
        if isDrained {
            guard drained.count < limits.groups || drained.contains(name) else { return false }
            drained.insert(name)
        } else {
            drained.remove(name)
        }
        setReady(slot, description.isReady && !isDrained)
        sketch(slot)
        return true
    }

    private mutating func setReady(_ slot: UInt32, _ isReady: Bool) {
        guard loads[slot].isReady != isReady else { return }
        loads[slot].isReady = isReady
        noteReadinessChange()
    }

    private mutating func noteReadinessChange() {
        readinessChanges &+= 1
        admission.call()
    }

    /// Tokens that a KV cache may hold: what is more than any machine has is a mistake.
    private static var mostKVTokens: Int { 1_000_000_000_000 }

    mutating func updateKVCapacity(tokens: Int, of slot: UInt32) {
        guard tokens > 0, tokens <= Self.mostKVTokens else { return }
        loads[slot].kvCapacityTokens = Double(max(tokens, 16))
        records[Int(slot)]?.knowsCapacity = true
        sketch(slot)
    }

    private func boundedModels(_ models: [String]) -> [String] {
        models.count > limits.modelsPerGroup ? Array(models.prefix(limits.modelsPerGroup)) : models
    }

    private mutating func rebuildCatalog() {
        noteReadinessChange()
        keepSketchIfWide()
        lastRank = 0
        for slot in order {
            let rank = nextRank(slot)
            records[Int(slot)]?.rank = rank
        }
        let slots = fleet.isKept ? ContiguousArray(order.sorted { loads[$0].identity < loads[$1].identity }) : order
        catalog.rebuild(slots.map { listing($0) })
    }

    private mutating func updateCatalog(_ changes: CatalogChanges) {
        guard !changes.removed.isEmpty || !changes.served.isEmpty else { return }
        if isWide != fleet.isKept { return rebuildCatalog() }
        noteReadinessChange()
        catalog.update(changes.served.map { listing($0) }, removing: changes.removed)
    }

    /// The order of the descriptions; or, since replicas of the router must walk through a large pool alike, that of the names' hashes.
    private mutating func nextRank(_ slot: UInt32) -> UInt64 {
        lastRank += 1
        return fleet.isKept ? loads[slot].identity : lastRank
    }

    private func listing(_ slot: UInt32) -> ModelCatalog.Listing {
        let record = records[Int(slot)]
        return ModelCatalog.Listing(slot: slot, rank: record?.rank ?? 0, models: record?.models ?? [], parents: record?.parents ?? [:])
    }
}
