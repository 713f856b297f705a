public import EventLoop
import Foundation
import HTTPTransport

/// What a run speaks, and to whom.
public struct LoadTarget: Sendable {
    /// What a request is, and what its answer's tokens are.
    public enum API: String, Sendable, CaseIterable {
        /// `POST /v1/chat/completions`.
        case chat
        /// `POST /v1/completions`.
        case text
        /// Any HTTP: one method, path and body for all.
        case plain
        /// Open Inference Protocol v2: `ModelInfer`, or `ModelStreamInfer` when streaming.
        case infer
    }

    /// Why a URL is none of ours.
    public struct URLError: Error, CustomStringConvertible {
        public let description: String
    }

    public let url: String
    public let address: SocketAddress
    /// Of more servers that do the same: all of them get requests in turns.
    public var replicas: [SocketAddress] = []
    /// `host:port` as it goes into `host` or `:authority`.
    public let authority: String
    public let host: String
    public let port: UInt16
    public let speaksHTTP2: Bool
    public let isTLS: Bool
    /// The URL's path; empty when it has none.
    public internal(set) var path: String

    /// Takes `http://` and `https://` (HTTP/1.1), `h2c://` and `h2://` (HTTP/2), `grpc://` and `grpcs://`. Resolves the name: blocks.
    public init(_ url: String) throws {
        self.url = url
        guard let parts = URLComponents(string: url), let scheme = parts.scheme?.lowercased(), let host = parts.host, !host.isEmpty else {
            throw URLError(description: "expected SCHEME://HOST:PORT, found '\(url)'")
        }
        switch scheme {
        case "http": (speaksHTTP2, isTLS) = (false, false)
        case "https": (speaksHTTP2, isTLS) = (false, true)
        case "h2c", "grpc": (speaksHTTP2, isTLS) = (true, false)
        case "h2", "grpcs": (speaksHTTP2, isTLS) = (true, true)
        default: throw URLError(description: "expected http, https, h2c, h2, grpc or grpcs, found '\(scheme)' in '\(url)'")
        }
        let bare = host.hasPrefix("[") && host.hasSuffix("]") ? String(host.dropFirst().dropLast()) : host
        guard let port = UInt16(exactly: parts.port ?? (isTLS ? 443 : 80)) else {
            throw URLError(description: "expected a port up to 65535 in '\(url)'")
        }
        self.host = bare
        self.port = port
        path = parts.percentEncodedPath + (parts.percentEncodedQuery.map { "?\($0)" } ?? "")
        authority = parts.port == nil ? host : "\(host):\(port)"
        address = try SocketAddress.resolve(host: bare, port: port)
    }

    /// The first one's, with the others as its replicas. Blocks as `init(_:)` does.
    /// - Parameter urls: at least one, all alike but for host and port.
    public init(replicas urls: [String]) throws {
        try self.init(urls[0])
        replicas = try urls.dropFirst().map { try LoadTarget($0).address }
    }
}

/// How requests are made and when they are given up.
public struct LoadSettings: Sendable {
    public var api = LoadTarget.API.chat
    /// Empty: none is named, and engines take their own.
    public var model = ""
    public var streams = true
    /// Whether engines are asked to go on to the planned length whatever they sample.
    public var ignoresEnd = true
    public var method = "GET"
    /// Body of plain requests.
    public var body: [UInt8] = []
    public var headers: [(name: String, value: String)] = []
    /// Of all loops together.
    public var mode = RequestPacer.Mode.open(limit: nil)
    public var loops = 1
    /// Whether the threads that send run ahead of all ordinary ones; in a closed loop `auto` means no.
    public var realTime = RealTimeRequest.auto
    /// Whether its loops never sleep; they are ordinary threads then, since one that never sleeps must not run ahead of all others.
    public var busyPolls = false
    /// HTTP/2 connections per loop at the least: streams are spread over so many, and more are opened as the server's stream limit requires.
    /// HTTP/1.1 opens what it needs.
    public var connections = 1
    /// Silence in an answer, or before it, after which it is given up.
    public var timeoutNanoseconds: UInt64 = 600_000_000_000
    /// What is under way this long after the last stage is given up and counted as unfinished.
    public var drainNanoseconds: UInt64 = 600_000_000_000
    /// Requests that are due this early are sent and left out of all figures.
    public var warmUpNanoseconds: UInt64 = 0
    /// PEM file of the authorities; nil: the system's.
    public var caFile: String?
    public var skipsVerification = false
    /// Requests kept one by one, for JSONL and pictures; what is beyond is in the histograms alone.
    public var recordLimit = 1_000_000
    /// Whether `RunMeasurements.lastDocument` is kept, of plain requests whatever its type.
    public var keepsDocuments = false

    public init() {}
}
