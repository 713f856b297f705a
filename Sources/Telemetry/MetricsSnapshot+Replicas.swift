extension MetricsSnapshot {
    /// What the control plane knows of other replicas of the router. The proxying loops do not fill it.
    public struct Replicas: Sendable {
        /// Replicas that are heard.
        public var heard = 0
        /// Addresses that are written to.
        public var peers = 0
        /// By outcome, each datagram to each peer.
        public var sent: [(outcome: String, count: UInt64)] = []
        public var received: [(outcome: String, count: UInt64)] = []
        public var sentBytes: UInt64 = 0
        public var receivedBytes: UInt64 = 0
        public var placementsSent: UInt64 = 0
        public var placementsReceived: UInt64 = 0
        public var placementsNotShared: UInt64 = 0
        /// By what became of them; those that were begun and neither ended nor broke off are under way.
        public var handoversGiven: [(outcome: String, count: UInt64)] = []
        public var handoversTaken: [(outcome: String, count: UInt64)] = []
        public var lost: UInt64 = 0

        public init() {}
    }
}

extension MetricsSnapshot.Replicas {
    func write(to text: inout PrometheusText) {
        text.family("swiftlet_replicas", .gauge, "Other replicas of the router that are heard.")
        text.sample([], heard)
        text.family("swiftlet_replica_peers", .gauge, "Addresses that replicas are told at.")
        text.sample([], peers)
        text.family("swiftlet_replica_datagrams_total", .counter, "Datagrams of replicas, each to each peer, by what became of them.")
        for entry in sent { text.sample([("direction", "sent"), ("outcome", entry.outcome)], entry.count) }
        for entry in received { text.sample([("direction", "received"), ("outcome", entry.outcome)], entry.count) }
        text.family("swiftlet_replica_bytes_total", .counter, "Bytes of those that were sent, and of all that came; without UDP's own.")
        text.sample([("direction", "sent")], sentBytes)
        text.sample([("direction", "received")], receivedBytes)
        text.family("swiftlet_replica_placements_total", .counter, "Prompts placed here and told, or placed elsewhere and heard of.")
        text.sample([("direction", "sent")], placementsSent)
        text.sample([("direction", "received")], placementsReceived)
        text.family(
            "swiftlet_replica_placements_not_shared_total", .counter, "Placements, turns and lessons that there was no room to tell of.")
        text.sample([], placementsNotShared)
        text.family("swiftlet_replica_handovers_total", .counter, "Times that a replica was told what it did not know when it began.")
        for entry in handoversGiven { text.sample([("direction", "sent"), ("outcome", entry.outcome)], entry.count) }
        for entry in handoversTaken { text.sample([("direction", "received"), ("outcome", entry.outcome)], entry.count) }
        text.family("swiftlet_replica_datagrams_lost_total", .counter, "Datagrams of replicas that did not come, or came too late.")
        text.sample([], lost)
    }
}
