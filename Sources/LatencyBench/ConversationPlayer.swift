public import EventLoop
import Foundation
public import HTTPTransport
import Histogram
import Wire

/// Plays a conversation workload against one address over HTTP/1.1, streaming: each conversation starts at its time, whatever the
/// others do, and goes on a think time after the answer before. Confined to its loop.
public final class ConversationPlayer: EventHandler {
    private struct Pending {
        var at: UInt64
        var conversation: Int
    }

    let workload: ConversationWorkload
    private let pool: UpstreamPool
    private let authority: String
    private let startedAt: UInt64
    private var due: [Pending] = []
    private var turn: [Int]
    private var messages: [[[String: String]]]
    private var inFlight = 0
    public private(set) var report = LatencyReport()
    private let progress: (LatencyReport) -> Void
    private let completion: (LatencyReport) -> Void

    /// `progress` is called after every answer, `completion` once, with everything; both on the loop.
    public init(
        loop: EventLoop, workload: ConversationWorkload, address: SocketAddress, limits: TransportLimits = TransportLimits(),
        progress: @escaping (LatencyReport) -> Void, completion: @escaping (LatencyReport) -> Void
    ) {
        self.workload = workload
        self.progress = progress
        self.completion = completion
        authority = address.description
        pool = UpstreamPool(loop: loop, address: address, authority: authority, speaksHTTP2: false, limits: limits)
        startedAt = loop.clock()
        turn = Array(repeating: 0, count: workload.conversations.count)
        messages = workload.conversations.map { [["role": "system", "content": $0.system]] }
        super.init(loop: loop)
        due = workload.conversations.indices.map { Pending(at: startedAt &+ workload.conversations[$0].startNanoseconds, conversation: $0) }
        arm()
    }

    private func arm() {
        if let next = due.map(\.at).min() { setDeadline(next) }
    }

    public override func deadlineReached() {
        let ready = due.filter { $0.at <= loop.now }.sorted { $0.at < $1.at }
        due.removeAll { $0.at <= loop.now }
        for pending in ready { send(pending) }
        arm()
    }

    private func send(_ pending: Pending) {
        let index = pending.conversation
        messages[index].append(["role": "user", "content": workload.conversations[index].userTurns[turn[index]]])
        let body: [String: Any] = [
            "model": workload.parameters.model, "messages": messages[index], "max_tokens": workload.parameters.outputTokens,
            "ignore_eos": true, "stream": true, "stream_options": ["include_usage": true],
        ]
        guard let json = try? JSONSerialization.data(withJSONObject: body, options: [.sortedKeys]) else { return }
        let head = RequestHead()
        head.setMethod("POST")
        head.setTarget("/v1/chat/completions")
        head.headers.append("host", authority)
        head.headers.append("content-type", "application/json")
        inFlight += 1
        let lag = (loop.clock() &- pending.at) / 1_000
        report.worstLagMicroseconds = max(report.worstLagMicroseconds, lag)
        let exchange = TurnExchange(player: self, conversation: index, scheduledAt: pending.at)
        pool.start(exchange, UpstreamRequest(head: head, bodyLength: json.count, hasBody: true))
        json.withUnsafeBytes { _ = exchange.send($0) }
        exchange.finishRequest()
    }

    fileprivate func finished(_ exchange: TurnExchange) {
        let index = exchange.conversation
        inFlight -= 1
        report.requests += 1
        if exchange.isGood {
            report.timeToFirstToken.record(max(1, (exchange.firstTokenAt &- exchange.scheduledAt) / 1_000))
            report.endToEnd.record(max(1, (loop.clock() &- exchange.scheduledAt) / 1_000))
            report.requestsByBackend[exchange.servedBy, default: 0] += 1
            if let usage = exchange.usage {
                report.promptTokens += usage.promptTokens
                report.cachedTokens += usage.cachedTokens ?? 0
            }
        } else {
            report.errors += 1
        }
        messages[index].append(["role": "assistant", "content": exchange.text])
        progress(report)
        turn[index] += 1
        if turn[index] < workload.parameters.turns {
            due.append(Pending(at: loop.clock() &+ workload.conversations[index].thinkNanoseconds[turn[index]], conversation: index))
            arm()
        } else if inFlight == 0, due.isEmpty {
            detach()
            pool.closeIdle()
            completion(report)
        }
    }
}

/// One turn of a conversation: its answer's text, its first token's time, what served it.
private final class TurnExchange: UpstreamExchange {
    private unowned let player: ConversationPlayer
    let conversation: Int
    let scheduledAt: UInt64
    private(set) var firstTokenAt: UInt64 = 0
    private(set) var text = ""
    private(set) var servedBy = ""
    private(set) var isGood = false
    private var scanner = ResponseScanner(kind: .eventStream)
    private var received = Data()

    init(player: ConversationPlayer, conversation: Int, scheduledAt: UInt64) {
        self.player = player
        self.conversation = conversation
        self.scheduledAt = scheduledAt
    }

    var usage: ResponseScanner.Usage? { scanner.usage }

    override func headReceived() {
        if let name = response.headers.value("x-served-by") { servedBy = String(decoding: name, as: UTF8.self) }
    }

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        scanner.consume(bytes)
        received.append(contentsOf: bytes)
        // vLLM's first event carries the role alone and leaves when the prompt is being computed; content comes with the second.
        if firstTokenAt == 0, scanner.dataEvents > 0 { firstTokenAt = player.loop.clock() }
    }

    override func responseEnded(trailers: HeaderBlock?) {
        scanner.finish()
        isGood = response.status == 200 && scanner.doneSeen && !scanner.errorSeen && firstTokenAt != 0
        text = contentOfEvents()
        player.finished(self)
    }

    override func failed(_ failure: UpstreamFailure) { player.finished(self) }

    private func contentOfEvents() -> String {
        struct Event: Decodable {
            struct Choice: Decodable {
                struct Delta: Decodable { var content: String? }
                var delta: Delta
            }
            var choices: [Choice]
        }
        let decoder = JSONDecoder()
        var result = ""
        for line in received.split(separator: 10) where line.starts(with: Data("data: {".utf8)) {
            if let event = try? decoder.decode(Event.self, from: line.dropFirst(6)) { result += event.choices.first?.delta.content ?? "" }
        }
        return result
    }
}
