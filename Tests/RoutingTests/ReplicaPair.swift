@testable import Routing

/// Two routers before the same groups; what the first does is told to the second.
struct ReplicaPair {
    let teller: RoutingTable
    let listener: RoutingTable
    var messages = ReplicaMessages()

    init(_ count: Int, policy: Policy = .leastCost, now: UInt64) {
        // Discovery names groups alike, in an order of its own.
        teller = RoutingTable(equalGroups(count), policy: policy, seed: 1)
        listener = RoutingTable(equalGroups(count).reversed(), policy: policy, seed: 2)
        teller.startSharing(now: now)
    }

    @discardableResult
    mutating func tell(now: UInt64, from replica: UInt64 = 7) -> [ReplicaMessageOutcome] {
        teller.takeReplicaMessages(into: &messages, now: now)
        return (0..<messages.count).map { place in
            messages.withMessage(place) { listener.receiveReplicaMessage($0, from: replica, now: now) }
        }
    }
}

/// What `table` makes of a message of these words.
@discardableResult
func receive(_ words: [UInt64], _ table: RoutingTable, from replica: UInt64 = 7, now: UInt64) -> ReplicaMessageOutcome {
    words.map(\.littleEndian).withUnsafeBytes { table.receiveReplicaMessage($0, from: replica, now: now) }
}

/// A group as messages name it.
func identity(_ name: String) -> UInt64 {
    var name = name
    return name.withUTF8 { ModelCatalog.hash(UnsafeRawBufferPointer($0)) }
}
