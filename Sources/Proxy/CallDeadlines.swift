import EventLoop

/// The deadlines that gRPC's clients set for their calls. Nearly all calls end long before theirs, so there is no order to keep: a list
/// linked through the exchanges, one timer, and a look at all of them when the earliest that was ever asked for comes.
final class CallDeadlines: EventHandler {
    /// Between two looks at least; a call may outlive its deadline by as much.
    private static let granularityNanoseconds: UInt64 = 5_000_000
    private var first: Exchange?
    private var earliest = UInt64.max

    func add(_ exchange: Exchange, at deadline: UInt64) {
        exchange.callDeadline.at = deadline
        exchange.callDeadline.next = first
        first?.callDeadline.previous = exchange
        first = exchange
        if deadline < earliest { wake(at: deadline) }
    }

    func remove(_ exchange: Exchange) {
        let (previous, next) = (exchange.callDeadline.previous, exchange.callDeadline.next)
        next?.callDeadline.previous = previous
        if let previous { previous.callDeadline.next = next } else { first = next }
        exchange.callDeadline.next = nil
        exchange.callDeadline.previous = nil
    }

    private func wake(at deadline: UInt64) {
        earliest = deadline
        setDeadline(deadline)
    }

    override func deadlineReached() {
        // One that fails may take others with it, so the list is not changed while it is walked.
        var due: [Exchange] = []
        var next = UInt64.max
        var exchange = first
        while let current = exchange {
            if current.callDeadline.at <= loop.now { due.append(current) } else { next = min(next, current.callDeadline.at) }
            exchange = current.callDeadline.next
        }
        earliest = .max
        if next != .max { wake(at: max(next, loop.now &+ Self.granularityNanoseconds)) }
        for exchange in due { exchange.fail(.deadlineExceeded) }
    }
}

/// When a call ends at the latest, and its place among the others.
struct CallDeadline {
    /// Zero: never.
    var at: UInt64 = 0
    var next: Exchange?
    /// Unchecked: the list holds every exchange in it strongly, from the first on.
    unowned(unsafe) var previous: Exchange?
}
