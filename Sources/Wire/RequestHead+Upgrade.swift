extension RequestHead {
    /// Whether the client asks to speak WebSocket on this connection (RFC 6455, 4.1; RFC 9110, 7.8). Every other protocol, h2c
    /// among them, is not offered, and a server may ignore the wish.
    public var asksForWebSocket: Bool {
        guard let wish = headers.value(.upgrade), version == .http11, method == .get, wish.containsListItem("websocket") else { return false }
        for index in 0..<headers.count where headers.known(at: index) == .connection {
            if headers.value(at: index).containsListItem("upgrade") { return true }
        }
        return false
    }
}

extension ResponseHead {
    /// Whether a 101 agrees to what `asksForWebSocket` wished.
    public var agreesToWebSocket: Bool { status == 101 && headers.value(.upgrade)?.equalsIgnoringCase("websocket") ?? false }
}
