import Testing

@testable import KubernetesAPI

private let second: UInt64 = 1_000_000_000
private let minute = 60 * second

/// A reflector that has synced with a watch that is well, and whose time for a list beside it has come.
private struct World {
    var reflector: Reflector<Pod>
    var now: UInt64 = 5 * second

    init(_ items: String..., adjust: (inout ReflectorSettings) -> Void = { _ in }) {
        var settings = ReflectorSettings()
        settings.streamsLists = false
        (settings.relistNanoseconds, settings.silenceNanoseconds) = (minute, 60 * minute)
        adjust(&settings)
        reflector = Reflector(scope: WatchScope(namespace: "llm"), settings: settings, seed: 1)
        #expect(reflector.nextRequest(now: now) == .list(limit: settings.pageObjects, continueToken: nil))
        reflector.headReceived(status: 200, retryAfterSeconds: nil, now: now)
        Array(list(10, items).utf8).withUnsafeBytes { _ = reflector.bodyReceived($0, now: now) }
        _ = reflector.ended(now: now)
        watch(from: "10")
    }

    mutating func watch(from version: String) {
        guard case .watch(version, _)? = reflector.nextRequest(now: now) else {
            Issue.record("no watch from \(version): \(reflector.phase)")
            return
        }
        reflector.headReceived(status: 200, retryAfterSeconds: nil, now: now)
    }

    mutating func tell(_ type: String, _ object: String) {
        let text = #"{"type":"\#(type)","object":\#(object)}"# + "\n"
        Array(text.utf8).withUnsafeBytes { _ = reflector.bodyReceived($0, now: now) }
    }

    /// Waits for the time of a list beside the watch, which stays awake meanwhile.
    mutating func beginRelist() -> ReflectorRequest? {
        let end = now + 2 * minute
        while now < end {
            if let request = reflector.nextRelistRequest(now: now) { return request }
            #expect(reflector.nextRequest(now: now) == nil)
            now += second
        }
        return nil
    }

    mutating func answer(_ body: String) -> [ObjectStore<Pod>.Change] { answer(200, body) }

    mutating func answer(_ status: Int, _ body: String) -> [ObjectStore<Pod>.Change] {
        reflector.relistHeadReceived(status: status, retryAfterSeconds: nil, now: now)
        Array(body.utf8).withUnsafeBytes { reflector.relistBodyReceived($0, now: now) }
        return reflector.relistEnded(now: now)
    }

    /// Name and node of each.
    var state: [String: String] {
        Dictionary(uniqueKeysWithValues: reflector.store.objects.map { ($0.key.name, $0.value.nodeName ?? "") })
    }
    var isWatching: Bool { reflector.isWatchAccepted }
}

private func list(_ version: Int, _ items: [String], more: String = "") -> String {
    #"{"metadata":{"resourceVersion":"\#(version)"\#(more)},"items":[\#(items.joined(separator: ","))]}"#
}
private func pod(_ name: String, _ version: Int, on node: String = "n") -> String {
    #"{"metadata":{"name":"\#(name)","namespace":"llm","uid":"\#(name)","resourceVersion":"\#(version)"},"spec":{"nodeName":"\#(node)"}}"#
}

@Suite struct RelistTests {
    @Test func aListOfWhichNothingIsNewsLeavesTheWatchAlone() {
        var world = World(pod("a", 4))
        #expect(world.beginRelist() == .list(limit: 500, continueToken: nil))
        #expect(world.now >= 50 * second && world.now <= 80 * second)
        #expect(world.reflector.isRequestUnderWay && world.isWatching)
        #expect(world.answer(list(99, [pod("a", 4)])).isEmpty)
        #expect(world.isWatching && world.reflector.counters.watches == 1 && world.reflector.counters.lists == 2)
        #expect(world.reflector.heardAt == world.now)
        // The watch is still where it was: what comes late counts.
        world.tell("ADDED", pod("b", 50))
        #expect(world.state == ["a": "n", "b": "n"] && world.reflector.store.resourceVersion == "50")
        #expect(world.beginRelist() != nil)
    }

    @Test func theWatchGoesOnWhileListsFail() {
        var world = World(pod("a", 4))
        for (number, code) in [500, 403, 429, 410, 401, 200, 0].enumerated() {
            #expect(world.beginRelist() != nil)
            if code == 0 {
                world.now += world.reflector.settings.answerNanoseconds
                #expect(world.reflector.nextRelistRequest(now: world.now) == nil)
                #expect(world.reflector.relistFault?.kind == .silent)
            } else {
                #expect(world.answer(code, code == 200 ? "{" : #"{"message":"no"}"#).isEmpty)
            }
            #expect(world.reflector.relistFault != nil && !world.reflector.isRelistUnderWay)
            world.tell("ADDED", pod("b\(number)", 20 + number))
            #expect(world.state.count == number + 2)
            #expect(world.isWatching && world.reflector.fault == nil)
        }
        #expect(world.beginRelist() != nil)
        world.reflector.relistFailed("cut", now: world.now)
        #expect(world.reflector.relistFault == WatchFault(.unreachable, "cut"))
        #expect(world.beginRelist() != nil)
        _ = world.answer(list(30, ["a"].map { pod($0, 4) } + (0..<7).map { pod("b\($0)", 20 + $0) }))
        #expect(world.reflector.relistFault == nil && world.isWatching)
    }

    @Test func whatTheWatchKeptBackIsTakenAndAnotherGoesOnFromThere() {
        var world = World(pod("a", 4), pod("b", 5))
        _ = world.beginRelist()
        let changes = world.answer(list(20, [pod("a", 15, on: "m"), pod("c", 16)]))
        #expect(changes.count == 3)
        #expect(world.state == ["a": "m", "c": "n"])
        world.watch(from: "20")
        #expect(world.reflector.fault == nil)
    }

    @Test func whatTheWatchToldMeanwhileIsNotUndone() {
        var world = World(pod("a", 4), pod("b", 5), pod("d", 6))
        _ = world.beginRelist()
        world.tell("MODIFIED", pod("a", 12, on: "m"))
        world.tell("ADDED", pod("c", 13))
        world.tell("DELETED", pod("b", 14))
        // Which it says once more, from the past.
        world.tell("MODIFIED", pod("a", 4))
        // Of version 11: from before all of that, and without d, whose end the watch has kept back.
        let changes = world.answer(list(11, [pod("a", 4), pod("b", 5)]))
        #expect(changes.count == 1)
        #expect(world.state == ["a": "m", "c": "n"])
        world.watch(from: "14")
    }

    @Test func ofWhatWasToldMeanwhileTheLaterCounts() {
        var world = World(pod("a", 4))
        _ = world.beginRelist()
        world.tell("MODIFIED", pod("a", 12, on: "m"))
        #expect(world.answer(list(12, [pod("a", 12, on: "m")])).isEmpty)
        _ = world.beginRelist()
        world.tell("MODIFIED", pod("a", 13, on: "o"))
        #expect(world.answer(list(15, [pod("a", 14, on: "p")])).count == 1)
        #expect(world.state == ["a": "p"])
        world.watch(from: "15")
    }

    @Test func aListFromBeforeWhatWasKnownIsNoNews() {
        var world = World(pod("a", 4))
        world.tell("ADDED", pod("b", 12))
        _ = world.beginRelist()
        #expect(world.answer(list(11, [pod("a", 4)])).isEmpty)
        #expect(world.state == ["a": "n", "b": "n"] && world.isWatching)
        #expect(world.reflector.relistFault?.text.contains("older") == true)
    }

    @Test func pagesAreOneListAndTheWatchTellsBetweenThem() {
        var world = World(pod("a", 4), pod("b", 5)) { $0.pageObjects = 1 }
        #expect(world.beginRelist() == .list(limit: 1, continueToken: nil))
        #expect(world.answer(list(11, [pod("a", 4)], more: #","continue":"next""#)).isEmpty)
        world.tell("DELETED", pod("a", 12))
        #expect(world.reflector.nextRelistRequest(now: world.now) == .list(limit: 1, continueToken: "next"))
        #expect(world.answer(list(11, [pod("b", 5)])).isEmpty)
        #expect(world.state == ["b": "n"] && world.isWatching)
        // A token that has gone too old: from the start, and the second time in one piece.
        for limit in [1, 1, nil] as [Int?] {
            #expect(world.beginRelist() == .list(limit: limit, continueToken: nil))
            _ = world.answer(list(21, [], more: #","continue":"x""#))
            #expect(world.reflector.nextRelistRequest(now: world.now) == .list(limit: limit, continueToken: "x"))
            _ = world.answer(410, "{}")
        }
    }

    @Test func aWatchThatBreaksOffTakesNothingAlong() {
        var world = World(pod("a", 4))
        _ = world.beginRelist()
        world.reflector.failed("cut", now: world.now)
        #expect(world.reflector.isRelistUnderWay)
        #expect(world.answer(list(20, [pod("c", 16)])).count == 2)
        #expect(world.reflector.nextRequest(now: world.now) == nil, "the watch waits for its backoff")
        world.now = world.reflector.deadline
        world.watch(from: "20")
        // Where everything is asked for anew there is no need of another list.
        _ = world.beginRelist()
        world.tell("ERROR", #"{"code":410}"#)
        #expect(!world.reflector.isRelistUnderWay)
        #expect(world.reflector.nextRelistRequest(now: world.now) == nil)
        world.now = world.reflector.deadline
        #expect(world.reflector.nextRequest(now: world.now) == .list(limit: 500, continueToken: nil))
    }

    @Test func thereIsABoundOnWhatIsToldMeanwhile() {
        var world = World(pod("a", 4)) { $0.objects = 3 }
        _ = world.beginRelist()
        for number in 0..<3 {
            #expect(world.reflector.isRelistUnderWay)
            world.tell("ADDED", pod("b", 20 + 2 * number))
            world.tell("DELETED", pod("b\(number)", 21 + 2 * number))
        }
        #expect(!world.reflector.isRelistUnderWay && world.reflector.relistFault?.kind == .malformed)
        #expect(world.isWatching)
        #expect(world.beginRelist() != nil)
        let page = String(repeating: " ", count: 100)
        world.reflector.relistHeadReceived(status: 500, retryAfterSeconds: 7, now: world.now)
        for _ in 0..<1_000 { Array(page.utf8).withUnsafeBytes { world.reflector.relistBodyReceived($0, now: world.now) } }
        #expect(world.reflector.relist.buffer.count == ReflectorSettings.refusalBytes)
        let now = world.now
        _ = world.reflector.relistEnded(now: now)
        #expect(world.beginRelist() != nil && world.now >= now + 7 * second)
    }
}
