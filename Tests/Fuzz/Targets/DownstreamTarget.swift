import EventLoop
import HTTPTransport

/// What one connection came to.
private struct DownstreamRun: Equatable {
    var transcript: [String]
    var output: [UInt8]
}

private func serve(_ input: UnsafeRawBufferPointer, seed: UInt8, isPlain: Bool, isSlow: Bool) throws -> DownstreamRun {
    let loop = try EventLoop()
    let application = FuzzApplication(isPlain: isPlain)
    var limits = TransportLimits()
    limits.headBytes = 2_048
    limits.headFields = 24
    limits.streamsPerConnection = 8
    limits.outputHighWaterBytes = 32 << 10
    limits.outputLowWaterBytes = 8 << 10
    let address = LocalSocket.freshAddress()
    let listener = try Listener(loop: loop, address: address, tls: nil, application: application, limits: limits)
    let client = ScriptedPeer(descriptor: LocalSocket.connect(to: address), script: input, seed: seed)
    if isSlow { client.readBytes = 4 << 10 }
    var turn = 0
    var quiet = 0
    try TurnDriver.run(loop) {
        turn += 1
        var moved = client.sendNext()
        if application.goOn() { moved = true }
        if (!isSlow || turn % 3 == 0) && client.receive() { moved = true }
        quiet = moved ? 0 : quiet + 1
        // Nothing more comes of it: the client goes, and everything must go with it.
        if quiet == 4, client.isOpen {
            client.close()
            return true
        }
        return moved
    }
    let connections = application.connections
    listener.closeAll()
    if let finding = application.finding { throw FuzzFinding(description: finding) }
    try checkEqual(connections, 0, "a connection ends with its client")
    try checkEqual(application.open, 0, "an exchange with a head is answered, or told that its client is gone")
    return DownstreamRun(transcript: application.transcript, output: client.received)
}

/// The first byte: bit 0 compares a split input with the whole one, bit 1 reads slowly, the rest seeds the split.
@Sendable func fuzzDownstream(_ input: UnsafeRawBufferPointer) throws {
    guard let (control, input) = input.split else { return }
    let seed = control >> 2
    guard control & 1 == 1 else {
        _ = try serve(input, seed: seed, isPlain: false, isSlow: control & 2 == 2)
        return
    }
    let whole = try serve(input, seed: 0, isPlain: true, isSlow: false)
    let split = try serve(input, seed: max(1, seed), isPlain: true, isSlow: control & 2 == 2)
    try checkEqual(split.transcript, whole.transcript, "requests in pieces and whole")
    // HTTP/2 answers are framed by what leaves together.
    if !input.starts(with: "PRI".utf8) { try checkEqual(text(split.output), text(whole.output), "answers to requests in pieces and whole") }
}

func text(_ bytes: [UInt8]) -> String { bytes.withUnsafeBytes { text($0) } }
