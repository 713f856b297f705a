import Foundation
import Routing
import Testing

@testable import Discovery
@testable import KubernetesAPI

/// A pool that is fed as the source feeds it.
private struct Fed {
    var pool: KubernetesPool
    var slices: [String: EndpointSlice] = [:]
    var pods: [String: Pod] = [:]
    var groups: [String: DiscoveredGroup] = [:]

    init(port: KubernetesPoolSettings.Port = .only, subject: KubernetesPoolSettings.Subject = .services(["vllm"])) {
        var settings = KubernetesPoolSettings(subject: subject)
        settings.port = port
        pool = KubernetesPool(settings)
    }

    mutating func set(_ slice: EndpointSlice?, _ name: String) {
        pool.sliceChanged(from: slices[name], to: slice)
        slices[name] = slice
        settle()
    }

    mutating func setPod(_ pod: Pod?, _ uid: String) {
        pool.podChanged(from: pods[uid], to: pod)
        pods[uid] = pod
        settle()
    }

    mutating func settle() {
        for (unit, found) in pool.takeChanges() {
            for name in groups.keys where name == unit || name.hasPrefix("\(unit):") { groups[name] = nil }
            for group in found { groups[group.name] = group }
        }
    }

    /// Leaders of groups that are ready, as `address:port`.
    var ready: [String] { groups.values.compactMap { $0.description }.filter(\.isReady).map { $0.leader.description }.sorted() }
    func obstacle(_ name: String) -> String? { groups[name]?.obstacle }
}

private func decoded(_ json: String) throws -> EndpointSlice { try JSONDecoder().decode(EndpointSlice.self, from: Data(json.utf8)) }

private func slice(
    named name: String = "s", version: Int = 1, type: String = "IPv4", ports: String = #"[{"name":"http","port":8000}]"#,
    _ endpoints: String...
) throws -> EndpointSlice {
    try decoded(
        #"{"metadata":{"name":"\#(name)","namespace":"llm","resourceVersion":"\#(version)","labels":{"kubernetes.io/service-name":"vllm"}},"#
            + #""addressType":"\#(type)","ports":\#(ports),"endpoints":[\#(endpoints.joined(separator: ","))]}"#)
}

private func endpoint(_ address: String, _ pod: String, _ conditions: String = "", node: String = "n") -> String {
    #"{"addresses":["\#(address)"],"conditions":{\#(conditions)},"nodeName":"\#(node)","#
        + #""targetRef":{"kind":"Pod","namespace":"llm","name":"\#(pod)","uid":"uid-\#(pod)"}}"#
}

private func pod(_ name: String, ready: Bool = true, deleting: Bool = false, labels: [String: String] = [:], ip: String? = nil) -> Pod {
    Pod(
        metadata: ObjectMeta(
            name: name, namespace: "llm", uid: "uid-\(name)", labels: labels, deletionTimestamp: deleting ? "2026-01-01T00:00:00Z" : nil),
        spec: Pod.Spec(nodeName: "n"),
        status: Pod.Status(
            phase: "Running", podIP: ip,
            conditions: [Pod.Condition(type: "Ready", status: ready ? "True" : "False", reason: ready ? nil : "ContainersNotReady")]))
}

private func leaderWorker(_ group: Int, _ rank: Int, size: Int = 2, revision: String = "r") -> [String: String] {
    [
        "leaderworkerset.sigs.k8s.io/name": "lws", "leaderworkerset.sigs.k8s.io/group-index": "\(group)",
        "leaderworkerset.sigs.k8s.io/worker-index": "\(rank)", "leaderworkerset.sigs.k8s.io/size": "\(size)",
        "leaderworkerset.sigs.k8s.io/template-revision-hash": revision,
    ]
}

@Suite struct KubernetesPoolTests {
    @Test func allSlicesOfAServiceAreItsEndpointsAndAMovingPodIsOne() throws {
        var fed = Fed()
        fed.set(try slice(named: "a", version: 1, endpoint("10.0.0.1", "p1"), endpoint("10.0.0.2", "p2")), "a")
        fed.set(try slice(named: "b", version: 2, endpoint("10.0.0.2", "p2"), endpoint("10.0.0.3", "p3")), "b")
        #expect(fed.ready == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"])
        // It has moved to b; what a still says of it is older.
        fed.set(try slice(named: "a", version: 3, endpoint("10.0.0.1", "p1")), "a")
        #expect(fed.ready == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"])
        fed.set(nil, "b")
        #expect(fed.ready == ["10.0.0.1:8000"])
        #expect(fed.groups.count == 1)
    }

    @Test func readinessIsServingAndNotTerminating() throws {
        var fed = Fed()
        fed.set(
            try slice(
                endpoint("10.0.0.1", "p1"), endpoint("10.0.0.2", "p2", #""ready":true,"serving":false"#),
                endpoint("10.0.0.3", "p3", #""ready":false,"serving":true,"terminating":true"#),
                endpoint("10.0.0.4", "p4", #""ready":false"#)),
            "s")
        #expect(fed.ready == ["10.0.0.1:8000"])
        #expect(fed.obstacle("llm/p2")?.contains("not serving") == true)
        #expect(fed.obstacle("llm/p3")?.contains("terminating") == true)
        #expect(fed.obstacle("llm/p4")?.contains("not serving") == true)
    }

    @Test func twoStacksAreOneEndpoint() throws {
        var fed = Fed()
        fed.set(try slice(named: "six", version: 9, type: "IPv6", endpoint("fd00::1", "p1")), "six")
        #expect(fed.ready == ["[fd00::1]:8000"])
        fed.set(try slice(named: "four", version: 2, endpoint("10.0.0.1", "p1")), "four")
        #expect(fed.ready == ["10.0.0.1:8000"])
        #expect(fed.groups.count == 1)
    }

    @Test func aPortThatIsNotThereIsNamedWithThoseThatAre() throws {
        var fed = Fed(port: .name("grpc"))
        fed.set(try slice(ports: #"[{"name":"http","port":8000},{"name":"metrics","port":9090}]"#, endpoint("10.0.0.1", "p1")), "s")
        #expect(fed.ready.isEmpty)
        #expect(fed.pool.portFault == "Service llm/vllm has no port named grpc; it has http (8000), metrics (9090)")
        fed.set(try slice(ports: #"[{"name":"grpc","port":9000,"appProtocol":"kubernetes.io/h2c"}]"#, endpoint("10.0.0.1", "p1")), "s")
        #expect(fed.pool.portFault == nil)
        #expect(fed.ready == ["10.0.0.1:9000"])
        #expect(fed.groups["llm/p1"]?.description?.leader.protocol == .http2)

        var several = Fed()
        several.set(try slice(ports: #"[{"name":"a","port":1},{"name":"b","port":2}]"#, endpoint("10.0.0.1", "p1")), "s")
        #expect(several.pool.portFault?.contains("several ports") == true)
        #expect(several.obstacle("llm/p1")?.contains("no port") == true)
    }

    @Test func aDeletedPodOrAnotherOfItsGroupIsOutBeforeTheSliceSaysSo() throws {
        var fed = Fed()
        fed.pool.setKnowsPods(true)
        fed.setPod(pod("lws-0", labels: leaderWorker(0, 0)), "uid-lws-0")
        fed.setPod(pod("lws-0-1", labels: leaderWorker(0, 1)), "uid-lws-0-1")
        // A Service of leaders only.
        fed.set(try slice(endpoint("10.0.0.1", "lws-0")), "s")
        #expect(fed.ready == ["10.0.0.1:8000"])
        #expect(fed.groups["llm/lws-0"]?.members.map(\.name) == ["lws-0", "lws-0-1"])
        fed.setPod(pod("lws-0-1", deleting: true, labels: leaderWorker(0, 1)), "uid-lws-0-1")
        #expect(fed.ready.isEmpty)
        #expect(fed.obstacle("llm/lws-0")?.contains("lws-0-1 is terminating") == true)
        fed.setPod(pod("lws-0-1", labels: leaderWorker(0, 1, revision: "other")), "uid-lws-0-1")
        #expect(fed.obstacle("llm/lws-0")?.contains("another revision") == true)
        fed.setPod(pod("lws-0-1", labels: leaderWorker(0, 1)), "uid-lws-0-1")
        #expect(fed.ready == ["10.0.0.1:8000"])
        fed.setPod(pod("lws-0", deleting: true, labels: leaderWorker(0, 0)), "uid-lws-0")
        #expect(fed.ready.isEmpty)
        fed.setPod(nil, "uid-lws-0")
        #expect(fed.ready.isEmpty)
    }

    @Test func anEndpointWaitsForItsPodsLabels() throws {
        var fed = Fed()
        fed.pool.setKnowsPods(true)
        fed.set(try slice(endpoint("10.0.0.2", "lws-0-1")), "s")
        // Taken for a pod of its own it would get requests that it cannot serve.
        #expect(fed.groups.isEmpty)
        fed.setPod(pod("lws-0-1", labels: leaderWorker(0, 1)), "uid-lws-0-1")
        #expect(fed.ready.isEmpty)
        #expect(fed.obstacle("llm/lws-0")?.contains("nobody leads") == true)
        // Without the right to read pods there is nothing to wait for, and what was read once still holds.
        fed.set(try slice(named: "t", endpoint("10.0.0.3", "p3")), "t")
        #expect(fed.ready.isEmpty)
        fed.pool.setKnowsPods(false)
        fed.settle()
        #expect(fed.ready == ["10.0.0.3:8000"])
    }

    @Test func aNodeThatIsTakenAwayTakesItsEndpointsAlong() throws {
        var fed = Fed()
        fed.set(try slice(endpoint("10.0.0.1", "p1", node: "a"), endpoint("10.0.0.2", "p2", node: "b")), "s")
        fed.pool.nodeChanged("a", departure: "taint karpenter.sh/disrupted")
        fed.settle()
        #expect(fed.ready == ["10.0.0.2:8000"])
        #expect(fed.obstacle("llm/p1")?.contains("karpenter.sh/disrupted") == true)
        fed.pool.nodeChanged("a", departure: nil)
        fed.settle()
        #expect(fed.ready.count == 2)
    }

    @Test func anInferencePoolSelectsPodsAndGivesEachPortAGroup() throws {
        var fed = Fed(subject: .inferencePool("llama"))
        fed.pool.setPool(nil)
        fed.setPod(pod("p1", labels: ["app": "vllm"], ip: "10.0.0.1"), "uid-p1")
        fed.setPod(pod("p2", labels: ["app": "other"], ip: "10.0.0.2"), "uid-p2")
        #expect(fed.groups.isEmpty)
        let json =
            #"{"metadata":{"name":"llama","namespace":"llm"},"#
            + #""spec":{"selector":{"matchLabels":{"app":"vllm"}},"targetPorts":[{"number":8000},{"number":8001}]}}"#
        fed.pool.setPool(try JSONDecoder().decode(InferencePool.self, from: Data(json.utf8)))
        fed.settle()
        #expect(fed.ready == ["10.0.0.1:8000", "10.0.0.1:8001"])
        let twice = json.replacingOccurrences(of: "8001", with: "8000")
        fed.pool.setPool(try JSONDecoder().decode(InferencePool.self, from: Data(twice.utf8)))
        fed.settle()
        #expect(fed.ready == ["10.0.0.1:8000"] && fed.groups.keys.sorted() == ["llm/p1"])
        fed.pool.setPool(try JSONDecoder().decode(InferencePool.self, from: Data(json.utf8)))
        fed.settle()
        fed.setPod(pod("p1", ready: false, labels: ["app": "vllm"], ip: "10.0.0.1"), "uid-p1")
        #expect(fed.ready.isEmpty)
        #expect(fed.obstacle("llm/p1:8000")?.contains("ContainersNotReady") == true)
    }

    @Test func aPoolSaysWhatItsPortsSpeak() throws {
        var fed = Fed(subject: .inferencePool("llama"))
        fed.setPod(pod("p1", labels: ["app": "vllm"], ip: "10.0.0.1"), "uid-p1")
        func pool(_ protocols: String) throws -> InferencePool {
            let spec = #"{"selector":{"matchLabels":{"app":"vllm"}},"targetPorts":[{"number":8000}]\#(protocols)}"#
            return try JSONDecoder().decode(
                InferencePool.self, from: Data(#"{"metadata":{"name":"llama","namespace":"llm"},"spec":\#(spec)}"#.utf8))
        }
        for (text, expected) in [
            ("", UpstreamProtocol.http1), (#","appProtocol":"kubernetes.io/h2c""#, .http2), (#","appProtocol":"http""#, .http1),
        ] {
            fed.pool.setPool(try pool(text))
            fed.settle()
            #expect(fed.groups["llm/p1"]?.description?.leader.protocol == expected)
        }
    }

    @Test func aPodThatIsAboutToBeEvictedIsOutBeforeItsDeletion() throws {
        var fed = Fed()
        fed.pool.setKnowsPods(true)
        fed.set(try slice(endpoint("10.0.0.1", "p1")), "s")
        fed.setPod(pod("p1"), "uid-p1")
        #expect(fed.ready == ["10.0.0.1:8000"])
        var evicted = pod("p1")
        evicted.status?.conditions?.append(Pod.Condition(type: "DisruptionTarget", status: "True", reason: "PreemptionByScheduler"))
        fed.setPod(evicted, "uid-p1")
        #expect(fed.ready.isEmpty)
        #expect(fed.obstacle("llm/p1")?.contains("PreemptionByScheduler") == true)
        // It may be called off.
        evicted.status?.conditions?[1].status = "False"
        fed.setPod(evicted, "uid-p1")
        #expect(fed.ready == ["10.0.0.1:8000"])
    }

    @Test func labelsThatWereReadOnceHoldWhenPodsCannotBeReadAnyMore() throws {
        var fed = Fed()
        fed.pool.setKnowsPods(true)
        fed.setPod(pod("lws-0", labels: leaderWorker(0, 0)), "uid-lws-0")
        fed.setPod(pod("lws-0-1", labels: leaderWorker(0, 1)), "uid-lws-0-1")
        fed.set(try slice(endpoint("10.0.0.1", "lws-0"), endpoint("10.0.0.2", "lws-0-1")), "s")
        #expect(fed.ready == ["10.0.0.1:8000"])
        fed.pool.setKnowsPods(false)
        fed.settle()
        // The worker does not become a group of its own.
        #expect(fed.ready == ["10.0.0.1:8000"])
        #expect(fed.groups.count == 1)
    }

    @Test func whatIsNoAddressOrPortIsNoEndpoint() throws {
        var fed = Fed()
        let bad = ["not an ip\\r\\nX: y", "10.0.0", "", "10.0.0.1\\u0000", "example.com"]
        for (number, address) in bad.enumerated() {
            fed.set(try slice(#"{"addresses":["\#(address)"]}"#, endpoint("10.0.0.9", "p")), "s")
            #expect(fed.ready == ["10.0.0.9:8000"], "\(number)")
            #expect(fed.groups.count == 1)
            #expect(fed.pool.addressFault?.contains("slice llm/s has an address that is none") == true)
        }
        fed.set(try slice(endpoint("fd00::1", "p")), "s")
        #expect(fed.ready == ["[fd00::1]:8000"] && fed.pool.addressFault == nil)
        fed.set(try slice(type: "FQDN", endpoint("example.com", "p")), "s")
        #expect(fed.groups.isEmpty && fed.pool.addressFault?.contains("slice llm/s has names") == true)
        fed.set(nil, "s")
        #expect(fed.pool.addressFault == nil)
        for port in [0, -1, 65_536] {
            fed.set(try slice(ports: #"[{"name":"http","port":\#(port)}]"#, endpoint("10.0.0.9", "p")), "s")
            #expect(fed.ready.isEmpty)
            #expect(fed.obstacle("llm/p") == "its leader has no port to serve at")
        }
        fed.set(try slice(ports: #"[{"name":"http","port":65535}]"#, endpoint("10.0.0.9", "p")), "s")
        #expect(fed.ready == ["10.0.0.9:65535"])
    }

    @Test func ofOneThatIsThereTwiceTheWorstCounts() throws {
        let (good, bad) = (endpoint("10.0.0.1", "p"), endpoint("10.0.0.1", "p", #""terminating":true"#))
        for endpoints in [(good, bad), (bad, good)] {
            var fed = Fed()
            fed.set(try slice(endpoints.0, endpoints.1), "s")
            #expect(fed.ready.isEmpty)
            #expect(fed.obstacle("llm/p")?.contains("terminating") == true)
        }
        var fed = Fed()
        fed.set(try slice(endpoint("10.0.0.1", "p"), endpoint("10.0.0.2", "p")), "s")
        #expect(fed.ready == ["10.0.0.1:8000"])
    }

    @Test func anEmptyIdentityIsNone() throws {
        var fed = Fed()
        fed.pool.setKnowsPods(true)
        let anonymous = { (address: String) in #"{"addresses":["\#(address)"],"targetRef":{"kind":"Pod","uid":""}}"# }
        fed.set(try slice(anonymous("10.0.0.1"), anonymous("10.0.0.2")), "s")
        #expect(fed.ready == ["10.0.0.1:8000", "10.0.0.2:8000"])
    }

    @Test func howAWorkerFaredIsForgottenWhenPodsCannotBeReadAnyMore() throws {
        var fed = Fed()
        fed.pool.setKnowsPods(true)
        fed.setPod(pod("lws-0", labels: leaderWorker(0, 0)), "uid-lws-0")
        fed.setPod(pod("lws-0-1", ready: false, labels: leaderWorker(0, 1)), "uid-lws-0-1")
        fed.set(try slice(endpoint("10.0.0.1", "lws-0")), "s")
        #expect(fed.ready.isEmpty)
        fed.pool.setKnowsPods(false)
        fed.settle()
        #expect(fed.ready == ["10.0.0.1:8000"])
    }

    @Test func oneAddressWithTwoPortsIsTwoEngines() throws {
        var fed = Fed()
        let bare = #"{"addresses":["10.0.0.1"]}"#
        fed.set(try slice(named: "a", version: 1, ports: #"[{"port":8000}]"#, bare), "a")
        fed.set(try slice(named: "b", version: 2, ports: #"[{"port":8001}]"#, bare), "b")
        for version in 3..<5 {
            #expect(fed.ready == ["10.0.0.1:8000", "10.0.0.1:8001"])
            #expect(fed.groups.keys.sorted() == ["llm/10.0.0.1:8000", "llm/10.0.0.1:8001"])
            fed.set(try slice(named: "a", version: version, ports: #"[{"port":8000}]"#, bare), "a")
        }
        // Each fares by itself, and what is in two slices at one port is one.
        fed.set(
            try slice(named: "b", version: 5, ports: #"[{"port":8001}]"#, #"{"addresses":["10.0.0.1"],"conditions":{"ready":false}}"#), "b")
        #expect(fed.ready == ["10.0.0.1:8000"])
        fed.set(try slice(named: "c", version: 6, ports: #"[{"port":8000}]"#, bare), "c")
        #expect(fed.groups.count == 2 && fed.pool.endpointCount == 2)
        // Another port of the whole slice is another engine.
        fed.set(nil, "c")
        fed.set(try slice(named: "a", version: 7, ports: #"[{"port":9000}]"#, bare), "a")
        #expect(fed.ready == ["10.0.0.1:9000"])
        fed.set(nil, "a")
        fed.set(nil, "b")
        #expect(fed.groups.isEmpty && fed.pool.endpointCount == 0)
    }

    @Test func aPodInTwoServicesHasBothPortsWhicheverIsWrittenLast() throws {
        var fed = Fed(subject: .services(["vllm", "grpc"]))
        func of(_ service: String, _ version: Int, _ port: String, _ conditions: String = "") throws -> EndpointSlice {
            var made = try slice(named: service, version: version, ports: port, endpoint("10.0.0.1", "p", conditions))
            made.metadata.labels[EndpointSlice.serviceLabel] = service
            return made
        }
        let h2c = #"[{"port":9000,"appProtocol":"kubernetes.io/h2c"}]"#
        fed.set(try of("vllm", 1, #"[{"port":8000}]"#), "vllm")
        #expect(fed.groups.keys.sorted() == ["llm/p"])
        fed.set(try of("grpc", 2, h2c), "grpc")
        for version in 3..<6 {
            #expect(fed.ready == ["10.0.0.1:8000", "10.0.0.1:9000"])
            #expect(fed.groups["llm/p:8000"]?.description?.leader.protocol == .http1)
            #expect(fed.groups["llm/p:9000"]?.description?.leader.protocol == .http2)
            if version % 2 == 0 { fed.set(try of("grpc", version, h2c), "grpc") }
            if version % 2 == 1 { fed.set(try of("vllm", version, #"[{"port":8000}]"#), "vllm") }
        }
        // It is one pod: the worst that either says holds for both.
        fed.set(try of("vllm", 7, #"[{"port":8000}]"#, #""ready":false,"serving":true,"terminating":true"#), "vllm")
        #expect(fed.ready.isEmpty)
        fed.set(nil, "vllm")
        #expect(fed.ready == ["10.0.0.1:9000"] && fed.groups.keys.sorted() == ["llm/p"])
        // One that has no port there takes nothing from the other.
        fed.set(try of("vllm", 9, "[]"), "vllm")
        #expect(fed.ready == ["10.0.0.1:9000"])
    }

    @Test func nodesThatAreGoneAreForgottenInTheEnd() throws {
        var fed = Fed()
        fed.set(try slice(endpoint("10.0.0.1", "p", node: "kept")), "s")
        fed.pool.nodeRemoved("kept")
        fed.settle()
        #expect(fed.ready.isEmpty)
        #expect(fed.obstacle("llm/p")?.contains("node kept is taken away: it is gone") == true)
        let bound = KubernetesPool.goneNodesRemembered
        for number in 0..<(2 * bound) { fed.pool.nodeRemoved("n\(number)") }
        #expect(fed.pool.departures.count == bound)
        #expect(fed.pool.departures["kept"] != nil, "somebody is said to be there")
        #expect(fed.pool.departures["n\(2 * bound - 1)"] != nil && fed.pool.departures["n0"] == nil)
        // A slice that is later than the nodes.
        fed.set(try slice(named: "t", endpoint("10.0.0.2", "q", node: "n\(2 * bound - 1)")), "t")
        #expect(fed.ready.isEmpty)
        // It is there again, and then gone again: it counts once.
        for _ in 0..<3 {
            fed.pool.nodeChanged("kept", departure: nil)
            fed.settle()
            #expect(fed.ready == ["10.0.0.1:8000"])
            fed.pool.nodeRemoved("kept")
            fed.pool.nodeRemoved("kept")
        }
        #expect(fed.pool.departures.count == bound)
        fed.set(nil, "s")
        fed.set(nil, "t")
        for number in 0..<bound { fed.pool.nodeRemoved("m\(number)") }
        #expect(fed.pool.departures.count == bound && fed.pool.departures["kept"] == nil)
    }

    @Test func hintsAreShown() throws {
        var fed = Fed()
        let hinted =
            #"{"addresses":["10.0.0.1"],"zone":"a","hints":{"forZones":[{"name":"a"},{"name":"b"}]},"#
            + #""targetRef":{"kind":"Pod","namespace":"llm","name":"p1","uid":"u"}}"#
        fed.set(try slice(hinted), "s")
        let member = try #require(fed.groups["llm/p1"]?.members.first)
        #expect(member.zone == "a" && member.zoneHints == ["a", "b"])
    }

    @Test func aThousandEndpointsOfWhichNoneIsReady() throws {
        var fed = Fed()
        let endpoints = (0..<1_000).map { endpoint("10.1.\($0 / 250).\($0 % 250 + 1)", "p\($0)", #""ready":false"#) }
        fed.set(
            try decoded(
                #"{"metadata":{"name":"s","namespace":"llm"},"ports":[{"port":80}],"endpoints":[\#(endpoints.joined(separator: ","))]}"#),
            "s")
        #expect(fed.ready.isEmpty)
        #expect(fed.pool.endpointCount == 1_000)
        #expect(fed.pool.servingCount == 0)
        fed.set(nil, "s")
        #expect(fed.pool.endpointCount == 0 && fed.groups.isEmpty)
    }
}

private let transcripts = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appending(path: "Recordings/kubernetes").standardizedFileURL

/// What a real API server told, from the first list to the last event.
@Suite struct KubernetesTranscriptTests {
    /// A chunk of these recordings is an event: a line that is an object is one.
    private func events(_ name: String) throws -> [WatchEvent<EndpointSlice>] {
        try Data(contentsOf: transcripts.appending(path: "\(name).http")).split(separator: UInt8(ascii: "\n"))
            .filter { $0.first == UInt8(ascii: "{") }
            .map { try JSONDecoder().decode(WatchEvent<EndpointSlice>.self, from: Data($0)) }
    }

    /// The ready leaders after each event.
    private func replay(_ name: String) throws -> [[String]] {
        var fed = Fed()
        return try events(name).map { event in
            switch event {
            case .updated(let slice): fed.set(slice, slice.metadata.name)
            case .deleted(let metadata): fed.set(nil, metadata.name)
            case .unreadable, .bookmark, .error: break
            }
            return fed.ready.map { String($0.dropLast(5)) }
        }
    }

    @Test func aGracefulDeleteIsSeenAtItsFirstEvent() throws {
        let states = try replay("50b-watch-terminating")
        #expect(states.first == ["10.88.0.60"])
        #expect(states.last == [])
        #expect(!states.contains { $0.contains("10.88.0.61") })
    }

    @Test func aServiceGrowsIntoSlicesAndShrinks() throws {
        let states = try replay("67b-watch-multislice")
        #expect(states.map(\.count).max() == 8)
        for state in states { #expect(Set(state).count == state.count) }
    }
}
