import Foundation

/// Keeps a store equal to what the server has: lists once, follows the watch from there, and lists anew whenever that is not enough.
/// Pure: it says which request is due, is told what came of it, and takes time as an argument. One request at a time, and now and then
/// one more beside it: a list that shows whether a watch that is well has told everything (`nextRelistRequest`).
///
/// The store is at every moment a state that the server had: a list takes effect when its last page is here, and what a broken answer
/// brought before it broke counts only as far as it was whole.
public struct Reflector<Object: KubernetesObject>: Sendable {
    public typealias Store = ObjectStore<Object>

    enum Goal: Sendable { case list, watch }

    enum Phase: Sendable {
        /// Nothing is asked for until then.
        case waiting(until: UInt64, goal: Goal)
        case listing
        /// A watch whose initial events are not all here.
        case streaming(since: UInt64)
        case watching(since: UInt64)
    }

    public let settings: ReflectorSettings
    public let scope: WatchScope
    public internal(set) var store = Store()
    /// Monotonic time at which the server last confirmed or changed what we know; 0: never.
    public internal(set) var heardAt: UInt64 = 0
    /// What is wrong now; nil when nothing is.
    public internal(set) var fault: WatchFault?
    /// Objects that the server has and nobody can make sense of, with what is wrong; of each its last good state counts, if there was one.
    public internal(set) var unreadable: [Store.Key: String] = [:]
    public internal(set) var counters = ReflectorCounters()

    var phase = Phase.waiting(until: 0, goal: .list)
    /// The status of the answer under way; nil before its head.
    private var status: Int?
    private var retryAfterSeconds: UInt64?
    private var buffer: [UInt8] = []
    /// Bytes at the front of `buffer` in which there is no line's end.
    private var scanned = 0
    /// What a list has brought so far.
    private var assembly = ListAssembly<Object>()
    private var wantsWholeList = false
    private var streamsLists: Bool
    /// In a row, until a list is whole or a watch tells something.
    var failures = 0
    /// Of watches, until one goes well for a while: a list that is whole does not show that its version can be watched from.
    private var watchFailures = 0
    private var progressAt: UInt64 = 0
    var relist = Relist<Object>()
    var random: SplitMix

    /// - Parameter seed: of the jitter; replicas of the router should differ.
    public init(scope: WatchScope, settings: ReflectorSettings, seed: UInt64) {
        self.scope = scope
        self.settings = settings
        streamsLists = settings.streamsLists
        random = SplitMix(state: seed)
    }

    /// Whether the whole state was known once.
    public var hasSynced: Bool { counters.lists > 0 }

    // MARK: What to do

    /// False: the caller gives up the request under way, if it has one.
    public var isRequestUnderWay: Bool {
        if case .waiting = phase { false } else { true }
    }

    /// When `nextRequest` and `nextRelistRequest` want to be called again.
    public var deadline: UInt64 { min(requestDeadline, relistDeadline) }

    private var requestDeadline: UInt64 {
        switch phase {
        case .waiting(let until, _): until
        case .listing: progressAt &+ settings.answerNanoseconds
        case .streaming(let since): min(progressAt &+ settings.answerNanoseconds, since &+ 4 &* settings.answerNanoseconds)
        case .watching:
            min(
                progressAt &+ (status == nil ? settings.answerNanoseconds : settings.silenceNanoseconds),
                isWatchAccepted && fault != nil ? progressAt &+ ReflectorSettings.shortestWatchNanoseconds : .max)
        }
    }

    var isWatchAccepted: Bool {
        if case .watching = phase { status == 200 } else { false }
    }

    /// The request that is due, which is then under way. Gives up one that has been silent for too long.
    public mutating func nextRequest(now: UInt64) -> ReflectorRequest? {
        // A watch that goes on where it was cut may have nothing to tell for a minute, and is well all the same.
        if isWatchAccepted, now &- progressAt >= ReflectorSettings.shortestWatchNanoseconds {
            (fault, watchFailures) = (nil, 0)
        }
        if isRequestUnderWay, now >= requestDeadline { giveUp(now: now) }
        guard case .waiting(let until, let goal) = phase, until <= now else { return nil }
        (status, retryAfterSeconds, scanned, progressAt) = (nil, nil, 0, now)
        buffer.removeAll(keepingCapacity: true)
        let seconds = settings.watchSeconds.lowerBound + Int(random.next() % UInt64(settings.watchSeconds.count))
        if goal == .watch, let version = store.resourceVersion {
            phase = .watching(since: now)
            counters.watches += 1
            return .watch(resourceVersion: version, timeoutSeconds: seconds)
        }
        if assembly.continueToken == nil { assembly = ListAssembly() }
        if streamsLists, assembly.continueToken == nil {
            phase = .streaming(since: now)
            return .streamingList(timeoutSeconds: seconds)
        }
        phase = .listing
        return .list(limit: wantsWholeList ? nil : settings.pageObjects, continueToken: assembly.continueToken)
    }

    private mutating func giveUp(now: UInt64) {
        switch phase {
        case .watching:
            fault = WatchFault(
                .silent, "the watch brought nothing for \(settings.silenceNanoseconds / 1_000_000_000) s; asking for everything anew")
            phase = .waiting(until: now, goal: .list)
            counters.faults += 1
        case .streaming:
            // A server that does not know of streaming lists watches from now on instead, and never ends the initial events.
            streamsLists = false
            fail(.silent, "a streaming list did not come to its end", now: now)
        default: fail(.silent, "no answer within \(settings.answerNanoseconds / 1_000_000_000) s", now: now)
        }
    }

    // MARK: What came

    /// - Parameter retryAfterSeconds: of the field of that name.
    public mutating func headReceived(status: Int, retryAfterSeconds: UInt64?, now: UInt64) {
        self.status = status
        self.retryAfterSeconds = retryAfterSeconds
        progressAt = now
        if status == 200, case .watching = phase { heardAt = now }
    }

    public mutating func bodyReceived(_ bytes: UnsafeRawBufferPointer, now: UInt64) -> [Store.Change] {
        guard isRequestUnderWay, let status else { return [] }
        guard status == 200 else {
            buffer.append(contentsOf: bytes.prefix(max(0, ReflectorSettings.refusalBytes - buffer.count)))
            return []
        }
        buffer.append(contentsOf: bytes)
        if case .listing = phase {
            progressAt = now
            if buffer.count > settings.pageBytes {
                fail(Self.longPage(settings), now: now)
            }
            return []
        }
        return takeLines(now: now)
    }

    /// The answer is whole.
    public mutating func ended(now: UInt64) -> [Store.Change] {
        guard isRequestUnderWay else { return [] }
        guard status == 200 else {
            refused(now: now)
            return []
        }
        switch phase {
        case .listing: return takePage(now: now)
        case .streaming: fail(.refused, "a streaming list ended before it was whole", now: now)
        case .watching(let since):
            // The server ends watches after a while of its choice.
            if now &- since >= ReflectorSettings.shortestWatchNanoseconds {
                watchFailures = 0
                phase = .waiting(until: now, goal: .watch)
            } else {
                fail(.refused, "watches end as soon as they begin", now: now)
            }
        case .waiting: break
        }
        return []
    }

    /// The answer broke off, or there was none.
    public mutating func failed(_ reason: String, now: UInt64) {
        guard isRequestUnderWay else { return }
        fail(.unreachable, reason, now: now)
    }

    // MARK: Lists

    static func longPage(_ settings: ReflectorSettings) -> WatchFault {
        WatchFault(.malformed, "a page of a list is longer than \(settings.pageBytes) bytes")
    }

    private mutating func takePage(now: UInt64) -> [Store.Change] {
        do throws(WatchFault) {
            guard try assembly.take(page: buffer, known: store, settings) else {
                phase = .waiting(until: now, goal: .list)
                return []
            }
        } catch {
            wantsWholeList = wantsWholeList || assembly.isEndless
            fail(error, now: now)
            return []
        }
        phase = .waiting(until: now, goal: .watch)
        return takeList(version: assembly.version ?? "", now: now)
    }

    private mutating func takeList(version: String, now: UInt64) -> [Store.Change] {
        counters.lists += 1
        wantsWholeList = false
        scheduleRelist(now: now)
        (heardAt, progressAt, failures) = (now, now, 0)
        if watchFailures < 2 { fault = nil }
        let list = assembly
        unreadable = list.unreadable
        assembly = ListAssembly()
        return store.replace(with: list.objects, resourceVersion: version)
    }

    // MARK: Watches

    /// Takes every whole line; what is left waits for its end.
    private mutating func takeLines(now: UInt64) -> [Store.Change] {
        var changes: [Store.Change] = []
        var start = 0
        while isRequestUnderWay, let end = buffer[max(start, scanned)...].firstIndex(of: UInt8(ascii: "\n")) {
            let line = buffer[start..<end]
            (start, scanned) = (end + 1, end + 1)
            guard line.contains(where: { $0 > 0x20 }) else { continue }
            do {
                let event = try JSONDecoder().decode(WatchEvent<Object>.self, from: Data(line))
                changes += take(event, now: now)
            } catch {
                // What comes after a hole is not known to follow from what was before it.
                fail(.malformed, "an event that makes no sense: \(decodingErrorText(error))", goal: .list, now: now)
            }
        }
        buffer.removeFirst(min(start, buffer.count))
        scanned = buffer.count
        if isRequestUnderWay, buffer.count > settings.eventBytes {
            fail(.malformed, "an event is longer than \(settings.eventBytes) bytes", goal: .list, now: now)
        }
        return changes
    }

    private mutating func take(_ event: WatchEvent<Object>, now: UInt64) -> [Store.Change] {
        progressAt = now
        if case .error(let status) = event {
            watchRefused(status, now: now)
            return []
        }
        if case .streaming = phase { return takeInitial(event, now: now) }
        counters.events += 1
        guard !store.isContradicted(by: event) else {
            let known = store.resourceVersion ?? ""
            fail(.malformed, "an event that is older than what is known (\(known)); asking for everything anew", goal: .list, now: now)
            return []
        }
        progressed(now: now)
        noteForRelist(event, now: now)
        switch event {
        case .updated(let object): unreadable[Store.Key(object.metadata)] = nil
        case .deleted(let metadata): unreadable[Store.Key(metadata)] = nil
        case .unreadable(let object): unreadable[Store.Key(object)] = object.reason
        case .bookmark, .error: break
        }
        if unreadable.count > settings.objects { fail(.malformed, "more than \(settings.objects) objects", goal: .list, now: now) }
        guard let change = store.apply(event) else { return [] }
        if store.objects.count > settings.objects { fail(.malformed, "more than \(settings.objects) objects", goal: .list, now: now) }
        return [change]
    }

    private mutating func takeInitial(_ event: WatchEvent<Object>, now: UInt64) -> [Store.Change] {
        do throws(WatchFault) {
            guard let version = try assembly.take(initial: event, known: store, settings) else { return [] }
            phase = .watching(since: now)
            return takeList(version: version, now: now)
        } catch {
            fail(error, now: now)
            return []
        }
    }

    private mutating func progressed(now: UInt64) {
        (heardAt, progressAt, failures) = (now, now, 0)
        if case .watching(let since) = phase, now &- since >= ReflectorSettings.shortestWatchNanoseconds { watchFailures = 0 }
        if watchFailures < 2 { fault = nil }
    }

    // MARK: Failures

    /// An ERROR event: nearly always 410, the version is too old to go on from.
    private mutating func watchRefused(_ status: Status, now: UInt64) {
        guard status.code == 410 else {
            return fail(
                .refused, "the watch ended with \(status.code ?? 0): \(status.message ?? "no reason")", goal: .list,
                retryAfterSeconds: status.details?.retryAfterSeconds.flatMap { UInt64(exactly: $0) }, now: now)
        }
        counters.expirations += 1
        if failures == 0, watchFailures == 0 {
            // It takes a fresh list and no delay, unless that was the last answer, too.
            (failures, watchFailures) = (1, 1)
            phase = .waiting(until: now, goal: .list)
        } else {
            fail(.refused, status.message ?? "the version is too old", goal: .list, now: now)
        }
    }

    private mutating func refused(now: UInt64) {
        let refusal = Refusal(status ?? 0, buffer, retryAfterSeconds)
        switch (refusal.code, phase) {
        case (410, .watching): watchRefused(Status(code: 410, message: refusal.message), now: now)
        case (410, _):
            // The continue token went too old: from the start, and in one piece if that happens again.
            counters.expirations += 1
            wantsWholeList = failures > 0
            fail(fault(for: refusal), now: now)
        case (400..<500, .streaming) where ![401, 403, 404, 429].contains(refusal.code):
            // This server does not stream lists: the usual way, at once.
            streamsLists = false
            phase = .waiting(until: now, goal: .list)
        default:
            let fault = fault(for: refusal)
            fail(fault, goal: fault.kind == .refused ? .list : nil, retryAfterSeconds: refusal.retryAfterSeconds, now: now)
        }
    }

    func fault(for refusal: Refusal) -> WatchFault {
        switch refusal.code {
        case 401:
            WatchFault(.unauthorized, "401 Unauthorized: the API server does not accept our token or certificate (\(refusal.message))")
        case 403: WatchFault(.forbidden, forbidden(refusal.message))
        case 404: WatchFault(.notServed, "404: the API server does not serve \(Object.resource.description)")
        case 410: WatchFault(.refused, "410: a list took longer than the server keeps its state")
        case 429, 503: WatchFault(.overloaded, "\(refusal.code): \(refusal.message)")
        default: WatchFault(.refused, "\(refusal.code): \(refusal.message)")
        }
    }

    private func forbidden(_ message: String) -> String {
        let resource = Object.resource
        let place =
            if resource.isNamespaced, let namespace = scope.namespace { "a Role in namespace \(namespace)" } else { "a ClusterRole" }
        return "403 Forbidden: \(message); missing in \(place): "
            + #"{apiGroups: ["\#(resource.group)"], resources: ["\#(resource.plural)"], verbs: ["list", "watch"]}"#
    }

    private mutating func fail(
        _ kind: WatchFault.Kind, _ text: String, goal: Goal? = nil, retryAfterSeconds: UInt64? = nil, now: UInt64
    ) {
        fail(WatchFault(kind, text), goal: goal, retryAfterSeconds: retryAfterSeconds, now: now)
    }

    /// Tries again later. `goal` nil: what was tried, or a list when watches have failed too often.
    private mutating func fail(_ fault: WatchFault, goal: Goal? = nil, retryAfterSeconds: UInt64? = nil, now: UInt64) {
        counters.faults += 1
        let wait = backoff(doublings: max(failures, watchFailures), retryAfterSeconds: retryAfterSeconds)
        failures += 1
        if case .watching = phase { watchFailures += 1 }
        self.fault = fault
        var next = goal ?? .list
        if goal == nil, case .watching = phase, failures < ReflectorSettings.watchFailuresBeforeList { next = .watch }
        if next == .list { assembly = ListAssembly() }
        phase = .waiting(until: now &+ wait, goal: next)
    }

    /// Nanoseconds.
    mutating func backoff(doublings: Int, retryAfterSeconds: UInt64?) -> UInt64 {
        var wait = min(settings.firstBackoffNanoseconds << UInt64(min(doublings, 20)), settings.lastBackoffNanoseconds)
        wait = wait / 2 &+ random.next() % max(1, wait / 2)
        // Those whom one server sent away at one time do not come back at one time.
        if let seconds = retryAfterSeconds { wait &+= min(seconds, settings.longestRetryAfterSeconds) &* 1_000_000_000 }
        return wait
    }
}

/// What a reflector went through, for metrics.
public struct ReflectorCounters: Sendable, Equatable {
    /// Lists that were whole, streaming ones included: the first and every one anew.
    public var lists: UInt64 = 0
    /// Watches asked for.
    public var watches: UInt64 = 0
    /// Events and bookmarks.
    public var events: UInt64 = 0
    /// Versions and tokens that the server found too old (410).
    public var expirations: UInt64 = 0
    public var faults: UInt64 = 0

    public init() {}
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct SplitMix: RandomNumberGenerator, Sendable {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ (state &>> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed &>> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed &>> 31)
    }
}
