extension HeaderBlock {
    /// Drops the fields that must not come behind a body (RFC 9110, 6.5.1): those that frame, route, authenticate or steer, and those
    /// that say how to read the content. A recipient that merged them into the head would act upon them too late, or be deceived. A
    /// digest of what came before may only be known now (RFC 9530, 2 and 3).
    public func removeFieldsForbiddenInTrailers() {
        removeFields { index in
            let name = self.name(at: index)
            if known(at: index).isHopByHop || name.hasPrefixIgnoringCase("if-") { return true }
            if name.hasPrefixIgnoringCase("content-") { return !name.equalsIgnoringCase("content-digest") }
            return Self.forbiddenInTrailers.contains { name.equalsIgnoringCase($0) }
        }
    }

    /// The same for a gRPC call, whose trailing metadata may have any name (grpc/grpc, doc/PROTOCOL-HTTP2.md): only what frames a message
    /// or belongs to one connection goes.
    public func removeFieldsForbiddenInTrailingMetadata() {
        removeFields { index in
            let known = self.known(at: index)
            return known.isHopByHop || known == .contentLength || known == .host || known == .trailer
        }
    }

    private static let forbiddenInTrailers: [StaticString] = [
        // Framing and routing; hop-by-hop fields besides.
        "host", "trailer", "max-forwards", "forwarded", "via",
        // Authentication.
        "authorization", "proxy-authorization", "proxy-authenticate", "www-authenticate", "authentication-info",
        "proxy-authentication-info", "cookie", "set-cookie",
        // What steers the request or the response.
        "expect", "range", "cache-control", "pragma", "age", "expires", "date", "location", "retry-after", "vary", "warning",
    ]
}
