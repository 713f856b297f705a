import Testing

@testable import KubernetesAPI

private let second: UInt64 = 1_000_000_000

/// A reflector against a server that answers everything at once, and badly.
private struct Adversary {
    var reflector: Reflector<Pod>
    var now: UInt64 = 5 * second
    var requests: [ReflectorRequest] = []
    /// The kind of each fault that was seen after an answer.
    var faults: Set<WatchFault.Kind> = []

    init(streamsLists: Bool = false, _ adjust: (inout ReflectorSettings) -> Void = { _ in }) {
        var settings = ReflectorSettings()
        settings.streamsLists = streamsLists
        adjust(&settings)
        reflector = Reflector(scope: WatchScope(namespace: "llm"), settings: settings, seed: 1)
    }

    /// For a while of virtual time. `answer` nil: the answer goes on after its head.
    mutating func run(seconds: UInt64, _ answer: (ReflectorRequest) -> String) {
        let end = now + seconds * second
        while now < end, requests.count < 100_000 {
            if let request = reflector.nextRequest(now: now) {
                requests.append(request)
                reflector.headReceived(status: 200, retryAfterSeconds: nil, now: now)
                take(answer(request))
                _ = reflector.ended(now: now)
                if let fault = reflector.fault { faults.insert(fault.kind) }
            } else {
                now = max(now + 1_000_000, min(reflector.deadline, end))
            }
        }
    }

    mutating func take(_ text: String) { Array(text.utf8).withUnsafeBytes { _ = reflector.bodyReceived($0, now: now) } }

    /// A whole list, and a watch that stays open.
    mutating func sync(_ list: String) {
        _ = reflector.nextRequest(now: now)
        reflector.headReceived(status: 200, retryAfterSeconds: nil, now: now)
        take(list)
        _ = reflector.ended(now: now)
        watch()
    }

    mutating func watch() {
        _ = reflector.nextRequest(now: now)
        reflector.headReceived(status: 200, retryAfterSeconds: nil, now: now)
    }

    var names: [String] { reflector.store.objects.keys.map(\.name).sorted() }
}

private func list(_ version: Int, _ items: String...) -> String {
    #"{"metadata":{"resourceVersion":"\#(version)"},"items":[\#(items.joined(separator: ","))]}"#
}
private func pod(_ name: String, _ version: Int, more: String = "") -> String {
    #"{"metadata":{"name":"\#(name)","namespace":"llm","uid":"\#(name)","resourceVersion":"\#(version)"\#(more)}}"#
}
private func event(_ type: String, _ object: String) -> String { #"{"type":"\#(type)","object":\#(object)}"# + "\n" }
private let tooOld = event("ERROR", #"{"kind":"Status","code":410,"message":"too old"}"#)

@Suite struct ReflectorAdversaryTests {
    /// Of a minute the first second has a few tries, the rest one each five to ten seconds.
    private static let requestsOfAMinute = 60

    @Test(arguments: [false, true]) func aWatchThatIsAlwaysTooOldIsAskedForEverMoreRarely(withEvent: Bool) {
        var world = Adversary()
        var version = 5
        world.run(seconds: 60) { request in
            version += 1
            guard case .watch = request else { return list(version) }
            return (withEvent ? event("ADDED", pod("a", version)) : "") + tooOld
        }
        #expect(world.requests.count < Self.requestsOfAMinute)
        #expect(world.faults == [.refused])
        // One that goes well for a while is as good as ever.
        world.now = world.reflector.deadline
        world.sync(list(version + 1))
        world.now += 2 * second
        world.take(event("ADDED", pod("b", version + 2)))
        #expect(world.reflector.fault == nil)
        world.take(tooOld)
        #expect(world.reflector.deadline == world.now)
    }

    @Test func aListWithoutEndIsAFault() {
        var world = Adversary()
        world.run(seconds: 60) { _ in #"{"metadata":{"resourceVersion":"5","continue":"more"},"items":[]}"# }
        #expect(world.requests.count < Self.requestsOfAMinute * ReflectorSettings.emptyPages)
        #expect(world.faults == [.malformed])
        #expect(!world.reflector.hasSynced)
    }

    @Test func aFewEmptyPagesAreNone() {
        var world = Adversary()
        var page = 0
        for _ in 0..<ReflectorSettings.emptyPages {
            guard let _ = world.reflector.nextRequest(now: world.now) else { break }
            page += 1
            world.reflector.headReceived(status: 200, retryAfterSeconds: nil, now: world.now)
            let isLast = page == ReflectorSettings.emptyPages
            world.take(isLast ? list(5, pod("a", 4)) : #"{"metadata":{"resourceVersion":"5","continue":"\#(page)"},"items":[]}"#)
            _ = world.reflector.ended(now: world.now)
        }
        #expect(world.names == ["a"] && world.reflector.fault == nil)
    }

    @Test func moreNewPagesThanTheObjectsNeedAreAFault() {
        var world = Adversary { ($0.objects, $0.pageObjects) = (100, 50) }
        #expect(world.reflector.settings.pages == 4 + ReflectorSettings.emptyPages)
        var page = 0
        world.run(seconds: 1) { _ in
            page += 1
            return #"{"metadata":{"resourceVersion":"5","continue":"m"},"items":[\#(pod("p\(page)", 4))]}"#
        }
        #expect(world.faults == [.malformed])
    }

    @Test func anEventFromThePastAsksForEverythingAnew() {
        var world = Adversary()
        world.sync(list(5, pod("a", 5)))
        // What is known already is no news and no harm.
        world.take(event("MODIFIED", pod("a", 5)))
        #expect(world.reflector.fault == nil && world.reflector.isRequestUnderWay)
        world.take(event("BOOKMARK", #"{"metadata":{"resourceVersion":"\#(UInt64.max)"}}"#))
        world.take(event("ADDED", pod("b", 6)))
        #expect(world.reflector.fault?.kind == .malformed)
        #expect(world.reflector.deadline <= world.now + world.reflector.settings.firstBackoffNanoseconds)
        world.now = world.reflector.deadline
        world.sync(list(6, pod("a", 5), pod("b", 6)))
        #expect(world.names == ["a", "b"] && world.reflector.fault == nil)
        world.take(event("DELETED", pod("a", 7)))
        #expect(world.names == ["b"])
        world.take(event("DELETED", pod("b", 7)))
        #expect(world.reflector.fault?.kind == .malformed)
    }

    @Test func oneObjectThatCannotBeReadHidesNoOther() {
        let odd = #"{"metadata":{"name":"odd","namespace":"llm","resourceVersion":"3"},"spec":7}"#
        var world = Adversary()
        world.sync(list(5, pod("a", 4), odd, pod("n", 4, more: #","labels":{"a":null}"#)))
        #expect(world.names == ["a", "n"])
        #expect(world.reflector.store.objects.values.contains { $0.metadata.labels == ["a": ""] })
        #expect(world.reflector.unreadable.keys.map(\.name) == ["odd"])
        #expect(world.reflector.unreadable.values.first?.contains("spec") == true)
        // Of one that was readable the last good state counts.
        world.take(event("MODIFIED", #"{"metadata":{"name":"a","namespace":"llm","resourceVersion":"6"},"spec":7}"#))
        #expect(world.names == ["a", "n"] && world.reflector.unreadable.count == 2)
        #expect(world.reflector.store.resourceVersion == "6" && world.reflector.fault == nil)
        world.take(event("MODIFIED", pod("a", 7)))
        world.take(event("DELETED", #"{"metadata":{"name":"odd","namespace":"llm","resourceVersion":"8"},"spec":7}"#))
        #expect(world.reflector.unreadable.isEmpty)
    }

    @Test func aStreamingListPassesOverWhatCannotBeRead() {
        var world = Adversary(streamsLists: true)
        world.watch()
        world.take(event("ADDED", #"{"metadata":{"name":"odd","resourceVersion":"3"},"spec":7}"#) + event("ADDED", pod("a", 4)))
        let end = #"{"metadata":{"resourceVersion":"5","annotations":{"k8s.io/initial-events-end":"true"}}}"#
        world.take(event("BOOKMARK", end))
        #expect(world.names == ["a"] && world.reflector.hasSynced && world.reflector.unreadable.count == 1)
    }
}
