import Testing

@testable import Discovery

@Suite struct GroupConventionTests {
    private func role(
        _ name: String, _ labels: [String: String] = [:], annotations: [String: String] = [:],
        _ change: (inout GroupConvention) -> Void = { _ in }
    ) -> GroupRole {
        var convention = GroupConvention()
        change(&convention)
        return convention.role(of: .init(namespace: "ns", name: name, labels: labels, annotations: annotations))
    }

    @Test func leaderWorkerSetSaysEverythingByLabels() {
        let prefix = "leaderworkerset.sigs.k8s.io/"
        let labels = [
            prefix + "name": "vllm", prefix + "group-index": "3", prefix + "worker-index": "2", prefix + "template-revision-hash": "abc",
        ]
        #expect(
            role("vllm-3-2", labels, annotations: [prefix + "size": "4"])
                == GroupRole(group: "ns/vllm-3", rank: 2, worldSize: 4, revision: "abc"))
    }

    @Test(arguments: [
        ("vllm-0", "ns/vllm-0", 0), ("vllm-0-1", "ns/vllm-0", 1), ("vllm-12-3", "ns/vllm-12", 3), ("llama-3-0", "ns/llama-3-0", 0),
        ("vllm", "ns/vllm", 0), ("-3", "ns/-3", 0),
    ])
    func leaderWorkerSetByNames(name: String, group: String, rank: Int) {
        let role = role(name) {
            $0.form = .leaderWorkerSet
            $0.podsPerGroup = 4
        }
        #expect(role.group == group)
        #expect(role.rank == rank)
    }

    @Test func aSetsNameMayEndInANumber() {
        func change(_ convention: inout GroupConvention) {
            convention.form = .leaderWorkerSet
            convention.setName = "llama-3"
        }
        #expect(role("llama-3-1", [:], change).rank == 0)
        #expect(role("llama-3-1", [:], change).group == "ns/llama-3-1")
        #expect(role("llama-3-1-2", [:], change).group == "ns/llama-3-1")
        #expect(role("llama-3-1-2", [:], change).rank == 2)
    }

    @Test(arguments: [(0, "ns/tp-0", 0), (3, "ns/tp-0", 3), (4, "ns/tp-1", 0), (11, "ns/tp-2", 3)])
    func aStatefulSetCountsOff(ordinal: Int, group: String, rank: Int) {
        let byName = role("tp-\(ordinal)") { $0.podsPerGroup = 4 }
        #expect(byName == GroupRole(group: group, rank: rank, worldSize: 4))
        let byLabel = role("tp-\(ordinal)", ["apps.kubernetes.io/pod-index": "\(ordinal)", "controller-revision-hash": "r1"]) {
            $0.form = .statefulSet
            $0.podsPerGroup = 4
        }
        #expect(byLabel == GroupRole(group: group, rank: rank, worldSize: 4, revision: "r1"))
    }

    @Test func aPodsOwnWordOnTheSizeIsEnoughToCountOff() {
        #expect(
            role("tp-3", annotations: ["swiftlet.dev/world-size": "2"]) == GroupRole(group: "ns/tp-1", rank: 1, worldSize: 2))
        #expect(role("tp-3", ["swiftlet.dev/world-size": "1"]).group == "ns/tp-3")
    }

    @Test func configuredKeysMayBeLabelsOrAnnotations() {
        let role = role("x-7", ["team/group": "big"], annotations: ["RANK": "1", "WORLD_SIZE": "2"]) {
            $0.groupKey = "team/group"
            $0.rankKey = "RANK"
            $0.worldSizeKey = "WORLD_SIZE"
        }
        #expect(role == GroupRole(group: "ns/big", rank: 1, worldSize: 2))
    }

    @Test func whatSaysNothingIsAGroupOfItsOwn() {
        #expect(role("vllm-7f9c-abcde") == GroupRole(group: "ns/vllm-7f9c-abcde", rank: 0, worldSize: 1))
        #expect(role("tp-4") == GroupRole(group: "ns/tp-4", rank: 0, worldSize: 1))
    }

    @Test func numbersOfNonsenseAreNotBelieved() {
        let prefix = "leaderworkerset.sigs.k8s.io/"
        let labels = [prefix + "name": "vllm", prefix + "group-index": "-1", prefix + "worker-index": "x"]
        #expect(role("vllm-0", labels).group == "ns/vllm-0")
        #expect(role("tp-99999999999999999999") { $0.podsPerGroup = 4 }.group == "ns/tp-99999999999999999999")
        #expect(role("tp-5") { $0.podsPerGroup = 0 }.group == "ns/tp-5")
    }
}
