import CLinux
import Glibc

/// What epoll said of a descriptor.
public struct Readiness: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    public static let readable = Readiness(rawValue: SWL_IN)
    public static let writable = Readiness(rawValue: SWL_OUT)
    /// The peer has shut down its sending side (FIN), or closed.
    public static let peerClosed = Readiness(rawValue: SWL_PEER_CLOSED)
    public static let hungUp = Readiness(rawValue: SWL_HUNG_UP)
    public static let failed = Readiness(rawValue: SWL_ERROR)
}

/// Something that a loop calls: for its descriptor, for its deadline, or at the end of a turn. Confined to its loop.
///
/// A class hierarchy rather than a protocol, because a virtual call is cheaper than one through an existential.
open class EventHandler {
    /// Unowned and unchecked: a loop owns its handlers and calls them, so it outlives every use; the check was 4 % of all
    /// instructions of a proxied request.
    public final unowned(unsafe) let loop: EventLoop
    final var slot: UInt32?
    final var deadline: UInt64 = .max
    final var armedDeadline: UInt64 = .max
    final var awaitsTurnEnd = false
    final var awaitsAnotherCall = false

    public init(loop: EventLoop) { self.loop = loop }

    /// The descriptor became ready since the last call. Edge-triggered: what is left unread is not reported again.
    open func socketReady(_ readiness: Readiness) {}
    /// The deadline that was set last has passed; none is set now.
    open func deadlineReached() {}
    /// The event that `callAtTurnEnd()`, or the batch of events that `callAtBatchEnd()`, was called in has been served.
    open func turnEnded() {}

    /// Starts watching `descriptor`, which stays the caller's to close, after `detach()`.
    public final func attach(descriptor: CInt) throws(SocketError) {
        if armedDeadline == 0 { armedDeadline = .max }
        try loop.register(self, descriptor: descriptor)
    }

    /// Forgets this handler: no call comes any more, until it is attached again. The loop lets go of it.
    public final func detach() {
        deadline = .max
        // Earlier than any: a deadline set from now on arms nothing, and so claims no slot that nobody would give back.
        armedDeadline = 0
        loop.release(self)
    }

    private final var isDetached: Bool { armedDeadline == 0 }

    /// One deadline per handler, in nanoseconds of `loop.now`; nil clears it. Cheap to move: the loop's heap is touched only
    /// when the deadline comes earlier than the entry it already holds.
    public final func setDeadline(_ nanoseconds: UInt64?) {
        guard let nanoseconds else {
            deadline = .max
            return
        }
        deadline = nanoseconds
        if nanoseconds < armedDeadline {
            armedDeadline = nanoseconds
            loop.armTimer(for: self, at: nanoseconds)
        }
    }

    /// The same, where the deadline that stands is later or none does.
    public final func setDeadline(noLaterThan nanoseconds: UInt64) {
        if nanoseconds < deadline { setDeadline(nanoseconds) }
    }

    /// Asks for `turnEnded()` once the present event has been served. Not of a handler that was detached.
    public final func callAtTurnEnd() {
        guard !awaitsTurnEnd, !isDetached else { return }
        awaitsTurnEnd = true
        uncounted(loop).use { $0.callAtTurnEnd(self) }
    }

    /// Asks for `turnEnded()` once all events of the present wake have been served. Not of a handler that was detached.
    public final func callAtBatchEnd() {
        guard !awaitsTurnEnd, !isDetached else { return }
        awaitsTurnEnd = true
        uncounted(loop).use { $0.callAtBatchEnd(self) }
    }

    /// Asks for `socketReady(.readable)` in the next turn, after others had theirs: for a reader that stopped before the end.
    public final func callAgain() {
        guard !awaitsAnotherCall else { return }
        awaitsAnotherCall = true
        loop.callAgain(self)
    }
}
