import Foundation

/// A list beside the watch, which goes on: it shows now and then whether the watch has told everything. Pure.
struct Relist<Object: KubernetesObject>: Sendable {
    enum Phase: Sendable {
        case waiting(until: UInt64)
        case listing(progressAt: UInt64)
    }

    var phase = Phase.waiting(until: .max)
    var assembly = ListAssembly<Object>()
    /// The version that was known when the list began: a list from before is no news.
    var knownVersion: String?
    /// What the watch has told since then, with versions: that may be later than the list.
    var told: [ObjectStore<Object>.Key: String] = [:]
    var status: Int?
    var retryAfterSeconds: UInt64?
    var buffer: [UInt8] = []
    var failures = 0
    var wantsWholeList = false
    var fault: WatchFault?

    var isUnderWay: Bool {
        if case .listing = phase { true } else { false }
    }
}

extension Reflector {
    /// What is wrong with lists beside the watch; what is known is none the worse for it. Nil when nothing is.
    public var relistFault: WatchFault? { relist.fault }

    /// False: the caller gives up the request for the list beside the watch, if it has one.
    public var isRelistUnderWay: Bool { isFollowing && relist.isUnderWay }

    var relistDeadline: UInt64 {
        switch relist.phase {
        case .waiting(let until): isWatchAccepted || relist.assembly.continueToken != nil ? until : .max
        case .listing(let progressAt): progressAt &+ settings.answerNanoseconds
        }
    }

    /// Whether the state is followed by a watch, or soon again. Otherwise a list is on its way that makes another one needless.
    private var isFollowing: Bool {
        switch phase {
        case .watching, .waiting(_, .watch): true
        case .listing, .streaming, .waiting(_, .list): false
        }
    }

    /// The request that is due for the list beside the watch, which is then under way.
    public mutating func nextRelistRequest(now: UInt64) -> ReflectorRequest? {
        guard isFollowing else {
            relist = Relist()
            return nil
        }
        guard relistDeadline <= now else { return nil }
        if relist.isUnderWay {
            failRelist(WatchFault(.silent, "no answer within \(settings.answerNanoseconds / 1_000_000_000) s"), now: now)
            return nil
        }
        if relist.assembly.continueToken == nil {
            (relist.assembly, relist.told, relist.knownVersion) = (ListAssembly(), [:], store.resourceVersion)
        }
        (relist.status, relist.retryAfterSeconds, relist.phase) = (nil, nil, .listing(progressAt: now))
        relist.buffer.removeAll(keepingCapacity: false)
        return .list(limit: relist.wantsWholeList ? nil : settings.pageObjects, continueToken: relist.assembly.continueToken)
    }

    public mutating func relistHeadReceived(status: Int, retryAfterSeconds: UInt64?, now: UInt64) {
        guard isRelistUnderWay else { return }
        (relist.status, relist.retryAfterSeconds, relist.phase) = (status, retryAfterSeconds, .listing(progressAt: now))
    }

    public mutating func relistBodyReceived(_ bytes: UnsafeRawBufferPointer, now: UInt64) {
        guard isRelistUnderWay, let status = relist.status else { return }
        guard status == 200 else {
            relist.buffer.append(contentsOf: bytes.prefix(max(0, ReflectorSettings.refusalBytes - relist.buffer.count)))
            return
        }
        relist.buffer.append(contentsOf: bytes)
        relist.phase = .listing(progressAt: now)
        if relist.buffer.count > settings.pageBytes { failRelist(Self.longPage(settings), now: now) }
    }

    /// The answer is whole.
    public mutating func relistEnded(now: UInt64) -> [Store.Change] {
        guard isRelistUnderWay, let status = relist.status else { return [] }
        guard status == 200 else {
            let refusal = Refusal(status, relist.buffer, relist.retryAfterSeconds)
            if status == 410 { relist.wantsWholeList = relist.failures > 0 }
            failRelist(fault(for: refusal), retryAfterSeconds: refusal.retryAfterSeconds, now: now)
            return []
        }
        do throws(WatchFault) {
            guard try relist.assembly.take(page: relist.buffer, known: store, settings) else {
                relist.phase = .waiting(until: now)
                return []
            }
            return try takeRelist(now: now)
        } catch {
            relist.wantsWholeList = relist.assembly.isEndless
            failRelist(error, now: now)
            return []
        }
    }

    /// The answer broke off, or there was none.
    public mutating func relistFailed(_ reason: String, now: UInt64) {
        if isRelistUnderWay { failRelist(WatchFault(.unreachable, reason), now: now) }
    }

    /// The watch told something while the list was on its way.
    mutating func noteForRelist(_ event: WatchEvent<Object>, now: UInt64) {
        guard relist.isUnderWay || relist.assembly.continueToken != nil else { return }
        let (key, version): (Store.Key, String)
        switch event {
        case .updated(let object): (key, version) = (Store.Key(object.metadata), object.metadata.resourceVersion)
        case .deleted(let metadata): (key, version) = (Store.Key(metadata), metadata.resourceVersion)
        case .unreadable(let object): (key, version) = (Store.Key(object), object.resourceVersion)
        case .bookmark, .error: return
        }
        // Of what a server repeats the latest counts.
        if let known = relist.told[key], Store.isEarlier(version, than: known) { return }
        relist.told[key] = version
        if relist.told.count > settings.objects {
            failRelist(WatchFault(.malformed, "more than \(settings.objects) objects changed while they were listed"), now: now)
        }
    }

    /// Brings what is known to what the list says, but for what the watch has told since. A list of which nothing is news leaves the
    /// watch alone; otherwise the watch has kept something back, and another goes on from here.
    private mutating func takeRelist(now: UInt64) throws(WatchFault) -> [Store.Change] {
        let version = relist.assembly.version ?? ""
        if let known = relist.knownVersion, Store.isEarlier(version, than: known) {
            throw WatchFault(.malformed, "a list of \(version), which is older than what was known before it (\(known))")
        }
        var list = relist.assembly
        let later = relist.told.filter { !(Store.isEarlier($0.value, than: version) || $0.value == version) }.keys
        list.replace(later, from: store, unreadable: unreadable)
        counters.lists += 1
        heardAt = now
        scheduleRelist(now: now)
        guard store.differs(from: list.objects) || unreadable != list.unreadable else { return [] }
        unreadable = list.unreadable
        let known = store.resourceVersion ?? ""
        let changes = store.replace(
            with: list.objects, resourceVersion: Store.isEarlier(version, than: known) ? known : version)
        if case .watching = phase { phase = .waiting(until: now, goal: .watch) }
        return changes
    }

    /// The next one, a relist's time from now, give or take a tenth.
    mutating func scheduleRelist(now: UInt64) {
        relist = Relist()
        guard settings.relistNanoseconds > 0 else { return }
        let tenth = settings.relistNanoseconds / 10
        relist.phase = .waiting(until: now &+ settings.relistNanoseconds &- tenth &+ random.next() % max(1, 2 &* tenth))
    }

    private mutating func failRelist(_ fault: WatchFault, retryAfterSeconds: UInt64? = nil, now: UInt64) {
        counters.faults += 1
        let wait = backoff(doublings: relist.failures, retryAfterSeconds: retryAfterSeconds)
        relist.failures += 1
        relist.fault = fault
        (relist.assembly, relist.told, relist.buffer) = (ListAssembly(), [:], [])
        relist.phase = .waiting(until: now &+ wait)
    }
}

/// An answer that refuses.
struct Refusal {
    var code: Int
    var message: String
    /// Of the answer's field, or of its body.
    var retryAfterSeconds: UInt64?

    init(_ code: Int, _ body: [UInt8], _ retryAfterSeconds: UInt64?) {
        let answer = try? JSONDecoder().decode(Status.self, from: Data(body))
        self.code = code
        message = answer?.message ?? String(decoding: body.prefix(200), as: UTF8.self)
        self.retryAfterSeconds = retryAfterSeconds ?? answer?.details?.retryAfterSeconds.flatMap { UInt64(exactly: $0) }
    }
}
