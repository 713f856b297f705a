import Testing

@testable import Routing

@Suite struct AvailabilityTests {
    @Test func modelsDecideWhoMayServe() throws {
        var groups = equalGroups(3)
        groups[0].models = ["a", "b"]
        groups[1].models = ["b"]
        groups[2].models = ["c"]
        let table = RoutingTable(groups)
        #expect(table.models() == ["a", "b", "c"])
        for _ in 0..<10 { #expect(try table.name(of: table.pick(nil, model: "a").get().group) == "g0") }
        let servingB = try Set((0..<20).map { _ in try table.pick(nil, model: "b").get().group.slot })
        #expect(servingB == [0, 1])
        #expect(throws: RoutingFailure.modelNotFound) { try table.pick(nil, model: "d").get() }
        let any = try Set((0..<40).map { _ in try table.pick(nil).get().group.slot })
        #expect(any == [0, 1, 2])
    }

    @Test func aGroupThatDoesNotSayServesAnything() throws {
        var groups = equalGroups(2)
        groups[0].models = ["a"]
        let table = RoutingTable(groups)
        for _ in 0..<5 { #expect(try table.name(of: table.pick(nil, model: "x").get().group) == "g1") }
        #expect(try Set((0..<10).map { _ in try table.pick(nil, model: "a").get().group.slot }) == [0, 1])
        let silent = try #require(table.state("g1")?.id)
        table.setModels(["y"], of: silent)
        #expect(throws: RoutingFailure.modelNotFound) { try table.pick(nil, model: "x").get() }
        #expect(table.models() == ["a", "y"])
        // The same description again must not undo what the engine told.
        table.replaceGroups(groups, now: 1)
        #expect(table.models() == ["a", "y"])
    }

    @Test func aModelWhoseGroupsAreDownIsNotUnknown() throws {
        var groups = equalGroups(2)
        groups[0].models = ["a"]
        groups[0].isReady = false
        groups[1].models = ["b"]
        let table = RoutingTable(groups)
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, model: "a").get() }
        #expect(table.hasReadyGroup(now: 0))
    }

    @Test func whoElseCouldTakeARequestServesItsModelByItsProtocol() throws {
        var groups = equalGroups(3)
        for (place, model) in ["a", "a", "b"].enumerated() { groups[place].models = [model] }
        groups[1].leader = Endpoint(host: "10.0.0.1", port: 8_000, protocol: .http2)
        let table = RoutingTable(groups)
        let ids = table.groups(now: 0).map(\.id)
        func isAnotherReady(for model: String, needsHTTP1: Bool = false, needsHTTP2: Bool = false, tried places: [Int], now: UInt64 = 0)
            -> Bool?
        {
            var tried = TriedGroups()
            for place in places { tried.insert(ids[place]) }
            var model = model
            return model.withUTF8 { name in
                let request = RoutingRequest(model: UnsafeRawBufferPointer(name), needsHTTP1: needsHTTP1, needsHTTP2: needsHTTP2)
                return table.hasReadyGroup(for: request, excluding: tried, now: now)
            }
        }
        #expect(isAnotherReady(for: "a", tried: [0]) == true && isAnotherReady(for: "a", tried: [0, 1]) == false)
        #expect(isAnotherReady(for: "b", tried: [2]) == false && isAnotherReady(for: "nobody's", tried: []) == nil)
        #expect(isAnotherReady(for: "a", needsHTTP1: true, tried: [0]) == false)
        #expect(isAnotherReady(for: "a", needsHTTP2: true, tried: [1]) == false)
        table.reportUnreachable(ids[1], now: 0)
        #expect(isAnotherReady(for: "a", tried: [0], now: 1) == false)
        table.reportSaturated(ids[0], now: 0)
        #expect(isAnotherReady(for: "a", tried: [1], now: 1) == true, "who is full may be asked")
    }

    @Test func onlyHTTP2GroupsGetGRPC() throws {
        var groups = equalGroups(3)
        groups[1].leader = Endpoint(host: "10.0.0.1", port: 8_000, protocol: .http2)
        let table = RoutingTable(groups)
        for _ in 0..<10 { #expect(try table.name(of: table.pick(nil, needsHTTP2: true).get().group) == "g1") }
        groups[1].isReady = false
        table.replaceGroups(groups, now: 1)
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, needsHTTP2: true).get() }
    }

    @Test func triedGroupsAreNotChosenAgain() throws {
        let table = RoutingTable(equalGroups(3))
        var tried = TriedGroups()
        var seen: Set<GroupID> = []
        for _ in 0..<3 {
            let decision = try table.pick(.distinct(0, chunkCount: 4), excluding: tried).get()
            seen.insert(decision.group)
            tried.insert(decision.group)
        }
        #expect(seen.count == 3)
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, excluding: tried).get() }
    }

    @Test(arguments: Policy.allCases)
    func aSaturatedGroupIsAvoidedForASecondAndUsedWhenAllAre(policy: Policy) throws {
        let table = RoutingTable(equalGroups(2), policy: policy)
        let ids = table.groups(now: 0).map(\.id)
        table.reportSaturated(ids[0], now: 0)
        for _ in 0..<20 { #expect(try table.pick(nil, now: 1).get().group == ids[1]) }
        #expect(table.state("g0", now: 1)?.obstacle == .saturated)
        table.reportSaturated(ids[1], now: 0)
        let decision = try table.pick(nil, now: 1).get()
        #expect(decision.reason == .saturated)
        let later = try Set((0..<50).map { _ in try table.pick(nil, now: second + 1).get().group })
        #expect(later.contains(ids[0]))
        #expect(table.state("g0", now: second + 1)?.obstacle == nil)
    }

    @Test func anUnreachableGroupIsOutForLongerEachTimeAndThenProbedOnce() throws {
        let table = RoutingTable(equalGroups(1))
        let id = try #require(table.state("g0")?.id)
        var now: UInt64 = 0
        for expected in [1, 2, 4, 8, 16, 30, 30] as [UInt64] {
            table.reportUnreachable(id, now: now)
            // The others that were in flight fail as well; that is the same failure.
            for _ in 0..<20 { table.reportUnreachable(id, now: now + 1) }
            #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, now: now + expected * second - 1).get() }
            now += expected * second
            let probe = try table.pick(nil, now: now).get()
            #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, now: now).get() }
            #expect(table.state("g0", now: now)?.obstacle == .probing)
            table.cancel(probe.lease, now: now)
        }
        let probe = try table.pick(nil, now: now).get()
        table.settle(probe.lease, usage: nil, now: now)
        _ = try table.pick(nil, now: now).get()
        _ = try table.pick(nil, now: now).get()
        #expect(table.state("g0", now: now)?.consecutiveFailures == 0)
    }

    @Test func anOldStreamThatEndsWellDoesNotEndAnEjection() throws {
        let table = RoutingTable(equalGroups(1))
        let old = try table.pick(nil).get()
        table.reportUnreachable(old.group, now: second)
        table.settle(old.lease, usage: nil, now: second + 1)
        table.reportReachable(old.group, now: second + 1)
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, now: second + 2).get() }
    }

    @Test func aGroupThatStaysAwayLosesItsCacheAndOneResetDoesNot() throws {
        let table = RoutingTable(equalGroups(1))
        let prompt = Prompt.distinct(0, chunkCount: 10)
        let id = try table.serve(prompt).group
        table.reportUnreachable(id, now: 0)
        #expect(table.state("g0")?.indexBlocks == 10)
        table.reportUnreachable(id, now: 2 * second)
        #expect(table.state("g0")?.indexBlocks == 0)
        #expect(try table.pick(prompt, now: 10 * second).get().predictedCachedTokens == 0)
    }

    @Test func updatesKeepTheStateOfTheSameGroupOnly() throws {
        var groups = equalGroups(2)
        let table = RoutingTable(groups)
        let prompt = Prompt.distinct(0, chunkCount: 10)
        let home = try table.serve(prompt)
        groups.reverse()
        for position in groups.indices { groups[position].members = [Endpoint(host: "10.1.0.1", port: 1)] }
        table.replaceGroups(groups, now: 1)
        #expect(try table.pick(prompt, now: 1).get().group == home.group)
        #expect(table.groups(now: 1).map(\.name) == ["g1", "g0"])
        #expect(table.groups(now: 1).allSatisfy { $0.members.count == 1 })
        // A new leader is another engine with another cache.
        for position in groups.indices { groups[position].leader = Endpoint(host: "10.2.0.\(position)", port: 8_000) }
        table.replaceGroups(groups, now: 2)
        let decision = try table.pick(prompt, now: 2).get()
        #expect(decision.predictedCachedTokens == 0)
        #expect(decision.reason == .cold)
        #expect(decision.endpoint.host.hasPrefix("10.2."))
    }

    @Test func groupsComingAndGoingStayWithinTheirBounds() throws {
        let table = RoutingTable(equalGroups(0), limits: RoutingLimits(groups: 4, indexBlocks: 100))
        var identifiers: Set<GroupID> = []
        for round in 0..<200 {
            let groups = (0..<6).map { GroupDescription(name: "r\(round)-\($0)", leader: Endpoint(host: "h", port: 1)) }
            table.replaceGroups(groups + groups, now: UInt64(round))
            let states = table.groups(now: 0)
            #expect(states.count == 4)
            for state in states { #expect(identifiers.insert(state.id).inserted) }
            for number in 0..<5 { try table.serve(.distinct(number, chunkCount: 30)) }
            #expect(table.groups(now: 0).map(\.indexBlocks).reduce(0, +) <= 100)
        }
    }

    @Test func nobodyIsReadyOrEverybodyTellsWhy() throws {
        var groups = equalGroups(1)
        let table = RoutingTable(groups)
        #expect(try table.pick(nil).get().reason == .onlyGroup)
        groups[0].isReady = false
        table.replaceGroups(groups, now: 1)
        #expect(!table.hasReadyGroup(now: 1))
        #expect(table.state("g0")?.obstacle == .notReady)
    }

    @Test func whoServesAModelIsReadyOrNot() throws {
        var groups = equalGroups(3)
        groups[0].models = ["a"]
        groups[1].models = ["b"]
        groups[2].models = ["b"]
        let table = RoutingTable(groups)
        #expect(table.isReady(model: "a") == true)
        #expect(table.isReady(model: "x") == nil)
        var count = table.readinessChanges
        func changed(_ change: () -> Void) -> Bool {
            change()
            defer { count = table.readinessChanges }
            return table.readinessChanges != count
        }
        // What says nothing new, and what requests do, changes nothing.
        #expect(!changed { table.updateGroups(groups, now: 1) })
        let id = try #require(table.state("g0")?.id)
        #expect(!changed { table.reportUnreachable(id, now: 1) })
        #expect(table.isReady(model: "a") == true)
        #expect(changed { _ = table.setDrained(true, group: "g0") })
        #expect(table.isReady(model: "a") == false)
        #expect(changed { _ = table.setDrained(false, group: "g0") })
        groups[1].isReady = false
        #expect(changed { table.updateGroups([groups[1]], now: 2) })
        #expect(table.isReady(model: "b") == true)
        #expect(changed { table.updateGroups([], removing: ["g2"], now: 3) })
        #expect(table.isReady(model: "b") == false)
        #expect(changed { table.setModels(["b"], of: id) })
        #expect(table.isReady(model: "b") == true && table.isReady(model: "a") == nil)
        // A group that does not say what it serves has every model that another one lists.
        #expect(changed { table.setModels([], of: id) })
        #expect(table.isReady(model: "b") == true)
        #expect(changed { table.replaceGroups([], now: 4) })
        #expect(table.isReady(model: "b") == nil)
    }
}
