import CCares
public import EventLoop
import Glibc

/// What a question to the DNS came to.
public enum Resolution<Answer> {
    /// With the seconds that it may be kept for.
    case found(Answer, ttlSeconds: Int)
    /// The name has no such records, says a server that must know (NXDOMAIN, or no data).
    case nothing
    /// Nobody knows: no answer in time, SERVFAIL, nonsense. For people.
    case failed(String)
}

struct ServiceRecord: Equatable {
    var target: String
    var port: UInt16
    var priority: UInt16
    var weight: UInt16
}

/// Whom names are asked of.
public struct NameServers: Sendable, Equatable {
    /// `address[:port]`, or `[IPv6]:port`; none: those of /etc/resolv.conf.
    public var addresses: [String]
    /// How long a first question to one of them may take; each after it has longer.
    public var timeoutMilliseconds: Int

    public init(addresses: [String] = [], timeoutMilliseconds: Int = 1_000) {
        self.addresses = addresses
        self.timeoutMilliseconds = timeoutMilliseconds
    }
}

/// c-ares on an event loop: it brings /etc/resolv.conf, retries over servers, search domains and TCP for long answers.
public final class Resolver: EventHandler {
    private var channel: ares_channel?
    private var sockets: [CInt: ResolverSocket] = [:]

    /// - Returns: nil when there is no memory, or a server's address is none.
    public init?(loop: EventLoop, servers: NameServers, tries: Int = 3) {
        super.init(loop: loop)
        // Unretained: the channel goes with this object, and calls back from within our own calls only.
        let me = Unmanaged.passUnretained(self).toOpaque()
        let state: ares_sock_state_cb = { data, descriptor, isReadable, isWritable in
            guard let data else { return }
            let resolver = Unmanaged<Resolver>.fromOpaque(data).takeUnretainedValue()
            resolver.socketChanged(descriptor, isWatched: isReadable != 0 || isWritable != 0)
        }
        let list = servers.addresses.isEmpty ? nil : servers.addresses.joined(separator: ",")
        let status = swl_ares_open(&channel, state, me, list, CInt(clamping: servers.timeoutMilliseconds), CInt(clamping: tries))
        guard status == ARES_SUCCESS.rawStatus else { return nil }
    }

    deinit { if let channel { ares_destroy(channel) } }

    // MARK: Questions

    /// Addresses of a host, IPv4 and IPv6, sorted and each once.
    public func addresses(of host: String, answer: @escaping (Resolution<[String]>) -> Void) {
        guard let channel else { return answer(.failed("the resolver is closed")) }
        var hints = ares_addrinfo_hints()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
        ares_getaddrinfo(
            channel, host, nil, &hints,
            { data, status, _, found in
                guard let data else { return }
                let question = Unmanaged<Question<[String]>>.fromOpaque(data).takeRetainedValue()
                defer { if let found { ares_freeaddrinfo(found) } }
                question.answer(Resolver.addresses(status, found))
            }, Unmanaged.passRetained(Question(answer)).toOpaque())
        scheduleTimeout()
    }

    private static func addresses(_ status: CInt, _ found: UnsafeMutablePointer<ares_addrinfo>?) -> Resolution<[String]> {
        if let failure: Resolution<[String]> = failure(status) { return failure }
        var hosts: Set<String> = []
        var ttl = Int.max
        var node = found?.pointee.nodes
        while let entry = node {
            if let address = entry.pointee.ai_addr, Int(entry.pointee.ai_addrlen) <= MemoryLayout<sockaddr_storage>.size {
                var storage = sockaddr_storage()
                memcpy(&storage, address, Int(entry.pointee.ai_addrlen))
                hosts.insert(SocketAddress(storage: storage, length: entry.pointee.ai_addrlen).host)
            }
            ttl = min(ttl, Int(entry.pointee.ai_ttl))
            node = entry.pointee.ai_next
        }
        return hosts.isEmpty ? .nothing : .found(hosts.sorted(), ttlSeconds: max(ttl, 0))
    }

    /// The SRV records of a name (RFC 2782), in a fixed order.
    func services(of name: String, answer: @escaping (Resolution<[ServiceRecord]>) -> Void) {
        guard let channel else { return answer(.failed("the resolver is closed")) }
        ares_query(
            channel, name, CInt(ns_c_in.rawValue), CInt(ns_t_srv.rawValue),
            { data, status, _, message, length in
                guard let data else { return }
                let question = Unmanaged<Question<[ServiceRecord]>>.fromOpaque(data).takeRetainedValue()
                question.answer(Resolver.services(status, message, length))
            }, Unmanaged.passRetained(Question(answer)).toOpaque())
        scheduleTimeout()
    }

    private static func services(_ status: CInt, _ message: UnsafeMutablePointer<UInt8>?, _ length: CInt) -> Resolution<[ServiceRecord]> {
        if let failure: Resolution<[ServiceRecord]> = failure(status) { return failure }
        var list: UnsafeMutablePointer<ares_srv_reply>?
        let parsed = ares_parse_srv_reply(message, length, &list)
        if let failure: Resolution<[ServiceRecord]> = failure(parsed) { return failure }
        defer { ares_free_data(list) }
        var records: [ServiceRecord] = []
        var next = list
        while let record = next?.pointee {
            if let host = record.host {
                let target = String(cString: host)
                records.append(ServiceRecord(target: target, port: record.port, priority: record.priority, weight: record.weight))
            }
            next = record.next
        }
        records.sort { ($0.target, $0.port) < ($1.target, $1.port) }
        let ttl = swl_ares_least_ttl(message, length)
        return records.isEmpty ? .nothing : .found(records, ttlSeconds: max(Int(ttl), 0))
    }

    private static func failure<Answer>(_ status: CInt) -> Resolution<Answer>? {
        switch status {
        case ARES_SUCCESS.rawStatus: nil
        case ARES_ENOTFOUND.rawStatus, ARES_ENODATA.rawStatus: .nothing
        default: .failed(String(cString: ares_strerror(status)))
        }
    }

    // MARK: The loop

    private func socketChanged(_ descriptor: CInt, isWatched: Bool) {
        if !isWatched {
            sockets.removeValue(forKey: descriptor)?.detach()
        } else if sockets[descriptor] == nil {
            let socket = ResolverSocket(resolver: self, descriptor: descriptor)
            sockets[descriptor] = socket
            try? socket.attach(descriptor: descriptor)
        }
    }

    fileprivate func process(_ descriptor: CInt, _ readiness: Readiness) {
        guard let channel else { return }
        let isWritable = readiness.contains(.writable)
        ares_process_fd(channel, descriptor, isWritable ? descriptor : ARES_SOCKET_BAD)
        // Readiness is told once for all that waits, and c-ares may read less.
        var turns = 0
        while sockets[descriptor] != nil, turns < 64, swl_bytes_waiting(descriptor) > 0 {
            ares_process_fd(channel, descriptor, ARES_SOCKET_BAD)
            turns += 1
        }
        scheduleTimeout()
    }

    public override func deadlineReached() {
        guard let channel else { return }
        ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD)
        scheduleTimeout()
    }

    private func scheduleTimeout() {
        guard let channel else { return }
        let wait = swl_ares_wait_milliseconds(channel)
        setDeadline(wait < 0 ? nil : loop.now &+ UInt64(wait) &* 1_000_000 &+ 1_000_000)
    }
}

private final class Question<Answer> {
    let answer: (Resolution<Answer>) -> Void
    init(_ answer: @escaping (Resolution<Answer>) -> Void) { self.answer = answer }
}

/// One of c-ares' sockets, which opens and closes them itself.
private final class ResolverSocket: EventHandler {
    private unowned let resolver: Resolver
    private let descriptor: CInt

    init(resolver: Resolver, descriptor: CInt) {
        self.resolver = resolver
        self.descriptor = descriptor
        super.init(loop: resolver.loop)
    }

    override func socketReady(_ readiness: Readiness) { resolver.process(descriptor, readiness) }
}

extension RawRepresentable where RawValue: BinaryInteger {
    /// C enumerations come with another integer type than the functions that return them.
    fileprivate var rawStatus: CInt { CInt(truncatingIfNeeded: rawValue) }
}

extension BinaryInteger {
    fileprivate var rawStatus: CInt { CInt(truncatingIfNeeded: self) }
}
