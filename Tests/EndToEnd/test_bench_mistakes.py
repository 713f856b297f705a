"""`swiftlet bench` and what goes wrong: files that cannot be written, searches without an answer, reports of different things."""

import json
import os
import pty
import struct
import subprocess
import termios
import threading
from fcntl import ioctl

import pytest
from processes import BINARY, bench, stub, unused_port


@pytest.fixture(scope="module")
def engine():
    program = stub(prefill_us=0, decode_ms=0.5)
    yield program
    program.stop()


PLAIN = ["--api", "plain", "--arrival", "constant", "--rate", 100, "--duration", 0.05]
SHORT = ["--rate", 40, "--duration", 0.2, "--input-tokens", 4, "--output-tokens", 2]


@pytest.mark.parametrize(
    "command",
    [
        ["run", "URL", "--duration", 3_600],
        ["overhead", "--via", "URL", "--direct", "URL", "--duration", 3_600],
        ["search", "URL", "--goodput", "e2e:1000", "--duration", 3_600],
        ["fleet", "--peers", "swiftlet", "--duration", 3_600],
    ],
    ids=lambda command: command[0],
)
def test_a_file_that_cannot_be_written_is_said_before_the_run(engine, command, tmp_path):
    """An hour's run would not end here."""
    kept = tmp_path / "kept.html"
    kept.write_text("as it was")
    command = [engine.url if one == "URL" else one for one in command]
    out = bench(*command, "--html", kept, "--json", tmp_path / "none" / "x.json", expect=64)
    assert f"--json: cannot write '{tmp_path}/none/x.json': No such file or directory" in out
    assert "--html: " in bench(*command, "--html", tmp_path, expect=64)
    assert kept.read_text() == "as it was" and os.listdir(tmp_path) == ["kept.html"]


def test_one_file_that_fails_costs_no_other(engine, tmp_path):
    out = bench("run", f"{engine.url}/health", *PLAIN, "--json", "/dev/full", "--hgrm", "/dev/full",
                "--html", tmp_path / "html", "--csv", tmp_path / "csv", expect=1)  # fmt: skip
    for flag in ("--json", "--hgrm"):
        assert f"{flag}: could not write '/dev/full': No space left on device" in out
    assert "NSCocoa" not in out and "<html" in (tmp_path / "html").read_text() and "ttft" in (tmp_path / "csv").read_text()
    assert "is named by another option" in bench(
        "run", f"{engine.url}/health", *PLAIN, "--json", tmp_path / "x", "--html", tmp_path / "x", expect=64
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--highest", "nan"], "--highest"),
        (["--highest", "5", "--rate", "10"], "--highest"),
        (["--rate", "10-30"], "--rate"),
        (["--rate", "0"], "--rate"),
    ],
)
def test_a_search_that_cannot_be_is_a_mistake(engine, arguments, named):
    assert f"{named}: expected" in bench("search", engine.url, "--goodput", "e2e:1000", *arguments, expect=64)


def test_a_search_of_nobody_ends_at_once(tmp_path):
    out = bench("search", f"http://127.0.0.1:{unused_port()}", *SHORT, "--goodput", "e2e:1000", "--json", tmp_path / "json",
                expect=1)  # fmt: skip
    assert "connect failed" in out and "no lower rate would change" in out
    assert len(json.loads((tmp_path / "json").read_text())["steps"]) == 1


def test_a_step_of_a_late_generator_is_no_answer(engine, tmp_path):
    """Five hundred connections in half a millisecond: no generator keeps these times."""
    out = bench("search", f"{engine.url}/health", "--api", "plain", "--arrival", "constant", "--rate", 1_000_000,
                "--duration", 0.0005, "--goodput", "e2e:60000", "--json", tmp_path / "json", expect=2)  # fmt: skip
    steps = json.loads((tmp_path / "json").read_text())["steps"]
    assert "INVALID at 1000000.00/s: the generator's own lag" in out and "No answer" in out and "Highest rate" not in out
    assert len(steps) == 3 and not any(step["holds"] for step in steps)


def test_a_search_without_anything_due_says_so(engine):
    out = bench("search", f"{engine.url}/health", "--api", "plain", "--arrival", "constant", "--rate", 1, "--duration", 0.1,
                "--goodput", "e2e:60000", expect=1)  # fmt: skip
    assert "nothing is due" in out


def test_what_was_sent_is_compared(engine, tmp_path):
    bench("run", f"{engine.url}/health", *PLAIN, "--json", tmp_path / "get")
    bench("run", f"{engine.url}/v1/models", *PLAIN, "--body-bytes", 1_000, "--json", tmp_path / "post", expect=1)
    get, post = (json.loads((tmp_path / name).read_text())["workload"] for name in ("get", "post"))
    assert get["contentHash"] != post["contentHash"] and get["scheduleHash"] == post["scheduleHash"]
    assert (get["parameters"]["method"], get["parameters"]["path"], get["parameters"]["body_bytes"]) == ("GET", "/health", "0")
    assert (post["parameters"]["method"], post["parameters"]["path"], post["parameters"]["body_bytes"]) == ("POST", "/v1/models", "1000")
    compared = bench("compare", tmp_path / "get", tmp_path / "post")
    assert "NOT ALIKE: content" in compared and "get" in compared.split("requests/s")[0] and "post" in compared

    load = ["--closed-loop", 3, *SHORT]
    bench("run", engine.url, *load, "--json", tmp_path / "one")
    bench("run", engine.url.replace("http:", "h2c:"), *load, "-H", "X-Key: secret", "--no-ignore-eos", "--model", "stub-model",
          "--connections", 3, "--loops", 2, "--json", tmp_path / "two")  # fmt: skip
    compared = bench("compare", tmp_path / "one", tmp_path / "two")
    for what in ("scheme HTTP/1.1 and HTTP/2", "headers none and x-key", "ignore-eos true and false", "model none and stub-model",
                 "connections as needed and 3", "loops 1 and 2"):  # fmt: skip
        assert f"NOT ALIKE: {what}" in compared
    assert "secret" not in compared and "NOT ALIKE: content" not in compared


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threshold", "ttft_p200<5"], "--threshold"),
        (["--threshold", "ttft_p-7<5"], "--threshold"),
        (["--threshold", "ttft_pnan<5"], "--threshold"),
        (["--threshold", "ttft_p99<>900"], "--threshold"),
        (["--threshold", "ttft_p99<nan"], "--threshold"),
        (["--loops", "300"], "--loops: expected 1 to 256, found 300"),
        (["--seed", "-1"], "The value '-1' is invalid for '--seed"),
        (["--warm-up", "5", "--duration", "5"], "--warm-up: expected less than the schedule's 5 seconds, found 5"),
        (["--rate", "published"], "--rate published: expected --workload"),
        (["--rate", "published", "--workload", "b2b-saas", "--duration", "5"], "--duration: would not be heeded"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(engine, arguments, said):
    assert said in bench("run", engine.url, *arguments, expect=64)


def test_the_published_stages_are_played(engine, tmp_path):
    """Of seven stages of 50 seconds the first request alone."""
    bench("run", engine.url, "--workload", "shared-prefix", "--rate", "published", "--arrival", "constant", "--limit", 1,
          "--output-tokens", 2, "--json", tmp_path / "json")  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert [stage["offeredRate"] for stage in report["stages"]] == [2, 5, 8, 10, 12, 15, 20]


def test_a_second_run_of_the_same_text_is_noted(tmp_path):
    program = stub(prefill_us=0, decode_ms=0.2)
    try:
        load = ["run", program.url, "--closed-loop", 1, "--rate", 50, "--duration", 0.2, "--input-tokens", 400, "--output-tokens", 1]
        assert "NOTE" not in bench(*load)
        assert "NOTE:" in bench(*load, "--html", tmp_path / "html")
        assert "the server knew the text before" in (tmp_path / "html").read_text()
        assert "NOTE" not in bench(*load, "--salt", 7)
        trace = tmp_path / "trace"
        trace.write_text('{"timestamp": 0, "input_length": 400, "output_length": 1}\n')
        for salt, is_noted in ((1, False), (1, True), (2, False)):
            assert ("NOTE" in bench("run", program.url, "--trace", trace, "--salt", salt)) == is_noted
    finally:
        program.stop()


async def answers_too_many_cached(exchange):
    await exchange.event_stream_head()
    await exchange.event(json.dumps({"choices": [{"index": 0, "delta": {"content": "x"}}]}))
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 100}}
    await exchange.event(json.dumps({"choices": [], "usage": usage}))
    await exchange.event("[DONE]")
    await exchange.last_chunk()


def test_more_cached_tokens_than_there_are_is_said(scripted, tmp_path):
    out = bench("run", scripted(answers_too_many_cached).url, *SHORT, "--json", tmp_path / "json")
    report = json.loads((tmp_path / "json").read_text())
    assert report["cachedTokens"] == report["promptTokens"] and report["excessCachedCounts"] == report["completed"]
    assert "told of more cached tokens than their prompts had" in out and "1000.0 %" not in out


@pytest.mark.parametrize(("term", "columns"), [("xterm", 40), ("dumb", 80)])
def test_a_live_line_keeps_to_its_terminal(engine, term, columns):
    master, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    arguments = [BINARY, "bench", "run", engine.url, *SHORT[:2], "--duration", "1", *SHORT[4:]]
    process = subprocess.Popen(
        [str(one) for one in arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=terminal,
        env={**os.environ, "TERM": term},
    )  # fmt: skip
    os.close(terminal)
    seen = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    assert process.wait(30) == 0
    if term == "dumb":
        assert b"\x1b" not in seen
        return
    lines = [line for line in seen.decode().split("\r\x1b[2K") if line]
    assert lines and all(len(line) < columns for line in lines)


def test_a_pipe_gets_its_report(engine, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    bench("run", f"{engine.url}/health", *PLAIN, "--json", tmp_path / "pipe")
    reader.join(10)
    assert json.loads(read[0])["completed"] == 5


def test_without_a_drain_the_last_request_is_sent(engine, tmp_path):
    bench("run", f"{engine.url}/health", *PLAIN, "--drain", 0, "--json", tmp_path / "json")
    assert json.loads((tmp_path / "json").read_text())["sent"] == 5


async def answers_busy(exchange):
    await exchange.answer(429, b"{}")


def test_a_server_that_has_enough_misses_a_search_and_invalidates_none(scripted, tmp_path):
    """Nothing succeeds, which is what a lower rate may change: so lower ones are tried."""
    for _ in range(5):
        out = bench("search", scripted(answers_busy).url, "--rate", 20, "--duration", 0.3, "--arrival", "constant", "--input-tokens", 4,
                    "--output-tokens", 2, "--goodput", "ttft:60000", "--json", tmp_path / "json", expect=1)  # fmt: skip
        # On a busy machine a step says nothing of the server.
        if "the generator's own lag" not in out:
            break
    steps = json.loads((tmp_path / "json").read_text())["steps"]
    assert [step["rate"] for step in steps][:2] == [20, 10] and not any(step["holds"] for step in steps), out
    assert "no request succeeded" not in out


@pytest.mark.parametrize("header", [": x", "bad name: x", "a\x01: x"])
def test_a_field_needs_a_name(engine, header):
    assert "no name of a field" in bench("run", engine.url, *SHORT, "-H", header, expect=64)
