import Foundation
import Routing

/// The state that the next decision would use, group by group. Tokens, seconds and tokens per second, as the names say.
private struct GroupJSON: Encodable {
    var name: String
    var leader: String
    var `protocol`: String
    var members: [String]
    var size: Int
    var models: [String]
    var ready: Bool
    var obstacle: String?
    var obstacleSeconds: Double
    var consecutiveFailures: Int
    var inFlight: Int
    var awaitingFirstToken: Int
    var queuedUncachedTokens: Int
    var activeKVTokens: Int
    var kvCapacityTokens: Int
    var prefillTokensPerSecond: Double
    var overheadSeconds: Double
    var decodeStepSeconds: Double
    var tokensPerByte: Double
    var prefixIndexBlocks: Int
    var hitYield: Double
    var decisions: UInt64

    init(_ state: GroupState) {
        name = state.name
        leader = state.leader.description
        `protocol` = state.leader.protocol == .http2 ? "http2" : "http1"
        members = state.members.map(\.description)
        size = state.size
        models = state.models
        ready = state.isReady
        obstacle = state.obstacle?.rawValue
        obstacleSeconds = state.obstacleSeconds
        consecutiveFailures = state.consecutiveFailures
        inFlight = state.inFlight
        awaitingFirstToken = state.awaitingFirstToken
        queuedUncachedTokens = state.queuedUncachedTokens
        activeKVTokens = state.activeKVTokens
        kvCapacityTokens = state.kvCapacityTokens
        prefillTokensPerSecond = state.prefillTokensPerSecond
        overheadSeconds = state.overheadSeconds
        decodeStepSeconds = state.decodeStepSeconds
        tokensPerByte = state.tokensPerByte
        prefixIndexBlocks = state.indexBlocks
        hitYield = state.hitYield
        decisions = state.decisions
    }
}

func groupsJSON(_ groups: [GroupState]) -> String {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(["groups": groups.map(GroupJSON.init)]) else { return #"{"groups":[]}"# }
    return String(decoding: data, as: UTF8.self) + "\n"
}
