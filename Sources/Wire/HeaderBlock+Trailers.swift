extension HeaderBlock {
    /// Drops the fields that must not come behind a body (RFC 9110, 6.5.1): those that frame, route, authenticate or steer, and those
    /// that say how to read the content. A recipient that merged them into the head would act upon them too late, or be deceived.
    public func removeFieldsForbiddenInTrailers() {
        removeFields { index in
            let name = self.name(at: index)
            if known(at: index).isHopByHop || name.hasPrefixIgnoringCase("content-") || name.hasPrefixIgnoringCase("if-") { return true }
            return Self.forbiddenInTrailers.contains { name.equalsIgnoringCase($0) }
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
