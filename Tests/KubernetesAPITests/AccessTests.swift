import Foundation
import Testing

@testable import KubernetesAPI

/// Files in a folder that goes when it does.
private final class Folder {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "swiftlet-access-\(UInt64.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ name: String, _ text: String) throws { try text.write(toFile: "\(path)/\(name)", atomically: true, encoding: .utf8) }
}

private func failure(_ body: () throws(AccessError) -> ClusterAccess) -> String? {
    do {
        _ = try body()
        return nil
    } catch { return error.description }
}

@Suite struct InClusterAccessTests {
    private static let environment = ["KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"]

    private func account() throws -> Folder {
        let folder = try Folder()
        try folder.write("token", "first\n")
        try folder.write("ca.crt", "PEM")
        try folder.write("namespace", "models\n")
        return folder
    }

    @Test func aServiceAccountIsReadAnewEachTime() throws {
        let folder = try account()
        let source = AccessSource.inCluster(folder: folder.path)
        let access = try source.load(environment: Self.environment)
        #expect(access.authority == "10.96.0.1:6443" && access.isTLS && access.token == "first" && access.namespace == "models")
        #expect(access.authorities == Array("PEM".utf8) && !access.skipsVerification)
        try folder.write("token", "second")
        #expect(try source.load(environment: Self.environment).token == "second")
    }

    @Test func addressesOfSixAreBracketedAndThePortHasADefault() throws {
        let folder = try account()
        let access = try AccessSource.inCluster(folder: folder.path).load(environment: ["KUBERNETES_SERVICE_HOST": "fd00::1"])
        withExtendedLifetime(folder) {}
        #expect(access.authority == "[fd00::1]:443")
    }

    @Test func whatIsMissingIsNamed() throws {
        let folder = try account()
        let source = AccessSource.inCluster(folder: folder.path)
        #expect(failure { () throws(AccessError) in try source.load(environment: [:]) }?.contains("--kubeconfig") == true)
        for port in ["0", "65536", "https"] {
            let environment = Self.environment.merging(["KUBERNETES_SERVICE_PORT": port]) { $1 }
            #expect(failure { () throws(AccessError) in try source.load(environment: environment) }?.contains(port) == true)
        }
        for (token, words) in [("", "token: empty"), (" \n", "token: empty"), ("a b", "not a token"), ("a\u{7F}", "not a token")] {
            try folder.write("token", token)
            let message = failure { () throws(AccessError) in try source.load(environment: Self.environment) }
            #expect(message?.contains(words) == true, "\(message ?? "none")")
        }
        for name in ["token", "ca.crt"] {
            let folder = try account()
            try FileManager.default.removeItem(atPath: "\(folder.path)/\(name)")
            let source = AccessSource.inCluster(folder: folder.path)
            let missing = failure { () throws(AccessError) in try source.load(environment: Self.environment) }
            #expect(missing == "\(folder.path)/\(name): No such file or directory")
            // Not readable, also for root.
            try FileManager.default.createDirectory(atPath: "\(folder.path)/\(name)", withIntermediateDirectories: false)
            let unreadable = failure { () throws(AccessError) in try source.load(environment: Self.environment) }
            #expect(unreadable == "\(folder.path)/\(name): Is a directory")
        }
    }

    @Test func theNamedKubeconfigWinsThenThePodThenTheEnvironment() {
        func choose(_ file: String?, _ environment: [String: String]) -> AccessSource {
            .choose(kubeconfig: file, context: "c", serviceAccountFolder: "/account", environment: environment)
        }
        #expect(choose("f", Self.environment) == .kubeconfig(file: "f", context: "c"))
        #expect(choose(nil, Self.environment.merging(["KUBECONFIG": "g"]) { $1 }) == .inCluster(folder: "/account"))
        #expect(choose(nil, ["KUBECONFIG": "g:h"]) == .kubeconfig(file: "g", context: "c"))
        #expect(choose(nil, [:]) == .inCluster(folder: "/account"))
    }
}

@Suite struct KubeconfigTests {
    private func text(cluster: String = "server: https://api.example.com", user: String = "token: t", context: String = "") -> String {
        """
        apiVersion: v1
        kind: Config
        current-context: one
        clusters: [{name: c, cluster: {\(cluster)}}]
        users: [{name: u, user: {\(user)}}]
        contexts:
          - {name: one, context: {cluster: c, user: u\(context)}}
          - {name: two, context: {cluster: c, user: nobody}}
          - {name: three, context: {cluster: nowhere, user: u}}
          - {name: four, context: {cluster: c}}
        """
    }

    private func access(_ text: String, context: String? = nil, file: String = "/etc/k/config") throws(AccessError) -> ClusterAccess {
        try Kubeconfig.access(text: text, file: file, context: context)
    }

    @Test func contextsChoose() throws {
        let one = try access(text(context: ", namespace: models"))
        #expect(one.authority == "api.example.com:443" && one.token == "t" && one.namespace == "models" && one.isTLS)
        let four = try access(text(), context: "four")
        #expect(four.token == nil && four.namespace == "default")
        #expect(try access(text(cluster: "server: 'http://[::1]:8080/'")).authority == "[::1]:8080")
    }

    @Test func dataWinsOverFilesAndFilesLieBesideTheConfig() throws {
        let folder = try Folder()
        try folder.write("ca.pem", "file")
        try folder.write("token", "from file\n".replacing(" ", with: "-"))
        let file = "\(folder.path)/config"
        let server = "server: https://h, insecure-skip-tls-verify: true, tls-server-name: other"
        let both = try access(
            text(
                cluster: "\(server), certificate-authority: ca.pem, certificate-authority-data: \(Data("data".utf8).base64EncodedString())"),
            file: file)
        #expect(both.authorities == Array("data".utf8) && both.skipsVerification && both.serverName == "other")
        let beside = try access(text(cluster: "\(server), certificate-authority: ca.pem", user: "tokenFile: token"), file: file)
        #expect(beside.authorities == Array("file".utf8) && beside.token == "from-file")
        let data = Data("x".utf8).base64EncodedString()
        let certificate = try access(text(user: "client-certificate-data: \(data), client-key-data: \(data)"))
        #expect(certificate.certificate == Array("x".utf8) && certificate.key == Array("x".utf8) && certificate.token == nil)
    }

    @Test(arguments: [
        ("exec: {command: aws, apiVersion: v1}", "exec: aws), which is refused"), ("auth-provider: {name: gcp}", "auth-provider (gcp)"),
        ("username: a, password: b", "user name and password"), ("client-certificate-data: eA==", "only one of client-certificate"),
        ("client-certificate-data: '!!', client-key-data: eA==", "client-certificate-data is not base64"), ("token: 'a b'", "not a token"),
        ("tokenFile: absent", "/etc/k/absent: No such file"),
    ])
    func usersThatAreNoUseAreNamed(user: String, words: String) {
        let message = failure { () throws(AccessError) in try access(text(user: user)) }
        #expect(message?.contains(words) == true, "\(message ?? "none")")
        #expect(message?.contains("/etc/k/") == true)
    }

    @Test(arguments: [
        ("server: 'ftp://h'", "no http:// or https://"), ("server: 'https://h/path'", "without a path"), ("server: ''", "no http://"),
        ("insecure-skip-tls-verify: true", "no http://"), ("server: 'https://h:0'", "no possible port"),
        ("server: 'https://h', proxy-url: 'http://p'", "proxy-url"),
        ("server: 'https://h', certificate-authority-data: '*'", "certificate-authority-data is not base64"),
    ])
    func clustersThatCannotBeReachedAreNamed(cluster: String, words: String) {
        let message = failure { () throws(AccessError) in try access(text(cluster: cluster)) }
        #expect(message?.contains(words) == true, "\(message ?? "none")")
    }

    @Test func namesThatLeadNowhereAreNamed() {
        for (context, words) in [
            ("two", "names a user nobody"), ("three", "names a cluster nowhere"), ("five", "no context five; it has one, two, three, four"),
        ] {
            #expect(failure { () throws(AccessError) in try access(text(), context: context) }?.contains(words) == true)
        }
        let none = text().replacing("current-context: one", with: "current-context: ''")
        #expect(failure { () throws(AccessError) in try access(none) }?.contains("--kube-context: one, two") == true)
        for nonsense in ["[1, 2]", "clusters: 7", "a: [", ""] {
            #expect(failure { () throws(AccessError) in try access(nonsense) } != nil)
        }
    }
}
