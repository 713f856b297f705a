import Foundation
import Glibc

/// Where an API server is and how it is convinced of who we are. All contents are here; nothing is read later.
public struct ClusterAccess: Sendable, Equatable {
    public var host: String
    public var port: UInt16
    public var isTLS: Bool
    /// The name that the server's certificate is for, where it is not `host`.
    public var serverName: String?
    /// PEM; nil: the system's authorities.
    public var authorities: [UInt8]?
    public var skipsVerification = false
    /// PEM, both or neither.
    public var certificate: [UInt8]?
    public var key: [UInt8]?
    public var token: String?
    /// Where we are, or where the context points: watched where no other namespace is asked for.
    public var namespace: String
    /// For people: where all this comes from.
    public var origin: String

    public init(host: String, port: UInt16, isTLS: Bool, namespace: String, origin: String) {
        self.host = host
        self.port = port
        self.isTLS = isTLS
        self.namespace = namespace
        self.origin = origin
    }

    public var authority: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// What is missing or wrong, in words for an operator.
public struct AccessError: Error, Equatable, CustomStringConvertible {
    public var description: String
    public init(_ description: String) { self.description = description }
}

/// Where to look for a cluster.
public enum AccessSource: Sendable, Equatable {
    /// A pod's own: `KUBERNETES_SERVICE_HOST` and `_PORT`, and the service account's files in `folder`.
    case inCluster(folder: String)
    /// A file of kubectl's; context nil: its current one.
    case kubeconfig(file: String, context: String?)

    /// Where the kubelet puts a service account's token (projected volume), `ca.crt` and `namespace`.
    public static let serviceAccountFolder = "/var/run/secrets/kubernetes.io/serviceaccount"

    /// A kubeconfig that was named; else the pod's own account; else what `KUBECONFIG` names.
    public static func choose(
        kubeconfig: String?, context: String?, serviceAccountFolder: String, environment: [String: String]
    ) -> AccessSource {
        if let kubeconfig { return .kubeconfig(file: kubeconfig, context: context) }
        if environment["KUBERNETES_SERVICE_HOST"] == nil, let file = environment["KUBECONFIG"]?.split(separator: ":").first {
            return .kubeconfig(file: String(file), context: context)
        }
        return .inCluster(folder: serviceAccountFolder)
    }

    /// Reads everything anew; blocks on files.
    public func load(environment: [String: String]) throws(AccessError) -> ClusterAccess {
        switch self {
        case .inCluster(let folder): try Self.loadInCluster(folder: folder, environment)
        case .kubeconfig(let file, let context):
            try Kubeconfig.access(text: Self.text(try Self.read(file)), file: file, context: context)
        }
    }

    private static func loadInCluster(folder: String, _ environment: [String: String]) throws(AccessError) -> ClusterAccess {
        guard let host = environment["KUBERNETES_SERVICE_HOST"], !host.isEmpty else {
            throw AccessError(
                "not in a pod (KUBERNETES_SERVICE_HOST is not set) and no kubeconfig: give --kubeconfig FILE, or run in the cluster")
        }
        let portText = environment["KUBERNETES_SERVICE_PORT"] ?? "443"
        guard let port = UInt16(portText), port > 0 else { throw AccessError("KUBERNETES_SERVICE_PORT is no port: \(portText)") }
        let origin = "service account in \(folder)"
        let token = text(try read("\(folder)/token")).trimmingCharacters(in: .whitespacesAndNewlines)
        guard isHeaderValue(token) else { throw AccessError("\(folder)/token: empty, or not a token") }
        let namespace = (try? read("\(folder)/namespace")).map { text($0).trimmingCharacters(in: .whitespacesAndNewlines) }
        var access = ClusterAccess(
            host: host, port: port, isTLS: true, namespace: namespace.flatMap { $0.isEmpty ? nil : $0 } ?? "default", origin: origin)
        access.token = token
        access.authorities = try read("\(folder)/ca.crt")
        return access
    }

    static func isHeaderValue(_ token: String) -> Bool { !token.isEmpty && token.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F } }

    static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

    static func read(_ path: String) throws(AccessError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw AccessError("\(path): \(String(cString: strerror(errno)))") }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count == 0 { return bytes }
            guard count > 0 else { throw AccessError("\(path): \(String(cString: strerror(errno)))") }
            bytes += chunk[..<count]
            guard bytes.count <= 4 << 20 else { throw AccessError("\(path): larger than 4 MiB") }
        }
    }
}
