import EventLoop
public import Routing
import Synchronization

/// The loops of a router by number, so that whoever makes room for a request that waits reaches the loop that it came by.
public final class WaitingLoops: Sendable {
    private let mailboxes = Mutex<[Mailbox]>([])

    public init() {}

    /// From now on a loop is called when some of the requests may go.
    public func listen(to table: RoutingTable) {
        table.startHolding { [weak self] loop in
            self?.post(to: loop) { $0.service(ProxyWorker.self)?.held.release() }
        }
    }

    func add(_ mailbox: Mailbox) -> UInt32 {
        mailboxes.withLock { mailboxes in
            mailboxes.append(mailbox)
            return UInt32(mailboxes.count - 1)
        }
    }

    func post(to loop: UInt32, _ message: @escaping Mailbox.Message) {
        mailboxes.withLock { $0.indices.contains(Int(loop)) ? $0[Int(loop)] : nil }?.post(message)
    }
}

/// The requests of one loop that wait in the router, see `RoutingTable.admit`: whichever loop learns of room releases those of all.
final class HeldRequests: EventHandler {
    /// How often it is looked whether any may go without having been called: groups come back with time.
    private static let patrolNanoseconds: UInt64 = 20_000_000

    private let table: RoutingTable
    private let loops: WaitingLoops
    private let number: UInt32
    private var exchanges: [UInt64: Exchange] = [:]
    private var tickets: UInt64 = 0

    init(loop: EventLoop, table: RoutingTable, loops: WaitingLoops) {
        self.table = table
        self.loops = loops
        number = loops.add(loop.mailbox)
        super.init(loop: loop)
    }

    var count: Int { exchanges.count }

    func makeTicket() -> AdmissionTicket {
        tickets &+= 1
        return AdmissionTicket(loop: number, number: tickets)
    }

    func add(_ exchange: Exchange, _ ticket: AdmissionTicket) {
        exchange.ticket = ticket
        exchanges[ticket.number] = exchange
        if exchanges.count == 1 { setDeadline(loop.now &+ Self.patrolNanoseconds) }
    }

    func withdraw(_ ticket: AdmissionTicket) {
        exchanges[ticket.number] = nil
        table.withdraw(ticket)
    }

    override func deadlineReached() {
        release(unlessWithin: Self.patrolNanoseconds / 2)
        if !exchanges.isEmpty { setDeadline(loop.now &+ Self.patrolNanoseconds) }
    }

    /// - Parameter nanoseconds: unless another loop has done so within as many.
    func release(unlessWithin nanoseconds: UInt64 = 0) {
        // What is sent on may come to an end at once, and that makes room for others.
        var batch: [ReleasedRequest] = []
        table.releaseHeld(into: &batch, unlessWithin: nanoseconds, now: loop.now)
        for one in batch {
            if one.ticket.loop == number {
                deliver(one)
            } else {
                loops.post(to: one.ticket.loop) { $0.service(ProxyWorker.self)?.held.deliver(one) }
            }
        }
    }

    func deliver(_ one: ReleasedRequest) {
        if let exchange = exchanges.removeValue(forKey: one.ticket.number) { return exchange.waitEnded(one.result) }
        // It was withdrawn when it had just been placed.
        if case .success(let decision) = one.result { table.cancel(decision.lease, now: loop.now) }
    }
}
