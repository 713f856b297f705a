import Discovery
import EventLoop
import LoadSignals
import ReplicaSync
import Routing
import Telemetry

extension AdminApplication {
    /// Those that are asked for their load.
    var leaders: [LeaderState] { loop.service(LoadScraper.self)?.leaders ?? [] }

    /// Of groups that are asked, or have told something beside an answer; of all where replicas tell what they have there.
    var loadSignals: MetricsSnapshot.LoadSignals {
        let asked = Dictionary(leaders.map { ($0.group, $0) }, uniquingKeysWith: { first, _ in first })
        var signals = MetricsSnapshot.LoadSignals()
        let hearsReplicas = loop.service(ReplicaSync.self) != nil
        for group in table.groups(now: loop.now) where hearsReplicas || asked[group.name] != nil || group.reported != nil {
            var leader = MetricsSnapshot.LoadSignals.Leader(group: group.name)
            if let state = asked[group.name] {
                leader.engine = state.engine?.rawValue
                leader.scrapes = state.counts.map { ($0.outcome.rawValue, $0.count) }
                leader.scrapeSeconds = state.scrapeSeconds
                leader.scrapeBytes = state.scrapeBytes
                leader.prefixQueries = state.prefixQueries
                leader.prefixHits = state.prefixHits
                leader.preemptions = state.preemptions
                leader.restarts = state.restarts
            }
            leader.ageSeconds = group.reported?.ageSeconds
            leader.running = group.reported?.running
            leader.waiting = group.reported?.waiting
            leader.awaitingFirstToken = group.reported?.awaitingFirstToken
            leader.prefillTokens = group.reported?.prefillTokens
            leader.kvUsage = group.reported?.kvUsage
            leader.othersRunning = group.othersRunning
            leader.othersWaiting = group.othersWaiting
            signals.leaders.append(leader)
        }
        return signals
    }
}
