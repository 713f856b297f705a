import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

/// WebSocket (realtime endpoints): once the backend has agreed, bytes pass unread, and the booking stands until both sides have ended.
extension Exchange {
    /// A WebSocket has no body that names the model: its target does (`/v1/realtime?model=…`).
    func pickByQuery(_ request: RoutingRequest) -> Result<Decision, RoutingFailure> {
        withModelOfQuery(request) { request in
            let result = pick(request)
            if case .success = result, let model = request.model, !model.isEmpty, modelLabel == nil {
                modelLabel = worker.metrics.models.intern(model)
            }
            return result
        }
    }

    func withModelOfQuery<Value>(_ request: RoutingRequest, _ body: (RoutingRequest) -> Value) -> Value {
        var request = request
        var model = self.request.queryValue("model").map(percentDecoded) ?? ""
        return model.withUTF8 { model in
            request.model = UnsafeRawBufferPointer(model)
            return body(request)
        }
    }

    func tunnelOpened(_ response: ResponseHead) {
        mode = .tunnel
        isReplayable = false
        // A probe that became a tunnel must not keep its group waiting for the outcome.
        if let decision { worker.table.reportReachable(decision.group, now: worker.loop.now) }
        responseStatus = response.status
        scanner = .init(kind: .other)
        let headers = response.headers
        removeConnectionFields(headers)
        headers.remove(.requestID)
        headers.append("x-request-id", requestID)
        openTunnel(headers: headers)
    }

    func tunnelReceived(_ bytes: UnsafeRawBufferPointer) {
        bodyBytesReceived &+= bytes.count
        guard let attempt else { return }
        if !attempt.send(bytes) { pauseBody() }
    }

    /// The client has ended its side.
    func tunnelRequestEnded() {
        attempt?.finishRequest()
        if isResponseFinished { endTunnel() }
    }

    /// The backend has ended its side.
    func tunnelResponseEnded() {
        finish()
        if isRequestComplete { endTunnel() }
    }

    private func endTunnel() {
        attempt = nil
        settle(.completed)
    }
}
