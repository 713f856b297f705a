/// The bounds of one reflector. Times in nanoseconds.
public struct ReflectorSettings: Sendable, Equatable {
    /// Objects on one page of a list.
    public var pageObjects = 500
    /// Whether a list is asked for as a watch that begins with everything (`sendInitialEvents`), and by pages only where that is refused.
    public var streamsLists = true
    /// A watch with neither event nor bookmark for so long is given up for a fresh list. Servers send a bookmark each minute.
    public var silenceNanoseconds: UInt64 = 90_000_000_000
    /// A list of which nothing comes.
    public var answerNanoseconds: UInt64 = 30_000_000_000
    /// A list beside a watch that is well, give or take a tenth; 0: never.
    public var relistNanoseconds: UInt64 = 600_000_000_000
    /// How long a watch lasts that we ask for; the server ends it then, and it goes on from where it was.
    public var watchSeconds = 300...600
    /// Between tries, doubling, each shortened at random by up to a half.
    public var firstBackoffNanoseconds: UInt64 = 100_000_000
    public var lastBackoffNanoseconds: UInt64 = 10_000_000_000
    /// The longest `Retry-After` that is believed.
    public var longestRetryAfterSeconds: UInt64 = 60
    /// Bytes of one page, or of one event; etcd takes objects of 1.5 MiB.
    public var pageBytes = 128 << 20
    public var eventBytes = 8 << 20
    /// Objects held; a server that has more is not believed.
    public var objects = 200_000

    /// Failures of watches in a row after which a list shows whether the version is to blame.
    static let watchFailuresBeforeList = 3
    /// A watch that ended in good order sooner than this counts as a failure, lest we ask again and again.
    static let shortestWatchNanoseconds: UInt64 = 1_000_000_000
    /// Pages in a row that bring nothing new; a server that filters may send a few.
    static let emptyPages = 16
    /// Of an answer that refuses, as much as is read for its reason.
    static let refusalBytes = 64 << 10

    /// Pages of one list: twice as many as the objects need.
    var pages: Int { 2 * (objects / max(1, pageObjects)) + Self.emptyPages }

    public init() {}
}

/// Which objects of a type are watched.
public struct WatchScope: Sendable, Hashable {
    /// Nil: of all namespaces, or of none.
    public var namespace: String?
    /// In the API's notation: `app=vllm,tier in (a, b)`.
    public var labelSelector: String?
    public var fieldSelector: String?

    public init(namespace: String? = nil, labelSelector: String? = nil, fieldSelector: String? = nil) {
        self.namespace = namespace
        self.labelSelector = labelSelector
        self.fieldSelector = fieldSelector
    }
}

/// What a reflector asks for next.
public enum ReflectorRequest: Sendable, Equatable {
    /// `limit` nil: everything in one answer. Without a version: as of now, which no server answers from an older state.
    case list(limit: Int?, continueToken: String?)
    /// A watch that begins with the whole state as of now.
    case streamingList(timeoutSeconds: Int)
    case watch(resourceVersion: String, timeoutSeconds: Int)

    /// The request target.
    public func target(_ resource: ResourceType, _ scope: WatchScope) -> String {
        var query: [(String, String)] = []
        if let selector = scope.labelSelector { query.append(("labelSelector", selector)) }
        if let selector = scope.fieldSelector { query.append(("fieldSelector", selector)) }
        switch self {
        case .list(let limit, let token):
            if let limit { query.append(("limit", "\(limit)")) }
            if let token { query.append(("continue", token)) }
        case .streamingList(let seconds):
            query += [
                ("watch", "1"), ("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan"),
                ("allowWatchBookmarks", "true"), ("timeoutSeconds", "\(seconds)"),
            ]
        case .watch(let version, let seconds):
            query += [
                ("watch", "1"), ("resourceVersion", version), ("allowWatchBookmarks", "true"), ("timeoutSeconds", "\(seconds)"),
            ]
        }
        let path = resource.path(namespace: scope.namespace.map(Self.escaped))
        guard !query.isEmpty else { return path }
        return path + "?" + query.map { "\($0.0)=\(Self.escaped($0.1))" }.joined(separator: "&")
    }

    /// RFC 3986, 2.3: what needs no escape anywhere.
    static func escaped(_ text: String) -> String {
        var result = ""
        for byte in text.utf8 {
            switch byte {
            case 48...57, 65...90, 97...122, 45, 46, 95, 126: result.unicodeScalars.append(Unicode.Scalar(byte))
            default: result += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
        return result
    }
}

/// What is in the way of knowing the server's state.
public struct WatchFault: Error, Sendable, Equatable {
    public enum Kind: String, Sendable, CaseIterable {
        case unreachable, unauthorized, forbidden
        /// The server does not have this type of objects.
        case notServed = "not_served"
        case overloaded
        /// It answered with an error.
        case refused
        /// What it sent makes no sense.
        case malformed
        /// It sent nothing.
        case silent
    }

    public var kind: Kind
    /// A sentence for the operator.
    public var text: String

    public init(_ kind: Kind, _ text: String) {
        self.kind = kind
        self.text = text
    }
}
