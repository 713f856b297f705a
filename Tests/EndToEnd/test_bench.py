"""`swiftlet bench` against servers whose behaviour is known: what it reports is what they did."""

import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys

import pytest
from processes import BINARY, REPOSITORY, Program, bench, serve, stub
from waiting import wait_until

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def engine():
    program = stub(replicas=2, prefill_us=0, decode_ms=0.5)
    yield program
    program.stop()


def requests_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_stall_shows_on_the_schedule_and_hides_on_the_send(tmp_path):
    """100 requests a second, at most one under way, against a server that stands still from 0.5 s to 1.5 s."""
    server = subprocess.Popen(
        [sys.executable, str(HERE / "stalling_server.py"), "0.5", "1"], stdout=subprocess.PIPE, text=True
    )
    try:
        port = server.stdout.readline().strip()
        lines, report = tmp_path / "requests", tmp_path / "report"
        bench(
            "run",
            f"http://127.0.0.1:{port}/",
            "--api",
            "plain",
            "--arrival",
            "constant",
            "--rate",
            100,
            "--duration",
            3,
            "--max-concurrency",
            1,
            "--requests",
            lines,
            "--json",
            report,
        )
        stall_ended_after = int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    requests = requests_of(lines)
    assert len(requests) == 300 and all(r["outcome"] == "good" for r in requests)
    # The one that stood in the stall ended with it, by the server's clock, which began when that saw the first.
    assert stall_ended_after >= 1_500e6
    end_of_stall = requests[0]["sent_ns"] + stall_ended_after
    stalled = max(requests, key=lambda r: r["end_ns"] - r["sent_ns"])
    assert stalled["end_ns"] >= end_of_stall, "it cannot have ended before the stall did"
    # All that were due in the stall waited for its end, each by its own time, however busy this machine is.
    waiting = [r for r in requests if stalled["due_ns"] <= r["due_ns"] < end_of_stall]
    assert len(waiting) >= 99
    assert all(r["end_ns"] - r["due_ns"] >= end_of_stall - r["due_ns"] for r in waiting)
    metrics = json.loads(report.read_text())["metrics"]
    from_schedule = sorted(r["end_ns"] - r["due_ns"] for r in requests)[-4] / 1e6
    from_send = sorted(r["end_ns"] - r["sent_ns"] for r in requests)[-4] / 1e6
    # Percentiles of the report are those of its lines, to the millisecond.
    assert metrics["e2e"]["p99"] / 1e6 == pytest.approx(from_schedule, abs=1)
    assert metrics["e2e_from_send"]["p99"] / 1e6 == pytest.approx(from_send, abs=1)
    assert from_schedule >= 955, "the fourth of those that came into the stall, 10 ms apart, waited for its end"
    assert from_send < from_schedule / 2, "one request alone was sent into the stall"


def test_a_constant_server_is_measured_as_configured(engine, tmp_path):
    """Nothing may come before its time. How much later it comes is this machine's load: `make bench-accuracy` asks."""
    constant = stub(prefill_us=500, decode_ms=8)
    try:
        lines = tmp_path / "requests"
        bench(
            "run",
            constant.url,
            "--arrival",
            "constant",
            "--rate",
            8,
            "--duration",
            1.5,
            "--input-tokens",
            40,
            "--output-tokens",
            6,
            "--requests",
            lines,
        )
    finally:
        constant.stop()
    requests = requests_of(lines)
    assert len(requests) == 12
    for one in requests:
        # A step that prefills: so many tokens of 0.5 ms; then five steps of 8 ms, a hundredth more for the sequence.
        prefill = 0.5 * (one["prompt_tokens"] - one["cached_tokens"])
        assert (one["first_token_ns"] - one["due_ns"]) / 1e6 >= prefill - 0.05
        assert (one["last_token_ns"] - one["due_ns"]) / 1e6 >= prefill + 5 * 8 - 0.05
    quickest = min((one["last_token_ns"] - one["first_token_ns"]) / 5e6 for one in requests)
    assert quickest < 16, "a gap of 8 ms is measured as one, at least once in twelve"


@pytest.mark.parametrize("scheme", ["http", "h2c"])
@pytest.mark.parametrize("arguments", [[], ["--no-stream"], ["--api", "text"]], ids=["chat", "whole", "text"])
def test_every_way_of_asking_is_answered(engine, scheme, arguments, tmp_path):
    report = tmp_path / "report"
    bench(
        "run",
        f"{scheme}://127.0.0.1:{engine.port}",
        "--rate",
        50,
        "--duration",
        0.4,
        "--input-tokens",
        20,
        "--output-tokens",
        4,
        "--json",
        report,
        *arguments,
    )
    result = json.loads(report.read_text())
    assert result["failed"] == 0 and result["completed"] == result["sent"] == result["workload"]["requests"] > 5
    assert result["outputTokens"] == 4 * result["completed"]
    assert [backend["name"] for backend in result["backends"]] == [f"stub-{engine.port}"]
    if "--no-stream" not in arguments:
        assert result["metrics"]["itl"]["count"] == 3 * result["completed"]


@pytest.mark.parametrize("arguments", [["--no-stream"], []], ids=["unary", "streaming"])
def test_the_open_inference_protocol(engine, arguments, tmp_path):
    report = tmp_path / "report"
    bench(
        "run",
        f"grpc://127.0.0.1:{engine.port}",
        "--api",
        "infer",
        "--model",
        "stub-model",
        "--rate",
        50,
        "--duration",
        0.4,
        "--input-tokens",
        20,
        "--output-tokens",
        4,
        "--json",
        report,
        *arguments,
    )
    result = json.loads(report.read_text())
    assert result["failed"] == 0 and result["completed"] == result["sent"] > 5
    assert result["outputTokens"] >= result["completed"] * (1 if arguments else 4)


@pytest.mark.parametrize("scheme", ["https", "h2"])
def test_tls(engine, scheme, certificate, tmp_path):
    router = serve(engine.url, arguments=["--tls-cert", certificate[0], "--tls-key", certificate[1]])
    try:
        report = tmp_path / "report"
        bench(
            "run",
            f"{scheme}://localhost:{router.port}",
            "--ca-file",
            certificate[0],
            "--rate",
            50,
            "--duration",
            0.3,
            "--input-tokens",
            8,
            "--output-tokens",
            2,
            "--json",
            report,
        )
        assert json.loads(report.read_text())["failed"] == 0
        # A certificate that nobody vouches for is not taken.
        out = bench(
            "run", f"{scheme}://localhost:{router.port}", "--rate", 50, "--duration", 0.1, "--input-tokens", 8, expect=1
        )
        assert "TLS failed" in out
    finally:
        router.stop()


def test_all_files_are_written_and_agree(engine, tmp_path):
    names = ["json", "requests", "csv", "hgrm", "html"]
    options = [part for name in names for part in (f"--{name}", tmp_path / name)]
    out = bench(
        "run",
        engine.url,
        "--rate",
        "40,80",
        "--duration",
        0.5,
        "--input-tokens",
        20,
        "--output-tokens",
        3,
        "--goodput",
        "mlperf-llama3.1-8b",
        "--label",
        "both stages",
        *options,
    )
    report = json.loads((tmp_path / "json").read_text())
    assert len(requests_of(tmp_path / "requests")) == report["sent"]
    assert len(report["stages"]) == 2
    assert report["goodput"]["target"]["ttftMilliseconds"] == 2_000
    assert 0 <= report["environment"]["stealShare"] < 1 and report["environment"]["kernel"]
    # The same seed makes the same plan; the page, the table and the report name it alike.
    for text in (out, (tmp_path / "html").read_text()):
        assert report["workload"]["contentHash"] in text and report["workload"]["scheduleHash"] in text
    csv = (tmp_path / "csv").read_text().splitlines()
    ttft = dict(zip(csv[0].split(","), next(line for line in csv if line.startswith("ttft,")).split(","), strict=True))
    assert int(ttft["count"]) == report["metrics"]["ttft"]["count"]
    assert float(ttft["p99_ms"]) == pytest.approx(report["metrics"]["ttft"]["p99"] / 1e6, abs=0.001)
    assert re.search(rf"Total count += +{report['metrics']['ttft']['count']}\b", (tmp_path / "hgrm").read_text())
    hashes = (report["workload"]["contentHash"], report["workload"]["scheduleHash"])
    assert (ttft["content_hash"], ttft["schedule_hash"]) == hashes
    # In a line of the kind that plotters pass over.
    assert all(one in (tmp_path / "hgrm").read_text().splitlines()[-1] for one in ("#[", *hashes))
    # How far requests hang together, for the comparison.
    assert all(effect >= 1 for metric in ("ttft", "e2e", "itl") for effect in report["designEffects"][metric].values())
    compared = bench("compare", tmp_path / "json", tmp_path / "json")
    assert "no claim" in compared and "NOT ALIKE" not in compared


def test_thresholds_decide_how_it_ends(engine):
    # A closed loop has no times to keep, so that it is valid on a busy machine, too.
    load = ["run", engine.url, "--closed-loop", 1, "--rate", 40, "--duration", 0.2, "--input-tokens", 8]
    load += ["--output-tokens", 2]
    bench(*load, "--threshold", "failed<1", "--threshold", "ttft_p50>0.0001")
    assert "threshold missed: ttft_p50<0.0001" in bench(*load, "--threshold", "ttft_p50<0.0001", expect=2)
    for unclear in ("speed<1", "ttft_p99<1<2", "goodput>0.9"):
        assert "--threshold" in bench(*load, "--threshold", unclear, expect=64)
    bench(*load, "--threshold", "goodput>0.9", "--goodput", "e2e:60000")


def test_an_interrupt_leaves_a_partial_report(engine, tmp_path):
    program = Program(
        "bench",
        "run",
        engine.url,
        "--rate",
        50,
        "--duration",
        60,
        "--input-tokens",
        8,
        "--output-tokens",
        2,
        "--json",
        tmp_path / "json",
        # Missed, but half a run is no proof.
        "--threshold",
        "ttft_p50<0.0001",
    )
    # Plain lines where nobody looks; the first says that it is under way.
    wait_until(lambda: any("under way" in line for line in program.stderr_lines), 30, "a line of progress")
    program.signal(signal.SIGINT)
    assert program.wait_exit(20) == 130
    report = json.loads((tmp_path / "json").read_text())
    assert report["isPartial"] and 0 < report["sent"] < 3_000
    assert "\r" not in program.stderr


def test_a_terminal_gets_a_bar_that_moves(engine):
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [
            BINARY,
            "bench",
            "run",
            engine.url,
            "--rate",
            "20",
            "--duration",
            "1",
            "--input-tokens",
            "8",
            "--output-tokens",
            "2",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    seen = b""
    poll = select.poll()
    poll.register(master, select.POLLIN)
    try:
        while poll.poll(30_000):
            try:
                piece = os.read(master, 4096)
            except OSError:
                break
            if not piece:
                break
            seen += piece
    finally:
        os.close(master)
        assert process.wait(30) == 0
    text = seen.decode()
    assert text.count("\r") >= 2 and "█" in text and "TTFT p50" in text


def test_search_finds_where_a_target_breaks():
    # One sequence at a time, 20 ms each: 50 a second and no more.
    slow = stub(prefill_us=0, decode_ms=10, arguments=["--max-num-seqs", 1])
    try:
        out = bench(
            "search",
            slow.url,
            "--rate",
            8,
            "--duration",
            0.5,
            "--input-tokens",
            4,
            "--output-tokens",
            2,
            "--goodput",
            "ttft:250",
            "--share",
            0.9,
            "--precision",
            0.5,
            "--highest",
            512,
        )
    finally:
        slow.stop()
    found = float(re.search(r"Highest rate .*: ([\d.]+) requests/s", out)[1])
    assert found < 256 and "missed" in out and "holds" in out


def test_overhead_claims_nothing_of_a_null_test(engine, tmp_path):
    direct = f"http://127.0.0.1:{engine.ports[0]}"
    arguments = ["overhead", "--via", direct, "--direct", direct, "--arrival", "constant", "--rate", 500, "--duration", 0.1,
                 "--input-tokens", 8, "--output-tokens", 1, "--repeats", 4, "--seed", 7, "--json", tmp_path / "json"]  # fmt: skip
    out = bench(*arguments)
    result = json.loads((tmp_path / "json").read_text())
    assert result["failed"] == 0 and not result["isPartial"]
    assert result["generatorLag"]["count"] == 16 * 50 and "Generator lag p50" in out
    # 200 requests a side: of a p99 only two are beyond.
    assert [one["name"] for one in result["null"]] == [one["name"] for one in result["added"]] == ["mean", "p50", "p90"]
    null_table, added_table = out.split("Added by")

    def row(table, name):
        return next(line for line in table.splitlines() if line.startswith(name + " "))

    for null, added in zip(result["null"], result["added"], strict=True):
        null_claims = null["low"] > 0 or null["high"] < 0
        assert null_claims == ("no claim" not in row(null_table, null["name"]))
        claimed = not null_claims and (added["low"] > 0 or added["high"] < 0)
        assert claimed == ("no claim" not in row(added_table, added["name"]))
        assert null_claims == ("null test failed" in row(added_table, added["name"]))
    assert "too few requests" in row(added_table, "p99") and "–" in row(added_table, "p99.9")
    # All that it takes to do it again.
    assert result["workload"]["contentHash"] in out and result["workload"]["scheduleHash"] in out
    assert result["workload"]["parameters"]["seed"] == result["parameters"]["seed"] == "7"
    assert result["parameters"]["rate"] == "500" and "overhead" in result["command"]
    # Each run has its line, and no more.
    assert [line for line in out.splitlines() if line.startswith("run ")][:3] == [
        "run 1 of 18: through, warm-up",
        "run 2 of 18: direct, warm-up",
        "run 3 of 18: null test, first side",
    ]


@pytest.mark.parametrize("seen", ["run 1 of 402: through, warm-up", "run 12 of 402: null test, second side"])
def test_an_interrupted_overhead_shows_what_came_so_far(engine, seen, tmp_path):
    direct = f"http://127.0.0.1:{engine.ports[0]}"
    program = Program(
        "bench", "overhead", "--via", direct, "--direct", direct, "--arrival", "constant", "--rate", 400, "--duration", 0.1,
        "--input-tokens", 8, "--output-tokens", 1, "--repeats", 100, "--json", tmp_path / "json",
    )  # fmt: skip
    wait_until(lambda: seen in program.stderr_lines, 30, seen)
    program.signal(signal.SIGINT)
    assert program.wait_exit(20) == 130
    program.join_readers()
    assert any("PARTIAL" in line for line in program.stdout_lines)
    result = json.loads((tmp_path / "json").read_text())
    assert result["isPartial"] and result["added"] == []
    assert [one["name"] for one in result["null"]] == ([] if "warm-up" in seen else ["mean", "p50", "p90"])


def test_an_interrupted_search_answers_nothing(engine):
    program = Program(
        "bench", "search", engine.url, "--rate", 20, "--duration", 60, "--input-tokens", 8, "--output-tokens", 2,
        "--goodput", "ttft:1000",
    )  # fmt: skip
    wait_until(lambda: "20.00/s" in program.stderr_lines, 30, "the first rate")
    program.signal(signal.SIGINT)
    assert program.wait_exit(20) == 130
    program.join_readers()
    out = "\n".join(program.stdout_lines)
    assert "Interrupted" in out and "Highest rate" not in out and "The target holds" not in out


def test_the_readme_names_no_flag_that_is_not():
    help_text = "\n".join(bench(name, "--help") for name in ("run", "overhead", "fleet", "search", "compare"))
    known = set(re.findall(r"--[a-z0-9-]+", help_text))
    section = (REPOSITORY / "README.md").read_text().split("## The latency bench")[1].split("\n## ")[0]
    used = {
        flag for line in section.splitlines() if "swiftlet bench" in line for flag in re.findall(r"--[a-z0-9-]+", line)
    }
    assert used and used - known - {"--prefill-us-per-token", "--decode-ms-per-token", "--kv-blocks"} == set()


#: What a process may not do whose thread is to run ahead of others: neither root's power nor a limit permits it.
UNPRIVILEGED = ["prlimit", "--rtprio=0:0"] + (
    ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"] if os.geteuid() == 0 else []
)


def test_real_time_where_it_is_refused(engine, tmp_path):
    """By itself it goes on without and says so; where it was asked for it must be had."""

    def refused(*arguments):
        return subprocess.run(
            [*UNPRIVILEGED, BINARY, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    load = ["bench", "run", engine.url, "--rate", 40, "--duration", 0.2, "--input-tokens", 8, "--output-tokens", 2]
    by_itself = refused(*load, "--json", tmp_path / "json")
    assert by_itself.returncode == 0, by_itself.stderr
    schedule = json.loads((tmp_path / "json").read_text())["environment"]["generatorSchedule"]
    assert "refused" in schedule and schedule in by_itself.stdout
    for arguments in (load, ["stub", "--listen", "127.0.0.1:0"]):
        demanded = refused(*arguments, "--realtime", "on")
        assert demanded.returncode == 1 and "sched_setscheduler" in demanded.stderr


def test_a_closed_loop_runs_ahead_of_nobody(engine, tmp_path):
    """It sends as fast as it is answered: in real time it would starve who answers."""
    for loop, expected in (
        (["--closed-loop", 2], {"ordinary"}),
        ([], {"real-time (SCHED_RR 10)", "ordinary (real-"}),
        (["--busy-poll"], {"ordinary, never asleep"}),
    ):
        bench("run", engine.url, "--rate", 40, "--duration", 0.2, "--input-tokens", 8, "--output-tokens", 2, *loop,
              "--json", tmp_path / "json")  # fmt: skip
        schedule = json.loads((tmp_path / "json").read_text())["environment"]["generatorSchedule"]
        assert any(schedule.startswith(one) for one in expected), schedule
