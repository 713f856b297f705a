import Discovery
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
    var node: String
    var zone: String
    var distanceSeconds: Double
    var warmUpSlowness: Double
    var discovery: DiscoveryJSON?

    init(_ state: GroupState, discovery: DiscoveryJSON?) {
        self.discovery = discovery
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
        node = state.node
        zone = state.zone
        distanceSeconds = state.distanceSeconds
        warmUpSlowness = state.warmUpSlowness
    }
}

/// What discovery knows of a group: why it is or is not ready, and since when.
private struct DiscoveryJSON: Encodable {
    struct Member: Encodable {
        var name: String
        var address: String
        var rank: Int
        var node: String?
        var zone: String?
        var revision: String?
        var state: String
    }

    var source: String
    var obstacle: String?
    var nodes: [String]
    var spansNodes: Bool
    var unchangedSeconds: Double
    var members: [Member]

    init(_ entry: GroupDirectory.Entry, now: UInt64) {
        source = entry.source
        obstacle = entry.group.obstacle
        nodes = entry.group.nodes
        spansNodes = entry.group.nodes.count > 1
        unchangedSeconds = seconds(from: entry.changedAt, to: now)
        members = entry.group.members.map {
            Member(
                name: $0.name, address: $0.address, rank: $0.rank, node: $0.node, zone: $0.zone, revision: $0.revision, state: $0.state)
        }
    }
}

/// A group that cannot be routed to, because nobody leads it.
private struct IncompleteGroupJSON: Encodable {
    var name: String
    var discovery: DiscoveryJSON
}

private struct SourceJSON: Encodable {
    var name: String
    var synced: Bool
    /// Nil: never.
    var lastHeardSeconds: Double?
    var fault: String?
    var events: UInt64
    var faults: UInt64

    init(_ state: GroupDirectory.SourceState, now: UInt64) {
        name = state.name
        synced = state.hasSynced
        lastHeardSeconds = state.heardAt == 0 ? nil : seconds(from: state.heardAt, to: now)
        fault = state.fault
        events = state.events
        faults = state.faults
    }
}

private struct GroupsJSON: Encodable {
    var groups: [GroupJSON]
    var incomplete: [IncompleteGroupJSON]
    var sources: [SourceJSON]
}

private func seconds(from earlier: UInt64, to now: UInt64) -> Double { now > earlier ? Double(now - earlier) / 1e9 : 0 }

func groupsJSON(_ table: RoutingTable, _ directory: GroupDirectory, now: UInt64) -> String {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    let entries = directory.entries
    let known = Dictionary(entries.map { ($0.group.name, DiscoveryJSON($0, now: now)) }, uniquingKeysWith: { first, _ in first })
    let all = GroupsJSON(
        groups: table.groups(now: now).map { GroupJSON($0, discovery: known[$0.name]) },
        incomplete: entries.filter { $0.group.description == nil }.map {
            IncompleteGroupJSON(name: $0.group.name, discovery: DiscoveryJSON($0, now: now))
        },
        sources: directory.sources.map { SourceJSON($0, now: now) })
    guard let data = try? encoder.encode(all) else { return #"{"groups":[]}"# }
    return String(decoding: data, as: UTF8.self) + "\n"
}
