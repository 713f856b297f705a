import Testing
import Workload

@Suite struct TraceTests {
    private func plan(_ text: String, _ change: (inout TraceOptions) -> Void = { _ in }) throws -> LoadPlan {
        var options = TraceOptions()
        change(&options)
        return try LoadPlan(trace: text, file: "t", options: options)
    }

    @Test func mooncakesRowsAreBlocksOf512() throws {
        let plan = try plan(
            """
            {"timestamp": 27000, "input_length": 1100, "output_length": 9, "hash_ids": [1, 2, 3]}
            {"timestamp": 30000, "input_length": 600, "output_length": 0, "hash_ids": [1, 4]}
            """
        ) { $0.timeScale = 0.5 }
        #expect(plan.requests.map(\.offsetNanoseconds) == [0, 1_500_000_000])
        #expect(plan.requests[0].user == [.init(id: 1, tokens: 512), .init(id: 2, tokens: 512), .init(id: 3, tokens: 76)])
        #expect(plan.requests[1].user == [.init(id: 1, tokens: 512), .init(id: 4, tokens: 88)])
        #expect(plan.requests[0].outputTokens == 9)
        #expect(abs(plan.idealHitRate - 512.0 / 1_700) < 1e-9)
    }

    @Test func aiperfsTurnsAreChained() throws {
        let plan = try plan(
            """
            {"session_id":"a","input_length":600,"output_length":8,"hash_ids":[0,1],"timestamp":0.0}
            {"session_id":"b","input_length":10,"output_length":8,"hash_ids":[2],"timestamp":500}
            {"session_id":"a","input_length":20,"output_length":5,"hash_ids":[3],"delay":2500}
            """)
        #expect(plan.requests.map(\.nextTurn) == [2, -1, -1])
        #expect(plan.requests[2].thinkNanoseconds == 2_500_000_000)
        #expect(plan.requests[1].offsetNanoseconds == 500_000_000)
    }

    @Test func azuresAndBurstGPTsColumnsAreRead() throws {
        let azure = try plan(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n")
        #expect(azure.requests.map(\.plannedTokens) == [374, 396])
        #expect(abs(Double(azure.requests[1].offsetNanoseconds) - 4.314579e9) < 1_000)
        let burst = try plan(
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,C\n7.5,GPT-4,10,5,15,C")
        #expect(burst.requests.map(\.offsetNanoseconds) == [0, 2_500_000_000])
        #expect(burst.requests[0].outputTokens == 18)
    }

    @Test func rowsAreLeftOutFromTheStart() throws {
        let rows = (1...4).map { "{\"timestamp\": \($0)000, \"input_length\": \($0), \"output_length\": 1}" }.joined(separator: "\n")
        let part = try plan(rows) {
            $0.skip = 2
            $0.limit = 1
        }
        #expect(part.requests.map(\.plannedTokens) == [3] && part.requests[0].offsetNanoseconds == 0)
        #expect { try plan(rows) { $0.skip = 4 } } throws: { "\($0)" == "t:4: expected rows to play, found none" }
        let table = "TIMESTAMP,ContextTokens,GeneratedTokens\n1,10,2\n2,20,2\n"
        #expect(try plan(table) { $0.skip = 1 }.requests.map(\.plannedTokens) == [20])
        #expect { try plan(table) { $0.skip = 2 } } throws: { "\($0)" == "t:3: expected rows to play, found none" }
    }

    @Test(arguments: [
        ("", "t:1: expected a trace, found nothing"),
        ("{\"input_length\":1}", "t:1: expected a JSON object with input_length and output_length"),
        ("a,b\n1,2", "t:1: expected the columns of Azure's or BurstGPT's traces, found 'a,b'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,-5,2", "t:2: expected a time and two lengths, found '1,-5,2'"),
        ("{\"input_length\":99999999999,\"output_length\":1}", "t:1: expected lengths of 0 to 10000000 tokens"),
    ]) func aMistakeIsNamedByItsLine(text: String, expected: String) {
        #expect { try plan(text) } throws: { "\($0)" == expected }
    }

    @Test func equalParametersAreEqualContent() {
        func plan(_ seed: UInt64, _ salt: UInt64) -> LoadPlan {
            let schedule = ArrivalSchedule(.poisson, stages: [.init(startRate: 50, seconds: 2)], seed: seed)
            return LoadPlan(
                name: "x", shape: SyntheticShape.named["b2b-saas"]!, schedule: schedule, process: "poisson", seed: seed, salt: salt)
        }
        #expect(plan(1, 0).contentHash == plan(1, 0).contentHash)
        #expect(plan(1, 0).contentHash != plan(1, 1).contentHash)
        #expect(plan(1, 0).scheduleHash == plan(1, 1).scheduleHash)
    }

    /// When a session's later turns come is in the schedule's hash, and what they say is not.
    @Test func pausesWithinSessionsAreOfTheSchedule() {
        func plan(thinkSeconds: Double, seed: UInt64 = 1) -> LoadPlan {
            var shape = SyntheticShape(groups: 1, promptsPerGroup: 1, systemTokens: 1, questionTokens: 1, outputTokens: 1)
            shape.turns = 3
            shape.thinkSeconds = thinkSeconds
            let schedule = ArrivalSchedule(.constant, stages: [.init(startRate: 10, seconds: 1)], seed: 1)
            return LoadPlan(name: "x", shape: shape, schedule: schedule, process: "constant", seed: seed)
        }
        #expect(plan(thinkSeconds: 1).scheduleHash != plan(thinkSeconds: 2).scheduleHash)
        #expect(plan(thinkSeconds: 1).scheduleHash != plan(thinkSeconds: 1, seed: 2).scheduleHash)
        #expect(plan(thinkSeconds: 0).scheduleHash == plan(thinkSeconds: 0, seed: 2).scheduleHash)
        #expect(plan(thinkSeconds: 1).contentHash == plan(thinkSeconds: 2).contentHash)
    }
}
