import Testing

@testable import LoadSignals

@Suite struct EngineReadingTests {
    @Test func ranksOfVLLMAddUpAndTheirUsageIsAveraged() {
        let reading = read(
            """
            # HELP vllm:num_requests_running Requests. vllm:num_requests_running{engine="9"} 99
            vllm:num_requests_running{engine="0",model_name="m"} 2.0
            vllm:num_requests_running{engine="1",model_name="m"} 3.0
            vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
            vllm:num_requests_waiting{engine="1",model_name="m"} 7.0
            vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 50.0
            vllm:kv_cache_usage_perc{engine="0"} 0.25
            vllm:kv_cache_usage_perc{engine="1"} 0.75
            vllm:cache_config_info{block_size="16",engine="0",kv_cache_size_tokens="1600",num_gpu_blocks="200"} 1.0
            vllm:cache_config_info{block_size="16",engine="1",kv_cache_size_tokens="1600",num_gpu_blocks="200"} 1.0
            vllm:prompt_tokens_total{engine="0"} 100.0
            vllm:generation_tokens_total{engine="0"} 1.2e+02
            vllm:prefix_cache_queries_total{engine="0"} 90
            vllm:prefix_cache_hits_total{engine="0"} 30

            """)
        #expect(reading.engine == .vllm)
        #expect(reading.running == 5 && reading.waiting == 7 && reading.kvUsage == 0.5)
        #expect(reading.capacityTokens == 3_200, "tokens of each rank; its number of blocks is that of all ranks already")
        #expect(reading.progress == 220 && reading.prefixQueries == 90 && reading.prefixHits == 30)
    }

    @Test func olderVLLMSaysItsCacheInBlocksAndUsageByAnotherName() {
        let reading = read("vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\"} 1.0\nvllm:gpu_cache_usage_perc 0.5\n")
        #expect(reading.capacityTokens == 1_600 && reading.kvUsage == 0.5)
        #expect(read("vllm:cache_config_info{block_size=\"None\",num_gpu_blocks=\"100\"} 1.0\n").capacityTokens == nil)
    }

    /// In what one series said first the other's is lost.
    @Test func whatComesAgainAfterTooMuchIsNoDebt() {
        let reading = read(
            """
            vllm:num_requests_running{engine="0"} 1
            vllm:num_requests_running{engine="1"} 1e300
            vllm:num_requests_running{engine="1"} 1
            vllm:num_requests_running{engine="0"} 0

            """)
        #expect(reading.running == 0)
    }

    @Test func whatTellsOfFirstTokensAddsUpOverRanksAndReasons() throws {
        let page = ["0", "1"].map { rank in
            """
            vllm:num_requests_running{engine="\(rank)"} 4.0
            vllm:num_requests_waiting{engine="\(rank)"} 1.0
            vllm:time_to_first_token_seconds_bucket{engine="\(rank)",le="0.001"} 99.0
            vllm:time_to_first_token_seconds_count{engine="\(rank)"} 10.0
            vllm:time_to_first_token_seconds_sum{engine="\(rank)"} 77.0
            vllm:request_success_total{engine="\(rank)",finished_reason="stop"} 3.0
            vllm:request_success_total{engine="\(rank)",finished_reason="length"} 5.0
            vllm:request_success_created{engine="\(rank)",finished_reason="length"} 1.79e+09
            vllm:prefix_cache_queries_total{engine="\(rank)"} 9000.0
            vllm:prefix_cache_hits_total{engine="\(rank)"} 3000.0
            vllm:prompt_tokens_total{engine="\(rank)"} 5000.0
            vllm:prompt_tokens_by_source_total{engine="\(rank)",source="local_compute"} 3500.0
            vllm:prompt_tokens_by_source_total{engine="\(rank)",source="local_cache_hit"} 1500.0
            vllm:cache_config_info{engine="\(rank)",kv_cache_max_concurrency="4.0",kv_cache_size_tokens="64000"} 1.0

            """
        }.joined()
        let counts = try #require(read(page).backlogCounts)
        #expect(counts.running == 8 && counts.waiting == 2 && counts.firstTokens == 20 && counts.ended == 16)
        #expect(counts.longestPrompt == 16_000 && counts.ranks == 2)
        let tokens = try #require(counts.tokens)
        #expect(tokens.lookedUp == 18_000 && tokens.found == 6_000 && tokens.prefilled == 10_000 && tokens.prefilledFound == 3_000)
        for family in ["num_requests_running", "num_requests_waiting", "time_to_first_token_seconds_count", "request_success_total"] {
            #expect(read(page.replacing("vllm:\(family){", with: "vllm:other{")).backlogCounts == nil, "\(family)")
        }
        #expect(try #require(read(page.replacing("by_source", with: "by")).backlogCounts?.tokens).prefilledFound == nil)
        #expect(try #require(read(page.replacing("cache_queries_total", with: "cache_queries")).backlogCounts).tokens == nil)
        #expect(try #require(read(page.replacing(" 9000.0", with: " 0.0")).backlogCounts).tokens == nil, "prefix caching is off")
        let fresh = page.replacing(" 9000.0", with: " 0.0").replacing(" 5000.0", with: " 0.0")
        #expect(try #require(read(fresh).backlogCounts?.tokens).lookedUp == 0, "nothing came yet")
        #expect(read(page.replacing("vllm:", with: "sglang:")).backlogCounts == nil)
    }

    @Test func adaptersAreThoseOfTheSampleSeenLast() {
        let reading = read(
            """
            vllm:lora_requests_info{max_lora="2",running_lora_adapters="old",waiting_lora_adapters=""} 1.7954607535171487e+09
            vllm:lora_requests_info{max_lora="2",running_lora_adapters="a, b\\"c",waiting_lora_adapters="d"} 1.7954607540609267e+09
            vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""} 1.7954607536136656e+09

            """)
        #expect(reading.adapters == EngineReading.Adapters(running: ["a", "b\"c"], waiting: ["d"], limit: 2))
    }

    @Test func theOtherEngines() {
        let sglang = read(
            """
            sglang:num_running_reqs{model_name="m",tp_rank="0",priority=""} 4.0
            sglang:num_running_reqs{model_name="m",tp_rank="0",priority="5"} 3.0
            sglang:num_running_reqs{model_name="m",tp_rank="1",priority=""} 4.0
            sglang_num_queue_reqs{model_name="m"} 6
            sglang:token_usage{model_name="m"} 0.55
            sglang:cache_config_info{page_size="16",num_pages="50"} 1.0
            sglang:prompt_tokens_total 1000
            sglang:cached_tokens_total{cache_source="device"} 200

            """)
        #expect(sglang.engine == .sglang && sglang.running == 4 && sglang.waiting == 6 && sglang.kvUsage == 0.55)
        #expect(sglang.capacityTokens == 800 && sglang.prefixQueries == 1_000 && sglang.prefixHits == 200)
        #expect(read("sglang:page_size 32\nsglang:num_pages 10\n").capacityTokens == 320)

        // `/v1/loads?include=core&format=prometheus` of September 2026, with two data-parallel ranks.
        let loads = """
            # TYPE sglang_num_running_reqs gauge
            sglang_num_running_reqs{dp_rank="0"} 24
            sglang_num_running_reqs{dp_rank="1"} 19
            # TYPE sglang_num_waiting_reqs gauge
            sglang_num_waiting_reqs{dp_rank="0"} 3
            sglang_num_waiting_reqs{dp_rank="1"} 1
            # TYPE sglang_num_waiting_uncached_tokens gauge
            sglang_num_waiting_uncached_tokens{dp_rank="0"} 6144
            sglang_num_waiting_uncached_tokens{dp_rank="1"} 56
            # TYPE sglang_num_prealloc_ready_tokens gauge
            sglang_num_prealloc_ready_tokens{dp_rank="0"} 0
            sglang_num_prealloc_ready_tokens{dp_rank="1"} 0
            # TYPE sglang_token_usage gauge
            sglang_token_usage{dp_rank="0"} 0.75
            sglang_token_usage{dp_rank="1"} 0.25

            """
        let told = read(loads)
        #expect(told.engine == .sglang && told.running == 43 && told.waiting == 4 && told.kvUsage == 0.5 && told.queuedTokens == 6_200)
        let former = read(loads.replacing("sglang_num_prealloc_ready_tokens", with: "sglang_another"))
        #expect(former.waiting == 4 && former.queuedTokens == nil, "one that may count what is cached")
        #expect(read(loads.replacing("uncached_tokens", with: "other")).queuedTokens == nil)

        let tensorRT = read(
            """
            trtllm_num_requests_running{model_name="m"} 2
            trtllm_num_requests_waiting{model_name="m"} 1
            trtllm_kv_cache_utilization 0.125
            trtllm_kv_cache_tokens_per_block 32
            trtllm_kv_cache_max_blocks 1000

            """)
        #expect(tensorRT.engine == .tensorRT && tensorRT.running == 2 && tensorRT.waiting == 1)
        #expect(tensorRT.kvUsage == 0.125 && tensorRT.capacityTokens == 32_000)

        let triton = read(
            """
            nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
            nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 5
            nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
            nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
            nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 100
            nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.01

            """)
        #expect(triton.engine == .triton && triton.running == 5 && triton.waiting == 3)
        #expect(triton.kvUsage == 0.01 && triton.capacityTokens == 6_400)
    }

    @Test func aSleepingEngineSaysSo() {
        #expect(read("vllm:engine_sleep_state{sleep_state=\"awake\"} 0.0\n").isAsleep)
        #expect(!read("vllm:engine_sleep_state{sleep_state=\"awake\"} 1.0\nvllm:engine_sleep_state{sleep_state=\"x\"} 0.0\n").isAsleep)
    }

    @Test func whatIsMalformedIsPassedOver() {
        let text = """
            vllm:num_requests_running{engine="0} 1.0
            vllm:num_requests_running{engine="0" "x"} 1.0
            vllm:num_requests_running{engine=0} 1.0
            vllm:num_requests_running 0x10
            vllm:num_requests_running
            vllm:num_requests_waiting NaN
            vllm:num_requests_waiting -4
            vllm:kv_cache_usage_perc +Inf
            vllm:num_preemptions_total 3 1700000000000
            vllm:num_requests_run
            """
        let (reading, malformed) = read(Array(text.utf8))
        #expect(reading.running == nil && reading.waiting == nil && reading.kvUsage == nil)
        #expect(reading.preemptions == 3, "a timestamp may follow")
        #expect(malformed == 6, "and a last line without an end may be half of one")
    }

    @Test func aSeriesThatComesAgainCountsOnce() {
        let reading = read(
            "vllm:num_requests_running{engine=\"0\"} 9\nvllm:num_requests_running{engine=\"0\"} 2\nvllm:num_requests_running{engine=\"1\",engine=\"0\"} 1\n"
        )
        #expect(reading.running == 3)
    }

    @Test func boundsHold() {
        let long = String(repeating: "x", count: MetricsTextScanner.longestLine)
        let (reading, malformed) = read(Array("vllm:num_requests_running{a=\"\(long)\"} 1\nvllm:num_requests_waiting 2\n".utf8))
        #expect(reading.running == nil && reading.waiting == 2 && malformed == 1)
        let labels = (0...SampleLabels.most).map { "l\($0)=\"\"" }.joined(separator: ",")
        #expect(read("vllm:num_requests_running{\(labels)} 1\n").running == nil)
        let many = (0..<EngineReading.mostSeries + 10).map { "vllm:num_requests_running{engine=\"\($0)\"} 1\n" }.joined()
        #expect(read(many).running == Double(EngineReading.mostSeries))
        #expect(read("sglang:max_total_num_tokens 1e300\n").capacityTokens == nil)
        let adapters = (0..<200).map { "a\($0)" }.joined(separator: ",")
        #expect(
            read("vllm:lora_requests_info{running_lora_adapters=\"\(adapters)\"} 1\n").adapters?.running.count == EngineReading.mostAdapters
        )
    }

    @Test(.enabled(if: Recordings.areThere)) func recordedVLLM() throws {
        let busy = read(try Recordings.body("vllm-life/queue_metrics_busy.resp")).reading
        #expect(busy.engine == .vllm && busy.running == 3 && busy.waiting == 0 && busy.capacityTokens == 2_097_152)
        #expect(try #require(busy.kvUsage) > 9e-5)
        let counts = try #require(busy.backlogCounts)
        #expect(counts.firstTokens == 3 && counts.ended == 0 && counts.longestPrompt == 2_048 && counts.tokens?.prefilled == 9)
        #expect(counts.ranks == 1)
        // Recorded with nobody there: one of 71 with a first token was aborted after it.
        let after = try #require(read(try Recordings.body("vllm-a/metrics_after.resp")).reading.backlogCounts)
        #expect(after.firstTokens == 71 && after.ended == 70 && after.tokens?.found == 1_056 && after.tokens?.prefilledFound == 1_056)
        let ranks = read(try Recordings.body("vllm-dp2/metrics_end.resp")).reading
        #expect(ranks.capacityTokens == 2 * 2_097_152 && ranks.prefixQueries == 812)
        let adapters = read(try Recordings.body("vllm-lora/metrics_lora_busy.resp")).reading.adapters
        #expect(adapters == EngineReading.Adapters(running: ["lora-a", "lora-b"], waiting: ["lora-a", "lora-b"], limit: 2))
    }

    @Test(.enabled(if: Recordings.areThere)) func recordedLlamaCpp() throws {
        let reading = read(try Recordings.body("llama/metrics_busy.resp")).reading
        #expect(reading.engine == .llamaCpp && reading.isBusy && reading.kvUsage == nil && reading.capacityTokens == nil)
    }

    @Test(.enabled(if: Recordings.areThere), arguments: [1, 7, 64, 1_000, 4_096])
    func piecesDoNotMatter(size: Int) throws {
        for name in ["vllm-dp2/metrics_end.resp", "vllm-lora/metrics_lora_busy.resp", "llama/metrics_busy.resp"] {
            let body = try Recordings.body(name)
            let (whole, cut) = (read(body), read(body, pieces: size))
            #expect(whole.malformed == 0 && cut.malformed == 0)
            #expect(whole.reading.running == cut.reading.running && whole.reading.progress == cut.reading.progress)
            #expect(whole.reading.capacityTokens == cut.reading.capacityTokens && whole.reading.adapters == cut.reading.adapters)
        }
    }
}

@Suite struct ReadingHistoryTests {
    private func reading(tokens: Int, running: Int) -> EngineReading {
        read("vllm:generation_tokens_total \(tokens)\nvllm:num_requests_running \(running)\nvllm:num_preemptions_total \(tokens / 10)\n")
    }

    private func judge(_ readings: [EngineReading]) -> (verdicts: [ReadingHistory.Verdict], history: ReadingHistory) {
        var history = ReadingHistory()
        let verdicts = readings.map { history.judge($0) }
        return (verdicts, history)
    }

    @Test func aBusyEngineThatDoesNotMoveIsFrozen() {
        // What is idle has nothing to move.
        let states = [(100, 3), (100, 3), (101, 3), (101, 2), (101, 0), (101, 0)]
        let verdicts = judge(states.map { reading(tokens: $0.0, running: $0.1) }).verdicts
        #expect(verdicts == [.fresh, .frozen, .fresh, .fresh, .fresh, .fresh])
    }

    @Test func countersThatGoBackAreARestart() {
        let (verdicts, history) = judge([1_000, 1_500, 20, 40].map { reading(tokens: $0, running: 1) })
        #expect(verdicts == [.fresh, .fresh, .restarted, .fresh])
        #expect(history.restarts == 1)
        #expect(history.preemptions.total == 54, "50 before, 2 and 2 after")
    }

    /// Two API servers behind one address, each with counts of its own: to take every turn for a restart would keep the index empty.
    @Test func countsThatTakeTurnsAreNoRestarts() {
        let turns = (0..<20).map { $0.isMultiple(of: 2) ? 10_000 + $0 : 100 + $0 }
        let (verdicts, history) = judge(turns.map { reading(tokens: $0, running: 1) })
        #expect(history.restarts == ReadingHistory.returnsOfSeveral)
        #expect(verdicts.suffix(14).allSatisfy { $0 == .fresh })
        // One that began anew gets to where it was, but not at once.
        #expect(judge([900, 10, 500, 1_000, 20, 400, 1_200, 30].map { reading(tokens: $0, running: 1) }).history.restarts == 3)
    }

    @Test func anEngineWithoutCountersIsBelieved() {
        let triton = read("nv_trt_llm_request_metrics{request_type=\"scheduled\"} 5\n")
        #expect(judge([triton, triton, triton, triton]).verdicts == [.fresh, .fresh, .fresh, .fresh])
    }

    /// TensorRT-LLM counts no tokens. Believed for ever, a page that hangs would keep all traffic from its group.
    @Test func aCacheThatStandsStillUnderABusyEngineIsFrozen() {
        func reading(_ waiting: Int, _ usage: Double) -> EngineReading {
            read("trtllm_num_requests_running 8\ntrtllm_num_requests_waiting \(waiting)\ntrtllm_kv_cache_utilization \(usage)\n")
        }
        let busy = [
            reading(3, 0.5), reading(3, 0.5), reading(3, 0.51), reading(3, 0.51), reading(3, 0.51), reading(3, 0.51), reading(2, 0.51),
        ]
        #expect(judge(busy).verdicts == [.fresh, .fresh, .fresh, .fresh, .frozen, .frozen, .fresh])
        let idle = read("trtllm_num_requests_running 0\ntrtllm_num_requests_waiting 0\ntrtllm_kv_cache_utilization 0.2\n")
        #expect(judge([idle, idle, idle, idle]).verdicts.allSatisfy { $0 == .fresh })
    }
}
