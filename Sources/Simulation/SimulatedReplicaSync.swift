import DequeModule
import Routing
import Synchronization

/// What routers tell one another: each at once, but no more often than every few milliseconds, and heard a little later.
struct SimulatedReplicaSync {
    private struct Message {
        var heardAt: UInt64
        var sender: Int
        var messages: ReplicaMessages
    }

    /// Set by the table when it has something to tell.
    private final class Pending: Sendable {
        let isSet = Atomic(false)
    }

    /// Between clouds' zones it is one millisecond, within one a third of it.
    private static let wayNanoseconds: UInt64 = 1_000_000
    /// What is under way is told again even if nothing changes.
    private static let longestNanoseconds: UInt64 = 1_000_000_000

    private let interval: UInt64
    private var pending: [Pending] = []
    /// When each router may tell next, and when it does in any case.
    private var mayTell: [UInt64] = []
    private var mustTell: [UInt64] = []
    /// In the order in which it will be heard.
    private var underWay: Deque<Message> = []

    /// - Parameter intervalMilliseconds: nil: nothing is told.
    init(intervalMilliseconds: Double?, routers: [SimulatedRouter]) {
        interval = UInt64((intervalMilliseconds ?? 0) * 1e6)
        guard intervalMilliseconds != nil, routers.count > 1 else { return }
        for router in routers {
            let flag = Pending()
            pending.append(flag)
            mayTell.append(0)
            mustTell.append(Self.longestNanoseconds)
            router.table.startSharing(now: 0) { flag.isSet.store(true, ordering: .relaxed) }
        }
    }

    /// When something is to be told or heard.
    var nextTime: UInt64 {
        var next = underWay.first?.heardAt ?? .max
        for number in pending.indices { next = min(next, tells(number)) }
        return next
    }

    private func tells(_ number: Int) -> UInt64 {
        pending[number].isSet.load(ordering: .relaxed) ? mayTell[number] : mustTell[number]
    }

    mutating func pass(now: UInt64, routers: [SimulatedRouter]) {
        while let first = underWay.first, first.heardAt <= now {
            underWay.removeFirst()
            for (number, router) in routers.enumerated() where number != first.sender {
                for index in 0..<first.messages.count {
                    first.messages.withMessage(index) {
                        _ = router.table.receiveReplicaMessage($0, from: UInt64(first.sender), now: now)
                    }
                }
            }
        }
        for number in pending.indices where tells(number) <= now {
            pending[number].isSet.store(false, ordering: .relaxed)
            mayTell[number] = now + interval
            mustTell[number] = now + Self.longestNanoseconds
            var messages = ReplicaMessages()
            routers[number].table.takeReplicaMessages(into: &messages, now: now)
            if messages.count > 0 { underWay.append(Message(heardAt: now + Self.wayNanoseconds, sender: number, messages: messages)) }
        }
    }
}
