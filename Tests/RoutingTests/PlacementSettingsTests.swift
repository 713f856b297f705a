import Testing

@testable import Routing

@Suite struct PlacementSettingsTests {
    private func table(_ groups: [GroupDescription], _ change: (inout PlacementSettings) -> Void = { _ in }) -> RoutingTable {
        var placement = PlacementSettings()
        change(&placement)
        let table = RoutingTable(policy: .leastCost, seed: 1, limits: RoutingLimits(indexBlocks: 1 << 16), placement: placement)
        table.replaceGroups(groups, now: 0)
        return table
    }

    private func chosen(_ table: RoutingTable, _ names: Range<Int>, model: String = "", now: UInt64 = 0) throws -> [String: Int] {
        var counts: [String: Int] = [:]
        for name in names {
            let decision = try table.pick(.distinct(name, chunkCount: 20), model: model, now: now).get()
            counts[try #require(table.name(of: decision.group)), default: 0] += 1
            table.cancel(decision.lease, now: now)
        }
        return counts
    }

    // MARK: Size

    @Test func aLargerGroupIsTakenToBeFasterUntilItIsKnown() {
        var small = equalGroups(1)[0]
        var large = small
        large.size = 8
        #expect(small.priors == .ofOne)
        #expect(abs(large.priors.prefillTokensPerSecond / small.priors.prefillTokensPerSecond - 1.7 * 1.7 * 1.7) < 0.01)
        #expect(large.priors.decodeStepSeconds < small.priors.decodeStepSeconds / 4)
        #expect(large.priors.kvCapacityTokens == 8 * small.priors.kvCapacityTokens)
        // What is described counts, whatever the size.
        large.prefillTokensPerSecond = 10_000
        #expect(large.priors.prefillTokensPerSecond == 10_000)
        small.size = .max
        small.prefillTokensPerSecond = .nan
        small.decodeStepSeconds = -.infinity
        #expect(small.priors.prefillTokensPerSecond.isFinite && small.priors.decodeStepSeconds > 0)
    }

    @Test func workGoesToGroupsInProportionToTheirSize() throws {
        var groups = equalGroups(2)
        groups[1].size = 4
        let table = table(groups)
        for name in 0..<40 { _ = try table.pick(.distinct(name, chunkCount: 200)).get() }
        let inFlight = table.groups(now: 0).map(\.inFlight)
        #expect((2.0...10.0).contains(Double(inFlight[1]) / Double(max(inFlight[0], 1))))
    }

    // MARK: Place

    @Test func aSidecarPrefersItsNodeThenItsZone() throws {
        var groups = equalGroups(4)
        for (index, place) in [("n0", "a"), ("n1", "a"), ("n2", "b"), ("", "")].enumerated() {
            (groups[index].node, groups[index].zone) = place
        }
        let local = table(groups) { ($0.locality.node, $0.locality.zone) = ("n1", "a") }
        #expect(try chosen(local, 0..<50) == ["g1": 50])
        #expect(local.groups(now: 0).map { ($0.distanceSeconds * 1_000).rounded() } == [1, 0, 6, 6])
        // Without its node's group: the zone's.
        local.updateGroups([], removing: ["g1"], now: 1)
        #expect(try chosen(local, 50..<100) == ["g0": 50])
        let zonal = table(groups) { $0.locality.zone = "a" }
        #expect(Set(try chosen(zonal, 0..<50).keys) == ["g0", "g1"])
        #expect(try chosen(table(groups), 0..<100).count == 4)
    }

    /// 50 ms to the other zone: 640 tokens in the queue here are 32 ms, 3,200 are 160.
    @Test func theWayIsWorthItsSecondsOfQueue() throws {
        func place(behind chunks: Int) throws -> String? {
            var groups = equalGroups(2)
            (groups[0].zone, groups[1].zone) = ("a", "b")
            let table = table(groups) {
                $0.locality.zone = "a"
                $0.locality.otherZoneSeconds = 0.05
            }
            _ = try table.pick(.distinct(0, chunkCount: chunks), pinnedTo: "g0").get()
            #expect(table.explain(.distinct(1, chunkCount: 4)).groups.map(\.terms.distance) == [0, 0.05])
            return try table.name(of: table.pick(.distinct(1, chunkCount: 4)).get().group)
        }
        #expect(try place(behind: 10) == "g0")
        #expect(try place(behind: 50) == "g1")
    }

    @Test func aQueueOrACacheOutweighsTheWay() throws {
        var groups = equalGroups(2)
        groups[0].node = "here"
        groups[1].node = "there"
        let table = table(groups) { $0.locality.node = "here" }
        let leases = try (0..<10).map { try table.pick(.distinct($0, chunkCount: 40)).get().lease }
        #expect(table.groups(now: 0).map(\.inFlight).allSatisfy { $0 >= 4 })
        for lease in leases { table.cancel(lease, now: 0) }
        var tried = TriedGroups()
        tried.insert(try #require(table.state("g0")?.id))
        let prompt = Prompt.distinct(100, chunkCount: 100)
        let remote = try table.pick(prompt, excluding: tried).get()
        table.firstToken(remote.lease, now: second)
        table.settle(remote.lease, usage: nil, now: second)
        #expect(try table.pick(prompt, now: 2 * second).get().group == remote.group)
    }

    // MARK: Warm-up

    @Test func aGroupThatJoinsIsSpared() throws {
        let joined = 60 * second
        let table = table(equalGroups(3))
        table.replaceGroups(equalGroups(4), now: joined)
        #expect(table.state("g3", now: joined)?.warmUpSlowness == 3)
        func share(now: UInt64) throws -> Double {
            let leases = try (0..<80).map { try table.pick(.distinct(Int(now / millisecond) + $0, chunkCount: 100), now: now).get() }
            let share = Double(leases.count { table.name(of: $0.group) == "g3" }) / Double(leases.count)
            for decision in leases { table.cancel(decision.lease, now: now) }
            return share
        }
        #expect((0.01...0.15).contains(try share(now: joined + 1)))
        #expect((0.08...0.22).contains(try share(now: joined + 15 * second)))
        #expect((0.2...0.3).contains(try share(now: joined + 20 * second)))
        #expect(table.state("g3", now: joined + 20 * second)?.warmUpSlowness == 0)
    }

    @Test func whatWasThereAtTheStartIsNotColdAndWhatRestartsIs() throws {
        let table = table(equalGroups(2))
        // Discovery finds the fleet piece by piece.
        table.updateGroups([equalGroups(3)[2]], now: 10 * second)
        #expect(table.groups(now: 10 * second).allSatisfy { $0.warmUpSlowness == 0 })
        var groups = equalGroups(3)
        groups[0].incarnation = "another pod"
        table.replaceGroups(groups, now: 11 * second)
        #expect(table.groups(now: 11 * second).map(\.warmUpSlowness) == [3, 0, 0])
        groups[1].incarnation = "another pod"
        table.updateGroups([groups[1]], now: 12 * second)
        #expect(table.groups(now: 12 * second).count { $0.warmUpSlowness > 0 } == 2)
    }

    /// A connection that was reset says nothing; who cannot be reached a second later either has begun anew when it can.
    @Test(arguments: [(failures: 1, slowness: 0.0), (2, 3)] as [(failures: UInt64, slowness: Double)])
    func whatWasAwayForLongerThanAResetIsCold(failures: UInt64, slowness: Double) throws {
        let table = table(equalGroups(1))
        let id = try #require(table.state("g0")?.id)
        for failure in 0..<failures { table.reportUnreachable(id, now: 2 * failure * second) }
        table.reportReachable(id, now: 10 * second)
        #expect(table.state("g0", now: 10 * second)?.consecutiveFailures == 0)
        #expect(table.state("g0", now: 10 * second)?.warmUpSlowness == slowness)
    }

    @Test func warmUpCanBeTurnedOff() {
        let table = table(equalGroups(1)) { $0.warmUpNanoseconds = 0 }
        table.replaceGroups(equalGroups(2), now: 60 * second)
        #expect(table.groups(now: 60 * second).allSatisfy { $0.warmUpSlowness == 0 })
    }

    // MARK: Operators

    @Test func aDrainedGroupGetsNothingNewUntilItIsTakenBack() throws {
        let table = table(equalGroups(2))
        let old = try table.pick(nil).get()
        let name = try #require(table.name(of: old.group))
        #expect(table.setDrained(true, group: name))
        #expect(!table.setDrained(true, group: "nobody"))
        #expect(table.state(name)?.obstacle == .drained && table.state(name)?.isReady == true)
        for _ in 0..<10 { #expect(try table.pick(nil).get().group != old.group) }
        // What it has, it finishes; that discovery tells of it again, or restarts it, does not take it back.
        table.settle(old.lease, usage: nil, now: 1)
        #expect(table.state(name)?.inFlight == 0)
        var groups = equalGroups(2)
        table.replaceGroups(groups, now: 1)
        for index in groups.indices { groups[index].incarnation = "restarted" }
        table.replaceGroups(groups, now: 2)
        #expect(table.state(name)?.obstacle == .drained)
        #expect(table.setDrained(false, group: name))
        #expect(table.state(name)?.obstacle == nil)
    }

    @Test func aPinnedRequestGoesWhereItIsSent() throws {
        var groups = equalGroups(3)
        groups[2].isReady = false
        let table = table(groups)
        _ = table.setDrained(true, group: "g0")
        table.reportSaturated(try #require(table.state("g1")?.id), now: 0)
        for name in ["g0", "g1"] {
            let decision = try table.pick(.distinct(0, chunkCount: 4), pinnedTo: name).get()
            #expect(table.name(of: decision.group) == name && decision.reason == .pinned)
        }
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, pinnedTo: "g2").get() }
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, pinnedTo: "nobody").get() }
        var tried = TriedGroups()
        tried.insert(try #require(table.state("g0")?.id))
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, excluding: tried, pinnedTo: "g0").get() }
        // gRPC cannot be spoken to a group of HTTP/1.1, whoever wishes it.
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, needsHTTP2: true, pinnedTo: "g0").get() }
    }
}
