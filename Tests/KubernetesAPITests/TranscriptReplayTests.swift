import Foundation
import Testing

@testable import KubernetesAPI

private let second: UInt64 = 1_000_000_000
private typealias State = [ObjectStore<EndpointSlice>.Key: EndpointSlice]

/// A reflector that is told what a real API server answered.
private struct Replay {
    var reflector: Reflector<EndpointSlice>
    var now: UInt64 = 5 * second

    init(streamsLists: Bool = false) {
        var settings = ReflectorSettings()
        settings.streamsLists = streamsLists
        reflector = Reflector(scope: WatchScope(namespace: "llm"), settings: settings, seed: 1)
    }

    /// The next request, as soon as there is one.
    mutating func next() -> ReflectorRequest? {
        for _ in 0..<64 {
            if let request = reflector.nextRequest(now: now) { return request }
            guard case .waiting(let until, _) = reflector.phase else { return nil }
            now = max(now + 1, until)
        }
        return nil
    }

    mutating func head(_ transcript: Transcript) {
        reflector.headReceived(status: transcript.status, retryAfterSeconds: transcript.retryAfterSeconds, now: now)
    }

    mutating func bytes(_ bytes: some Sequence<UInt8>) {
        Array(bytes).withUnsafeBytes { _ = reflector.bodyReceived($0, now: now) }
    }

    /// A whole answer to the next request.
    @discardableResult
    mutating func answer(_ name: String) throws -> ReflectorRequest? {
        let request = next()
        let transcript = try Transcript(name)
        head(transcript)
        bytes(transcript.body)
        _ = reflector.ended(now: now)
        return request
    }
}

/// A request that should have been made.
private struct Missing: Error { var name: String }

/// What the lines of a watch make of a state, by the API's own words: no cleverness.
private func fold(_ state: State, _ lines: [[UInt8]]) throws -> State {
    var state = state
    for line in lines {
        switch try JSONDecoder().decode(WatchEvent<EndpointSlice>.self, from: Data(line)) {
        case .updated(let slice): state[.init(slice.metadata)] = slice
        case .deleted(let metadata): state[.init(metadata)] = nil
        case .unreadable, .bookmark, .error: break
        }
    }
    return state
}

private func listed(_ name: String) throws -> State {
    let page = try JSONDecoder().decode(ListPage<EndpointSlice>.self, from: Data(Transcript(name).body))
    return Dictionary(uniqueKeysWithValues: page.objects.map { (.init($0.metadata), $0) })
}

@Suite struct TranscriptReplayTests {
    static let watches = [
        ("21a-list", "21d-watch-etcd-across-compaction"),
        ("38a-list", "38b-watch-rights-removed"), ("50a-list", "50b-watch-terminating"), ("67a-list", "67b-watch-multislice"),
        ("80a-list-term", "80b-watch-server-term"),
    ]

    @Test(arguments: watches) func aWatchSplitAtAnyByteComesToTheSame(list: String, watch: String) throws {
        let transcript = try Transcript(watch)
        let expected = try fold(listed(list), transcript.lines)
        for step in [1, 2, 3, 7, 64, 1_447, Int.max] {
            var replay = Replay()
            try replay.answer(list)
            #expect(replay.next() != nil)
            replay.head(transcript)
            var place = 0
            while place < transcript.body.count {
                let end = min(step, transcript.body.count - place) + place
                replay.bytes(transcript.body[place..<end])
                place = end
            }
            let isSame = replay.reflector.store.objects == expected
            #expect(isSame, "pieces of \(step)")
            #expect(replay.reflector.fault == nil)
        }
    }

    /// What was whole before the cut counts, the rest does not, and the next watch goes on from there.
    @Test(arguments: watches) func aWatchCutAtAnyByteGoesOnFromItsLastWholeEvent(list: String, watch: String) throws {
        let transcript = try Transcript(watch)
        let first = try listed(list)
        // Around every line's end, and here and there within lines.
        var cuts = Set(stride(from: 0, through: transcript.body.count, by: 211))
        var ends: [Int] = []
        for line in transcript.lines { ends.append((ends.last ?? 0) + line.count) }
        for end in ends { cuts.formUnion([end - 1, end, min(end + 1, transcript.body.count)]) }
        for cut in cuts.sorted() {
            var replay = Replay()
            try replay.answer(list)
            _ = replay.next()
            replay.head(transcript)
            replay.bytes(transcript.body[..<cut])
            let whole = ends.filter { $0 <= cut }.count
            let expected = try fold(first, Array(transcript.lines.prefix(whole)))
            let isSame = replay.reflector.store.objects == expected
            #expect(isSame, "cut at \(cut)")
            let version = replay.reflector.store.resourceVersion
            replay.reflector.failed("cut", now: replay.now)
            guard case .watch(version, _)? = replay.next() else {
                Issue.record("cut at \(cut): no watch from \(version ?? "none")")
                continue
            }
            replay.head(transcript)
            // The server begins after that version; one that repeats what is known is not minded.
            replay.bytes(transcript.lines.dropFirst(max(0, whole - 2)).joined())
            let isWhole = try replay.reflector.store.objects == fold(first, transcript.lines)
            // One that repeats the life of an object that is gone might as well tell of a new one: everything is asked for anew.
            let asksAnew = if case .waiting(_, .list) = replay.reflector.phase { true } else { false }
            #expect(isWhole || asksAnew, "resumed after \(cut)")
        }
    }

    @Test(arguments: ["40-watchlist", "41-watchlist-selector", "42-watchlist-no-match"])
    func aStreamingListTakesEffectWhenItIsWhole(name: String) throws {
        let transcript = try Transcript(name)
        let marker = Data("k8s.io/initial-events-end".utf8)
        let initial = try #require(transcript.lines.firstIndex { Data($0).firstRange(of: marker) != nil }) + 1
        for cut in stride(from: 0, through: transcript.lines.prefix(initial).joined().count - 2, by: 97) {
            var replay = Replay(streamsLists: true)
            guard case .streamingList? = replay.next() else { throw Missing(name: name) }
            replay.head(transcript)
            replay.bytes(transcript.body[..<cut])
            #expect(!replay.reflector.hasSynced && replay.reflector.store.objects.isEmpty)
        }
        var replay = Replay(streamsLists: true)
        _ = replay.next()
        replay.head(transcript)
        for byte in transcript.body { replay.bytes([byte]) }
        #expect(replay.reflector.hasSynced)
        #expect(try replay.reflector.store.objects == fold([:], transcript.lines))
    }

    @Test func whereStreamingListsAreRefusedPagesTakeTheirPlaceAtOnce() throws {
        var replay = Replay(streamsLists: true)
        let now = replay.now
        try replay.answer("43-watchlist-no-rvmatch")
        #expect(replay.reflector.fault == nil && !replay.reflector.hasSynced)
        #expect(try replay.answer("11a-list-before-watch") == .list(limit: 500, continueToken: nil))
        #expect(replay.now == now)
        #expect(try replay.reflector.store.objects == listed("11a-list-before-watch"))
    }

    @Test func pagesAreOneList() throws {
        var replay = Replay()
        #expect(try replay.answer("04a-list-limit-page1") == .list(limit: 500, continueToken: nil))
        #expect(replay.reflector.store.objects.isEmpty)
        for name in ["04b-list-limit-page2", "04c-list-limit-page3"] {
            guard case .list(_, let token?)? = try replay.answer(name) else { throw Missing(name: name) }
            #expect(!token.isEmpty)
        }
        #expect(replay.reflector.hasSynced)
        let all = try ["04a-list-limit-page1", "04b-list-limit-page2", "04c-list-limit-page3"].flatMap { try listed($0).keys }
        #expect(Set(replay.reflector.store.objects.keys) == Set(all))
    }

    @Test func aContinueTokenThatExpiredBeginsTheListAnew() throws {
        var replay = Replay()
        try replay.answer("10a-list-limit-before-compaction")
        try replay.answer("10d-continue-410")
        #expect(replay.reflector.counters.expirations == 1)
        #expect(!replay.reflector.hasSynced)
        #expect(try replay.answer("11a-list-before-watch") == .list(limit: 500, continueToken: nil))
        #expect(replay.reflector.hasSynced && replay.reflector.fault == nil)
        // What the first page of the list that was given up had brought is gone with it.
        #expect(try replay.reflector.store.objects == listed("11a-list-before-watch"))
    }

    @Test(arguments: [
        ("20a-list-before-restart", "20b-watch-410-event"), ("21a-list", "21c-watch-etcd-410"), ("80a-list-kill", "82-watch-after-kill"),
        ("80a-list-term", "82-watch-after-term"),
    ])
    func aVersionThatIsTooOldIsAnsweredByAListWithoutDelay(list: String, watch: String) throws {
        var replay = Replay()
        try replay.answer(list)
        let known = replay.reflector.store.objects
        try replay.answer(watch)
        #expect(replay.reflector.counters.expirations == 1)
        #expect(replay.reflector.store.objects == known)
        let now = replay.now
        #expect(replay.next() == .list(limit: 500, continueToken: nil))
        #expect(replay.now == now)
    }

    @Test(arguments: ["30-401-bad-token", "39-401-serviceaccount-deleted"]) func a401IsAboutCredentials(name: String) throws {
        var replay = Replay()
        try replay.answer(name)
        #expect(replay.reflector.fault?.kind == .unauthorized)
        #expect(replay.reflector.fault?.text.contains("401") == true)
    }

    @Test(arguments: [
        "32-403-anonymous", "33-403-no-rights", "35-403-cluster-wide", "36-403-other-namespace", "37-403-client-cert",
        "38c-403-after-unbind",
        "81-startup-kill-first-403",
    ])
    func a403NamesTheRuleThatIsMissing(name: String) throws {
        var replay = Replay()
        try replay.answer(name)
        let fault = try #require(replay.reflector.fault)
        #expect(fault.kind == .forbidden)
        #expect(fault.text.contains("a Role in namespace llm"))
        #expect(fault.text.contains(#"{apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list", "watch"]}"#))
        // A server that has just started refuses everybody for a moment: it is asked again, and what it then says holds.
        try replay.answer("11a-list-before-watch")
        #expect(replay.reflector.fault == nil && replay.reflector.hasSynced)
    }

    @Test func rightsTakenFromAnOpenWatchKeepTheState() throws {
        var replay = Replay()
        try replay.answer("38a-list")
        try replay.answer("38b-watch-rights-removed")
        let known = replay.reflector.store.objects
        replay.reflector.failed("the server ended it", now: replay.now)
        try replay.answer("34-403-watch-no-rights")
        #expect(replay.reflector.fault?.kind == .forbidden)
        #expect(replay.reflector.store.objects == known && !known.isEmpty)
    }

    @Test(arguments: [("96c-429", WatchFault.Kind.overloaded), ("06-list-future-rv", .refused)])
    func retryAfterIsWaitedFor(name: String, kind: WatchFault.Kind) throws {
        var replay = Replay()
        let begin = replay.now
        try replay.answer(name)
        #expect(replay.reflector.fault?.kind == kind)
        #expect(replay.reflector.deadline >= begin + second)
        #expect(replay.reflector.deadline < begin + 2 * second)
        #expect(replay.next() == .list(limit: 500, continueToken: nil))
    }

    @Test func aWatchThatGoesOnClearsItsFaultWithoutAnEvent() throws {
        var replay = Replay()
        try replay.answer("67a-list")
        _ = replay.next()
        replay.reflector.failed("cut", now: replay.now)
        #expect(replay.reflector.fault != nil)
        _ = replay.next()
        replay.head(try Transcript("67b-watch-multislice"))
        #expect(replay.reflector.fault != nil)
        #expect(replay.reflector.deadline == replay.now + second)
        replay.now += second
        #expect(replay.reflector.nextRequest(now: replay.now) == nil)
        #expect(replay.reflector.fault == nil && replay.reflector.isRequestUnderWay)
    }
}
