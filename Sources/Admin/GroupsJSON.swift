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
    var obstacle_seconds: Double
    var consecutive_failures: Int
    var in_flight: Int
    var awaiting_first_token: Int
    var queued_uncached_tokens: Int
    var active_kv_tokens: Int
    var kv_capacity_tokens: Int
    var prefill_tokens_per_second: Double
    var overhead_seconds: Double
    var decode_step_seconds: Double
    var tokens_per_byte: Double
    var prefix_index_blocks: Int
    var hit_yield: Double
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
        obstacle_seconds = state.obstacleSeconds
        consecutive_failures = state.consecutiveFailures
        in_flight = state.inFlight
        awaiting_first_token = state.awaitingFirstToken
        queued_uncached_tokens = state.queuedUncachedTokens
        active_kv_tokens = state.activeKVTokens
        kv_capacity_tokens = state.kvCapacityTokens
        prefill_tokens_per_second = state.prefillTokensPerSecond
        overhead_seconds = state.overheadSeconds
        decode_step_seconds = state.decodeStepSeconds
        tokens_per_byte = state.tokensPerByte
        prefix_index_blocks = state.indexBlocks
        hit_yield = state.hitYield
        decisions = state.decisions
    }
}

func groupsJSON(_ groups: [GroupState]) -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(["groups": groups.map(GroupJSON.init)]) else { return #"{"groups":[]}"# }
    return String(decoding: data, as: UTF8.self) + "\n"
}
