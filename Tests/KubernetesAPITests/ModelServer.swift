import Foundation

@testable import KubernetesAPI

/// An API server of one resource, in virtual time: it keeps every state that it ever had, to be compared with, and answers as a real
/// one does until it is told to misbehave.
final class ModelServer {
    /// By name: what the object holds, and the version of its last write.
    struct Stored: Equatable {
        var content: String
        var version: Int
    }
    private struct Write {
        var version: Int
        var type: String
        var name: String
        var stored: Stored
    }

    private(set) var version = 100
    private(set) var history: [Int: [String: Stored]] = [100: [:]]
    private var writes: [Write] = []
    /// Watches and continue tokens from before are refused with 410.
    private var oldest = 100
    var servesStreamingLists = true

    var objects: [String: Stored] { history[version] ?? [:] }

    // MARK: Writing

    func write(_ name: String, _ content: String?) {
        var state = objects
        if content == nil, state[name] == nil { return }
        version += 1
        let type = content == nil ? "DELETED" : state[name] == nil ? "ADDED" : "MODIFIED"
        let stored = Stored(content: content ?? state[name]?.content ?? "", version: version)
        state[name] = content == nil ? nil : stored
        history[version] = state
        writes.append(Write(version: version, type: type, name: name, stored: stored))
    }

    /// Another resource of the cluster was written: versions belong to all of them.
    func skipVersion() {
        let state = objects
        version += 1
        history[version] = state
    }

    /// Forgets what was before, as a restart does to watches and compaction to tokens.
    func forgetThePast() { oldest = version }

    // MARK: Answering

    struct Answer {
        var status = 200
        var retryAfter: UInt64?
        var bytes: [UInt8] = []
        /// A watch: what comes later than this version follows.
        var follows: Int?
    }

    func answer(_ request: ReflectorRequest) -> Answer {
        switch request {
        case .list(let limit, let token): return page(limit: limit, token: token)
        case .watch(let text, _):
            guard let from = Int(text) else { return refusal(500, "no version") }
            guard from >= oldest else { return Answer(bytes: event("ERROR", status(410, "too old resource version"))) }
            return Answer(follows: from)
        case .streamingList:
            guard servesStreamingLists else { return refusal(422, "sendInitialEvents is forbidden") }
            var bytes: [UInt8] = []
            for (name, stored) in objects.sorted(by: { $0.key < $1.key }) { bytes += event("ADDED", Self.json(name, stored)) }
            bytes += bookmark(version, endsInitialEvents: true)
            return Answer(bytes: bytes, follows: version)
        }
    }

    private func page(limit: Int?, token: String?) -> Answer {
        let parts = token.map { $0.split(separator: ":").compactMap { Int($0) } } ?? [version, 0]
        guard parts.count == 2, parts[0] >= oldest, let state = history[parts[0]] else { return refusal(410, "the token is too old") }
        let all = state.sorted { $0.key < $1.key }
        let items = all.dropFirst(parts[1]).prefix(limit ?? .max)
        let next = parts[1] + items.count < all.count ? #","continue":"\#(parts[0]):\#(parts[1] + items.count)""# : ""
        let listed = items.map { Self.json($0.key, $0.value) }.joined(separator: ",")
        return Answer(bytes: Array(#"{"kind":"PodList","metadata":{"resourceVersion":"\#(parts[0])"\#(next)},"items":[\#(listed)]}"#.utf8))
    }

    func refusal(_ code: Int, _ message: String, retryAfter: UInt64? = nil) -> Answer {
        Answer(status: code, retryAfter: retryAfter, bytes: Array(status(code, message).utf8))
    }

    private func status(_ code: Int, _ message: String) -> String { #"{"kind":"Status","message":"\#(message)","code":\#(code)}"# }

    /// What a watch that has told of all up to `version` tells next.
    func events(after version: Int) -> [UInt8] {
        writes.filter { $0.version > version }.flatMap { event($0.type, Self.json($0.name, $0.stored)) }
    }

    /// An event of the past, as no server sends it; a client must not mind.
    func oldEvent(_ place: Int) -> [UInt8] {
        guard !writes.isEmpty else { return [] }
        let write = writes[place % writes.count]
        return event(write.type, Self.json(write.name, write.stored))
    }

    func bookmark(_ version: Int, endsInitialEvents: Bool = false) -> [UInt8] {
        let annotations = endsInitialEvents ? #","annotations":{"k8s.io/initial-events-end":"true"}"# : ""
        return event("BOOKMARK", #"{"kind":"Pod","metadata":{"resourceVersion":"\#(version)"\#(annotations)}}"#)
    }

    private func event(_ type: String, _ object: String) -> [UInt8] { Array((#"{"type":"\#(type)","object":\#(object)}"# + "\n").utf8) }

    static func json(_ name: String, _ stored: Stored) -> String {
        #"{"metadata":{"name":"\#(name)","namespace":"llm","uid":"\#(name)","resourceVersion":"\#(stored.version)"},"#
            + #""spec":{"nodeName":"\#(stored.content)"}}"#
    }
}
