"""The stub engine itself, asked without a router: vLLM's wire and its faults."""

import json
import re
import socket

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

import processes
from waiting import wait_until

RECORDING = processes.REPOSITORY.parent / "shared" / "engine-recordings" / "vllm" / "get_metrics_end.resp"
QUESTION = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


@pytest.fixture(scope="module")
def stub():
    program = processes.stub(arguments=["--max-loras", "2", "--admin-listen", "127.0.0.1:0"])
    yield program
    program.stop()


def ask(stub, fault=None, stream=False, client=httpx, **fields):
    headers = {"x-stub-fault": fault} if fault else {}
    return client.post(f"{stub.url}/v1/chat/completions", json={**QUESTION, "stream": stream, **fields}, headers=headers)


def test_stop_ends_the_reply_before_the_word(client):
    whole = client.completions.create(model="stub-model", prompt="once", max_tokens=40).choices[0].text
    word = whole.split()[5]
    cut = client.completions.create(model="stub-model", prompt="once", max_tokens=40, stop=word).choices[0]
    assert cut.text == whole[: whole.index(word)]
    assert cut.finish_reason == "stop"
    stream = client.completions.create(model="stub-model", prompt="once", max_tokens=40, stop=word, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == cut.text


def test_a_stop_that_never_comes_holds_nobody_up(stub):
    """A hundred long replies that are searched for a stop string: the search goes along with the tokens, not before them."""
    question = {"prompt": "a", "n": 128, "stop": "zzzz", "ignore_eos": True, "max_tokens": 131000, "stream": True}
    with httpx.stream("POST", f"{stub.url}/v1/completions", json=question, timeout=20) as answer:
        assert answer.status_code == 200 and next(answer.iter_lines()).startswith("data: {")
        assert httpx.get(f"{stub.url}/health", timeout=20).status_code == 200


def test_logprobs(client):
    choice = client.chat.completions.create(**QUESTION, logprobs=True, top_logprobs=3).choices[0]
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    assert all(len(entry.top_logprobs) == 3 and entry.logprob < 0 for entry in choice.logprobs.content)
    text = client.completions.create(model="stub-model", prompt="once", max_tokens=6, logprobs=2).choices[0]
    assert "".join(text.logprobs.tokens) == text.text


def test_responses(client):
    response = client.responses.create(model="stub-model", input="hello", max_output_tokens=8)
    assert response.output_text and response.status == "incomplete"
    events = list(client.responses.create(model="stub-model", input="hello", max_output_tokens=8, stream=True))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == response.output_text


def test_embeddings(client):
    first, second = client.embeddings.create(model="stub-model", input=["hello", "world"]).data
    assert len(first.embedding) == 96 and first.embedding != second.embedding
    assert sum(value * value for value in first.embedding) == pytest.approx(1, abs=1e-3)


def test_messages(stub):
    body = {"model": "stub-model", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
    whole = httpx.post(f"{stub.url}/v1/messages", json=body).json()
    assert whole["content"][0]["text"] and whole["stop_reason"] == "max_tokens"
    events = httpx.post(f"{stub.url}/v1/messages", json={**body, "stream": True}).text
    assert re.findall("^event: (.*)$", events, re.M)[-1] == "message_stop" and "[DONE]" not in events
    missing = httpx.post(f"{stub.url}/v1/messages", json={**body, "model": "nope"})
    assert missing.status_code == 404 and missing.json()["type"] == "error"


def test_tokenize_and_back(stub):
    tokens = httpx.post(f"{stub.url}/tokenize", json={"prompt": "Hello wide world"}).json()["tokens"]
    assert httpx.post(f"{stub.url}/detokenize", json={"tokens": tokens}).json()["prompt"] == "Hello wide world"


def test_adapters(stub, client):
    adapter = {"lora_name": "lora-a", "lora_path": "/somewhere"}
    loaded = httpx.post(f"{stub.url}/v1/load_lora_adapter", json=adapter)
    assert loaded.text == "Success: LoRA adapter 'lora-a' added successfully." and "content-type" not in loaded.headers
    assert httpx.post(f"{stub.url}/v1/load_lora_adapter", json=adapter).status_code == 400
    assert client.completions.create(model="lora-a", prompt="x", max_tokens=2).model == "lora-a"
    assert "lora-a" in [model.id for model in client.models.list()]
    assert httpx.post(f"{stub.url}/v1/unload_lora_adapter", json=adapter).status_code == 200
    assert httpx.post(f"{stub.url}/v1/unload_lora_adapter", json=adapter).status_code == 404


def test_sleep_holds_requests_until_wake_up(stub):
    httpx.post(f"{stub.url}/sleep?level=1")
    assert httpx.get(f"{stub.url}/is_sleeping").json() == {"is_sleeping": True}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{stub.url}/v1/chat/completions", json=QUESTION, timeout=0.2)
    httpx.post(f"{stub.url}/wake_up")
    assert ask(stub).status_code == 200


def families(text):
    """name → (type, label names)"""
    return {
        family.name: (family.type, {name for sample in family.samples for name in sample.labels})
        for family in text_string_to_metric_families(text)
    }


@pytest.mark.skipif(not RECORDING.exists(), reason="no recording")
def test_metrics_are_those_of_the_recorded_engine(start):
    stub = start(processes.stub)
    ask(stub)
    httpx.get(f"{stub.url}/metrics")
    recorded = families(RECORDING.read_text().split("\n\n", 1)[1])
    ours = families(httpx.get(f"{stub.url}/metrics").text)
    assert {name for name in ours if not name.startswith("stub:")} == set(recorded)
    assert {name: ours[name] for name in recorded} == recorded


# Faults: (header, what a client sees)


@pytest.mark.parametrize("fault", ["close", "reset", "close;after_head", "reset;after_bytes=100", "close;after_events=2", "garbage"])
def test_a_broken_stream_is_seen_as_broken(stub, fault):
    with pytest.raises(httpx.RemoteProtocolError if not fault.startswith("reset") else httpx.TransportError):
        ask(stub, fault, stream=True)


def test_truncated_stream_has_no_done(stub):
    answer = ask(stub, "truncate", stream=True)
    assert answer.status_code == 200 and "data: {" in answer.text and "[DONE]" not in answer.text
    assert ask(stub, "truncate;after_events=2", stream=True).text.count("data:") == 2


@pytest.mark.parametrize("fault", ["black-hole", "stall", "stall;after_head", "stall;after_events=2", "trickle;bytes_per_second=20"])
def test_silence(stub, fault):
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=0.3) as client:
        with client.stream("POST", f"{stub.url}/v1/chat/completions", json={**QUESTION, "stream": True},
                           headers={"x-stub-fault": fault}) as answer:  # fmt: skip
            total = b"".join(chunk for _, chunk in zip(range(10), answer.iter_raw()))
        raise httpx.ReadTimeout(str(len(total))) if fault.startswith("trickle") and len(total) < 200 else AssertionError(total)


def test_stall_of_some_time_ends(stub):
    assert ask(stub, "stall;ms=120").elapsed.total_seconds() > 0.1


def test_errors(stub):
    answer = ask(stub, "error;status=429;retry_after=3")
    assert answer.status_code == 429 and answer.headers["retry-after"] == "3"
    answer = ask(stub, "error;status=503")
    assert answer.status_code == 503 and "retry-after" not in answer.headers
    answer = ask(stub, "error-body")
    assert answer.status_code == 200 and "error" in answer.json()
    answer = ask(stub, "error-event;after_events=2", stream=True)
    assert answer.text.split("\n\n")[-3].startswith('data: {"error"') and answer.text.endswith("data: [DONE]\n\n")
    assert len(ask(stub, "huge-header;bytes=50000").headers["x-stub-filler"]) == 50000
    assert ask(stub, "nonsense").status_code == 400
    for fault in ("refuse", "refuse;ms=5", "accept-close", "stream-limit", "error;action=stream-limit"):
        answer = ask(stub, fault)
        assert answer.status_code == 400 and "of the port" in answer.json()["error"]["message"], fault


def test_errors_have_the_shape_of_their_api(stub):
    def ask(path, fault, **fields):
        return httpx.post(f"{stub.url}/v1/{path}", headers={"x-stub-fault": fault}, json={"max_tokens": 8, **fields})

    messages = {"messages": QUESTION["messages"]}
    answer = ask("messages", "error;status=503", **messages)
    assert answer.status_code == 503 and answer.json()["type"] == "error" and "message" in answer.json()["error"]
    assert ask("messages", "error-body", **messages).json()["type"] == "error"
    assert ask("completions", "error;status=503", prompt="x").json()["error"]["code"] == 503
    # An answer in one piece is none when the engine dies under it.
    for path, fields in {"messages": messages, "chat/completions": messages, "completions": {"prompt": "x"}, "responses": {"input": "x"}}.items():
        answer = ask(path, "error-event", **fields)
        assert answer.status_code == 500 and "EngineCore" in answer.json()["error"]["message"], path
    # Streams of named events end with one of theirs.
    stream = ask("messages", "error-event;after_events=3", stream=True, **messages).text.strip().split("\n\n")
    assert len(stream) == 4 and stream[-1].startswith('event: error\ndata: {"type":"error","error":{')
    stream = ask("responses", "error-event;after_events=3", stream=True, input="x").text.strip().split("\n\n")
    assert len(stream) == 4 and stream[-1].startswith("event: error\n")
    event = json.loads(stream[-1].split("data: ")[1])
    assert event["type"] == "error" and event["sequence_number"] == 3


def test_close_on_reuse(stub):
    with httpx.Client() as client:
        assert ask(stub, "close-on-reuse", client=client).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            ask(stub, "close-on-reuse", client=client)


def test_http2_faults(stub):
    for fault, message in [("refuse-stream", "REFUSED_STREAM|7"), ("goaway;abrupt", "ConnectionTerminated|INTERNAL|2")]:
        with httpx.Client(http1=False, http2=True) as client, pytest.raises(httpx.RemoteProtocolError, match=message):
            ask(stub, fault, client=client)
    with httpx.Client(http1=False, http2=True) as client:
        assert ask(stub, client=client).status_code == 200


def configure(stub, patch):
    answer = httpx.post(f"{stub.admin_url}/admin/config", json=patch)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_configured_faults_count(stub):
    configure(stub, {"faults": {"error": {"status": 503, "times": 3}}})
    assert [ask(stub).status_code for _ in range(5)] == [503] * 3 + [200] * 2
    assert httpx.get(f"{stub.url}/admin/config").json()["fired"] == {"error": 3}
    configure(stub, {"faults": {"error": None}, "fault_seed": 7})
    for _ in range(2):
        configure(stub, {"faults": {"error": {"status": 500, "probability": 0.5}}, "fault_seed": 7})
        codes = [ask(stub).status_code for _ in range(20)]
        assert 3 < codes.count(500) < 17
    configure(stub, {"faults": {"error": None}})
    assert httpx.post(f"{stub.admin_url}/admin/config", json={"faults": {"error": {"tims": 3}}}).status_code == 400


def test_refused_port_opens_again(stub):
    configure(stub, {"faults": {"refuse": {"ms": 150}}})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", stub.port), 1).close()
    wait_until(stub.accepts_connections, 5, "the port to open again")
    configure(stub, {"faults": {"refuse": None}})


def test_accept_and_close(stub):
    configure(stub, {"faults": {"accept-close": {"times": 1}}})
    with pytest.raises(httpx.TransportError):
        ask(stub)
    assert ask(stub).status_code == 200
    configure(stub, {"faults": {"accept-close": None}})


def test_metrics_and_health_faults(stub):
    configure(stub, {"faults": {"no-metrics": {"action": "error", "status": 404, "path": "/metrics", "times": 1}}})
    assert [httpx.get(f"{stub.url}/metrics").status_code for _ in range(2)] == [404, 200]
    configure(stub, {"faults": {"no-metrics": None, "stale-metrics": {}}})
    before = httpx.get(f"{stub.url}/metrics").text
    ask(stub)
    assert httpx.get(f"{stub.url}/metrics").text == before
    configure(stub, {"faults": {"stale-metrics": None, "reset-metrics": {"times": 1}}})
    assert 'vllm:generation_tokens_total{engine="0",model_name="stub-model"} 0.0' in httpx.get(f"{stub.url}/metrics").text
    configure(stub, {"faults": {"reset-metrics": None, "flap": {"action": "error", "status": 503, "path": "/health", "period_ms": 60}}})
    wait_until(lambda: httpx.get(f"{stub.url}/health").status_code == 503, 2, "an ill moment")
    wait_until(lambda: httpx.get(f"{stub.url}/health").status_code == 200, 2, "a healthy moment")
    configure(stub, {"faults": {"flap": None}})


@pytest.mark.parametrize("status", [503, 429, 529])
def test_admission(start, status):
    stub = start(processes.stub, arguments=["--max-num-queued-reqs", "0", "--overload-status", str(status)])
    answer = ask(stub, stream=True)
    assert answer.status_code == status and "busy" in answer.json()["error"]["message"]
    assert 'admission_rejections_total{model_name="stub-model",reason="max_num_queued_reqs"} 1.0' in httpx.get(f"{stub.url}/metrics").text


def test_group_of_processes(start):
    leader = start(
        processes.Program, "stub", "--listen", "127.0.0.1:0", "--group-listen", "127.0.0.1:0", "--tensor-parallel-size", "3",
        "--on-member-loss", "exit",
    )  # fmt: skip
    meeting = wait_until(lambda: re.search(r"members join at (\S+)", leader.stderr), 5, "the meeting place")[1]
    members = [
        start(processes.Program, "stub-member", "--leader", meeting, "--rank", rank, "--world-size", 3) for rank in (1, 2)
    ]
    leader.wait_ready()
    assert ask(leader, max_tokens=2).status_code == 200
    members[0].kill()
    assert leader.wait_exit(5) == 1
    assert members[1].wait_exit(5) == 1
