"""`swiftlet calibrate` against engines whose rates are known, and against what is no engine to calibrate."""

import json
import re
import signal

import admin
import httpx
import pytest
from processes import Program, run, serve, stub, unused_port
from waiting import wait_until

PREFILL_US, DECODE_MS = 200, 3
#: A step of the stub takes a hundredth more for its one sequence.
STEP_MS = DECODE_MS * 1.01
SHORT = ["--prompt-tokens", "128,256,512", "--repeats", 3, "--answer-tokens", 16]


@pytest.fixture(scope="module")
def engine():
    program = stub(prefill_us=PREFILL_US, decode_ms=DECODE_MS)
    yield program
    program.stop()


def calibrate(url, *arguments, expect=0):
    result = run("calibrate", "--target", url, *arguments, timeout=30)
    assert result.returncode == expect, result.stdout + result.stderr
    return result


def calibrate_in_peace(url, *arguments):
    """A machine that is too busy to measure on is found out by the command itself; three times in a row it is not."""
    for _ in range(3):
        result = run("calibrate", "--target", url, *arguments, timeout=30)
        if result.returncode != 2:
            break
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def calibrated(engine, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "figures.json"
    return calibrate_in_peace(engine.url, *SHORT, "--json", path), json.loads(path.read_text())


def test_the_figures_are_those_of_the_engine(calibrated, engine):
    result, report = calibrated
    figures = report["figures"]
    # Medians of medians: a machine has to be late again and again to move them.
    assert figures["prefillTokensPerSecond"]["value"] == pytest.approx(1e6 / PREFILL_US, rel=0.1)
    assert figures["decodeStepSeconds"]["value"] * 1e3 == pytest.approx(STEP_MS, rel=0.1)
    assert 0 <= figures["fixedSeconds"]["value"] < 0.01
    for name in ("prefillTokensPerSecond", "decodeStepSeconds", "fixedSeconds", "bytesPerToken"):
        assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
    # Nothing comes before its time, and each length is the one that was asked for.
    for length, asked in zip(figures["lengths"], (128, 256, 512), strict=True):
        assert length["samples"] == 3 and length["tokens"] == pytest.approx(asked, abs=4)
        assert length["medianSeconds"] * 1e6 >= length["tokens"] * PREFILL_US
    assert report["kvCapacityTokens"] == 16_384 * 16 and report["url"] == engine.url and report["model"] == "stub-model"
    assert report["errors"] == {} and report["invalidReasons"] == [] and report["completed"] == 1 + 3 * 4
    assert "at most 60 s" in result.stderr
    assert re.search(r"3 times prompts of 128, 256, 512 tokens and an answer of 16: about \d+ s", result.stderr)


def test_the_snippet_is_what_a_router_takes(calibrated, engine, tmp_path):
    result, report = calibrated
    snippet = tmp_path / "groups.yaml"
    snippet.write_text(result.stdout[result.stdout.index("groups:\n") :])
    router = serve(admin=True, arguments=("--groups-file", snippet))
    try:
        group = wait_until(lambda: next(iter(admin.groups(router)), None), 10, "the group of the snippet")["raw"]
    finally:
        router.stop()
    assert f"http://{group['leader']}".startswith(engine.url)
    rate, step = (report["figures"][name]["value"] for name in ("prefillTokensPerSecond", "decodeStepSeconds"))
    assert group["prefill_tokens_per_second"] == pytest.approx(rate, rel=1e-3)
    assert group["decode_step_seconds"] == pytest.approx(step, rel=1e-3)
    assert group["kv_capacity_tokens"] == report["kvCapacityTokens"]
    checked = run("check", "--config", snippet)
    assert checked.returncode == 0 and f"leader: {engine.url}" in checked.stdout.replace('"', "")


def test_over_http2_with_a_key_up_to_what_the_engine_takes():
    program = stub(prefill_us=PREFILL_US, decode_ms=DECODE_MS, arguments=("--api-key", "secret", "--max-model-len", 512))
    try:
        url = program.url.replace("http:", "h2c:")
        assert "wants a key (HTTP 401): -H" in calibrate(url, expect=1).stderr
        result = calibrate_in_peace(
            url, "--api", "text", "-H", "authorization: Bearer secret", "--repeats", 3, "--answer-tokens", 16
        )
        refused = calibrate(
            url, "-H", "authorization: Bearer secret", "--prompt-tokens", "256,4096", expect=1
        )  # fmt: skip
    finally:
        program.stop()
    assert "Note: the engine takes 512 tokens, so longer prompts were left out" in result.stdout
    assert f"leader: {url}\n" in result.stdout
    assert "prompts of 54, 108, 216, 432 tokens" in result.stderr
    assert "the engine takes 512 tokens, which leaves no two lengths" in refused.stderr


def test_who_is_not_there_or_refuses_is_said(engine):
    nobody = f"http://127.0.0.1:{unused_port()}"
    assert f"cannot be reached at {nobody}: connect failed" in calibrate(nobody, expect=1).stderr
    fault = ["-H", "x-stub-fault: error;status=503"]
    assert "the engine answers HTTP 503" in calibrate(engine.url, *fault, expect=1).stderr
    assert "has no model 'other', but stub-model" in calibrate(engine.url, "--model", "other", expect=1).stderr


def configure(engine, **settings):
    httpx.post(f"{engine.url}/admin/config", json=settings).raise_for_status()


def test_errors_of_prompts_are_errors_of_the_calibration(engine):
    """The first four are looks at the engine, and then a round has four."""
    configure(engine, faults={"error": {"status": 500, "path": "/v1/chat"}})
    try:
        assert "answers a prompt with HTTP 500" in calibrate(engine.url, *SHORT, expect=1).stderr
        configure(engine, faults={"error": {"status": 500, "path": "/v1/chat", "skip": 6, "times": 2}})
        # Three of four are enough for figures, which are printed, but nobody is told to use them.
        result = calibrate(engine.url, *SHORT[:3], 4, *SHORT[4:], expect=2)
    finally:
        configure(engine, faults={"error": None})
    assert "INVALID: 2 of 17 requests failed: HTTP 500: 2" in result.stderr
    assert "prefill, tokens/s" in result.stdout and "groups:" not in result.stdout


def test_a_busy_engine_is_not_calibrated(engine):
    configure(engine, fake_metrics={"vllm:num_requests_running": 3, "vllm:num_requests_waiting": 2})
    try:
        result = calibrate(engine.url, *SHORT, expect=1)
    finally:
        configure(engine, fake_metrics=None)
    assert "the engine is busy: 3 sequences running and 2 waiting by its /metrics" in result.stderr


def answering(prompt_tokens):
    """A script: streams of eight events that come at once, with a usage if there are `prompt_tokens(words)`."""

    async def script(exchange):
        words = exchange.request.body.count(b" ")
        await exchange.event_stream_head()
        for _ in range(8):
            await exchange.event('{"choices":[{"index":0,"delta":{"content":"w"}}]}')
        if prompt_tokens:
            usage = {"prompt_tokens": prompt_tokens(words), "completion_tokens": 8}
            await exchange.event(json.dumps({"choices": [], "usage": usage}))
        await exchange.event("[DONE]")
        await exchange.last_chunk()

    return script


@pytest.mark.parametrize(
    ("prompt_tokens", "what"),
    [
        (None, "does not count the tokens of prompts"),
        (lambda words: 100, "it counts 100 tokens of a prompt that is longer than one of 100"),
        # A third more text than the look had is cut off.
        (lambda words: min(words, 200), "it counts 200 tokens of a prompt that is longer than one of 200"),
    ],
)
def test_usage_that_tells_nothing_is_said(scripted, prompt_tokens, what):
    backend = scripted(answering(prompt_tokens))
    assert what in calibrate(backend.url, *SHORT, expect=1).stderr


def test_it_is_over_when_it_was_said_to_be(scripted, gate):
    """After the four looks the engine says nothing any more."""
    answer = answering(lambda words: words)

    async def script(exchange):
        if len(exchange.backend.requests) > 4:
            await gate.wait()
        else:
            await answer(exchange)

    result = calibrate(scripted(script).url, *SHORT, "--seconds", 2, expect=1)
    assert "of no prompts" in result.stderr and "--seconds 2 were over after 0 of 13 requests" in result.stderr


def test_an_interrupt_ends_it_cleanly(engine, tmp_path):
    path = tmp_path / "figures.json"
    program = Program("calibrate", "--target", engine.url, "--json", path)
    wait_until(lambda: any("times prompts of" in line for line in program.stderr_lines), 10, "the plan")
    program.signal(signal.SIGINT)
    assert program.wait_exit(5) == 130
    assert "Interrupted: no figures" in program.stderr and program.stdout_lines == [] and not path.exists()
    # What was under way has left the engine.
    running = re.compile(r"^vllm:num_requests_running\{.*\} 0\.?0?$", re.MULTILINE)
    wait_until(lambda: running.search(httpx.get(f"{engine.url}/metrics").text), 5, "an idle engine")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--prompt-tokens", "256"], "--prompt-tokens: expected two lengths or more"),
        (["--prompt-tokens", "256,x"], "--prompt-tokens: expected lengths from 32"),
        (["--repeats", "2"], "--repeats: expected a value from 3"),
        (["--seconds", "0"], "--seconds: expected a value from 1"),
        (["--answer-tokens", "1"], "--answer-tokens: expected a value from 16"),
        (["--api", "plain"], "--api: expected chat or text"),
        (["-H", "nonsense"], "--header: expected 'name: value'"),
        (["--json", "/nowhere/figures.json"], "--json: cannot write"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_is_sent(arguments, what):
    assert what in calibrate("http://127.0.0.1:1", *arguments, expect=64).stderr
