import ReplicaSync
import Routing

private func sealed(_ envelope: Envelope, _ payload: UnsafeRawBufferPointer, _ key: EnvelopeKey?) throws -> [UInt8] {
    var datagram = [UInt8](repeating: 0, count: ReplicaBounds.datagramBytes)
    let count = datagram.withUnsafeMutableBytes { envelope.seal(payload, key: key, into: $0) }
    try check(count != nil, "what is short enough is sealed")
    return Array(datagram.prefix(count ?? 0))
}

/// With bit 0 of the first byte there is a key. With bit 1 what follows is a payload, which is sealed and opened again; otherwise it is a datagram.
@Sendable func fuzzReplicaEnvelope(_ input: UnsafeRawBufferPointer) throws {
    guard let (control, input) = input.split else { return }
    let key = control & 1 == 0 ? nil : EnvelopeKey(Array("sixteen bytes ok".utf8))
    guard control & 2 != 0 else {
        guard case .success(let (envelope, payload)) = Envelope.open(input, key: key) else { return }
        try check(try sealed(envelope, payload, key) == Array(input), "one datagram says one thing")
        return
    }
    let purpose = Envelope.Purpose.allCases[Int(control >> 2) % 4]
    let envelope = Envelope(sender: UInt64(control), clockMicroseconds: UInt64(input.count), number: 1, purpose: purpose)
    var datagram = try sealed(envelope, input, key)
    try datagram.withUnsafeBytes { bytes in
        guard case .success(let (read, payload)) = Envelope.open(bytes, key: key) else {
            throw FuzzFinding(description: "what was sealed is opened")
        }
        try check(read == envelope && payload.elementsEqual(input), "nothing is lost on the way")
    }
    guard key != nil else { return }
    datagram[Int(control) % datagram.count] ^= 1 << (control >> 5)
    try datagram.withUnsafeBytes { bytes in
        if case .success = Envelope.open(bytes, key: key) { throw FuzzFinding(description: "a changed datagram is believed") }
    }
}

/// A payload from a replica that is believed and lies: the table takes it or not, goes on deciding, and is as before once it is gone.
@Sendable func fuzzReplicaMessage(_ input: UnsafeRawBufferPointer) throws {
    let table = RoutingTable(policy: .leastCost, seed: 1, limits: RoutingLimits(groups: 4, indexBlocks: 256, leases: 16))
    let groups = ["a", "b"].map { GroupDescription(name: $0, leader: Endpoint(host: $0, port: 1), kvCapacityTokens: 4_096) }
    table.replaceGroups(groups, now: 1)
    table.startSharing(now: 1)
    let outcome = table.receiveReplicaMessage(input, from: 7, now: 2)
    if case .applied(let placements, let loads) = outcome {
        try check(24 * (placements + loads) <= input.count, "there is not more in a message than it has bytes")
    }
    let request = RoutingRequest()
    for now in 3...6 as ClosedRange<UInt64> {
        guard case .success(let decision) = table.pick(request, now: now) else { throw FuzzFinding(description: "no group is ready") }
        table.settle(decision.lease, usage: nil, now: now)
    }
    for group in table.groups(now: 7) {
        let seconds = [group.prefillTokensPerSecond, group.decodeStepSeconds, group.othersRunning, group.othersWaiting]
        try check(seconds.allSatisfy { $0.isFinite && $0 >= 0 }, "loads are counts: \(group.name) \(seconds)")
    }
    table.forgetReplica(7, now: 8)
    for group in table.groups(now: 9) {
        try check(group.othersRunning == 0 && group.othersWaiting == 0 && group.inFlight == 0, "who is gone has nothing: \(group.name)")
    }
}
