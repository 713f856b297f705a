/// The routing table: its memory and seed, and what counts besides load.
public struct RoutingParameters: Sendable, Equatable {
    /// Blocks in the prefix index, shared by all groups. Memory is touched only as the index fills.
    public var indexBlocks = 1 << 18
    public var heldRequests = 4_096
    /// Seeds prefix hashes and cold placement: replicas that share it agree without a word between them.
    public var hashSeed: UInt64 = 1

    /// Where this router runs; nil: unknown, and then no group is preferred for its place.
    public var node: String?
    public var zone: String?
    /// What going elsewhere counts, in nanoseconds; see `Locality`.
    public var otherNodeNanoseconds: UInt64 = 1_000_000
    public var otherZoneNanoseconds: UInt64 = 5_000_000
    /// How long a group that joins or restarts counts as cold.
    public var warmUpNanoseconds: UInt64 = 20_000_000_000

    /// Whether engines load LoRA adapters that they do not list, and how long loading, and swapping in a listed one, takes.
    public var loadsAdaptersOnDemand = false
    public var adapterLoadNanoseconds: UInt64 = 500_000_000
    public var adapterSwapNanoseconds: UInt64 = 20_000_000

    /// What names a session, the first that a request has; read by the policies `session` and `consistent-hash`.
    public var sessionKeys = SessionKey.usual
    /// A header whose value separates prompts that share no cache although they are equal; nil: none.
    public var tenantHeader: String?

    /// Whether requests may ask for the reasons of their placement, in a response header.
    public var explainsToClients = false
    /// Holds the token that lets a request name its group; nil: no request may.
    public var pinTokenFile: String?

    public init() {}
}

/// Where a request may carry the key of its session.
public struct SessionKey: Sendable, Equatable {
    public enum Place: String, CaseIterable, Sendable {
        case header
        /// A member of the JSON body, or of an object in it (`metadata.user_id`).
        case body
    }

    public var place: Place
    /// In lower case when it is a header's.
    public var name: String

    public init(_ place: Place, _ name: String) {
        self.place = place
        self.name = name
    }

    /// What clients and other routers use, the most telling first.
    public static let usual = [
        SessionKey(.header, "x-session-id"), SessionKey(.header, "x-smg-routing-key"), SessionKey(.header, "x-aibrix-session-key"),
        SessionKey(.body, "prompt_cache_key"), SessionKey(.body, "session_id"), SessionKey(.body, "user"),
        SessionKey(.body, "metadata.user_id"),
    ]

    /// Keys that one configuration may name, and those among them that stand in the body: each of these is one more look at it.
    public static let most = 16
    public static let mostInBody = 8
}

extension RoutingParameters {
    static var fields: [Field<RoutingParameters>] {
        let upToAMinute: ClosedRange<UInt64> = 0...60_000_000_000
        return [
            .scalar("index_blocks", \.indexBlocks, .count(1_024...(1 << 26))),
            .scalar("held_requests", \.heldRequests, .count(0...(1 << 16))),
            .scalar("hash_seed", \.hashSeed, .count(0...UInt64.max)),
            .optional("node", \.node, .text("a node's name")),
            .optional("zone", \.zone, .text("a zone's name")),
            .scalar("other_node", \.otherNodeNanoseconds, .duration(upToAMinute)),
            .scalar("other_zone", \.otherZoneNanoseconds, .duration(upToAMinute)),
            .scalar("warm_up", \.warmUpNanoseconds, .duration(0...3_600_000_000_000)),
            .scalar("adapters_on_demand", \.loadsAdaptersOnDemand, .flag),
            .scalar("adapter_load", \.adapterLoadNanoseconds, .duration(upToAMinute)),
            .scalar("adapter_swap", \.adapterSwapNanoseconds, .duration(upToAMinute)),
            .list("session_keys", \.sessionKeys, .sessionKey),
            .optional("tenant_header", \.tenantHeader, .headerName),
            .scalar("explain_header", \.explainsToClients, .flag),
            .optional("pin_token_file", \.pinTokenFile, .file),
        ]
    }

    /// What no key can tell alone.
    var violation: (key: String, expected: String, found: String)? {
        if sessionKeys.count > SessionKey.most {
            return ("session_keys", "at most \(SessionKey.most) keys", "\(sessionKeys.count)")
        }
        let inBody = sessionKeys.count { $0.place == .body }
        if inBody > SessionKey.mostInBody { return ("session_keys", "at most \(SessionKey.mostInBody) of the body", "\(inBody)") }
        return nil
    }
}

extension Syntax where Value == String {
    /// A node's or a zone's name; empty: unknown.
    static var placeName: Self {
        Syntax(expected: "a name of at most 256 bytes without control characters") { text in
            text.isEmpty ? text : Syntax<String>.text("a name").parse(text)
        } print: {
            yamlQuoted($0)
        }
    }

    /// In lower case, as fields are compared.
    static var headerName: Self {
        Syntax(expected: "a header's name of 1 to 64 bytes") { text in
            isToken(text) ? text.lowercased() : nil
        } print: {
            yamlQuoted($0)
        }
    }

    /// RFC 9110, 5.6.2.
    fileprivate static func isToken(_ text: String) -> Bool {
        let marks = "!#$%&'*+-.^_`|~"
        return (1...64).contains(text.utf8.count)
            && text.unicodeScalars.allSatisfy {
                $0.isASCII && ($0.properties.isAlphabetic || $0.properties.numericType != nil || marks.unicodeScalars.contains($0))
            }
    }
}

extension Syntax where Value == SessionKey {
    static var sessionKey: Self {
        Syntax(expected: "header:NAME or body:NAME, with a name of 1 to 64 bytes") { text in
            let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 2, let place = SessionKey.Place(rawValue: parts[0]) else { return nil }
            switch place {
            case .header: return Syntax<String>.isToken(parts[1]) ? SessionKey(.header, parts[1].lowercased()) : nil
            case .body: return Syntax<String>.text("a name", atMost: 64).parse(parts[1]).map { SessionKey(.body, $0) }
            }
        } print: {
            yamlQuoted("\($0.place.rawValue):\($0.name)")
        }
    }
}
