import Testing

@testable import StubEngine

@Suite struct FaultParsingTests {
    @Test func aHeaderNamesFaultsWithTheirFields() throws {
        let faults = try Fault.parse(
            header: "reset;after_events=3, error;status=503;retry_after=2,goaway;abrupt, trickle ; bytes_per_second=7")
        #expect(
            faults.map(\.action) == [
                .reset, .error(status: 503, retryAfterSeconds: 2, grpcStatus: 14), .goAway(abruptly: true), .trickle(bytesPerSecond: 7),
            ])
        #expect(faults.map(\.point) == [.events(3), .request, .request, .request])
        #expect(faults.allSatisfy { $0.path == "" })
    }

    @Test(arguments: [
        ("stall", Fault.Action.stall(milliseconds: nil), Fault.Point.request), ("stall;ms=20;after_head", .stall(milliseconds: 20), .head),
        ("truncate", .truncate, .end), ("truncate;after_bytes=0", .truncate, .bytes(0)), ("error-event", .errorEvent, .events(1)),
        ("garbage", .garbage, .head), ("close-on-reuse;reset", .closeOnReuse(resets: true), .request),
        ("close;at_end", .close, .end), ("huge-header;bytes=1048576", .hugeHeader(bytes: 1_048_576), .request),
        ("error", .error(status: 500, retryAfterSeconds: nil, grpcStatus: 13), .request),
        ("error;status=429", .error(status: 429, retryAfterSeconds: nil, grpcStatus: 8), .request),
        ("error;status=400;grpc_status=16", .error(status: 400, retryAfterSeconds: nil, grpcStatus: 16), .request),
    ])
    func everyActionHasItsPlaceAndDefaults(header: String, action: Fault.Action, point: Fault.Point) throws {
        let fault = try #require(try Fault.parse(header: header).first)
        #expect(fault.action == action)
        #expect(fault.point == point)
    }

    @Test(arguments: [
        ("nonsense", "unknown action 'nonsense'"), ("close,,;", "a name is missing"), ("stall;ms=-1", "a whole number from 0"),
        ("stall;ms=1.5", "a whole number"), ("stall;mss=1", "unknown field 'mss'"), ("error;status=99", "from 200 to 599"),
        ("huge-header;bytes=1048577", "to 1048576"), ("goaway;abrupt=3", "true or false"), ("error;grpc_status=17", "from 1 to 16"),
        ("close;probability=2", "a number from 0.0 to 1.0"),
    ])
    func whatCannotBeMeantIsNamed(header: String, message: String) {
        let error = #expect(throws: FaultError.self) { try Fault.parse(header: header) }
        #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
    }

    @Test func faultsOfThePortDoNotConcernARequest() throws {
        var plan = FaultPlan()
        for name in ["refuse", "accept-close", "stream-limit"] {
            plan.add(try Fault(name: name, fields: [:]))
            #expect(throws: FaultError.self) { try Fault.parse(header: "stall;ms=1," + name) }
        }
        #expect(plan.isEmpty)
        for fault in try Fault.parse(header: "stall;ms=1,close;after_events=2,trickle") { plan.add(fault) }
        #expect(plan.before == [.stall(milliseconds: 1)])
        #expect(plan.during == [.init(action: .close, point: .events(2))])
        #expect(plan.changesOutput)
    }
}

@Suite struct FaultTableTests {
    private func table(_ json: String, seed: UInt64 = 0) throws -> FaultTable {
        var table = FaultTable(seed: seed)
        table.replace(with: try StubSettings(document: try value("{\"faults\":\(json)}")).faults, rearmed: [])
        return table
    }

    private func strikes(_ table: inout FaultTable, count: Int, path: String = "/v1/completions", at now: UInt64 = 0) -> [Bool] {
        (0..<count).map { _ in !table.plan(path: path, generates: path.hasPrefix("/v1/"), nowNanoseconds: now).isEmpty }
    }

    @Test func timesAndSkipCountRequestsThatMatch() throws {
        var table = try table(#"{"close":{"skip":2,"times":3}}"#)
        #expect(strikes(&table, count: 1, path: "/metrics") == [false])
        #expect(strikes(&table, count: 8) == [false, false, true, true, true, false, false, false])
        #expect(table.fired.map(\.count) == [3])
    }

    @Test func aPathMeansRequestsThatBeginWithItAndNoneMeansWork() throws {
        var table = try table(#"{"slow":{"action":"stall","path":"/met"}}"#)
        #expect(strikes(&table, count: 1, path: "/metrics") == [true])
        #expect(strikes(&table, count: 1) == [false])
    }

    @Test func probabilityFollowsFromTheSeed() throws {
        var first = try table(#"{"close":{"probability":0.3}}"#, seed: 5)
        var second = try table(#"{"close":{"probability":0.3}}"#, seed: 5)
        var other = try table(#"{"close":{"probability":0.3}}"#, seed: 6)
        let pattern = strikes(&first, count: 1_000)
        #expect(strikes(&second, count: 1_000) == pattern)
        #expect(strikes(&other, count: 1_000) != pattern)
        #expect((250...350).contains(pattern.count { $0 }))
    }

    @Test func aPeriodIsActiveInItsFirstHalf() throws {
        var table = try table(#"{"close":{"period_ms":10}}"#)
        let times: [UInt64] = [0, 4_999_999, 5_000_000, 9_999_999, 10_000_000]
        #expect(times.map { strikes(&table, count: 1, at: $0)[0] } == [true, true, false, false, true])
    }

    @Test func aFaultGoesOnCountingUntilItIsSetAgain() throws {
        let faults = try StubSettings(document: try value(#"{"faults":{"close":{"times":1}}}"#)).faults
        var table = FaultTable()
        table.replace(with: faults, rearmed: [])
        #expect(strikes(&table, count: 2) == [true, false])
        table.replace(with: faults, rearmed: [])
        #expect(strikes(&table, count: 1) == [false])
        table.replace(with: faults, rearmed: ["close"])
        #expect(strikes(&table, count: 1) == [true])
        table.replace(with: [], rearmed: [])
        #expect(table.isEmpty)
    }

    @Test func connectionsAreClosedAsOftenAsWasSaid() throws {
        var table = try table(#"{"accept-close":{"times":2}}"#)
        #expect((0..<4).map { _ in table.closesConnection(nowNanoseconds: 0) } == [true, true, false, false])
        #expect(strikes(&table, count: 1) == [false])
    }
}

@Suite struct SettingsTests {
    @Test func aMergedDocumentIsReadAsAWhole() throws {
        var configuration = StubConfiguration()
        configuration.maximumQueuedRequests = 7
        let first = StubSettings(configuration)
        let patch = try value(#"{"overload":{"status":429},"faults":{"a":{"action":"reset"}},"lost_members":[1,2]}"#)
        let second = try StubSettings(document: first.document.merged(with: patch))
        #expect(second.overloadStatus == 429)
        #expect(second.maximumQueuedRequests == 7)
        #expect(second.faults.map(\.name) == ["a"])
        #expect(second.lostMembers == [1, 2])
        let third = try StubSettings(
            document: second.document.merged(with: try value(#"{"faults":{"a":null},"overload":{"max_num_queued_reqs":null}}"#)))
        #expect(third.faults.isEmpty)
        #expect(third.maximumQueuedRequests == nil)
        #expect(third.overloadStatus == 429)
    }

    @Test(arguments: [
        (#"{"faultz":{}}"#, "unknown field 'faultz'"), (#"{"faults":{"a":3}}"#, "faults.a: expected an object"),
        (#"{"overload":{"status":700}}"#, "from 400 to 599"), (#"{"lost_members":[0]}"#, "ranks above 0"),
        (#"{"lost_members":"1"}"#, "an array of ranks"), (#"{"fault_seed":-1}"#, "fault_seed"), ("[]", "a JSON object"),
    ])
    func whatMakesNoSenseIsRefusedByName(json: String, message: String) throws {
        let document = try value(json)
        let error = #expect(throws: FaultError.self) { try StubSettings(document: document) }
        #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
    }
}
