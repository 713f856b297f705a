extension RequestHead {
    /// Whether the client asks to speak WebSocket on this connection (RFC 6455, 4.1; RFC 9110, 7.8). Every other protocol, h2c
    /// among them, is not offered, and a server may ignore the wish.
    public var asksForWebSocket: Bool {
        guard let wish = headers.value(.upgrade), version == .http11, method == .get, wish.containsListItem("websocket") else {
            return false
        }
        for index in 0..<headers.count where headers.known(at: index) == .connection {
            if headers.value(at: index).containsListItem("upgrade") { return true }
        }
        return false
    }
}

extension RequestHead {
    /// The first value of a parameter in the target's query, as it stands there.
    public func queryValue(_ name: StaticString) -> Slice<UnsafeRawBufferPointer>? {
        for part in target.dropFirst(path.count &+ 1).split(separator: 38) {
            let rest = part.dropFirst(name.utf8CodeUnitCount)
            if UnsafeRawBufferPointer(rebasing: part).starts(with: name), rest.first == 61 { return rest.dropFirst() }
        }
        return nil
    }
}

extension ResponseHead {
    /// Whether a 101 agrees to what `asksForWebSocket` wished.
    public var agreesToWebSocket: Bool { status == 101 && headers.value(.upgrade)?.equalsIgnoringCase("websocket") ?? false }
}
