"""What `swiftlet bench` counts is what the server was told to do: errors by kind, tokens, hits, rates and goodput."""

import json

import httpx
import pytest
from processes import bench, stub, unused_port


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def engine():
    program = stub(prefill_us=0, decode_ms=0.2)
    yield program
    program.stop()


LOAD = ["--arrival", "constant", "--rate", 40, "--duration", 0.1, "--input-tokens", 8, "--output-tokens", 6]
INFER = ["--api", "infer", "--model", "stub-model"]


@pytest.mark.parametrize(
    ("scheme", "fault", "kind", "arguments"),
    [
        ("http", "error;status=503", "HTTP 503", []),
        ("h2c", "error;status=429", "HTTP 429", []),
        ("http", "reset;after_events=2", "connection reset", []),
        ("h2c", "refuse-stream", "refused stream", []),
        ("http", "error-event;after_events=2", "error event", []),
        ("http", "truncate;after_events=2", "truncated stream", []),
        ("http", "garbage", "protocol error", []),
        ("http", "black-hole", "timeout", ["--timeout", 0.2]),
        ("http", "stall;after_events=1", "timeout", ["--timeout", 0.2]),
        ("http", "black-hole", "unfinished", ["--drain", 0.2]),
        ("grpc", "error;grpc_status=14", "gRPC status 14", INFER),
        ("grpc", "error;grpc_status=8", "gRPC status 8", [*INFER, "--no-stream"]),
    ],
)
def test_errors_are_told_by_their_kind(engine, scheme, fault, kind, arguments, tmp_path):
    """Two of four requests by the fault's count would depend on luck; all of them do not."""
    out = bench("run", f"{scheme}://127.0.0.1:{engine.port}", *LOAD, "-H", f"x-stub-fault: {fault}", *arguments, "--json",
                tmp_path / "json", "--requests", tmp_path / "lines", expect=1)  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert report["errors"] == {kind: 4} and (report["failed"], report["completed"]) == (4, 0)
    assert f"4  {kind}: 4" in out and {one["outcome"] for one in lines_of(tmp_path / "lines")} == {kind}
    # What failed has no latency, and is no token.
    assert report["metrics"]["ttft"]["count"] == report["outputTokens"] == report["promptTokens"] == 0


def test_nobody_there_is_an_error_of_its_own(tmp_path):
    for scheme in ("http", "h2c"):
        bench("run", f"{scheme}://127.0.0.1:{unused_port()}", *LOAD, "--json", tmp_path / "json", expect=1)
        assert json.loads((tmp_path / "json").read_text())["errors"] == {"connect failed": 4}


def test_some_failures_leave_the_others_alone(tmp_path):
    """The third and the fourth request of ten are refused, whoever they are."""
    program = stub(prefill_us=0, decode_ms=0.2)
    try:
        faults = {"faults": {"busy": {"action": "error", "status": 503, "skip": 2, "times": 2, "path": "/v1/"}}}
        assert httpx.post(f"{program.url}/admin/config", json=faults).status_code == 200
        bench("run", program.url, "--arrival", "constant", "--rate", 50, "--duration", 0.2, "--input-tokens", 8, "--output-tokens", 3,
              "--goodput", "e2e:60000", "--json", tmp_path / "json")  # fmt: skip
    finally:
        program.stop()
    report = json.loads((tmp_path / "json").read_text())
    assert report["errors"] == {"HTTP 503": 2} and report["completed"] == 8 and report["outputTokens"] == 24
    # Goodput is of all that were due, not of those that were answered.
    assert (report["goodput"]["requests"], report["goodput"]["share"]) == (8, 0.8)


def streamed(*events):
    """An answer of these events."""

    async def answer(exchange):
        await exchange.event_stream_head()
        for event in events:
            await exchange.event(event if isinstance(event, str) else json.dumps(event))
        await exchange.last_chunk()

    return answer


def whole(status, body, kind):
    async def answer(exchange):
        await exchange.answer(status, body, ((b"content-type", kind),))

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        whole(200, b"<html>welcome</html>", b"text/html"),
        whole(204, b"", b"text/plain"),
        whole(200, b"{{{{", b"application/json"),
        whole(200, b'{"object":"ok"}', b"application/json"),
        streamed("[DONE]"),
        streamed({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, "[DONE]"),
    ],
)
def test_a_success_that_says_nothing_is_none(answer, scripted, tmp_path):
    """A wrong address must not look like a fast server."""
    out = bench("run", scripted(answer).url, *LOAD, "--json", tmp_path / "json", expect=1)
    assert json.loads((tmp_path / "json").read_text())["errors"] == {"no content": 4}
    assert "INVALID: no request succeeded" in out


@pytest.mark.parametrize(
    "answer",
    [
        whole(200, b'{"choices":[{"message":{"content":"a b"}}]}', b"application/json"),
        whole(200, b'{"choices":[{"message":{"content":""}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}', b"application/json"),
        streamed({"choices": [{"delta": {"content": ""}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}, "[DONE]"),
        streamed({"choices": [{"delta": {"reasoning_content": "hm"}}]}, "[DONE]"),
    ],
)
def test_text_or_a_count_of_tokens_is_an_answer(answer, scripted, tmp_path):
    bench("run", scripted(answer).url, *LOAD, "--json", tmp_path / "json")
    assert json.loads((tmp_path / "json").read_text())["completed"] == 4


def test_what_came_whole_has_no_time_per_token(engine, tmp_path):
    out = bench("run", engine.url, *LOAD, "--no-stream", "--json", tmp_path / "json")
    report = json.loads((tmp_path / "json").read_text())
    assert report["completed"] == 4 and report["outputTokens"] == 24
    assert report["metrics"]["tpot"]["count"] == 0 and "TPOT" not in out
    assert "streamed" in bench("run", engine.url, *LOAD, "--no-stream", "--goodput", "tpot:10", expect=64)


def test_a_percentile_that_is_a_failure_passes_no_bound(tmp_path):
    """One of ten fails: the median is that of the answered, of the tail nothing is known but that it is no answer."""
    program = stub(prefill_us=0, decode_ms=0.2)
    try:
        faults = {"faults": {"busy": {"action": "error", "status": 503, "skip": 4, "times": 2, "path": "/v1/"}}}
        assert httpx.post(f"{program.url}/admin/config", json=faults).status_code == 200
        bounds = [argument for name in ("ttft_p50", "ttft_p90", "ttft_p95", "e2e_p99") for argument in ("--threshold", f"{name}<600000")]
        out = bench("run", program.url, "--arrival", "constant", "--rate", 50, "--duration", 0.4, "--input-tokens", 8,
                    "--output-tokens", 3, *bounds, "--html", tmp_path / "html", expect=2)  # fmt: skip
    finally:
        program.stop()
    missed = [line.split(": ")[1] for line in out.splitlines() if line.startswith("threshold missed")]
    assert missed == ["ttft_p95<600000", "e2e_p99<600000"]
    row = next(line.split() for line in out.splitlines() if line.startswith("TTFT, from schedule"))
    assert [cell.endswith("*") for cell in row[3:]] == [True, False, False, True, True, True]
    assert "2 of 20 requests failed" in out and "2 of 20 requests failed" in (tmp_path / "html").read_text()


def test_tokens_hits_and_rates_are_the_engines_own(tmp_path):
    program = stub(prefill_us=5, decode_ms=0.2)
    try:
        bench("run", program.url, "--workload", "shared-prefix", "--prompt-groups", 2, "--system-tokens", 256, "--input-tokens", 32,
              "--output-tokens", 5, "--arrival", "constant", "--rate", 60, "--duration", 0.5, "--json", tmp_path / "json", "--requests",
              tmp_path / "lines")  # fmt: skip
        samples = httpx.get(f"{program.url}/metrics").text.splitlines()
    finally:
        program.stop()

    def counter(name):
        return sum(float(line.split()[-1]) for line in samples if line.startswith(f"vllm:{name}_total{{"))

    report, lines = json.loads((tmp_path / "json").read_text()), lines_of(tmp_path / "lines")
    assert report["completed"] == len(lines) == 30
    assert report["outputTokens"] == counter("generation_tokens") == 150
    assert report["promptTokens"] == counter("prompt_tokens") == counter("prefix_cache_queries") > 30 * 256
    assert report["cachedTokens"] == counter("prefix_cache_hits")
    # Two beginnings are computed, and the others found; a block is 16 tokens, so at most 15 of each are not.
    assert report["cachedTokens"] / report["promptTokens"] > 0.5
    # From the first request that was due to the last answer's end.
    seconds = (max(one["end_ns"] for one in lines) - min(one["due_ns"] for one in lines)) / 1e9
    assert report["durationSeconds"] == pytest.approx(seconds)
    assert report["requestRate"] == pytest.approx(30 / seconds)
    assert report["outputTokenRate"] == pytest.approx(150 / seconds)
    assert report["totalTokenRate"] == pytest.approx((150 + report["promptTokens"]) / seconds)


def test_goodput_is_of_what_was_kept(tmp_path):
    """Every second prompt takes 200 ms and more to its first token, the others 10; a token of either takes 5 ms."""
    trace = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 250 * number, "input_length": 200 if number % 2 else 10, "output_length": 3} for number in range(4)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    program = stub(prefill_us=1_000, decode_ms=5)
    try:
        for target, fits in (
            ("tpot:4", lambda one: False),
            ("e2e:150", lambda one: one["end_ns"] - one["due_ns"] <= 150e6),
            ("ttft:150,tpot:1000,e2e:60000", lambda one: one["first_token_ns"] - one["due_ns"] <= 150e6),
        ):
            # A trace is the same text each time.
            assert httpx.post(f"{program.url}/reset_prefix_cache").status_code == 200
            bench("run", program.url, "--trace", trace, "--time-scale", 0.9, "--goodput", target, "--json", tmp_path / "json",
                  "--requests", tmp_path / "lines")  # fmt: skip
            report, lines = json.loads((tmp_path / "json").read_text()), lines_of(tmp_path / "lines")
            good = [fits(one) for one in lines]
            assert report["failed"] == 0 and not any(good[1::2]), "the long ones cannot have kept it"
            goodput = report["goodput"]
            assert (goodput["requests"], goodput["share"]) == (sum(good), pytest.approx(sum(good) / 4))
            assert goodput["requestsPerSecond"] == pytest.approx(sum(good) / report["durationSeconds"])
    finally:
        program.stop()
