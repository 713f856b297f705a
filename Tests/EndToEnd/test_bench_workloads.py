"""What `swiftlet bench` sends, and when: traces, arrival processes, sessions and options, as a server sees them and as its lines tell."""

import json
import os
import statistics

import pytest
from processes import bench, serve, stub


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


async def answer_chat(exchange):
    """As many events with content as were asked for, and a usage of known figures."""
    count = exchange.request.json["max_tokens"]
    await exchange.event_stream_head()
    for number in range(count):
        await exchange.event(json.dumps({"choices": [{"index": 0, "delta": {"content": f"said{number} "}}]}))
    usage = {"prompt_tokens": 40, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": 10}}
    await exchange.event(json.dumps({"choices": [], "usage": usage}))
    await exchange.event("[DONE]")
    await exchange.last_chunk()


def play(backend, folder, *arguments):
    """What the server was asked, in the order of the lines, and these, and the report."""
    out = bench("run", backend.url, "--json", folder / "json", "--requests", folder / "lines", *arguments)
    report = json.loads((folder / "json").read_text())
    assert report["failed"] == 0, out
    return [request.json for request in backend.requests], lines_of(folder / "lines"), report


def prompt(request):
    return request["messages"][-1]["content"]


MOONCAKE = [
    {"timestamp": 5_000, "input_length": 1_024, "output_length": 3, "hash_ids": [1, 2]},
    {"timestamp": 5_200, "input_length": 1_000, "output_length": 2, "hash_ids": [1, 3]},
    {"timestamp": 5_400, "input_length": 40, "output_length": 1, "hash_ids": [4]},
]
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,30,4
2023-11-16 18:15:46.8805900,60,2
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
10,ChatGPT,30,4,34,Conversation log
10.2,GPT-4,60,2,62,API log
"""


def test_a_mooncake_trace_keeps_its_times_lengths_and_what_is_shared(scripted, tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in MOONCAKE))
    asked, lines, report = play(scripted(answer_chat), tmp_path, "--trace", trace, "--time-scale", 0.5)
    assert [one["due_ns"] for one in lines] == [0, 100_000_000, 200_000_000]
    asked.sort(key=lambda one: -one["max_tokens"])
    assert [one["max_tokens"] for one in asked] == [3, 2, 1] and [one["output_tokens"] for one in lines] == [3, 2, 1]
    # A word is a token; equal hash ids are equal text, in blocks of 512 tokens, and others are not.
    words = [prompt(one).split() for one in asked]
    assert [len(one) for one in words] == [1_024, 1_000, 40]
    assert words[0][:512] == words[1][:512] and words[0][512:520] != words[1][512:520]
    assert not set(map(tuple, zip(*[iter(words[2])] * 4))) & set(map(tuple, zip(*[iter(words[0])] * 4)))
    assert report["workload"]["parameters"]["format"] == "mooncake" and report["mode"] == "open"
    # The same trace is the same text and the same times, whenever it is played.
    again = scripted(answer_chat)
    _, _, second = play(again, tmp_path, "--trace", trace, "--time-scale", 0.5)
    for name in ("contentHash", "scheduleHash"):
        assert second["workload"][name] == report["workload"][name]


@pytest.mark.parametrize(("kind", "text"), [("azure", AZURE), ("burstgpt", BURSTGPT)])
def test_a_csv_trace_keeps_its_times_and_lengths(kind, text, scripted, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    asked, lines, report = play(scripted(answer_chat), tmp_path, "--trace", trace, "--length-scale", 0.5)
    # Dates in seconds of this century leave a double a tenth of a microsecond.
    assert [one["due_ns"] for one in lines] == [0, pytest.approx(200_000_000, abs=500)]
    asked.sort(key=lambda one: -one["max_tokens"])
    assert [(len(prompt(one).split()), one["max_tokens"]) for one in asked] == [(15, 2), (30, 1)]
    assert report["workload"]["parameters"]["format"] == kind


@pytest.mark.parametrize("scale", [1, 0.5])
def test_aiperf_sessions_go_on_after_the_answer_and_the_delay(scale, scripted, tmp_path):
    trace = tmp_path / "sessions.jsonl"
    rows = [
        {"session_id": "a", "timestamp": 0, "input_length": 20, "output_length": 2, "hash_ids": [1]},
        {"session_id": "b", "timestamp": 100, "input_length": 20, "output_length": 1, "hash_ids": [1]},
        {"session_id": "a", "delay": 300, "input_length": 10, "output_length": 1, "hash_ids": [2]},
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked, lines, report = play(scripted(answer_chat), tmp_path, "--trace", trace, "--time-scale", scale)
    first, other, second = (next(one for one in lines if one["index"] == index) for index in range(3))
    assert (first["due_ns"], other["due_ns"]) == (0, 100_000_000 * scale)
    assert second["due_ns"] - first["end_ns"] >= 300_000_000 * scale
    # Half the pause is over before the whole of it would be: the scale holds for pauses, too.
    assert scale == 1 or second["due_ns"] - first["end_ns"] < 300_000_000
    opening = next(one for one in asked if one["max_tokens"] == 2)
    going_on = next(one for one in asked if len(one["messages"]) == 3)
    assert going_on["messages"][0] == opening["messages"][0]
    assert going_on["messages"][1] == {"role": "assistant", "content": "said0 said1 "}
    assert report["workload"]["parameters"]["format"] == "aiperf"


def test_a_session_thinks_after_the_answer_before(scripted, tmp_path):
    asked, lines, _ = play(
        scripted(answer_chat), tmp_path, "--workload", "multi-turn-chat", "--turns", 4, "--think-seconds", 0.05, "--limit", 1,
        "--arrival", "constant", "--rate", 20, "--duration", 0.1, "--system-tokens", 8, "--input-tokens", 4, "--output-tokens", 2,
    )  # fmt: skip
    assert [len(one["messages"]) for one in asked] == [2, 4, 6, 8], "system and user, then what was said before as well"
    for before, after, asked_before, asked_after in zip(lines, lines[1:], asked, asked[1:], strict=False):
        assert before["end_ns"] < after["due_ns"] <= after["sent_ns"]
        assert asked_after["messages"][: len(asked_before["messages"])] == asked_before["messages"]
    pauses = [after["due_ns"] - before["end_ns"] for before, after in zip(lines, lines[1:], strict=False)]
    assert len({round(pause / 1e6, 3) for pause in pauses}) == 3 and sum(pauses) > 30e6, "drawn, with a mean of 50 ms"


@pytest.fixture(scope="module")
def engine():
    program = stub(prefill_us=0, decode_ms=0.2)
    yield program
    program.stop()


@pytest.mark.parametrize(
    ("arrival", "low", "high"),
    [("constant", 0, 0.001), ("poisson", 0.85, 1.15), ("gamma:0.2", 0.15, 0.25), ("gamma:3", 2.2, 3.8), ("weibull:0.5", 1.6, 3),
     ("weibull:4", 0.2, 0.35)],
)  # fmt: skip
def test_gaps_scatter_as_asked(engine, arrival, low, high, tmp_path):
    """600 gaps of a fixed seed: their coefficient of variation is the process's, within what so many tell."""
    bench("run", f"{engine.url}/health", "--api", "plain", "--arrival", arrival, "--rate", 3_000, "--duration", 0.2, "--seed", 4,
          "--requests", tmp_path / "lines")  # fmt: skip
    due = [one["due_ns"] for one in lines_of(tmp_path / "lines")]
    assert due == sorted(due) and due[-1] <= 200_000_000
    gaps = [after - before for before, after in zip(due, due[1:], strict=False)]
    assert low <= statistics.stdev(gaps) / statistics.mean(gaps) <= high
    assert 0.8 < statistics.mean(gaps) * 3_000 / 1e9 < 1.25


def test_one_seed_is_one_schedule(engine):
    out = [bench("run", f"{engine.url}/health", "--api", "plain", "--arrival", "gamma:2", "--rate", 100, "--duration", 0.1, "--seed", seed)
           for seed in (3, 3, 4)]  # fmt: skip
    schedules = [text.split("schedule ")[1].split()[0] for text in out]
    assert schedules[0] == schedules[1] != schedules[2]


def test_ramps_and_gaps_between_stages(engine, tmp_path):
    bench("run", f"{engine.url}/health", "--api", "plain", "--arrival", "constant", "--rate", "100-300,200", "--duration", "0.4,0.2",
          "--stage-gap", 0.3, "--json", tmp_path / "json", "--requests", tmp_path / "lines")  # fmt: skip
    first, second = ([one["due_ns"] / 1e9 for one in lines_of(tmp_path / "lines") if one["stage"] == stage] for stage in (0, 1))
    # The rate's integral: 200 a second for 0.4 s, of which 30 before its half; then 200 for 0.2 s.
    assert (len(first), sum(due <= 0.2 for due in first), len(second)) == (80, 30, 40)
    assert max(first) <= 0.4 + 1e-6 and 0.7 <= min(second) and max(second) <= 0.9 + 1e-6
    report = json.loads((tmp_path / "json").read_text())
    assert [(stage["offeredRate"], stage["requests"]) for stage in report["stages"]] == [(200, 80), (200, 40)]
    assert report["offeredRate"] == pytest.approx(200)


def test_a_closed_loop_offers_no_rate(scripted, tmp_path):
    highest = 0

    async def watch(exchange):
        nonlocal highest
        highest = max(highest, exchange.backend.in_flight)
        await exchange.answer(200, b"ok")

    backend = scripted(watch)
    out = bench("run", f"{backend.url}/x", "--api", "plain", "--closed-loop", 3, "--rate", "100,200", "--duration", 0.1, "--json",
                tmp_path / "json", "--html", tmp_path / "html")  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert len(backend.requests) == report["completed"] == 30 and highest <= 3
    assert report["mode"] == "closed loop of 3" and report["highestInFlight"] == 3
    assert "offeredRate" not in report and report["stages"] == []
    page = (tmp_path / "html").read_text()
    assert "Offered load:                            closed loop of 3" in out and "closed loop of 3" in page
    for text in (out, page):
        assert "Offered rate" not in text and "(constant)" not in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["run", "--arrival", "constant"], "--arrival"), (["run", "--max-concurrency", "5"], "--max-concurrency"),
     (["run", "--stage-gap", "1"], "--stage-gap"), (["search", "--goodput", "ttft:5"], "--closed-loop")],
)  # fmt: skip
def test_what_a_closed_loop_cannot_heed_is_a_mistake(arguments, named):
    command, *rest = arguments
    assert f"{named}: would not be heeded" in bench(command, "http://127.0.0.1:1", "--closed-loop", 2, *rest, expect=64)
    assert "--closed-loop: would not" in bench("fleet", "--peers", "swiftlet", "--closed-loop", 2, expect=64)


def test_plain_requests_are_as_told(scripted, tmp_path):
    backend = scripted()
    bench("run", f"{backend.url}/things?a=b", "--api", "plain", "--method", "PUT", "--body-bytes", 1_000, "-H", "x-one: 1", "--header",
          "x-two:  two words ", "--arrival", "constant", "--rate", 50, "--duration", 0.1)  # fmt: skip
    bench("run", f"{backend.url}/things", "--api", "plain", "--method", "DELETE", "--arrival", "constant", "--rate", 10, "--duration", 0.1)
    bench("run", f"{backend.url}/things", "--api", "plain", "--body-bytes", 3, "--arrival", "constant", "--rate", 10, "--duration", 0.1)
    told = [(one.method, one.target, len(one.body)) for one in backend.requests]
    assert told == [(b"PUT", b"/things?a=b", 1_000)] * 5 + [(b"DELETE", b"/things", 0), (b"POST", b"/things", 3)]
    assert backend.requests[0].values(b"x-one") == [b"1"] and backend.requests[0].values(b"x-two") == [b"two words"]
    assert not backend.requests[5].values(b"x-one")


def test_a_salt_changes_all_text_and_no_time(scripted, tmp_path):
    texts, reports = [], []
    for salt in (5, 5, 6):
        asked, _, report = play(
            scripted(answer_chat), tmp_path, "--workload", "shared-prefix", "--system-tokens", 32, "--input-tokens", 16,
            "--output-tokens", 1, "--arrival", "constant", "--rate", 50, "--duration", 0.1, "--salt", salt,
        )  # fmt: skip
        texts.append({message["content"] for one in asked for message in one["messages"]})
        reports.append(report["workload"])
    assert texts[0] == texts[1] and not texts[0] & texts[2]
    # Not even their beginnings are alike.
    assert all(len(os.path.commonprefix([one, other]).split()) < 4 for one in texts[0] for other in texts[2])
    assert reports[0]["contentHash"] == reports[1]["contentHash"] != reports[2]["contentHash"]
    assert len({one["scheduleHash"] for one in reports}) == 1


@pytest.mark.parametrize("arguments", [["--no-stream"], []], ids=["unary", "streaming"])
def test_the_open_inference_protocol_over_tls(engine, certificate, start, arguments, tmp_path):
    router = start(serve, f"h2c://127.0.0.1:{engine.port}", arguments=["--tls-cert", certificate[0], "--tls-key", certificate[1]])
    load = ["--api", "infer", "--model", "stub-model", "--arrival", "constant", "--rate", 50, "--duration", 0.2, "--input-tokens", 20,
            "--output-tokens", 4, *arguments]  # fmt: skip
    bench("run", f"grpcs://localhost:{router.port}", *load, "--ca-file", certificate[0], "--json", tmp_path / "json")
    report = json.loads((tmp_path / "json").read_text())
    assert report["failed"] == 0 and report["completed"] == 10
    assert report["outputTokens"] >= 10 * (1 if arguments else 4)
    assert "TLS failed: 10" in bench("run", f"grpcs://localhost:{router.port}", *load, expect=1)
    bench("run", f"grpcs://localhost:{router.port}", *load, "--insecure")


def test_help_is_in_sections_with_units_and_examples():
    text = bench("run", "--help")
    sections = ["Target and protocol", "Workload", "Load", "Generator", "Goals", "Output"]
    places = [text.upper().index(f"\n{section.upper()}:") for section in sections]
    assert places == sorted(places) and text.count("  swiftlet bench ") >= 3
    for part in ("--rates <requests/s>", "--duration <seconds>", "--input-tokens <tokens>", "--timeout <seconds>", "(default: 600.0)",
                 "(default: poisson)", "--json <file>"):  # fmt: skip
        assert part in text, part
