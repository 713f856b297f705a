import EventLoop
import Proxy
import Routing
import Wire

extension AdminApplication {
    /// What would become of a request with the headers of `request` and this body.
    ///
    /// A body is JSON; or, where the content type is that of gRPC, the call's first message as it is framed, and `path` in the query names the
    /// method. `protocol=websocket` in the query asks for a WebSocket, whose model is what `model` names there.
    /// - Parameter body: gets the padding that reading it takes.
    /// - Returns: a status and JSON.
    func explanation(of request: RequestHead, body: inout [UInt8]) -> (status: Int, text: String) {
        let pin = pinning.pin(request.headers)
        if pin == .refused {
            return refusal(403, "A request that names its group needs one name and the token that lets it, once each.", code: "pin_refused")
        }
        let isCall = request.isGRPC
        let isWebSocket = request.queryValue("protocol")?.elementsEqual("websocket".utf8) ?? false
        var call: InferenceCall?
        if isCall {
            guard let method = request.queryValue("path").map(percentDecoded), method.hasPrefix("/") else {
                return refusal(400, "Name the call's method: /explain?path=/PACKAGE.SERVICE/METHOD.")
            }
            call = Array(method.utf8).withUnsafeBytes(InferenceCall.init(path:))
            guard call == nil || body.withUnsafeBytes({ GRPCFraming.bytesAwaited($0) == 0 && $0[0] <= 1 }) else {
                return refusal(400, "The body is no gRPC message: a byte 0, its length in four bytes (big-endian), then the message.")
            }
        }

        body.append(contentsOf: repeatElement(0, count: RequestProbe.padding))
        let seed = reading.chainSeed(request.headers)
        return body.withUnsafeBytes { bytes in
            let message = UnsafeRawBufferPointer(rebasing: bytes.dropLast(RequestProbe.padding))
            if let call {
                probe.probe(message, of: call, seed: seed)
            } else if isCall || isWebSocket {
                probe.clear()
            } else {
                probe.probe(message, seed: seed)
            }
            guard isCall || isWebSocket || probe.isJSON else { return refusal(400, "The body is not JSON.") }
            var routing = reading.routingRequest(probe, request.headers)
            routing.needsHTTP2 = isCall
            routing.needsHTTP1 = isWebSocket
            var model = isWebSocket ? request.queryValue("model").map(percentDecoded) ?? "" : ""
            let explanation = model.withUTF8 { name in
                if isWebSocket { routing.model = UnsafeRawBufferPointer(name) }
                return explain(routing, pin)
            }
            if call != nil, case .failure(.modelNotFound) = explanation.outcome {
                // As the router does: the engines refuse what nobody lists.
                routing.model = nil
                return (200, explanationJSON(explain(routing, pin)))
            }
            return (200, explanationJSON(explanation))
        }
    }

    private func explain(_ routing: RoutingRequest, _ pin: Pinning.Pin) -> Explanation {
        guard case .group(let name) = pin else { return table.explain(routing, now: loop.now) }
        var routing = routing
        return name.withUnsafeBytes {
            routing.pinnedGroup = $0
            return table.explain(routing, now: loop.now)
        }
    }

    private func refusal(_ status: Int, _ message: String, code: String? = nil) -> (status: Int, text: String) {
        let code = code.map { #","code":"\#($0)""# } ?? ""
        return (status, #"{"error":{"message":"\#(message)","type":"invalid_request_error"\#(code)}}"#)
    }
}
