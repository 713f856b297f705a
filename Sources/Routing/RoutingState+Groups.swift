extension RoutingState {
    /// Makes the given groups the ones that exist. The first of several with one name counts.
    mutating func replaceGroups(_ groups: [GroupDescription]) {
        var wanted: [String: Int] = [:]
        for (position, group) in groups.enumerated() where wanted[group.name] == nil && wanted.count < limits.groups {
            wanted[group.name] = position
        }
        for (name, slot) in slotOfName {
            let isKept = wanted[name].map { isSameEngine(slot, groups[$0]) } ?? false
            if !isKept { remove(slot) }
        }
        order.removeAll(keepingCapacity: true)
        for (position, group) in groups.enumerated() where wanted[group.name] == position {
            let slot = slotOfName[group.name] ?? add(group)
            describe(slot, as: group)
            order.append(slot)
        }
        rebuildCatalog()
    }

    /// Adds or changes the given groups, takes the named ones away, and leaves all others as they are: the cost is that of what changed.
    /// Returns the names of those for which there is no room.
    mutating func updateGroups(_ groups: [GroupDescription], removing names: [String]) -> [String] {
        var servesDifferently = false
        var leftOut: [String] = []
        for name in names { if let slot = slotOfName[name] { withdraw(slot) } }
        for group in groups {
            if let slot = slotOfName[group.name] {
                if isSameEngine(slot, group) {
                    let models = records[Int(slot)]?.description.models
                    describe(slot, as: group)
                    if models != group.models { servesDifferently = true }
                    continue
                }
                withdraw(slot)
            }
            guard order.count < limits.groups else {
                leftOut.append(group.name)
                continue
            }
            let slot = add(group)
            describe(slot, as: group)
            order.append(slot)
            catalog.add(slot, models: records[Int(slot)]?.models ?? [])
        }
        if servesDifferently { rebuildCatalog() }
        return leftOut
    }

    /// Takes one group away, and out of every list.
    private mutating func withdraw(_ slot: UInt32) {
        catalog.remove(slot, models: records[Int(slot)]?.models ?? [])
        remove(slot)
        if let index = order.firstIndex(of: slot) { order.remove(at: index) }
    }

    /// Whether what was learned of the group in `slot` holds for `group`: an engine that started anew has an empty cache.
    private func isSameEngine(_ slot: UInt32, _ group: GroupDescription) -> Bool {
        guard let old = records[Int(slot)]?.description else { return false }
        return old.leader == group.leader && old.incarnation == group.incarnation
    }

    private mutating func add(_ group: GroupDescription) -> UInt32 {
        let slot: UInt32
        if let free = freeSlots.popLast() {
            slot = free
        } else {
            slot = UInt32(records.count)
            records.append(nil)
        }
        var name = group.name
        let identity = name.withUTF8 { ModelCatalog.hash(UnsafeRawBufferPointer($0)) }
        loads[slot] = GroupLoad(generation: loads[slot].generation &+ 1, holder: index.addHolder(), identity: identity)
        records[Int(slot)] = GroupRecord(description: group, models: boundedModels(group.models))
        clearReports(slot)
        takePriors(slot, of: group)
        slotOfName[group.name] = slot
        return slot
    }

    /// The group's index entries go at once. Its open bookings stay open until they are ended, and touch nothing any more.
    private mutating func remove(_ slot: UInt32) {
        index.removeHolder(loads[slot].holder)
        loads[slot].isUsed = false
        if let record = records[Int(slot)] { slotOfName[record.description.name] = nil }
        records[Int(slot)] = nil
        freeSlots.append(slot)
    }

    /// Takes over what changed in the description and keeps what was learned, unless its prior changed.
    private mutating func describe(_ slot: UInt32, as group: GroupDescription) {
        loads[slot].isReady = group.isReady
        loads[slot].speaksHTTP2 = group.leader.protocol == .http2
        guard let old = records[Int(slot)]?.description, old != group else { return }
        if old.models != group.models {
            let models = boundedModels(group.models)
            records[Int(slot)]?.models = models
        }
        let priorsChanged =
            old.prefillTokensPerSecond != group.prefillTokensPerSecond || old.decodeStepSeconds != group.decodeStepSeconds
            || old.kvCapacityTokens != group.kvCapacityTokens
        records[Int(slot)]?.description = group
        if priorsChanged { takePriors(slot, of: group) }
    }

    private mutating func takePriors(_ slot: UInt32, of group: GroupDescription) {
        let rate = group.prefillTokensPerSecond
        loads[slot].describedSecondsPerToken = 1 / (rate.isFinite && rate > 0 ? max(rate, 1) : 20_000)
        setPrefillDeviation(slot, meanDeviation)
        let step = group.decodeStepSeconds
        loads[slot].decodeStepSeconds = step.isFinite && step > 0 ? min(max(step, 1e-6), 60) : 0.02
        if records[Int(slot)]?.knowsCapacity != true { loads[slot].kvCapacityTokens = Double(max(group.kvCapacityTokens, 16)) }
    }

    mutating func setModels(_ models: [String], of slot: UInt32) {
        let bounded = boundedModels(models)
        guard records[Int(slot)]?.models != bounded else { return }
        records[Int(slot)]?.models = bounded
        rebuildCatalog()
    }

    mutating func updateKVCapacity(tokens: Int, of slot: UInt32) {
        guard tokens > 0 else { return }
        loads[slot].kvCapacityTokens = Double(max(tokens, 16))
        records[Int(slot)]?.knowsCapacity = true
    }

    private func boundedModels(_ models: [String]) -> [String] {
        models.count > limits.modelsPerGroup ? Array(models.prefix(limits.modelsPerGroup)) : models
    }

    private mutating func rebuildCatalog() {
        catalog.rebuild(order.map { slot in (slot, records[Int(slot)]?.models ?? []) })
    }
}
