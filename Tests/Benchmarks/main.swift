// What a decision costs, as a program: `swiftlet-benchmarks` prints a table of times, `swiftlet-benchmarks time SCENARIO N` those of one
// scenario; `swiftlet-benchmarks count SCENARIO N` does one thing N times and says nothing, for callgrind and for counters of allocations
// (Tests/EndToEnd/test_benchmarks.py).
//
//   swift build -c release --product swiftlet-benchmarks && .build/release/swiftlet-benchmarks

import Glibc
import Routing
import Wire

func nanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

/// A chat body of about 32 KiB of text. With a number that has an exponent at its very end the fast reader gives up when it has read all
/// the rest, and simdjson begins anew: nothing costs more.
func chatBody(bytes: Int, isDeclinedLate: Bool = false) -> [UInt8] {
    var random = SeededGenerator(state: 7)
    let words = [
        "the ", "queue ", "of ", "a ", "group ", "is ", "as ", "long ", "as ", "its ", "tokens ", "caf\\u00e9 ", "\\\"so\\\" ", "\\n",
    ]
    var text = ""
    while text.utf8.count < bytes { text += words[Int(random.next() % UInt64(words.count))] }
    let end = isDeclinedLate ? #","top_p":1e0}"# : "}"
    return Array((#"{"model":"m","stream":true,"max_tokens":256,"messages":[{"role":"user","content":"\#(text)"}]"# + end).utf8)
}

/// Reads and hashes the body `rounds` times.
func probeRounds(_ rounds: Int, body: [UInt8], times: inout [UInt64]) {
    let probe = RequestProbe()
    let padded = body + Array(repeating: 0, count: RequestProbe.padding)
    padded.withUnsafeBytes { bytes in
        let content = UnsafeRawBufferPointer(rebasing: bytes[..<body.count])
        for round in 0..<rounds {
            let start = nanoseconds()
            probe.probe(content, seed: 1)
            if round < times.count { times[round] = nanoseconds() &- start }
        }
    }
}

func residentBytes() -> Int {
    guard let file = fopen("/proc/self/statm", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 128)
    guard fgets(&line, 128, file) != nil else { return 0 }
    let fields = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init), as: UTF8.self).split(separator: " ")
    return fields.count > 1 ? (Int(fields[1]) ?? 0) * 4_096 : 0
}

func padded(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.utf8.count)) }

func show(_ what: String, _ times: [UInt64], limit: String) {
    let sorted = times.sorted()
    let mean = Double(sorted.reduce(0, &+)) / Double(sorted.count)
    let columns = [mean, Double(sorted[sorted.count / 2]), Double(sorted[sorted.count * 99 / 100])]
        .map { padded("\(Int($0.rounded())) ns", 12) }
    print(padded(what, 44) + columns.joined() + limit)
}

/// Takes away what reading the clock costs.
func clockCost() -> UInt64 {
    (0..<10_000).map { _ in
        let start = nanoseconds()
        return nanoseconds() &- start
    }.sorted()[5_000]
}

/// Nanoseconds of each decision with its booking, and of each request: that, its first token and its end.
struct Times {
    var decisions: [UInt64]
    var requests: [UInt64]
}

func measure(groups: Int, blocks: Int, traffic: Scenario.Traffic, isShared: Bool, decisions: Int) -> Times {
    var scenario = Scenario(groups: groups, blocks: blocks, traffic: traffic, isShared: isShared)
    let clock = clockCost()
    let empty = [UInt64](repeating: 0, count: decisions)
    var times = Times(decisions: empty, requests: empty)
    for index in 0..<decisions {
        scenario.prepare()
        let start = nanoseconds()
        let lease = scenario.pick()
        let picked = nanoseconds()
        scenario.turnOver(lease)
        let ended = nanoseconds()
        times.decisions[index] = max(picked &- start, clock) &- clock
        times.requests[index] = max(ended &- start, 2 * clock) &- 2 * clock
    }
    return times
}

func show(groups: Int, traffic: Scenario.Traffic, isShared: Bool = false, decisions: Int, limit: String) {
    let times = measure(groups: groups, blocks: million, traffic: traffic, isShared: isShared, decisions: decisions)
    let place = "\(groups) groups, \(traffic.rawValue)\(isShared ? ", shared" : "")"
    show("decision and booking, \(place)", times.decisions, limit: limit)
    show("with first token and end, \(place)", times.requests, limit: "")
}

/// Blocks of the index that times are taken with.
let million = 1 << 20

func table() {
    // First, while the memory of no other one can be used again.
    do {
        let before = residentBytes()
        let scenario = Scenario(groups: 64, blocks: million, traffic: .turns)
        print(padded("index with \(scenario.heldBlocks) blocks", 44) + padded("\((residentBytes() - before) >> 20) MiB", 36) + "64 MB")
    }
    print(padded("", 44) + padded("mean", 12) + padded("p50", 12) + padded("p99", 12) + "bound")
    for traffic in Scenario.Traffic.allCases {
        show(groups: 8, traffic: traffic, decisions: 20_000, limit: traffic == .cold ? "" : "mean 2000 ns")
        show(groups: 1_000, traffic: traffic, decisions: 20_000, limit: traffic == .cold ? "" : "p99 5000 ns")
    }
    var times = [UInt64](repeating: 0, count: 5_000)
    probeRounds(times.count, body: chatBody(bytes: 32 << 10), times: &times)
    show("32 KiB prompt, probe and hashes", times, limit: "mean 15000 ns")
}

/// - Returns: the groups and the traffic that a name like `turns-8` stands for, and whether replicas are told, as in `turns-8-shared`.
func scenario(_ name: String) -> (groups: Int, traffic: Scenario.Traffic, isShared: Bool)? {
    let parts = name.split(separator: "-")
    let isShared = parts.count == 3 && parts[2] == "shared"
    guard parts.count == 2 || isShared, let groups = Int(parts[1]), groups > 0, let traffic = Scenario.Traffic(rawValue: String(parts[0]))
    else {
        return nil
    }
    return (groups, traffic, isShared)
}

func time(_ what: String, _ rounds: Int) -> Bool {
    if what == "probe" {
        var times = [UInt64](repeating: 0, count: rounds)
        probeRounds(rounds, body: chatBody(bytes: 32 << 10), times: &times)
        show(what, times, limit: "")
        return true
    }
    guard let (groups, traffic, isShared) = scenario(what) else { return false }
    show(groups: groups, traffic: traffic, isShared: isShared, decisions: rounds, limit: "")
    return true
}

func count(_ what: String, _ rounds: Int) -> Bool {
    if what == "probe" || what == "declined" {
        var times: [UInt64] = []
        probeRounds(rounds, body: chatBody(bytes: 32 << 10, isDeclinedLate: what == "declined"), times: &times)
        return true
    }
    guard let (groups, traffic, isShared) = scenario(what) else { return false }
    // As large as one must be to evict behind decisions.
    var scenario = Scenario(groups: groups, blocks: 1 << 17, traffic: traffic, isShared: isShared)
    for _ in 0..<rounds {
        scenario.prepare()
        scenario.turnOver(scenario.pick())
    }
    return true
}

let arguments = Array(CommandLine.arguments.dropFirst())
if arguments.isEmpty {
    table()
} else {
    let actions = ["count": count, "time": time]
    guard arguments.count == 3, let rounds = Int(arguments[2]), rounds > 0, actions[arguments[0]]?(arguments[1], rounds) == true else {
        print(
            "swiftlet-benchmarks [count|time probe|bare-GROUPS|turns-GROUPS|cold-GROUPS N]  (GROUPS: or GROUPS-shared; count: or declined)")
        exit(64)
    }
}
