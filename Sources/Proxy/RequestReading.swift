import CXXHash
public import Routing
public import Wire

/// What a request may be told apart by besides its prompt, as configured. The same for all loops, and for `/explain`.
public struct RequestReading: Sendable {
    /// Where the key of a session may stand.
    public enum SessionKey: Sendable {
        /// A header's name in lower case.
        case header([UInt8])
        /// A member of the body; see `RequestProbe`.
        case body([UInt8])
    }

    /// Seeds the prefix hashes; equal in all replicas, so that they place alike.
    public var hashSeed: UInt64 = 1
    /// In order: the first that a request has counts. Empty when the policy does not ask for sessions.
    public var sessionKeys: [SessionKey] = []
    /// A header in lower case whose value seeds the prefix hashes, too; empty: none.
    public var tenantHeader: [UInt8] = []

    public init() {}

    public func makeProbe() -> RequestProbe {
        RequestProbe(
            watching: sessionKeys.compactMap {
                if case .body(let name) = $0 { name } else { nil }
            })
    }

    /// What the chain of a request's prefix hashes begins with: prompts of two tenants share none.
    public func chainSeed(_ headers: HeaderBlock) -> UInt64 {
        guard !tenantHeader.isEmpty, let tenant = headers.value(named: tenantHeader) else { return hashSeed }
        return swl_xxh3(tenant.baseAddress, tenant.count, hashSeed)
    }

    /// What the choice needs to know, but for the protocol. Its buffers are the probe's and live until its next request.
    public func routingRequest(_ probe: RequestProbe, _ headers: HeaderBlock) -> RoutingRequest {
        var request = RoutingRequest(
            model: probe.model, prefixHashes: probe.prefixHashes, chunkBytes: RequestProbe.chunkBytes, promptBytes: probe.promptBytes,
            maxOutputTokens: probe.maxTokens, isStreamed: probe.stream)
        request.sequences = probe.sequences
        request.promptTokens = probe.promptTokens
        // What the engine then says of cached tokens is no sign that it has lost them.
        if probe.skipsCache {
            request.prefixHashes = .init(start: nil, count: 0)
        } else {
            request.promptDigest = probe.promptDigest
            request.formerTurnDigest = probe.formerTurnDigest
        }
        if headers.has(.wantedTTFT) { request.wantedTTFTSeconds = Self.seconds(headers.value(.wantedTTFT)) }
        if headers.has(.wantedTPOT) { request.wantedTPOTSeconds = Self.seconds(headers.value(.wantedTPOT)) }
        if !sessionKeys.isEmpty { request.session = session(probe, headers) }
        return request
    }

    private func session(_ probe: RequestProbe, _ headers: HeaderBlock) -> UInt64 {
        var bodyIndex = 0
        for key in sessionKeys {
            switch key {
            case .header(let name):
                if let value = headers.value(named: name), !value.isEmpty { return swl_xxh3(value.baseAddress, value.count, 0) | 1 }
            case .body:
                let hash = probe.watched(bodyIndex)
                if hash != 0 { return hash }
                bodyIndex += 1
            }
        }
        return 0
    }

    /// Milliseconds from 1 to an hour; anything else is no wish.
    private static func seconds(_ value: UnsafeRawBufferPointer?) -> Double {
        guard let milliseconds = value?.decimalFraction, milliseconds >= 1, milliseconds <= 3_600_000 else { return 0 }
        return milliseconds / 1_000
    }
}
