"""`swiftlet bench` about itself: its own queue is its lag, what it did not heed it says, and an invalid run passes nothing."""

import json
import re
import signal
import socket
import threading
import time

import httpx
import pytest
from frame_backend import FrameBackend
from processes import Program, bench, stub
from waiting import wait_until


@pytest.fixture(scope="module")
def engine():
    program = stub(prefill_us=0, decode_ms=0.5)
    yield program
    program.stop()


def requests_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class HoldsAnswers(FrameBackend):
    """Answers nobody before `count` requests are under way at once."""

    def __init__(self, count, stream_limit):
        self.count, self.held, self.guard = count, [], threading.Lock()
        super().__init__(self._hold, stream_limit)

    def _hold(self, connection, event):
        if type(event).__name__ != "RequestReceived":
            return
        with self.guard:
            self.held.append((connection, event.stream_id))
            if len(self.held) == self.count:
                threading.Thread(target=self._answer_all, daemon=True).start()

    def _answer_all(self):
        for connection, stream in self.held:
            with connection.lock:
                connection.h2.send_headers(stream, [(b":status", b"200")], end_stream=True)
                connection.flush()


def test_a_stream_limit_makes_no_closed_loop_of_an_open_one(by_frames, tmp_path):
    """Four streams a connection, and no answer before twenty requests are here: it opens what it needs."""
    backend = by_frames(20, kind=HoldsAnswers, stream_limit=4)
    bench("run", f"{backend.url}/x", "--api", "plain", "--arrival", "constant", "--rate", 1_000, "--duration", 0.02,
          "--drain", 20, "--json", tmp_path / "json")  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert report["completed"] == 20 and report["highestInFlight"] == 20
    assert len({id(connection) for connection, _ in backend.held}) >= 5


def test_connections_asked_for_are_all_used(by_frames, tmp_path):
    backend = by_frames(6, kind=HoldsAnswers, stream_limit=100)
    bench("run", f"{backend.url}/x", "--api", "plain", "--arrival", "constant", "--rate", 1_000, "--duration", 0.006,
          "--connections", 3, "--drain", 20)  # fmt: skip
    assert [sum(one is connection for one, _ in backend.held) for connection in backend.connections] == [2, 2, 2]


def test_the_wait_for_a_connection_is_the_generators_lag(tmp_path):
    """A server that takes the connection and says nothing, so that no stream can be opened on it: nothing was sent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        out = bench("run", f"h2c://127.0.0.1:{silent.getsockname()[1]}/x", "--api", "plain", "--arrival", "constant",
                    "--rate", 100, "--duration", 0.1, "--timeout", 0.3, "--json", tmp_path / "json",
                    "--requests", tmp_path / "lines", expect=1)  # fmt: skip
    report, requests = json.loads((tmp_path / "json").read_text()), requests_of(tmp_path / "lines")
    assert report["failed"] == len(requests) == 10
    assert report["metrics"]["generator_lag"]["minimum"] >= 0.29e9
    assert all(one["sent_ns"] == one["end_ns"] for one in requests)
    assert "INVALID: the generator's own lag" in out


#: Five hundred connections in half a millisecond: no generator keeps these times.
TOO_FAST = ["--api", "plain", "--arrival", "constant", "--rate", 1_000_000, "--duration", 0.0005]


def test_a_late_generator_passes_no_threshold(engine, tmp_path):
    out = bench("run", f"{engine.url}/health", *TOO_FAST, "--threshold", "failed<1", "--json", tmp_path / "json",
                expect=2)  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert report["failed"] == 0 and any("over 1 ms" in reason for reason in report["invalidReasons"])
    assert "no threshold is passed, since the run is invalid" in out and "threshold missed" not in out


def test_the_warm_up_is_in_no_figure(engine, tmp_path):
    """A ramp from 10 to 190 a second in one second: 55 a second in its first half, 145 in its second."""
    bench("run", engine.url, "--arrival", "constant", "--rate", "10-190", "--duration", 1, "--warm-up", 0.5,
          "--input-tokens", 4, "--output-tokens", 5, "--json", tmp_path / "json",
          "--requests", tmp_path / "lines")  # fmt: skip
    report, requests = json.loads((tmp_path / "json").read_text()), requests_of(tmp_path / "lines")
    assert all(one["due_ns"] >= 0.5e9 for one in requests)
    assert report["sent"] == report["completed"] == len(requests) == report["workload"]["requests"] - report["warmUpRequests"]
    assert 20 <= report["warmUpRequests"] <= 30
    assert report["metrics"]["generator_lag"]["count"] == report["sent"]
    assert report["metrics"]["itl"]["count"] == 4 * report["completed"]
    assert 140 <= report["offeredRate"] <= 150


def test_gaps_of_failed_answers_do_not_count(engine, tmp_path):
    bench("run", engine.url, "--rate", 50, "--duration", 0.2, "--input-tokens", 4, "--output-tokens", 8,
          "-H", "x-stub-fault: close;after_events=4", "--json", tmp_path / "json", expect=1)  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert report["failed"] > 0 and report["metrics"]["itl"]["count"] == 0


def test_several_loops_have_the_whole_concurrency(engine, tmp_path):
    bench("run", engine.url, "--closed-loop", 5, "--loops", 4, "--rate", 100, "--duration", 0.4, "--input-tokens", 4,
          "--output-tokens", 8, "--json", tmp_path / "json")  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert report["mode"] == "closed loop of 5" and report["highestInFlight"] == 5


@pytest.mark.parametrize("api", ["text", "infer"])
def test_later_turns_repeat_what_was_said(api):
    """The second turn's prompt holds all of the first, so both together are more than twice the first alone."""
    totals = []
    for turns in (1, 2):
        program = stub(prefill_us=0, decode_ms=0.2)
        try:
            scheme = "grpc" if api == "infer" else "http"
            bench("run", f"{scheme}://127.0.0.1:{program.port}", "--api", api, "--model", "stub-model", "--limit", 1,
                  "--workload", "multi-turn-chat", "--turns", turns, "--think-seconds", 0, "--system-tokens", 40,
                  "--input-tokens", 20, "--output-tokens", 10, "--arrival", "constant", "--rate", 50, "--duration", 0.1)  # fmt: skip
            lines = httpx.get(f"{program.url}/metrics").text.splitlines()
        finally:
            program.stop()
        totals.append(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:prompt_tokens_total{")))
    assert totals[0] > 0 and totals[1] > 2 * totals[0]


def test_reports_of_other_conditions_are_not_alike(engine, tmp_path):
    load = ["run", engine.url, "--rate", 40, "--duration", 0.2, "--input-tokens", 4, "--output-tokens", 2]
    bench(*load, "--arrival", "constant", "--json", tmp_path / "a", "-H", "authorization: Bearer secret", "--html", tmp_path / "page")
    bench(*load, "--json", tmp_path / "b", "--no-stream", "--closed-loop", 1, "--api", "text", "--warm-up", 0.001,
          "--goodput", "e2e:60000")  # fmt: skip
    compared = bench("compare", tmp_path / "a", tmp_path / "b")
    for what in ("mode open and closed loop of 1", "API chat and text", "streaming true and false",
                 "warm-up 0 s and 0.001 s", "goodput target none and e2e:60000"):  # fmt: skip
        assert f"NOT ALIKE: {what}" in compared
    assert "NOT ALIKE: content" not in compared and "NOT ALIKE: schedule" not in compared
    # What was sent to be let in stays out of what is passed on.
    assert "authorization: [redacted]" in (tmp_path / "a").read_text()
    assert not any("secret" in (tmp_path / name).read_text() for name in ("a", "page"))


@pytest.mark.parametrize(
    "arguments",
    [("--rate", "10-2O"), ("--rate", "5,x"), ("--rate", ""), ("--rate", "1-2-3"), ("--rate", "5,"), ("--rate", "-5"),
     ("--duration", "5,x"), ("--duration", "5,"), ("--duration", "-1")],
)  # fmt: skip
def test_a_number_that_is_none_is_a_mistake(engine, arguments):
    assert arguments[0] in bench("run", engine.url, *arguments, expect=64)


def test_a_rate_may_have_an_exponent(engine):
    out = bench("run", engine.url, "--arrival", "constant", "--rate", "200e-1", "--duration", "1e-1", "--input-tokens", 4,
                "--output-tokens", 1)  # fmt: skip
    assert "2 requests" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "URL", "--trace", "T", "--rates", "5"], "--rate"),
        (["run", "URL", "--trace", "T", "--duration", "5"], "--duration"),
        (["run", "URL", "--trace", "T", "--arrival", "poisson", "--seed", "3"], "--arrival, --seed"),
        (["run", "URL", "--trace", "T", "--input-tokens", "5"], "--input-tokens"),
        (["run", "URL", "--time-scale", "2"], "--time-scale"),
        (["overhead", "--via", "URL", "--direct", "URL", "--trace", "T", "--rate", "5"], "--rate"),
        (["overhead", "--peers", "swiftlet", "--workload", "chatbot"], "--workload"),
        (["overhead", "--peers", "swiftlet", "--trace", "T"], "--trace"),
        (["overhead", "--peers", "swiftlet", "--output-tokens", "5"], "--output-tokens"),
    ],
)
def test_an_option_without_effect_is_a_mistake(engine, arguments, named):
    out = bench(*[engine.url if one == "URL" else one for one in arguments], expect=64)
    assert f"{named}: would not be heeded" in out


def test_a_number_under_way_counts_the_warm_up_once(engine):
    """Far more is over than under way: what the warm-up sent has ended."""
    program = Program("bench", "run", engine.url, "--rate", 200, "--duration", 60, "--warm-up", 0.7, "--input-tokens", 4,
                      "--output-tokens", 2)  # fmt: skip
    try:
        wait_until(lambda: any("under way" in line for line in program.stderr_lines), 30, "a line of progress")
        line = next(line for line in program.stderr_lines if "under way" in line)
    finally:
        program.kill()
    assert int(line.split("under way ")[1].split()[0]) < 100


class TakesOneConnection(HoldsAnswers):
    """Ends every connection but the first before it could carry anything."""

    def __init__(self, count, stream_limit):
        self.refused = 0
        super().__init__(count, stream_limit)

    def _serve_until_gone(self, accepted):
        if self.connections:
            self.refused += 1
            accepted.close()
        else:
            super()._serve_until_gone(accepted)


def test_a_server_that_takes_no_more_connections_is_not_stormed(by_frames, tmp_path):
    """Eighty requests want twenty connections: several are tried together once, then one at a time, ever less often."""
    backend = by_frames(80, kind=TakesOneConnection, stream_limit=4)
    before = time.monotonic()
    bench("run", f"{backend.url}/x", "--api", "plain", "--arrival", "constant", "--rate", 400, "--duration", 0.2, "--drain", 1.5,
          "--json", tmp_path / "json", expect=1)  # fmt: skip
    seconds = time.monotonic() - before
    report = json.loads((tmp_path / "json").read_text())
    assert report["errors"] == {"unfinished": 80} and report["highestInFlight"] == 80
    assert len(backend.held) == 4, "what its one connection holds"
    # Rests of 10, 20, 40 ms and so on up to a second: eight in the first two seconds, then one in each.
    assert 5 <= backend.refused <= 30 + 8 + seconds


def test_a_schedule_without_requests_is_a_mistake(engine):
    assert "no request" in bench("run", engine.url, "--arrival", "constant", "--rate", 0.1, "--duration", 0.5, expect=64)


def test_a_generator_that_cannot_follow_still_ends(engine):
    """More requests due than it can send, and not all of them before it first tells how far it is: whoever stops it is heard."""
    program = Program("bench", "run", f"{engine.url}/health", "--api", "plain", "--rate", 100_000, "--duration", 3, "--realtime", "off")
    wait_until(lambda: any(re.search(r" [1-9]\d*/\d+ ", line) for line in program.stdout_lines + program.stderr_lines), 30, "answers")
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(30) == 130
