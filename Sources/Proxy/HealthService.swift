import EventLoop
import HTTPTransport
import Protos
import Routing
import Telemetry
import Wire

/// `grpc.health.v1.Health` of the router itself (grpc/grpc, doc/health-checking.md): the empty service is the router, which serves
/// when some group is ready; a model's name is a service too, and serves when some group that is ready has it.
final class HealthService: EventHandler {
    private typealias Status = Grpc__Health__V1__HealthCheckResponse__ServingStatus
    private static let serving = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
    private static let notServing = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
    private static let serviceUnknown = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

    /// A client that waits for changes.
    private struct Watch {
        unowned let exchange: Exchange
        let service: String
        var status: Status
    }

    private static let messageBytesMaximum = 4 << 10
    private static let watchesMaximum = 1_024
    /// How late a change is told.
    private static let pollNanoseconds: UInt64 = 100_000_000

    private let table: RoutingTable
    private var watches: [Watch] = []
    private var isDraining = false
    /// The table's count of changes when those who watch a model were told last.
    private var changesTold: UInt64?

    init(loop: EventLoop, table: RoutingTable) {
        self.table = table
        super.init(loop: loop)
    }

    // MARK: Calls

    func messageReceived(_ bytes: UnsafeRawBufferPointer, for exchange: Exchange) {
        guard exchange.body.count &+ bytes.count <= Self.messageBytesMaximum else {
            return refuse(exchange, "8", "The message is too long.")
        }
        exchange.collect(bytes)
    }

    /// The call's message is whole.
    func answer(_ exchange: Exchange) {
        let isWatch = exchange.request.path.equals("/grpc.health.v1.Health/Watch")
        guard isWatch || exchange.request.path.equals("/grpc.health.v1.Health/Check") else {
            return refuse(exchange, "12", "Unknown method.")
        }
        guard let service = Self.service(in: exchange.body.readable) else {
            return refuse(exchange, "3", "Expected one uncompressed HealthCheckRequest.")
        }
        let status = status(of: service)
        guard isWatch || status != nil else { return refuse(exchange, "5", "Unknown service.") }
        guard !isWatch || watches.count < Self.watchesMaximum else { return refuse(exchange, "8", "Too many watches.") }
        let headers = HeaderBlock()
        headers.append("content-type", "application/grpc")
        headers.append("x-request-id", exchange.requestID)
        exchange.responseStatus = 200
        exchange.respond(status: 200, headers: headers)
        send(status ?? Self.serviceUnknown, to: exchange)
        guard isWatch else { return finish(exchange) }
        watches.append(Watch(exchange: exchange, service: service, status: status ?? Self.serviceUnknown))
        if watches.count == 1 { setDeadline(loop.now &+ Self.pollNanoseconds) }
    }

    private func refuse(_ exchange: Exchange, _ status: StaticString, _ message: StaticString) {
        exchange.endCall(status, message)
        exchange.settle(.local)
    }

    private func finish(_ exchange: Exchange) {
        let trailers = HeaderBlock(byteCapacity: 64, fieldCapacity: 4)
        trailers.append("grpc-status", "0")
        exchange.finish(trailers: trailers)
        exchange.settle(.local)
    }

    /// The call has ended.
    func remove(_ exchange: Exchange) {
        if let index = watches.firstIndex(where: { $0.exchange === exchange }) { watches.swapAt(index, watches.count - 1) } else { return }
        watches.removeLast()
    }

    /// No request is taken any more: those who watch are told, and find another router.
    func drain() {
        isDraining = true
        while let watch = watches.popLast() {
            send(Self.notServing, to: watch.exchange)
            refuse(watch.exchange, "14", "The router is shutting down.")
        }
    }

    /// However many watch, the table's lock is taken once for each service that is watched, and for models only when something changed.
    override func deadlineReached() {
        let changes = table.readinessChanges
        let hasChanged = changes != changesTold
        changesTold = changes
        var states: [String: Status] = [:]
        // From the end: a call that ends meanwhile leaves its place to one that has been told.
        for index in watches.indices.reversed() where index < watches.count {
            let service = watches[index].service
            guard hasChanged || service.isEmpty else { continue }
            let status = states[service] ?? status(of: service) ?? Self.serviceUnknown
            states[service] = status
            guard status != watches[index].status else { continue }
            watches[index].status = status
            send(status, to: watches[index].exchange)
        }
        if !watches.isEmpty { setDeadline(loop.now &+ Self.pollNanoseconds) }
    }

    // MARK: States

    /// Nil: no such service.
    private func status(of service: String) -> Status? {
        if service.isEmpty { return !isDraining && table.hasReadyGroup(now: loop.now) ? Self.serving : Self.notServing }
        guard let isServed = table.isReady(model: service) else { return nil }
        return !isDraining && isServed ? Self.serving : Self.notServing
    }

    // MARK: Messages

    /// The name in a framed HealthCheckRequest that is all there is of the body.
    private static func service(in body: UnsafeRawBufferPointer) -> String? {
        var input = body
        var splitter = GRPCMessageSplitter(maximumMessageBytes: messageBytesMaximum)
        guard case .message(let length, isCompressed: false) = splitter.next(&input), length == input.count else { return nil }
        let bytes = input.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard let message = grpc__health__v1__health_check_request__unpack(nil, length, bytes) else { return nil }
        defer { grpc__health__v1__health_check_request__free_unpacked(message, nil) }
        return String(validatingCString: message.pointee.service)
    }

    private func send(_ status: Status, to exchange: Exchange) {
        var message = Grpc__Health__V1__HealthCheckResponse()
        grpc__health__v1__health_check_response__init(&message)
        message.status = status
        withUnsafeTemporaryAllocation(byteCount: 16, alignment: 1) { buffer in
            let room = UnsafeMutableRawBufferPointer(rebasing: buffer[GRPCFraming.prefixBytes...])
            guard grpc__health__v1__health_check_response__get_packed_size(&message) <= room.count else { return }
            let length = grpc__health__v1__health_check_response__pack(&message, room.baseAddress?.assumingMemoryBound(to: UInt8.self))
            guard let prefix = GRPCFraming.encodePrefix(messageBytes: length, into: buffer) else { return }
            exchange.responseBytes &+= prefix &+ length
            exchange.write(UnsafeRawBufferPointer(rebasing: buffer[..<(prefix &+ length)]))
        }
    }
}
