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

    private static let expectation = "expected a JSON object with input_length and output_length, with text, or with turns of these"

    @Test(arguments: [
        ("", "t:1: expected a trace, found nothing"),
        ("{\"input_length\":1}", "t:1: expected a JSON object with input_length and output_length, with text, or with turns of these"),
        ("a,b\n1,2", "t:1: expected the columns of Azure's or BurstGPT's traces, found 'a,b'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,-5,2", "t:2: expected a time and two lengths, found '1,-5,2'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n\n1,5,2\n\n1,-5,2\n", "t:5: expected a time and two lengths, found '1,-5,2'"),
        ("{\"input_length\":1,\"output_length\":1}\n\r\n \n{}", "t:4: \(Self.expectation)"),
        (
            "{\"input_length\":1,\"output_length\":1}\n{\"timestamp\":1e300,\"input_length\":1,\"output_length\":1}",
            "t:2: expected times within a year, found 104166 days"
        ),
        ("{\"session_id\":\"a\",\"turns\":[{\"text\":\"x\"},{\"text\":\"y\",\"delay\":4e10}]}", "t:1: expected a delay of up to a year"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-13-10 00:00:00,1,2",
            "t:2: expected a time and two lengths, found '2024-13-10 00:00:00,1,2'"
        ),
        ("{\"input_length\":99999999999,\"output_length\":1}", "t:1: expected lengths of 0 to 10000000 tokens"),
    ]) func aMistakeIsNamedByItsLine(text: String, expected: String) {
        #expect { try plan(text) } throws: { "\($0)" == expected }
    }

    /// A year to the millisecond is played, scaled times count as they are played.
    @Test func aTraceMayLastAYear() throws {
        let rows =
            "{\"timestamp\":0,\"input_length\":1,\"output_length\":1}\n{\"timestamp\":31622400000,\"input_length\":1,\"output_length\":1}"
        #expect(try plan(rows).requests[1].offsetNanoseconds == 366 * 86_400_000_000_000)
        #expect(throws: TraceError.self) { try plan(rows) { $0.timeScale = 1.001 } }
    }

    /// The weeks of 2024 name their zone.
    @Test func datesMayNameTheirZone() throws {
        let plan = try plan(
            """
            TIMESTAMP,ContextTokens,GeneratedTokens
            2024-05-10 00:00:46.68+00:00,374,44
            2024-05-10T02:00:47.18+02:00,1,1
            2024-05-09T19:30:48Z,1,1
            2024-05-09 19:30:48-04:30,1,1
            """)
        // The third is before all others.
        let first = plan.requests.first { $0.plannedTokens == 374 }?.offsetNanoseconds ?? 0
        let offsets = plan.requests.map { Double($0.offsetNanoseconds) - Double(first) }
        for (found, expected) in zip(offsets, [-16_198.68e9, 0, 0.5e9, 1.32e9]) { #expect(abs(found - expected) < 1_000) }
    }

    @Test func aiperfsSessionsMayBeALineEach() throws {
        let plan = try plan(
            """
            {"session_id":"a","turns":[{"text":"one two three"},{"text":"four","delay":1500,"output_length":7}]}
            {"turns":[{"input_length":600,"output_length":3,"hash_ids":[8,9],"timestamp":250}]}
            {"text_input":"one two three and more","output_length":5}
            """)
        #expect(plan.requests.map(\.nextTurn) == [1, -1, -1, -1])
        #expect(plan.requests.map(\.plannedTokens) == [3, 1, 600, 5])
        #expect(plan.requests.map(\.outputTokens) == [128, 7, 3, 5])
        #expect(plan.requests[1].thinkNanoseconds == 1_500_000_000 && plan.requests[2].offsetNanoseconds == 250_000_000)
        #expect(plan.requests[2].user == [.init(id: 8, tokens: 512), .init(id: 9, tokens: 88)])
        #expect(plan.parameters["format"] == "aiperf, text as made-up words")
    }

    /// Texts that begin alike are blocks that are alike, 16 words each.
    @Test func equalTextIsEqualBlocks() throws {
        let words = (0..<40).map { "w\($0)" }
        let texts = [words.joined(separator: " "), (words.prefix(32) + ["other"]).joined(separator: "  ")]
        let plan = try plan(texts.map { "{\"text_input\":\"\($0)\"}" }.joined(separator: "\n"))
        #expect(plan.requests[0].user.prefix(2) == plan.requests[1].user.prefix(2))
        #expect(plan.requests.map { $0.user.map(\.tokens) } == [[16, 16, 8], [16, 16, 1]])
    }

    @Test func bailiansUnitsAreItsOwn() throws {
        let rows = """
            {"chat_id":1,"timestamp":61.5,"input_length":20,"output_length":2,"hash_ids":[5,6]}
            {"chat_id":2,"timestamp":62.0,"input_length":16,"output_length":2,"hash_ids":[5]}
            """
        let plan = try plan(rows)
        #expect(plan.requests[0].user == [.init(id: 5, tokens: 16), .init(id: 6, tokens: 4)])
        #expect(plan.requests[1].offsetNanoseconds == 500_000_000 && plan.parameters["format"] == "bailian")
        #expect(try self.plan(rows) { $0.blockTokens = 8 }.requests[0].user == [.init(id: 5, tokens: 8), .init(id: 6, tokens: 12)])
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
