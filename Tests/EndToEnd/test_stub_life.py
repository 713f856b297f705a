"""The life of a stub engine: how it starts, what its flags make of it, how it loses members, how it ends."""

import concurrent.futures
import os
import pathlib
import re
import signal
import threading
import time

import httpx
import pytest

import processes
from waiting import wait_until


def metrics(url):
    return httpx.get(f"{url}/metrics").text


class Stream:
    """A completion that is read in a thread of its own, event by event."""

    def __init__(self, stub, tokens):
        self.lines = []
        self.error = None
        self.begun = threading.Event()
        body = {"prompt": "x", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        self._thread = threading.Thread(target=self._read, args=(f"{stub.url}/v1/completions", body), daemon=True)
        self._thread.start()
        assert self.begun.wait(5)

    def _read(self, url, body):
        try:
            with httpx.stream("POST", url, json=body, timeout=30) as answer:
                for line in answer.iter_lines():
                    if line:
                        self.lines.append(line)
                        self.begun.set()
        except httpx.HTTPError as error:
            self.error = error

    @property
    def is_over(self):
        return not self._thread.is_alive()

    def finish(self):
        self._thread.join(10)
        assert self.is_over
        return self.lines

    def is_silent(self):
        """No event while a running engine would have sent a dozen."""
        before = len(self.lines)
        time.sleep(0.15)
        return len(self.lines) == before


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_busy_polling_engine_never_sleeps_and_answers():
    stub = processes.stub(arguments=["--busy-poll"])
    try:
        began = cpu_seconds(stub.pid)
        # Nobody asks it for anything: a loop that sleeps would never come to that.
        wait_until(lambda: cpu_seconds(stub.pid) - began > 0.3, 30, "CPU time of an idle loop that polls")
        answer = httpx.post(f"{stub.url}/v1/completions", json={"prompt": "x", "max_tokens": 2})
        assert answer.json()["usage"]["completion_tokens"] == 2
    finally:
        stub.stop()


# The beginning -------------------------------------------------------------------------------------------------------


def test_the_port_opens_when_the_model_is_loaded(start):
    began = time.monotonic()
    stub = start(processes.stub, arguments=["--startup-seconds", "0.4"])
    assert time.monotonic() - began >= 0.4
    assert re.search(r"^stub:startup_seconds\{.*\} 0.4$", metrics(stub.url), re.M)


def test_a_preset_is_an_engine(start):
    stub = start(
        processes.Program, "stub", "--listen", "127.0.0.1:0", "--preset", "llama-3-8b-h100-tp2", "--time-scale", "0.01",
        "--simulate-startup",
    ).wait_ready()  # fmt: skip
    text = metrics(stub.url)
    # 28 s for the weights and all else, in hundredths.
    assert re.search(r"^stub:startup_seconds\{.*\} 0\.28", text, re.M)
    blocks = int(re.search(r'vllm:cache_config_info\{.*num_gpu_blocks="(\d+)"', text)[1])
    assert 59_000 < blocks < 61_000
    # A hundred tokens of 4.6 ms, a hundred times as fast.
    answer = httpx.post(f"{stub.url}/v1/completions", json={"prompt": "x", "max_tokens": 100, "ignore_eos": True})
    assert answer.json()["usage"]["completion_tokens"] == 100
    mean = re.search(r"^vllm:request_time_per_output_token_seconds_sum\{.*\} (\S+)$", metrics(stub.url), re.M)[1]
    assert 20e-6 < float(mean) < 100e-6


def test_flags_override_parts_of_a_preset(start):
    stub = start(
        processes.Program, "stub", "--listen", "127.0.0.1:0", "--preset", "llama-3-8b-h100-tp1", "--kv-blocks", "777", "--block-size",
        "32", "--max-model-len", "2000",
    ).wait_ready()  # fmt: skip
    text = metrics(stub.url)
    assert 'num_gpu_blocks="777"' in text and 'block_size="32"' in text


@pytest.mark.parametrize("arguments, message", [
    (["--preset", "llama-9-8b-h100-tp1"], "--list-presets"), (["--preset", "llama-3-70b-h100-tp1"], "no memory for a KV cache"),
    (["--preset", "llama-3-8b-h100-tp1", "--decode-ms-per-token", "3"], "already says"), (["--simulate-startup"], "needs --preset"),
    (["--lora-modules", "a=/a"], "needs --max-loras"), (["--max-loras", "1", "--lora-modules", "a"], "expected NAME=PATH"),
    (["--loops", "2", "--group-listen", "127.0.0.1:0"], "--loops must be 1"),
    (["--time-scale", "0"], "--time-scale"), (["--max-loras", "3", "--max-cpu-loras", "2"], "--max-cpu-loras"),
])  # fmt: skip
def test_flags_that_make_no_sense(arguments, message):
    result = processes.run("stub", *arguments)
    assert result.returncode == 64 and message in result.stderr


def test_presets_are_listed():
    lines = processes.run("stub", "--list-presets").stdout.splitlines()
    assert lines[0].split()[0] == "preset"
    names = [line.split()[0] for line in lines[2:]]
    assert {"llama-2-13b-a100-tp1", "llama-3-8b-h100-tp1", "llama-3-70b-h100-tp8", "llama-3-70b-a100-tp4"} <= set(names)
    assert "llama-3-70b-h100-tp1" not in names


def test_predictions_are_shown_beside_what_was_published():
    output = processes.run("stub", "validate").stdout
    assert re.search(r"^DistServe decode: opt-13b a100 tp1, batch 16, context 1024 +ms +\d+\.\d +\d+\.\d +[+-]\d+\.\d %$", output, re.M)
    count, mean = re.search(r"^all +(\d+) +(\d+\.\d) %", output, re.M).groups()
    assert int(count) > 100 and float(mean) < 15
    # A series that a constant was read off is told from one that says how good the model is.
    uses = dict(re.findall(r"^(\S.*?) +(calibrated|held out) +\d+ ", output, re.M))
    assert uses["Vidur layer"] == uses["Vidur all-reduce"] == uses["DistServe decode"] == "calibrated"
    assert uses["DistServe prefill"] == uses["Splitwise token"] == uses["llm-d prefill"] == "held out"
    count, mean = re.search(r"^held out +(\d+) +(\d+\.\d) %", output, re.M).groups()
    assert int(count) == 35 and 15 < float(mean) < 25
    assert len(processes.run("stub", "validate", "--summary").stdout.splitlines()) < 15


def test_a_replay_is_the_same_every_time(tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(
        '{"timestamp": %d, "input_length": %d, "output_length": %d, "hash_ids": [1, 2, %d]}\n' % (7 * n, 1_100 + n, 1 + n % 50, 10 + n % 40)
        for n in range(300)
    ))  # fmt: skip

    def replay(*arguments):
        result = processes.run("stub", "replay", "--trace", trace, *arguments)
        assert result.returncode == 0, result.stderr
        return dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith(("fingerprint", "requests")))

    first = replay("--groups", 2)
    assert first["requests"] == "300 completed, 0 refused"
    assert replay("--groups", 2, "--repeat", 3) == first
    assert replay("--groups", 3)["fingerprint"] != first["fingerprint"]
    assert replay("--groups", 2, "--preset", "llama-3-70b-h100-tp8")["fingerprint"] != first["fingerprint"]
    assert processes.run("stub", "replay", "--trace", tmp_path / "none").returncode != 0


# Members -------------------------------------------------------------------------------------------------------------


def test_a_lost_member_hangs_the_engine_until_the_collective_times_out(start):
    stub = start(
        processes.stub, decode_ms=5,
        arguments=["--tensor-parallel-size", 4, "--collective-timeout-seconds", 0.6, "--admin-listen", "127.0.0.1:0"],
    )  # fmt: skip
    stream = Stream(stub, 10_000)
    answer = httpx.post(f"{stub.admin_url}/admin/config", json={"lost_members": [2]})
    assert answer.status_code == 200
    wait_until(stream.is_silent, what="silence")
    assert httpx.get(f"{stub.url}/health").status_code == 200
    assert stub.wait_exit(5) == 1
    # As vLLM's clients see it: an error, and then the end as if all were well.
    assert stream.finish()[-2].startswith('data: {"error"') and stream.lines[-1] == "data: [DONE]"
    assert "member 2 lost" in stub.stderr and "the engine is dead" in stub.stderr


# The end -------------------------------------------------------------------------------------------------------------


def test_sigterm_lets_what_is_under_way_finish(start):
    stub = start(processes.stub, decode_ms=1)
    stream = Stream(stub, 200)
    stub.signal(signal.SIGTERM)
    wait_until(lambda: not stub.accepts_connections(), what="the port to close")
    assert stub.wait_exit(10) == 0
    assert stream.finish()[-1] == "data: [DONE]"
    assert len(stream.lines) == 201


def test_sigterm_as_vllm_leaves_streams_open_and_silent(start):
    stub = start(processes.stub, decode_ms=1, arguments=["--sigterm", "hang"])
    stream = Stream(stub, 100_000)
    stub.signal(signal.SIGTERM)
    wait_until(lambda: not stub.accepts_connections(), what="the port to close")
    wait_until(stream.is_silent, what="silence")
    assert not stream.is_over and stub.process.poll() is None
    stub.kill()
    stream.finish()
    assert stream.error is not None


def test_a_draining_vllm_says_that_it_is_well_and_refuses_all_work(start):
    stub = start(processes.stub, decode_ms=2, arguments=["--sigterm", "vllm-drain"])
    stream = Stream(stub, 1_000)
    stub.signal(signal.SIGTERM)

    def refused():
        answer = httpx.post(f"{stub.url}/v1/completions", json={"prompt": "x", "max_tokens": 1})
        return answer if answer.status_code == 500 else None

    assert wait_until(refused, what="a refusal").json()["error"]["message"] == "cannot schedule new futures after shutdown"
    assert httpx.get(f"{stub.url}/health").status_code == 200
    assert stream.finish()[-1] == "data: [DONE]"
    assert stub.wait_exit(5) == 0


def test_a_drain_that_is_called_off(start):
    stub = start(processes.stub, decode_ms=2, arguments=["--admin-listen", "127.0.0.1:0"])

    def configure(drain):
        answer = httpx.post(f"{stub.admin_url}/admin/config", json={"drain": drain})
        assert answer.status_code == 200
        return answer.json()

    def ask():
        return httpx.post(f"{stub.url}/v1/completions", json={"prompt": "x", "max_tokens": 1})

    for call_off in (False, None):
        stream = Stream(stub, 500)
        assert configure(True)["drain"] is True
        with pytest.raises(httpx.ConnectError):
            ask()
        assert stream.finish()[-1] == "data: [DONE]"
        configure(call_off)
        assert ask().status_code == 200
    configure("vllm")
    assert ask().json()["error"]["message"] == "cannot schedule new futures after shutdown"
    assert httpx.get(f"{stub.url}/health").status_code == 200
    configure(False)
    assert ask().status_code == 200
    assert httpx.post(f"{stub.admin_url}/admin/config", json={"drain": "soon"}).status_code == 400


@pytest.mark.parametrize("status", [503, 429])
def test_prompts_have_no_more_room_than_was_said(start, status):
    """Of one prompt that fills the queue and one more, the second is refused; without the first it is taken."""
    stub = start(processes.stub, arguments=["--max-num-queued-tokens", 100, "--overload-status", status])

    def ask(tokens):
        return httpx.post(f"{stub.url}/v1/completions", json={"prompt": list(range(tokens)), "max_tokens": 1}, timeout=10)

    assert ask(100).status_code == 200
    answer = ask(101)
    assert answer.status_code == status and "busy" in answer.json()["error"]["message"]
    assert httpx.post(f"{stub.url}/pause").status_code == 200
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, 60)
        wait_until(lambda: httpx.get(f"{stub.url}/load").json()["server_load"] == 1, what="the first prompt in the queue")
        assert ask(41).status_code == status
        assert httpx.post(f"{stub.url}/resume").status_code == 200
        assert waiting.result().status_code == 200
    assert ask(41).status_code == 200


@pytest.mark.parametrize("fault, seen", [
    ({"slow": {"action": "stall", "ms": 250, "path": "/metrics"}}, "slow"), ({"gone": {"action": "error", "status": 404, "path": "/metrics"}}, 404),
    ({"cut": {"action": "close", "after_bytes": 2_000, "path": "/metrics"}}, "cut"),
    ({"mute": {"action": "black-hole", "path": "/metrics"}}, "mute"), ({"ill": {"action": "error", "status": 503, "path": "/health"}}, 200),
])  # fmt: skip
def test_metrics_that_fail_while_the_engine_works(start, fault, seen):
    stub = start(processes.stub, arguments=["--admin-listen", "127.0.0.1:0"])
    assert httpx.post(f"{stub.admin_url}/admin/config", json={"faults": fault}).status_code == 200
    if seen == "slow":
        assert httpx.get(f"{stub.url}/metrics").elapsed.total_seconds() > 0.25
    elif seen in ("cut", "mute"):
        with pytest.raises(httpx.RemoteProtocolError if seen == "cut" else httpx.ReadTimeout):
            httpx.get(f"{stub.url}/metrics", timeout=0.3)
    else:
        assert httpx.get(f"{stub.url}/metrics").status_code == seen
    if "ill" in fault:
        assert httpx.get(f"{stub.url}/health").status_code == 503
    assert httpx.post(f"{stub.url}/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200
