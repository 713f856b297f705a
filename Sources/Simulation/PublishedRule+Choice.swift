import Glibc
import Routing
import Workload

typealias Candidates = [Candidate]

/// The request that is to be placed.
struct RuleRequest {
    var promptTokens: Double
    var outputTokens: Double
    /// Chained, one per block.
    var hashes: UnsafeBufferPointer<UInt64>
    /// Its conversation.
    var session: Int
    /// For the oracle: true seconds to the first token by slot.
    var rollouts: [UInt32: Double]
}

extension PublishedRule {
    /// The position of the candidate that the rule takes.
    mutating func choose(_ candidates: Candidates, _ request: RuleRequest, now: UInt64) -> Int {
        let prompt = request.promptTokens
        switch kind {
        case .roundRobin:
            counter += 1
            return counter % candidates.count
        case .random: return random(below: candidates.count)
        case .powerOfTwo: return lessBusyOfTwo(candidates)
        case .leastRequest: return least(candidates) { $0.sequences }
        case .vllm: return least(candidates) { 4 * $0.waiting + $0.running }
        case .leastTokens: return least(candidates) { $0.tokensAhead + prompt - $0.cachedTokens }
        case .gorgo:
            let (prefill, queue) = (parameter("prefill"), parameter("queue"))
            return least(candidates) { prefill * (prompt - $0.cachedTokens) + queue * $0.tokensAhead }
        case .boundedHit: return boundedHit(candidates, prompt)
        case .boundedHash, .prefixHash: return byHash(candidates, request)
        case .cacheAware: return cacheAware(candidates, prompt)
        case .smgLeastLoad:
            let (rate, pressure) = (parameter("rate"), parameter("pressure"))
            return least(candidates) {
                let full = min($0.activeTokens / $0.capacityTokens, 0.99)
                return $0.tokensAhead / rate + pressure * full / (1 - full)
            }
        case .ray: return ray(candidates, prompt)
        case .aibrix: return aibrix(candidates, prompt)
        case .preble: return preble(candidates, request, now: now)
        case .dynamo: return dynamo(candidates, request, now: now)
        case .dynamoProduct:
            let block = Double(simulatedBlockTokens)
            return least(candidates) {
                ((($0.tokensAhead + prompt - $0.cachedTokens) / block).rounded(.up)) * ($0.activeTokens / block + 1)
            }
        case .lmetric: return lmetric(candidates, request)
        case .bailian: return bailian(candidates, prompt)
        case .llmdLegacy: return llmdLegacy(candidates, prompt)
        case .llmdPrecise: return llmdPrecise(candidates)
        case .llmdSticky, .llmdStickyDecode: return llmdSticky(candidates, prompt)
        case .oracle: return oracle(candidates, prompt, request.rollouts)
        case .mooncake:
            // Attention makes a token dearer the more context it has: a polynomial of second degree.
            let (rate, quadratic) = (rate, parameter("quadratic"))
            return least(candidates) {
                let new = prompt - $0.cachedTokens
                return $0.tokensAhead / rate + new / rate * (1 + ($0.cachedTokens + new / 2) / quadratic)
            }
        case .dualMap: return dualMap(candidates, request)
        case .prequal: return prequal(candidates, now: now)
        case .session:
            let position = sessions[request.session].flatMap { slot in candidates.firstIndex { $0.slot == slot } }
            let chosen = position ?? least(candidates) { $0.sequences }
            sessions[request.session] = candidates[chosen].slot
            return chosen
        }
    }

    private mutating func boundedHit(_ candidates: Candidates, _ prompt: Double) -> Int {
        let bound = parameter("bound")
        if candidates.contains(where: { $0.tokensAhead < bound }) {
            return least(candidates) { $0.tokensAhead < bound ? -$0.cachedTokens : .infinity }
        }
        return least(candidates) { $0.tokensAhead + prompt - $0.cachedTokens }
    }

    /// KubeAI's ring hashes the first hundred characters, the gateway's the first 256 tokens; a ring's walk is an order of its own
    /// for every key, as rendezvous hashing gives it.
    private mutating func byHash(_ candidates: Candidates, _ request: RuleRequest) -> Int {
        guard !request.hashes.isEmpty else { return least(candidates) { $0.sequences } }
        let key = request.hashes[min(kind == .prefixHash ? 3 : 0, request.hashes.count - 1)]
        let total = candidates.reduce(0) { $0 + $1.sequences }
        let mean = (total + 1) / Double(candidates.count)
        let limit = parameter("load") * mean
        if kind == .prefixHash {
            let position = least(candidates) { -Self.rank(key, $0.identity) }
            return candidates[position].sequences > limit ? least(candidates) { $0.sequences } : position
        }
        return least(candidates) { $0.sequences + 1 <= max(limit, 1) ? -Self.rank(key, $0.identity) : .infinity }
    }

    static func rank(_ key: UInt64, _ identity: UInt64) -> Double { Double(HashChain.mix(key ^ identity) >> 11) }

    private mutating func cacheAware(_ candidates: Candidates, _ prompt: Double) -> Int {
        let most = candidates.map(\.sequences).max() ?? 0
        let fewest = candidates.map(\.sequences).min() ?? 0
        if most - fewest > parameter("absolute"), most > parameter("relative") * fewest { return least(candidates) { $0.sequences } }
        let deepest = candidates.map(\.cachedTokens).max() ?? 0
        if deepest > parameter("match") * prompt { return least(candidates) { -$0.cachedTokens } }
        return least(candidates) { $0.heldTokens }
    }

    private mutating func ray(_ candidates: Candidates, _ prompt: Double) -> Int {
        let most = candidates.map(\.sequences).max() ?? 0
        let fewest = candidates.map(\.sequences).min() ?? 0
        if most - fewest < parameter("spread") {
            let deepest = candidates.map(\.cachedTokens).max() ?? 0
            if deepest >= parameter("match") * prompt { return least(candidates) { -$0.cachedTokens } }
            return least(candidates) { $0.heldTokens }
        }
        return lessBusyOfTwo(candidates)
    }

    /// Of two that are drawn, the second from those that the first is not.
    private mutating func lessBusyOfTwo(_ candidates: Candidates) -> Int {
        let first = random(below: candidates.count)
        guard candidates.count > 1 else { return first }
        let second = (first + 1 + random(below: candidates.count - 1)) % candidates.count
        return candidates[first].sequences <= candidates[second].sequences ? first : second
    }

    private mutating func aibrix(_ candidates: Candidates, _ prompt: Double) -> Int {
        let loads = candidates.map(\.sequences)
        let (most, fewest) = (loads.max() ?? 0, loads.min() ?? 0)
        if most - fewest > parameter("spread") { return least(candidates) { $0.sequences } }
        let mean = loads.reduce(0, +) / Double(loads.count)
        let variance = loads.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(loads.count)
        let limit = mean + parameter("deviations") * variance.squareRoot()
        // Whole percents first, then load.
        return least(candidates) {
            $0.sequences <= limit + 1e-9 ? -($0.cachedTokens / prompt * 100).rounded() * 1e6 + $0.sequences : .infinity
        }
    }

    private mutating func preble(_ candidates: Candidates, _ request: RuleRequest, now: UInt64) -> Int {
        let span = UInt64(parameter("window") * 1e9)
        while windowStart < window.count, window[windowStart].at + span < now {
            windowSums[window[windowStart].slot, default: 0] -= window[windowStart].seconds
            windowStart += 1
        }
        let prompt = request.promptTokens
        let deepest = candidates.map(\.cachedTokens).max() ?? 0
        let (sums, rate, decode) = (windowSums, rate, request.outputTokens * decodeStep)
        func load(_ candidate: Candidate) -> Double { (sums[candidate.slot] ?? 0) + candidate.sequences * decode }
        let chosen: Int
        if deepest > prompt - deepest {
            chosen = least(candidates) { $0.cachedTokens == deepest ? load($0) : .infinity }
        } else {
            chosen = least(candidates) {
                let new = prompt - $0.cachedTokens
                let evicted = min(max($0.heldTokens + new - $0.capacityTokens, 0), new)
                return load($0) + evicted / rate + new / rate
            }
        }
        let seconds = (prompt - candidates[chosen].cachedTokens) / rate
        window.append((now, candidates[chosen].slot, seconds))
        windowSums[candidates[chosen].slot, default: 0] += seconds
        return chosen
    }

    /// Natively with what is queued; the port of the LMetric team leaves that out (`queue=0`) and counts the new blocks once more (`prefill=2`).
    private mutating func dynamo(_ listed: Candidates, _ request: RuleRequest, now: UInt64) -> Int {
        let life = UInt64(parameter("ttl") * 1e9)
        let candidates = life > 0 ? remembered(listed, request, now: now) : listed
        let chosen = dynamo(candidates, request.promptTokens)
        if life > 0 { routedBlocks.add(request.hashes, slot: candidates[chosen].slot, until: now + life, now: now) }
        return chosen
    }

    /// The candidates as a router sees them that knows of their caches what it sent there itself.
    private func remembered(_ candidates: Candidates, _ request: RuleRequest, now: UInt64) -> Candidates {
        candidates.map { candidate in
            var candidate = candidate
            let depth = routedBlocks.depth(of: request.hashes, slot: candidate.slot, now: now)
            candidate.cachedTokens = min(Double(depth * simulatedBlockTokens), request.promptTokens)
            return candidate
        }
    }

    private mutating func dynamo(_ candidates: Candidates, _ prompt: Double) -> Int {
        let (block, temperature) = (Double(simulatedBlockTokens), parameter("temperature"))
        let (weight, queue) = (parameter("prefill"), parameter("queue"))
        func cost(_ candidate: Candidate) -> Double {
            weight * max(queue * candidate.tokensAhead + prompt - candidate.cachedTokens, 0) / block + candidate.activeTokens / block
        }
        guard temperature > 0 else { return least(candidates, cost) }
        let costs = candidates.map(cost)
        let (low, high) = (costs.min() ?? 0, costs.max() ?? 0)
        return weighted(costs.map { exp(-($0 - low) / max(high - low, 1e-9) / temperature) })
    }

    private mutating func lmetric(_ candidates: Candidates, _ request: RuleRequest) -> Int {
        let prompt = request.promptTokens
        func score(_ candidate: Candidate) -> Double {
            (candidate.tokensAhead + prompt - candidate.cachedTokens) * (candidate.sequences + 1)
        }
        let best = least(candidates, score)
        let factor = parameter("hotspot")
        guard factor > 0 else { return best }
        guard let hot = hotspots.arrived(request.hashes, held: candidates.map(\.cachedTokens), best: best, factor: factor) else {
            return best
        }
        return least(candidates) { HotspotDetector.holds($0.cachedTokens, blocks: hot) ? .infinity : score($0) }
    }

    private mutating func bailian(_ candidates: Candidates, _ prompt: Double) -> Int {
        let hit = parameter("hit")
        let rest = (1 - hit) / 2
        let most = max(candidates.map(\.sequences).max() ?? 0, 1)
        let mostTokens = max(candidates.map(\.activeTokens).max() ?? 0, 1)
        func score(_ candidate: Candidate) -> Double {
            hit * candidate.cachedTokens / prompt + rest * (1 - candidate.sequences / most)
                + rest * (1 - candidate.activeTokens / mostTokens)
        }
        if happens(parameter("sampled")) { return weighted(candidates.map(score)) }
        return least(candidates) { -score($0) }
    }

    private mutating func llmdLegacy(_ candidates: Candidates, _ prompt: Double) -> Int {
        let waiting = candidates.map(\.waiting)
        let (most, fewest) = (waiting.max() ?? 0, waiting.min() ?? 0)
        let isCold = !candidates.contains { $0.cachedTokens > 0 }
        let (prefix, queue, kv, cold) = (parameter("prefix"), parameter("queue"), parameter("kv"), parameter("cold"))
        let (last, count) = (lastCold, counter)
        let chosen = least(candidates) {
            let queueScore = most > fewest ? (most - $0.waiting) / (most - fewest) : 1
            // Who got a cold prompt longest ago has the most room.
            let coldScore = isCold ? min(Double(count - (last[$0.slot] ?? 0)) / 64, 1) : 0
            return
                -(prefix * $0.cachedTokens / prompt + queue * queueScore + kv * (1 - $0.activeTokens / $0.capacityTokens)
                + cold * coldScore)
        }
        counter += 1
        if isCold { lastCold[candidates[chosen].slot] = counter }
        return chosen
    }

    private mutating func llmdPrecise(_ candidates: Candidates) -> Int {
        func range(_ value: (Candidate) -> Double) -> (Double, Double) {
            let values = candidates.map(value)
            return (values.min() ?? 0, values.max() ?? 0)
        }
        let (lowHit, highHit) = range { $0.cachedTokens }
        let (lowKV, highKV) = range { $0.activeTokens }
        let (hit, load, kv) = (parameter("hit"), parameter("load"), parameter("kv"))
        return least(candidates) {
            let hitScore = highHit > lowHit ? ($0.cachedTokens - lowHit) / (highHit - lowHit) : 0
            let loadScore = 0.5 * (1 - min($0.waiting, 128) / 128)
            let kvScore = highKV > lowKV ? 1 - ($0.activeTokens - lowKV) / (highKV - lowKV) : 1
            return -(hit * hitScore + load * loadScore + kv * kvScore)
        }
    }

    private mutating func llmdSticky(_ candidates: Candidates, _ prompt: Double) -> Int {
        let limit = parameter("match") * prompt
        let warm = candidates.filter { $0.cachedTokens >= limit }.map(\.tokensAhead).min()
        let cold = candidates.filter { $0.cachedTokens < limit }.map(\.tokensAhead).min()
        let sticks = warm.map { $0 - (cold ?? $0) <= rate * parameter("seconds") } ?? false
        let byDecode = kind == .llmdStickyDecode
        return least(candidates) {
            if sticks, $0.cachedTokens < limit { return .infinity }
            return byDecode ? $0.sequences : $0.tokensAhead + prompt - $0.cachedTokens
        }
    }

    private mutating func oracle(_ candidates: Candidates, _ prompt: Double, _ rollouts: [UInt32: Double]) -> Int {
        let limit = parameter("match") * prompt
        func seconds(_ candidate: Candidate) -> Double { rollouts[candidate.slot] ?? .greatestFiniteMagnitude }
        let warm = candidates.filter { $0.cachedTokens >= limit }.map(seconds).min()
        let all = candidates.map(seconds).min() ?? 0
        let explores = happens(parameter("explore"))
        let sticks = !explores && (warm.map { $0 - all <= parameter("penalty") } ?? false)
        guard happens(parameter("weighted")) else {
            return least(candidates) { sticks && $0.cachedTokens < limit ? .infinity : seconds($0) }
        }
        // The scores of those that are kept go from 0 for the latest to 1 for the soonest, as llm-d's latency scorer has them.
        let kept = candidates.indices.filter { !sticks || candidates[$0].cachedTokens >= limit }
        let known = kept.compactMap { rollouts[candidates[$0].slot] }
        let (soonest, latest) = (known.min() ?? 0, known.max() ?? 0)
        let scores = kept.map { position -> Double in
            guard let seconds = rollouts[candidates[position].slot] else { return 0 }
            return latest > soonest ? (latest - seconds) / (latest - soonest) : 1
        }
        return kept[weighted(scores)]
    }

    private mutating func dualMap(_ candidates: Candidates, _ request: RuleRequest) -> Int {
        guard !request.hashes.isEmpty, candidates.count > 1 else { return least(candidates) { $0.sequences } }
        let key = request.hashes[min(7, request.hashes.count - 1)]
        let first = least(candidates) { -Self.rank(key, $0.identity) }
        let name = candidates[first].identity
        let second = least(candidates) { $0.identity == name ? .infinity : -Self.rank(HashChain.mix(key), $0.identity) }
        let chosen = candidates[first]
        let estimate = (chosen.tokensAhead + request.promptTokens - chosen.cachedTokens) / rate
        if estimate <= parameter("slo") { return first }
        return candidates[second].tokensAhead < chosen.tokensAhead ? second : first
    }

    private mutating func prequal(_ candidates: Candidates, now: UInt64) -> Int {
        let life = UInt64(parameter("seconds") * 1e9)
        probes.removeAll { probe in probe.at + life < now || !candidates.contains { $0.slot == probe.slot } }
        var chosen = least(candidates) { $0.sequences }
        if !probes.isEmpty {
            let sorted = probes.map(\.sequences).sorted()
            let hot = sorted[min(sorted.count - 1, Int(parameter("quantile") * Double(sorted.count)))]
            let cold = probes.indices.filter { probes[$0].sequences < hot }
            let best =
                cold.min { probes[$0].latency < probes[$1].latency }
                ?? probes.indices.min { probes[$0].sequences < probes[$1].sequences } ?? 0
            chosen = candidates.firstIndex { $0.slot == probes[best].slot } ?? chosen
            probes.remove(at: best)
            // What was just sent there counts in the probes that are left.
            for index in probes.indices where probes[index].slot == candidates[chosen].slot { probes[index].sequences += 1 }
        }
        for _ in 0..<Int(parameter("probes")) {
            let target = candidates[random(below: candidates.count)]
            if probes.count >= Int(parameter("pool")) { probes.removeFirst() }
            probes.append(Probe(slot: target.slot, sequences: target.sequences, latency: recentTTFT[target.slot] ?? 0, at: now))
        }
        return chosen
    }
}
