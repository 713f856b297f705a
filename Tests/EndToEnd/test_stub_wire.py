"""The stub engine's wire beside its completions: what vLLM's clients, operators and routers see of an engine."""

import concurrent.futures
import json
import re
import socket

import h2.config
import h2.connection
import h2.events
import h2.settings
import httpx
import pytest

import processes
from waiting import wait_until

PROMPT = "a prompt of many words, so that some of its blocks are full and can be found again " * 4


@pytest.fixture(scope="module")
def faulty():
    program = processes.stub(arguments=["--admin-listen", "127.0.0.1:0"])
    yield program
    program.stop()


@pytest.fixture(scope="module")
def stub():
    program = processes.Program(
        "stub", "--listen", "127.0.0.1:0", "--model", "base", "--model", "alias", "--data-parallel-size", 2, "--prefill-us-per-token", 2,
        "--decode-ms-per-token", 1, "--enable-request-id-headers", "--max-loras", 1, "--lora-modules", "lora-z=/adapters/z",
        "--lora-load-ms", 1,
    ).wait_ready(listeners=2)  # fmt: skip
    yield program
    program.stop()


def complete(stub, headers=None, **fields):
    return httpx.post(f"{stub.url}/v1/completions", json={"prompt": PROMPT, "max_tokens": 4, **fields}, headers=headers or {})


def metrics(url):
    return httpx.get(f"{url}/metrics").text


def sample(url, pattern):
    return float(re.search(rf"^{pattern} (\S+)$", metrics(url), re.M)[1])


def test_a_request_has_the_name_that_its_client_gave_it(stub):
    named = complete(stub, headers={"x-request-id": "mine"}, request_id="other")
    assert (named.json()["id"], named.headers["x-request-id"]) == ("cmpl-mine", "mine")
    assert complete(stub, request_id="other").json()["id"] == "cmpl-other"
    assert httpx.get(f"{stub.url}/health", headers={"x-request-id": "h"}).headers["x-request-id"] == "h"
    assert complete(stub).headers["x-request-id"]


@pytest.mark.parametrize("kind, start", [("JSON", 'JSON {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0'),
                                         ("text", "TEXT named_metrics.num_requests_waiting=0.0, named_metrics.kv_cache_usage_perc=0.0")])  # fmt: skip
def test_load_report_on_demand(stub, kind, start):
    wanted = {"endpoint-load-metrics-format": kind}
    assert complete(stub, headers=wanted).headers["endpoint-load-metrics"].startswith(start)
    assert "endpoint-load-metrics" not in complete(stub).headers
    assert "endpoint-load-metrics" not in complete(stub, headers={"endpoint-load-metrics-format": "BIN"}).headers
    assert "endpoint-load-metrics" not in complete(stub, headers=wanted, stream=True).headers


def test_models_are_names_and_adapters(stub):
    models = {model["id"]: model for model in httpx.get(f"{stub.url}/v1/models").json()["data"]}
    assert list(models) == ["base", "alias", "lora-z"]
    assert (models["lora-z"]["parent"], models["lora-z"]["root"]) == ("base", "/adapters/z")
    assert models["lora-z"]["max_model_len"] is None
    assert complete(stub, model="alias").json()["model"] == "base"
    assert complete(stub, model="lora-z").json()["model"] == "lora-z"
    missing = complete(stub, model="nope")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "The model `nope` does not exist. Valid aliases: base, alias, lora-z."


def test_an_adapter_that_runs_is_told_and_parts_the_cache(stub):
    assert complete(stub, model="lora-z").status_code == 200
    text = metrics(stub.url)
    assert re.search(r'vllm:lora_requests_info\{max_lora="1",running_lora_adapters="lora-z",waiting_lora_adapters=""\} 1', text)
    base, adapted = complete(stub, prompt="new " * 100), complete(stub, prompt="new " * 100, model="lora-z")
    assert [answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in (base, adapted)] == [0, 0]
    again = complete(stub, prompt="new " * 100, model="lora-z").json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert again == 96


@pytest.mark.parametrize("method, path, status", [
    ("HEAD", "/health", 405), ("POST", "/health", 405), ("HEAD", "/metrics", 200), ("POST", "/ping", 200), ("GET", "/ping", 200),
    ("GET", "/v1/models/", 307), ("GET", "//v1/models", 404), ("GET", "/v1/models/base", 404), ("GET", "/", 404),
    ("GET", "/v1/completions", 405),
])  # fmt: skip
def test_paths_and_methods_are_taken_as_vllm_takes_them(stub, method, path, status):
    answer = httpx.request(method, f"{stub.url}{path}")
    assert answer.status_code == status
    if status == 405:
        assert answer.headers["allow"] == ("POST" if "completions" in path else "GET")
    if status == 307:
        assert answer.headers["location"] == f"{stub.url}/v1/models"
    if status == 404:
        assert answer.json() == {"detail": "Not Found"}


def test_version_and_load(stub):
    assert httpx.get(f"{stub.url}/version").json() == {"version": "0.32.0"}
    assert httpx.get(f"{stub.url}/load").json() == {"server_load": 0}
    body = {"prompt": "x", "max_tokens": 5_000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{stub.url}/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert httpx.get(f"{stub.url}/load").json() == {"server_load": 1}
    # Its client has left: the sequence ends, and is counted.
    wait_until(lambda: httpx.get(f"{stub.url}/load").json() == {"server_load": 0}, what="the load to fall")
    wait_until(lambda: sample(stub.url, r'vllm:num_requests_running\{engine="0",model_name="base"\}') == 0, what="the batch to empty")
    assert sample(stub.url, r'stub:sequences_aborted_total\{engine="0",model_name="base"\}') >= 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_is_aborted_by_its_id_ends_in_good_order(stub, stream):
    body = {"prompt": "x", "max_tokens": 20_000, "ignore_eos": True, "stream": stream}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{stub.url}/v1/completions", json=body, headers={"x-request-id": "gone"}, timeout=30)
        wait_until(lambda: httpx.get(f"{stub.url}/load").json() == {"server_load": 1}, what="the request")
        httpx.post(f"{stub.url}/abort_requests", json={"request_ids": ["gone", "nobody"]})
        text = answer.result(10).text
    assert answer.result().status_code == 200
    assert ('"finish_reason":"abort"' in text) and (not stream or text.endswith("data: [DONE]\n\n"))
    assert httpx.get(f"{stub.url}/load").json() == {"server_load": 0}


def test_ranks_have_ports_of_their_own(stub):
    for rank, port in enumerate(stub.ports):
        assert f'vllm:num_requests_running{{engine="{rank}",model_name="base"}} 0.0' in metrics(f"http://127.0.0.1:{port}")
    assert complete(stub, headers={"x-data-parallel-rank": "1"}).status_code == 200
    answer = complete(stub, headers={"x-data-parallel-rank": "5"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "data_parallel_rank 5 is out of range [0, 2)."


def test_usage_in_streams_is_on_demand(stub):
    def chunks(**fields):
        lines = complete(stub, stream=True, **fields).text.strip().split("\n\n")
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    assert all("usage" not in chunk for chunk in chunks())
    last = chunks(stream_options={"include_usage": True})[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    every = chunks(stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [chunk["usage"]["completion_tokens"] for chunk in every] == [1, 2, 3, 4, 4]


def test_bodies_that_vllm_refuses(stub):
    url = f"{stub.url}/v1/completions"
    plain = httpx.post(url, content=b'{"prompt":"x"}', headers={"content-type": "text/plain"})
    assert plain.status_code == 400 and "Unsupported Media Type" in plain.json()["error"]["message"]
    broken = httpx.post(url, content=b'{"prompt":', headers={"content-type": "application/json"})
    assert broken.status_code == 400 and broken.json()["error"]["type"] == "Bad Request"
    assert httpx.post(url, content=b"\xef\xbb\xbf{}", headers={"content-type": "application/json"}).status_code in (200, 400)
    long = complete(stub, prompt=[1] * 140_000)
    assert long.status_code == 400 and long.json()["error"]["param"] == "input_tokens"


def test_tools_and_content_parts_are_part_of_the_prompt(stub):
    def tokens(**fields):
        body = {"max_tokens": 1, "messages": [{"role": "user", "content": "hello"}], **fields}
        return httpx.post(f"{stub.url}/v1/chat/completions", json=body).json()["usage"]["prompt_tokens"]

    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    assert tokens(tools=[tool], tool_choice="auto") > tokens()
    parts = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    assert tokens(messages=[{"role": "user", "content": parts}]) > tokens()
    turn = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather"}}]}
    assert tokens(messages=[{"role": "user", "content": "hello"}, turn, {"role": "tool", "tool_call_id": "1", "content": "rain"}]) > tokens()


def test_equal_seeds_say_the_same_and_others_do_not(start):
    def text(*arguments):
        stub = start(processes.stub, arguments=arguments)
        return complete(stub, max_tokens=30, ignore_eos=True, seed=5).json()["choices"][0]["text"]

    first = text()
    assert text() == first
    assert text("--seed", "1") != first


def test_idle_connections_are_closed_as_uvicorn_does(start):
    stub = start(processes.stub, arguments=["--keep-alive-seconds", "0.1"])
    with socket.create_connection(("127.0.0.1", stub.port), 5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        assert connection.recv(1) == b""


def test_http2_connections_can_be_limited_to_one_stream(start):
    stub = start(processes.stub, arguments=["--admin-listen", "127.0.0.1:0"])

    def offered():
        with socket.create_connection(("127.0.0.1", stub.port), 5) as connection:
            session = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            session.initiate_connection()
            connection.sendall(session.data_to_send())
            while True:
                for event in session.receive_data(connection.recv(65_536)):
                    if isinstance(event, h2.events.RemoteSettingsChanged):
                        return event.changed_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS].new_value

    assert offered() > 1
    assert httpx.post(f"{stub.admin_url}/admin/config", json={"faults": {"stream-limit": {}}}).status_code == 200
    assert offered() == 1


REQUEST_FAULTS = [
    "black-hole", "close", "close;after_head", "close;after_events=2", "reset", "reset;after_bytes=100", "truncate", "stall;ms=30",
    "stall;after_events=1;ms=30", "stall;after_head", "stall;at_end", "garbage", "trickle;bytes_per_second=3000", "error;status=503",
    "error;status=429;retry_after=3", "error;status=404", "error-body", "error-event;after_events=2", "close-on-reuse",
    "close-on-reuse;reset", "huge-header;bytes=60000", "goaway", "goaway;abrupt", "refuse-stream",
]  # fmt: skip


def outcome(stub, http2, header=None):
    """What a client sees of two requests on one connection: what arrived, less what differs every time, and how it ended."""
    seen = []
    with httpx.Client(http1=not http2, http2=http2, timeout=0.4) as client:
        for _ in range(2):
            text, status, retry = "", None, None
            try:
                with client.stream(
                    "POST", f"{stub.url}/v1/completions", json={"prompt": "x", "max_tokens": 4, "stream": True},
                    headers={"x-stub-fault": header} if header else {},
                ) as answer:  # fmt: skip
                    status, retry = answer.status_code, (answer.headers.get("retry-after"), len(answer.headers.get("x-stub-filler", "")))
                    for piece in answer.iter_text():
                        text += piece
                end = "whole"
            except httpx.TransportError as error:
                end = type(error).__name__
            seen.append((status, retry, re.sub(r'"id":"[^"]*"|"created":\d+', "", text), end))
    return seen


@pytest.mark.parametrize("fault", REQUEST_FAULTS)
def test_a_fault_strikes_alike_by_header_and_by_configuration(faulty, fault):
    """How much comes before a reset is chance: of that one only the ends are compared."""
    http2 = fault.startswith(("goaway", "refuse-stream"))
    name, *fields = fault.split(";")
    values = dict(field.split("=") if "=" in field else (field, True) for field in fields)
    settings = {key: value if value is True else int(value) for key, value in values.items()}
    plain, by_header = outcome(faulty, http2), outcome(faulty, http2, fault)
    assert httpx.post(f"{faulty.admin_url}/admin/config", json={"faults": {name: settings}}).status_code == 200
    try:
        by_configuration = outcome(faulty, http2)
    finally:
        httpx.post(f"{faulty.admin_url}/admin/config", json={"faults": {name: None}})
    if name == "reset":
        by_header, by_configuration = ([(status, end) for status, *_, end in seen] for seen in (by_header, by_configuration))
    assert by_header == by_configuration
    # Time alone is not compared, and a GOAWAY in good order loses nothing.
    if "ms=" not in fault and name != "trickle" and fault != "goaway":
        assert by_header != plain
