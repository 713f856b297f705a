import CLinux
import Glibc
import HeapModule

/// One thread's world: an epoll set of its own, the handlers registered with it, their deadlines and a mailbox.
///
/// This target's story: `EventLoop` wakes handlers; an `EventHandler` owns one descriptor (or none, if it only wants
/// deadlines); `ByteSocket` reads and writes, through TLS or not; `Mailbox` is the only way in from another thread.
///
/// A loop is confined to the thread that runs it. libdispatch would watch descriptors too, but through one manager thread for
/// the whole process, re-arming each event: 2.6 times the CPU per proxied request. So Dispatch hosts `run()` and nothing more.
///
/// Budget per wake: one `epoll_wait`, then the handlers' own calls; no allocation.
public final class EventLoop {
    /// Monotonic clock in nanoseconds, read once per wake.
    public private(set) var now: UInt64
    /// The way in for other threads.
    public let mailbox: Mailbox
    /// Scratch for one read; its contents are valid until the handler returns. `readBufferBytes` long.
    public let readBuffer: UnsafeMutableRawBufferPointer
    /// Buffers that connections borrow while they hold bytes.
    public let chunks = ChunkPool()
    /// What TLS connections share; made for the first of them.
    public private(set) lazy var tlsChannel = TLSChannel(pool: chunks)

    public static let readBufferBytes = 128 << 10
    static let eventsPerWake: CInt = 256

    private let epoll: CInt
    private let events: UnsafeMutablePointer<epoll_event>
    private var slots: [EventHandler?] = []
    private var generations: [UInt32] = []
    private var freeSlots: [UInt32] = []
    private var timers = Heap<TimerEntry>()
    /// By their keys: a handler that was let go of meanwhile is not called.
    private var turnEnds: [UInt64] = []
    private var batchEnds: [UInt64] = []
    /// The first of either that has not been served; the loop's, since serving one may lead to serving the others.
    private var nextTurnEnd = 0
    private var nextBatchEnd = 0
    private var again: [EventHandler] = []
    private var running = true
    private var services: [ObjectIdentifier: AnyObject] = [:]

    /// Throws when the process is out of descriptors.
    public init() throws(SocketError) {
        epoll = swl_epoll_create()
        guard epoll >= 0 else { throw SocketError(call: "epoll_create1", code: errno) }
        mailbox = try Mailbox()
        events = swl_event_array(Self.eventsPerWake)
        readBuffer = .allocate(byteCount: Self.readBufferBytes, alignment: 64)
        now = swl_monotonic_nanoseconds()
        guard swl_epoll_add(epoll, mailbox.descriptor, SWL_IN, UInt64.max) == 0 else {
            throw SocketError(call: "epoll_ctl", code: errno)
        }
    }

    deinit {
        close(epoll)
        events.deallocate()
        readBuffer.deallocate()
    }

    /// The monotonic clock as it stands now, where `now` is not fresh enough.
    public func clock() -> UInt64 { swl_monotonic_nanoseconds() }

    /// Nanoseconds since 1970, UTC.
    public func wallClock() -> UInt64 { swl_wall_nanoseconds() }

    /// Serves events until `stop()`.
    public func run() {
        // What was set up since the loop was made took time, and the first wait counts from here.
        now = swl_monotonic_nanoseconds()
        while running { turn() }
    }

    /// Whether it asks for events again and again instead of sleeping until there are some: it takes a whole core, and neither sockets nor
    /// deadlines wait until the kernel has woken a thread, which takes 5 µs on a bare machine and ten times that on many a virtual one.
    public var busyPolls = false

    /// Leaves `run()` after the present turn.
    public func stop() { running = false }

    private func turn() {
        let count = swl_epoll_wait(epoll, events, Self.eventsPerWake, nanosecondsUntilNextDeadline())
        now = swl_monotonic_nanoseconds()
        var index: CInt = 0
        while index < count {
            deliver(key: swl_event_key(events, index), flags: swl_event_flags(events, index))
            index &+= 1
        }
        if !again.isEmpty { callAgain() }
        fireTimers()
        finishBatch()
    }

    private func deliver(key: UInt64, flags: UInt32) {
        if key == UInt64.max {
            mailbox.deliver(to: self)
        } else {
            // The handler may have been replaced by an earlier event of this batch.
            guard let handler = handler(of: key) else { return }
            handler.socketReady(Readiness(rawValue: flags))
        }
        if !turnEnds.isEmpty { finishTurn() }
    }

    private func handler(of key: UInt64) -> EventHandler? {
        let slot = Int(key & 0xffff_ffff)
        return generations[slot] == UInt32(truncatingIfNeeded: key >> 32) ? slots[slot] : nil
    }

    /// What handlers asked for while one event was served is done before the next event: a write leaves at once, and all
    /// that one read caused leaves together.
    private func finishTurn() {
        while nextTurnEnd < turnEnds.count {
            let key = turnEnds[nextTurnEnd]
            nextTurnEnd &+= 1
            guard let handler = handler(of: key) else { continue }
            handler.awaitsTurnEnd = false
            handler.turnEnded()
        }
        guard nextTurnEnd > 0 else { return }
        turnEnds.removeAll(keepingCapacity: true)
        nextTurnEnd = 0
    }

    /// Handlers whose output gains from being gathered over all events of one wake, as that of many HTTP/2 streams does.
    ///
    /// A handler that makes much output for many others may have that written at once, before it makes more: the first of them would
    /// otherwise wait for the last. May be called while it runs.
    public func finishBatch() {
        while nextBatchEnd < batchEnds.count {
            let key = batchEnds[nextBatchEnd]
            nextBatchEnd &+= 1
            guard let handler = handler(of: key) else { continue }
            handler.awaitsTurnEnd = false
            handler.turnEnded()
            if !turnEnds.isEmpty { finishTurn() }
        }
        guard nextBatchEnd > 0 else { return }
        batchEnds.removeAll(keepingCapacity: true)
        nextBatchEnd = 0
    }

    private func callAgain() {
        let handlers = again
        again.removeAll(keepingCapacity: true)
        for handler in handlers where handler.slot != nil {
            handler.awaitsAnotherCall = false
            handler.socketReady(.readable)
            finishTurn()
        }
    }

    // MARK: Handlers

    /// Watches `descriptor` for `handler`: edge-triggered, both directions, once and for all, so that no request costs an `epoll_ctl`.
    func register(_ handler: EventHandler, descriptor: CInt) throws(SocketError) {
        let key = claimSlot(for: handler)
        let interest = SWL_IN | SWL_OUT | SWL_PEER_CLOSED | SWL_EDGE_TRIGGERED
        guard swl_epoll_add(epoll, descriptor, interest, key) == 0 else {
            let code = errno
            release(handler)
            throw SocketError(call: "epoll_ctl", code: code)
        }
    }

    @discardableResult
    func claimSlot(for handler: EventHandler) -> UInt64 {
        if let slot = handler.slot { return UInt64(generations[Int(slot)]) << 32 | UInt64(slot) }
        let slot: UInt32
        if let free = freeSlots.popLast() {
            slot = free
            slots[Int(slot)] = handler
        } else {
            slot = UInt32(slots.count)
            slots.append(handler)
            generations.append(0)
        }
        handler.slot = slot
        return UInt64(generations[Int(slot)]) << 32 | UInt64(slot)
    }

    func release(_ handler: EventHandler) {
        guard let slot = handler.slot else { return }
        handler.slot = nil
        handler.awaitsTurnEnd = false
        slots[Int(slot)] = nil
        generations[Int(slot)] &+= 1
        freeSlots.append(slot)
    }

    func callAtTurnEnd(_ handler: EventHandler) { turnEnds.append(claimSlot(for: handler)) }
    func callAtBatchEnd(_ handler: EventHandler) { batchEnds.append(claimSlot(for: handler)) }
    func callAgain(_ handler: EventHandler) { again.append(handler) }

    // MARK: Deadlines

    private struct TimerEntry: Comparable {
        var deadline: UInt64
        var slot: UInt32
        var generation: UInt32
        static func < (left: Self, right: Self) -> Bool { left.deadline < right.deadline }
    }

    func armTimer(for handler: EventHandler, at deadline: UInt64) {
        let key = claimSlot(for: handler)
        timers.insert(
            TimerEntry(
                deadline: deadline, slot: UInt32(truncatingIfNeeded: key), generation: UInt32(truncatingIfNeeded: key >> 32)))
    }

    /// How long the next turn may sleep; -1: until something comes.
    func nanosecondsUntilNextDeadline() -> Int64 {
        if !again.isEmpty || !running || busyPolls { return 0 }
        guard let next = timers.min else { return -1 }
        return Self.wait(until: next.deadline, turnBegan: now, clock: swl_monotonic_nanoseconds)
    }

    /// A wait that is longer may be too long by what this turn took.
    static let exactWaitNanoseconds: UInt64 = 100_000_000

    /// The wait counts from when it begins, not from when the turn did: a token is due in milliseconds, and a turn may take one.
    static func wait(until deadline: UInt64, turnBegan: UInt64, clock: () -> UInt64) -> Int64 {
        guard deadline > turnBegan else { return 0 }
        let now = deadline &- turnBegan <= exactWaitNanoseconds ? clock() : turnBegan
        return deadline <= now ? 0 : Int64(clamping: deadline &- now)
    }

    private func fireTimers() {
        while let entry = timers.min, entry.deadline <= now {
            timers.removeMin()
            guard generations[Int(entry.slot)] == entry.generation, let handler = slots[Int(entry.slot)] else { continue }
            // A handler has one entry that counts. It moves its deadline often and the heap learns of it only here.
            guard handler.armedDeadline == entry.deadline else { continue }
            handler.armedDeadline = .max
            if handler.deadline > now {
                if handler.deadline != .max { handler.setDeadline(handler.deadline) }
            } else {
                handler.deadline = .max
                handler.deadlineReached()
                finishTurn()
            }
        }
    }

    // MARK: Services

    /// Leaves `service` where messages that arrive through the mailbox can find it. Control plane only.
    public func addService<Service: AnyObject>(_ service: Service) { services[ObjectIdentifier(Service.self)] = service }

    /// The service of this type that this loop carries.
    public func service<Service: AnyObject>(_ type: Service.Type) -> Service? { services[ObjectIdentifier(type)] as? Service }
}
