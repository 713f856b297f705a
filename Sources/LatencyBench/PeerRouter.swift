import Foundation

/// A router that the bench can start in front of simulated groups. Each is started as its own documentation advises for language models, with
/// one worker thread, no access log and nothing that holds back a stream: differences are to be the routers', not their defaults'.
public enum PeerRouter: String, CaseIterable, Sendable {
    /// This program, with the policy it has by default.
    case swiftlet
    /// This program, whose replicas tell one another nothing.
    case swiftletApart = "swiftlet-apart"
    /// This program in turns: what the choice of a group is worth, everything else alike.
    case roundRobin = "round-robin"
    case smg
    case sglangRouter = "sglang-router"
    case vllmRouter = "vllm-router"
    case envoy, haproxy, nginx, nghttpx

    /// What to run, and the files to write before that.
    struct Launch {
        var program: String
        var arguments: [String]
        var environment: [String: String] = [:]
        var file: (name: String, text: String)?
    }

    /// Ports of one start, on 127.0.0.1.
    struct Ports {
        var listen: UInt16
        var metrics: UInt16
        /// Where this one hears of the others, and where these hear of it; only of those that tell one another.
        var sync: UInt16?
        var others: [UInt16] = []
        var backends: [UInt16]
    }

    /// The program's name in PATH; nil for this program itself.
    var programName: String? {
        switch self {
        case .swiftlet, .swiftletApart, .roundRobin: nil
        default: rawValue
        }
    }

    /// What to call with to learn the version; nil where the program does not tell.
    var versionArguments: [String]? {
        switch self {
        case .swiftlet, .swiftletApart, .roundRobin: ["--version"]
        case .haproxy, .nginx: ["-v"]
        case .vllmRouter: nil
        default: ["--version"]
        }
    }

    func launch(_ program: String, _ ports: Ports, folder: URL) -> Launch {
        let urls = ports.backends.map { "http://127.0.0.1:\($0)" }
        switch self {
        case .swiftlet, .swiftletApart, .roundRobin:
            var arguments = ["serve", "--listen", "127.0.0.1:\(ports.listen)", "--loops", "1", "--log-level", "error"]
            if self == .roundRobin { arguments += ["--policy", "round-robin"] }
            if let sync = ports.sync, self == .swiftlet {
                arguments += ["--replica-listen", "127.0.0.1:\(sync)"] + ports.others.flatMap { ["--replica-peer", "127.0.0.1:\($0)"] }
            }
            return Launch(program: program, arguments: arguments + urls.flatMap { ["--backend", $0] })
        case .smg:
            return modelRouter(program, ["launch"], ports, urls, more: ["--disable-tokenizer-autoload"])
        case .sglangRouter:
            return modelRouter(program, ["launch"], ports, urls, more: [])
        case .vllmRouter:
            return modelRouter(program, [], ports, urls, more: [])
        case .envoy:
            let file = ("envoy.yaml", envoyConfiguration(ports))
            return Launch(
                program: program,
                arguments: [
                    "-c", folder.appending(path: file.0).path, "--concurrency", "1", "--log-level", "warn", "--disable-hot-restart",
                ], file: file)
        case .haproxy:
            let file = ("haproxy.cfg", haproxyConfiguration(ports))
            return Launch(program: program, arguments: ["-db", "-f", folder.appending(path: file.0).path], file: file)
        case .nginx:
            let file = ("nginx.conf", nginxConfiguration(ports, folder: folder.path))
            let log = folder.appending(path: "nginx.err").path
            return Launch(program: program, arguments: ["-e", log, "-c", folder.appending(path: file.0).path], file: file)
        case .nghttpx:
            return Launch(
                program: program,
                arguments: [
                    "--conf=/dev/null", "--workers=1", "--log-level=ERROR", "--no-via", "--frontend=127.0.0.1,\(ports.listen);no-tls",
                    "--frontend-read-timeout=600", "--backend-read-timeout=600",
                ] + ports.backends.map { "--backend=127.0.0.1,\($0);;proto=http/1.1" })
        }
    }

    /// The routers of SGLang's family share their flags. Their policy is the one that follows prefixes, their default.
    private func modelRouter(_ program: String, _ command: [String], _ ports: Ports, _ urls: [String], more: [String]) -> Launch {
        Launch(
            program: program,
            arguments: command + ["--host", "127.0.0.1", "--port", "\(ports.listen)", "--worker-urls"] + urls
                + ["--policy", "cache_aware", "--log-level", "error", "--prometheus-port", "\(ports.metrics)"] + more,
            environment: ["TOKIO_WORKER_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"])
    }

    private func envoyConfiguration(_ ports: Ports) -> String {
        let endpoints = ports.backends.map {
            "        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: \($0) } } }"
        }
        return """
            static_resources:
              listeners:
              - address: { socket_address: { address: 127.0.0.1, port_value: \(ports.listen) } }
                filter_chains:
                - filters:
                  - name: envoy.filters.network.http_connection_manager
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                      stat_prefix: bench
                      generate_request_id: false
                      stream_idle_timeout: 0s
                      route_config:
                        virtual_hosts:
                        - { name: all, domains: ["*"], routes: [{ match: { prefix: "/" }, route: { cluster: groups, timeout: 0s } }] }
                      http_filters:
                      - name: envoy.filters.http.router
                        typed_config:
                          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                          suppress_envoy_headers: true
              clusters:
              - name: groups
                type: STATIC
                connect_timeout: 2s
                lb_policy: LEAST_REQUEST
                circuit_breakers: { thresholds: [{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }] }
                load_assignment:
                  cluster_name: groups
                  endpoints:
                  - lb_endpoints:
            \(endpoints.joined(separator: "\n"))

            """
    }

    /// Without `http-no-delay` HAProxy holds the events of a stream back for up to 40 ms.
    private func haproxyConfiguration(_ ports: Ports) -> String {
        let servers = ports.backends.enumerated().map { "  server s\($0) 127.0.0.1:\($1)" }
        return """
            global
              nbthread 1
              maxconn 12000
              no strict-limits
            defaults
              mode http
              no log
              option http-no-delay
              timeout connect 2s
              timeout client 600s
              timeout server 600s
              http-reuse always
            frontend clients
              bind 127.0.0.1:\(ports.listen)
              default_backend groups
            backend groups
              balance leastconn
            \(servers.joined(separator: "\n"))

            """
    }

    private func nginxConfiguration(_ ports: Ports, folder: String) -> String {
        let servers = ports.backends.map { "server 127.0.0.1:\($0);" }
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map { "\($0)_temp_path \(folder)/nginx_\($0);" }
        return """
            worker_processes 1; daemon off; pid \(folder)/nginx.pid; worker_rlimit_nofile 20000;
            events { worker_connections 8000; }
            http {
              access_log off; tcp_nodelay on; keepalive_timeout 600s; keepalive_requests 1000000000;
              client_max_body_size 0; proxy_request_buffering off; proxy_buffering off; proxy_read_timeout 600s;
              \(paths.joined(separator: " "))
              upstream groups { least_conn; \(servers.joined(separator: " ")) keepalive 256; keepalive_requests 1000000000; }
              server {
                listen 127.0.0.1:\(ports.listen);
                location / { proxy_pass http://groups; proxy_http_version 1.1; proxy_set_header Connection ""; }
              }
            }

            """
    }
}
