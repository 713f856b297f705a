import Routing
import Testing

@testable import Discovery
@testable import KubernetesAPI

/// Slices, pods and nodes of two Services whose pods come, move between slices, fail, are deleted and lose their nodes, in any order that
/// three watches may tell of it.
private struct Cluster {
    var slices: [String: EndpointSlice] = [:]
    var pods: [String: Pod] = [:]
    var departures: [String: String] = [:]
    var knowsPods = true
    private var version = 0
    private var random: Generator

    init(seed: UInt64) { random = Generator(state: seed) }

    private mutating func number(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &random) }

    /// Changes something and tells `pool` of it.
    mutating func step(_ pool: inout KubernetesPool) {
        version += 1
        switch number(12) {
        case 0:
            let node = "node-\(number(3))"
            departures[node] = number(2) == 0 ? "taint" : nil
            pool.nodeChanged(node, departure: departures[node])
        case 1 where number(8) == 0:
            knowsPods.toggle()
            pool.setKnowsPods(knowsPods)
        case 1...5:
            let name = "pod-\(number(8))"
            let old = pods[name]
            pods[name] = number(4) == 0 ? nil : pod(name, old)
            pool.podChanged(from: old, to: pods[name])
        default:
            let name = "slice-\(number(3))"
            let old = slices[name]
            slices[name] = number(6) == 0 ? nil : slice(name)
            if old != nil || slices[name] != nil { pool.sliceChanged(from: old, to: slices[name]) }
        }
    }

    private mutating func pod(_ name: String, _ old: Pod?) -> Pod {
        // At times another pod of the same name, and then with labels of its own.
        let uid = old == nil || number(4) == 0 ? "\(name)-\(number(3))" : old?.metadata.uid ?? ""
        var metadata = ObjectMeta(name: name, namespace: "llm", uid: uid)
        if number(2) == 0 {
            metadata.labels = [
                "swiftlet.dev/group": "g\(number(3))", "swiftlet.dev/rank": "\(number(2))", "swiftlet.dev/world-size": "2",
            ]
        }
        metadata.deletionTimestamp = number(8) == 0 ? "2026-01-01T00:00:00Z" : nil
        let conditions = [Pod.Condition(type: "Ready", status: number(4) == 0 ? "False" : "True")]
        return Pod(
            metadata: metadata, spec: Pod.Spec(nodeName: "node-\(number(3))"),
            status: Pod.Status(phase: "Running", podIP: "10.0.0.\(number(9))", conditions: conditions))
    }

    private mutating func slice(_ name: String) -> EndpointSlice {
        let endpoints = (0..<number(5)).map { _ in
            let pod = "pod-\(number(8))"
            return EndpointSlice.Endpoint(
                addresses: ["10.0.0.\(number(9))"],
                conditions: .init(ready: number(4) > 0, serving: number(4) > 0, terminating: number(6) == 0),
                nodeName: number(2) == 0 ? "node-\(number(3))" : nil,
                targetRef: number(6) == 0
                    ? nil : ObjectReference(kind: "Pod", namespace: "llm", name: pod, uid: "\(pod)-\(number(3))"))
        }
        let metadata = ObjectMeta(
            name: name, namespace: "llm", resourceVersion: "\(version)",
            labels: [EndpointSlice.serviceLabel: number(3) == 0 ? "other" : "vllm"])
        let ports = (0..<number(3)).map {
            ServicePort(name: "p\($0)", port: 8_000 + 10 * number(2) + $0, appProtocol: number(4) == 0 ? ServicePort.cleartextHTTP2 : nil)
        }
        return EndpointSlice(metadata: metadata, addressType: number(4) == 0 ? "IPv6" : "IPv4", endpoints: endpoints, ports: ports)
    }

    /// A pool that is told everything as it is now, once.
    func fresh(_ settings: KubernetesPoolSettings) -> KubernetesPool {
        var pool = KubernetesPool(settings)
        for (name, why) in departures { pool.nodeChanged(name, departure: why) }
        for pod in pods.values { pool.podChanged(from: nil, to: pod) }
        for slice in slices.values { pool.sliceChanged(from: nil, to: slice) }
        pool.setKnowsPods(knowsPods)
        return pool
    }
}

@Suite struct KubernetesPoolPropertyTests {
    /// What came of all changes is what the present state alone would have come to: nothing of the past is left.
    @Test(arguments: 0..<16) func theGroupsAreThoseOfThePresentState(seed: UInt64) {
        var settings = KubernetesPoolSettings(subject: .services(["vllm"]))
        settings.port = .name("p0")
        var cluster = Cluster(seed: seed)
        var pool = KubernetesPool(settings)
        pool.setKnowsPods(true)
        var groups: [String: [DiscoveredGroup]] = [:]
        for step in 0..<320 {
            cluster.step(&pool)
            for (name, found) in pool.takeChanges() { groups[name] = found.isEmpty ? nil : found }
            guard step % 8 == 0 else { continue }
            var fresh = cluster.fresh(settings)
            let expected = fresh.takeChanges().filter { !$0.value.isEmpty }
            guard groups == expected else {
                let names = Set(groups.keys).union(expected.keys).filter { groups[$0] != expected[$0] }.sorted()
                let different = names.map {
                    "\($0): \(groups[$0].map { "\($0)" } ?? "none") instead of \(expected[$0].map { "\($0)" } ?? "none")"
                }
                Issue.record("step \(step): \(different.joined(separator: "; "))")
                return
            }
            #expect(pool.endpointCount == fresh.endpointCount && pool.servingCount == fresh.servingCount)
            #expect(pool.portFault == fresh.portFault && pool.hasSlices == fresh.hasSlices)
        }
    }
}
