import Foundation
import Yams

/// kubectl's file of clusters, users and contexts (client-go `clientcmd/api/v1`), as far as it is of use to a program that runs for long.
struct Kubeconfig: Decodable {
    struct Cluster: Decodable {
        var server: String?
        var tlsServerName: String?
        var insecureSkipTLSVerify: Bool?
        var certificateAuthority: String?
        var certificateAuthorityData: String?
        var proxyURL: String?

        private enum CodingKeys: String, CodingKey {
            case server
            case tlsServerName = "tls-server-name"
            case insecureSkipTLSVerify = "insecure-skip-tls-verify"
            case certificateAuthority = "certificate-authority"
            case certificateAuthorityData = "certificate-authority-data"
            case proxyURL = "proxy-url"
        }
    }

    struct User: Decodable {
        /// A program or plug-in; that it is there is all we need to know.
        struct Plugin: Decodable {
            var command: String?
            var name: String?
        }
        var clientCertificate: String?
        var clientCertificateData: String?
        var clientKey: String?
        var clientKeyData: String?
        var token: String?
        var tokenFile: String?
        var username: String?
        var exec: Plugin?
        var authProvider: Plugin?

        private enum CodingKeys: String, CodingKey {
            case clientCertificate = "client-certificate"
            case clientCertificateData = "client-certificate-data"
            case clientKey = "client-key"
            case clientKeyData = "client-key-data"
            case token, tokenFile, username, exec
            case authProvider = "auth-provider"
        }
    }

    struct Context: Decodable {
        var cluster: String
        var user: String?
        var namespace: String?
    }

    struct NamedCluster: Decodable { var name: String, cluster: Cluster }
    struct NamedUser: Decodable { var name: String, user: User }
    struct NamedContext: Decodable { var name: String, context: Context }

    var currentContext: String?
    var clusters: [NamedCluster]?
    var users: [NamedUser]?
    var contexts: [NamedContext]?

    private enum CodingKeys: String, CodingKey {
        case currentContext = "current-context"
        case clusters, users, contexts
    }

    static func access(text: String, file: String, context wanted: String?) throws(AccessError) -> ClusterAccess {
        let config: Kubeconfig
        do { config = try YAMLDecoder().decode(Kubeconfig.self, from: text) } catch {
            throw AccessError("\(file): not a kubeconfig: \(error)")
        }
        let known = (config.contexts ?? []).map(\.name)
        guard let name = wanted ?? config.currentContext.flatMap({ $0.isEmpty ? nil : $0 }) else {
            throw AccessError("\(file): no current-context; choose one with --kube-context: \(list(known))")
        }
        guard let context = config.contexts?.first(where: { $0.name == name })?.context else {
            throw AccessError("\(file): no context \(name); it has \(list(known))")
        }
        guard let cluster = config.clusters?.first(where: { $0.name == context.cluster })?.cluster else {
            throw AccessError("\(file): context \(name) names a cluster \(context.cluster) that is not there")
        }
        var access = try reach(cluster, file: file, context: name, namespace: context.namespace)
        guard let userName = context.user, !userName.isEmpty else { return access }
        guard let user = config.users?.first(where: { $0.name == userName })?.user else {
            throw AccessError("\(file): context \(name) names a user \(userName) that is not there")
        }
        try identify(&access, as: user, named: userName, file: file)
        return access
    }

    private static func list(_ names: [String]) -> String { names.isEmpty ? "none" : names.joined(separator: ", ") }

    private static func reach(_ cluster: Cluster, file: String, context: String, namespace: String?) throws(AccessError) -> ClusterAccess {
        guard let server = cluster.server, let url = URL(string: server), let scheme = url.scheme?.lowercased(),
            ["http", "https"].contains(scheme), var host = url.host(percentEncoded: false), !host.isEmpty,
            url.path().isEmpty || url.path() == "/"
        else { throw AccessError("\(file): the server of context \(context) is no http:// or https:// address without a path") }
        if cluster.proxyURL?.isEmpty == false { throw AccessError("\(file): proxy-url is not supported (context \(context))") }
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        guard let port = UInt16(exactly: url.port ?? (scheme == "https" ? 443 : 80)), port > 0 else {
            throw AccessError("\(file): the server of context \(context) has no possible port")
        }
        var access = ClusterAccess(
            host: host, port: port, isTLS: scheme == "https", namespace: namespace.flatMap { $0.isEmpty ? nil : $0 } ?? "default",
            origin: "\(file), context \(context)")
        access.serverName = cluster.tlsServerName
        access.skipsVerification = cluster.insecureSkipTLSVerify ?? false
        access.authorities = try contents(
            data: cluster.certificateAuthorityData, path: cluster.certificateAuthority, "certificate-authority", file)
        return access
    }

    private static func identify(_ access: inout ClusterAccess, as user: User, named name: String, file: String) throws(AccessError) {
        if let plugin = user.exec {
            throw AccessError(
                "\(file): user \(name) gets credentials from a program (exec: \(plugin.command ?? "?")), which is refused here; "
                    + "use a client certificate, a token or a tokenFile")
        }
        if let plugin = user.authProvider {
            throw AccessError(
                "\(file): user \(name) has an auth-provider (\(plugin.name ?? "?")), which Kubernetes gave up in 1.26; use a token")
        }
        if user.username?.isEmpty == false {
            throw AccessError("\(file): user \(name) has a user name and password, which API servers do not take any more; use a token")
        }
        access.certificate = try contents(
            data: user.clientCertificateData, path: user.clientCertificate, "client-certificate", file)
        access.key = try contents(data: user.clientKeyData, path: user.clientKey, "client-key", file)
        guard (access.certificate == nil) == (access.key == nil) else {
            throw AccessError("\(file): user \(name) has only one of client-certificate and client-key")
        }
        var token = user.token
        if let path = user.tokenFile, !path.isEmpty { token = AccessSource.text(try AccessSource.read(absolute(path, beside: file))) }
        guard let trimmed = token?.trimmingCharacters(in: .whitespacesAndNewlines), !(trimmed.isEmpty && user.tokenFile == nil) else {
            return
        }
        guard AccessSource.isHeaderValue(trimmed) else { throw AccessError("\(file): the token of user \(name) is empty, or not a token") }
        access.token = trimmed
    }

    /// Data wins over a file, as with kubectl.
    private static func contents(data: String?, path: String?, _ key: String, _ file: String) throws(AccessError) -> [UInt8]? {
        if let data, !data.isEmpty {
            guard let bytes = Data(base64Encoded: data, options: .ignoreUnknownCharacters), !bytes.isEmpty else {
                throw AccessError("\(file): \(key)-data is not base64")
            }
            return Array(bytes)
        }
        guard let path, !path.isEmpty else { return nil }
        return try AccessSource.read(absolute(path, beside: file))
    }

    private static func absolute(_ path: String, beside file: String) -> String {
        guard !path.hasPrefix("/"), let slash = file.lastIndex(of: "/") else { return path }
        return file[...slash] + path
    }
}
