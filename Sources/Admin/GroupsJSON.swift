import Discovery
import Foundation
import KubernetesAPI
import LoadSignals
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
    var waitingKVTokens: Int
    var kvCapacityTokens: Int
    var prefillTokensPerSecond: Double
    var overheadSeconds: Double
    var decodeStepSeconds: Double
    var tokensPerByte: Double
    var prefixIndexBlocks: Int
    var hitYield: Double
    var decisions: UInt64
    var load: LoadJSON?
    var node: String
    var zone: String
    var distanceSeconds: Double
    var warmUpSlowness: Double
    var discovery: DiscoveryJSON?

    init(_ state: GroupState, leader leaderState: LeaderState?, discovery: DiscoveryJSON?) {
        self.discovery = discovery
        load = LoadJSON(state, leaderState)
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
        waitingKVTokens = state.waitingKVTokens
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

/// What the engine said of its load, and what of it is taken to be others'. Nil in it: not said.
private struct LoadJSON: Encodable {
    var engine: String?
    /// Of the last question.
    var outcome: String?
    var ageSeconds: Double?
    var running: Double?
    var waiting: Double?
    var awaitingFirstToken: Double?
    var prefillTokens: Double?
    var queuedTokens: Double?
    var queuedTokensAgeSeconds: Double?
    var inFlight: Double?
    var kvUsage: Double?
    var othersRunning: Double
    var othersWaiting: Double
    var othersActiveKVTokens: Int
    var asleep: Bool?
    var restarts: UInt64?
    var runningAdapters: [String]?
    var waitingAdapters: [String]?

    /// Nil for a group that is not asked and never told, and on which no replica has anything.
    init?(_ group: GroupState, _ leader: LeaderState?) {
        let hasOthers = group.othersRunning > 0 || group.othersWaiting > 0
        guard group.reported != nil || leader?.lastOutcome != nil || hasOthers else { return nil }
        engine = leader?.engine?.rawValue
        outcome = leader?.lastOutcome?.rawValue
        ageSeconds = group.reported?.ageSeconds
        running = group.reported?.running
        waiting = group.reported?.waiting
        awaitingFirstToken = group.reported?.awaitingFirstToken
        prefillTokens = group.reported?.prefillTokens
        queuedTokens = group.reported?.queuedTokens
        queuedTokensAgeSeconds = group.reported?.queuedTokensAgeSeconds
        inFlight = group.reported?.inFlight
        kvUsage = group.reported?.kvUsage
        othersRunning = group.othersRunning
        othersWaiting = group.othersWaiting
        othersActiveKVTokens = group.othersActiveKVTokens
        asleep = leader?.isAsleep
        restarts = leader?.restarts
        runningAdapters = leader?.runningAdapters
        waitingAdapters = leader?.waitingAdapters
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
        var zoneHints: [String]
        var revision: String?
        var state: String
    }

    var source: String
    var obstacle: String?
    var nodes: [String]
    var spansNodes: Bool
    var unchangedSeconds: Double
    /// Since its source had word from where it looks: how old what is known of the group may be. Nil: never.
    var lastHeardSeconds: Double?
    var members: [Member]

    init(_ entry: GroupDirectory.Entry, lastHeardAt: UInt64, now: UInt64) {
        source = entry.source
        obstacle = entry.group.obstacle
        nodes = entry.group.nodes
        spansNodes = entry.group.nodes.count > 1
        unchangedSeconds = seconds(from: entry.changedAt, to: now)
        lastHeardSeconds = lastHeardAt == 0 ? nil : seconds(from: lastHeardAt, to: now)
        members = entry.group.members.map {
            Member(
                name: $0.name, address: $0.address, rank: $0.rank, node: $0.node, zone: $0.zone, zoneHints: $0.zoneHints,
                revision: $0.revision, state: $0.state)
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

/// One watch of a Kubernetes API server.
private struct WatchJSON: Encodable {
    var resource: String
    var scope: String
    /// `connecting`, `synced`, or what is wrong.
    var state: String
    var fault: String?
    var lastHeardSeconds: Double?
    var objects: Int
    var lists: UInt64
    var watches: UInt64
    var events: UInt64
    var expirations: UInt64
    var faults: UInt64

    init(_ watch: KubernetesSource.WatchState, now: UInt64) {
        resource = watch.resource
        scope = watch.scope
        state = watch.fault?.kind.rawValue ?? (watch.hasSynced ? "synced" : "connecting")
        fault = watch.fault?.text
        lastHeardSeconds = watch.heardAt == 0 ? nil : seconds(from: watch.heardAt, to: now)
        objects = watch.objects
        lists = watch.counters.lists
        watches = watch.counters.watches
        events = watch.counters.events
        expirations = watch.counters.expirations
        faults = watch.counters.faults
    }
}

private struct GroupsJSON: Encodable {
    var groups: [GroupJSON]
    var incomplete: [IncompleteGroupJSON]
    var sources: [SourceJSON]
    var kubernetesWatches: [WatchJSON]
}

private func seconds(from earlier: UInt64, to now: UInt64) -> Double { now > earlier ? Double(now - earlier) / 1e9 : 0 }

func groupsJSON(
    _ table: RoutingTable, _ directory: GroupDirectory, watches: [KubernetesSource.WatchState], leaders: [LeaderState],
    now: UInt64
) -> String {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    let entries = directory.entries
    let heardAt = Dictionary(directory.sources.map { ($0.name, $0.heardAt) }, uniquingKeysWith: max)
    func known(_ entry: GroupDirectory.Entry) -> DiscoveryJSON {
        DiscoveryJSON(entry, lastHeardAt: heardAt[entry.source] ?? 0, now: now)
    }
    let byName = Dictionary(entries.map { ($0.group.name, known($0)) }, uniquingKeysWith: { first, _ in first })
    let asked = Dictionary(leaders.map { ($0.group, $0) }, uniquingKeysWith: { first, _ in first })
    let all = GroupsJSON(
        groups: table.groups(now: now).map { GroupJSON($0, leader: asked[$0.name], discovery: byName[$0.name]) },
        incomplete: entries.filter { $0.group.description == nil }.map {
            IncompleteGroupJSON(name: $0.group.name, discovery: known($0))
        },
        sources: directory.sources.map { SourceJSON($0, now: now) }, kubernetesWatches: watches.map { WatchJSON($0, now: now) })
    guard let data = try? encoder.encode(all) else { return #"{"groups":[]}"# }
    return String(decoding: data, as: UTF8.self) + "\n"
}
