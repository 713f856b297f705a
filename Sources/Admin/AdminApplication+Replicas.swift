import EventLoop
import Foundation
import ReplicaSync
import Telemetry

extension AdminApplication {
    /// Nil where replicas are neither told anything nor heard.
    var replicas: MetricsSnapshot.Replicas? {
        guard let state = loop.service(ReplicaSync.self)?.state else { return nil }
        var replicas = MetricsSnapshot.Replicas()
        replicas.heard = state.replicas.count
        replicas.peers = state.peers.count
        replicas.sent = state.sent.map { ($0.outcome.rawValue, $0.count) }
        replicas.received = state.received.map { ($0.outcome.rawValue, $0.count) }
        replicas.sentBytes = state.sentBytes
        replicas.receivedBytes = state.receivedBytes
        replicas.placementsSent = state.placementsSent
        replicas.placementsReceived = state.placementsReceived
        replicas.placementsNotShared = state.placementsNotShared
        replicas.handoversGiven = state.handoversGiven.byOutcome
        replicas.handoversTaken = state.handoversTaken.byOutcome
        replicas.lost = state.lost
        return replicas
    }

    var replicasJSON: String {
        let json = ReplicasJSON(loop.service(ReplicaSync.self)?.state, now: loop.now)
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return (try? encoder.encode(json)).map { String(decoding: $0, as: UTF8.self) + "\n" } ?? "{}"
    }
}

extension HandoverCounts {
    fileprivate var byOutcome: [(outcome: String, count: UInt64)] { [("begun", begun), ("whole", whole), ("broken", broken)] }
}

/// Who is heard, and who is told.
private struct ReplicasJSON: Encodable {
    struct Replica: Encodable {
        var id: String
        var address: String
        var ageSeconds: Double
        var datagrams: UInt64
        var lost: UInt64
        var placements: UInt64
        var loads: UInt64
    }

    struct Handovers: Encodable {
        var begun: UInt64
        var whole: UInt64
        var broken: UInt64

        init(_ counts: HandoverCounts) { (begun, whole, broken) = (counts.begun, counts.whole, counts.broken) }
    }

    /// What others knew when this router began.
    struct Handover: Encodable {
        /// `asking`, `told`, `whole` or `given_up`.
        var state: String
        /// Who tells.
        var by: String?

        init(_ state: HandoverState) {
            switch state {
            case .asking: self.state = "asking"
            case .told(let id): (self.state, by) = ("told", ReplicasJSON.text(id))
            case .whole: self.state = "whole"
            case .givenUp: self.state = "given_up"
            }
        }
    }

    struct Fault: Encodable {
        var name: String
        var fault: String
    }

    /// Whether `replicas.listen` is set; without it there is nothing more to say.
    var enabled: Bool
    var id: String?
    var address: String?
    var authenticated: Bool?
    var peers: [String]?
    var faults: [Fault]?
    var handover: Handover?
    var handoversGiven: Handovers?
    var handoversTaken: Handovers?
    var replicas: [Replica] = []

    init(_ state: ReplicaSyncState?, now: UInt64) {
        enabled = state != nil
        guard let state else { return }
        id = Self.text(state.id)
        address = state.address.description
        authenticated = state.isAuthenticated
        peers = state.peers.map(\.description)
        faults = state.faults.map { Fault(name: $0.name, fault: $0.text) }
        handover = Handover(state.handover)
        handoversGiven = Handovers(state.handoversGiven)
        handoversTaken = Handovers(state.handoversTaken)
        replicas = state.replicas.map {
            Replica(
                id: Self.text($0.id), address: $0.address.description, ageSeconds: Double(now > $0.heardAt ? now - $0.heardAt : 0) / 1e9,
                datagrams: $0.datagrams, lost: $0.lost, placements: $0.placements, loads: $0.loads)
        }
    }

    fileprivate static func text(_ id: UInt64) -> String {
        let digits = String(id, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
