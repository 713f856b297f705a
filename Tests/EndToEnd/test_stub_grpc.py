"""The stub engine's gRPC port with the official client: vLLM's own service, as its recordings show it."""

import json
import re
import threading

import grpc
import httpx
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

import engine_proto
import processes
from engine_proto import MESSAGES, call, generate_request
from waiting import wait_until

RECORDING = processes.REPOSITORY.parent / "shared" / "engine-recordings" / "grpc" / "calls.jsonl"
PROMPT = list(range(1, 201))


@pytest.fixture(scope="module")
def engine():
    program = processes.stub(arguments=["--max-model-len", "4096", "--max-num-seqs", "64"])
    yield program
    program.stop()


@pytest.fixture
def channel(engine):
    with open_channel(engine.port) as channel:
        yield channel


def open_channel(port):
    return grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    )


def metric(engine, name):
    text = httpx.get(f"{engine.url}/metrics").text
    return float(re.search(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.M)[1])


def loads(channel):
    return call(channel, "GetLoads")(MESSAGES["GetLoadsRequest"](), timeout=5).loads[0]


@pytest.mark.skipif(not RECORDING.exists(), reason="no recording")
def test_our_description_reads_the_recorded_bytes():
    """Every recorded answer, read by our field numbers, says what the recording client read by the published ones."""
    answers = {"HealthCheck": "HealthCheckResponse", "GetModelInfo": "GetModelInfoResponse", "FlushCache": "FlushCacheResponse",
               "GetServerInfo": "GetServerInfoResponse", "GetLoads": "GetLoadsResponse", "Generate": "GenerateResponse"}  # fmt: skip
    compared = 0
    for line in RECORDING.read_text().splitlines():
        entry = json.loads(line)
        name = answers.get(entry["rpc"].split(".")[0])
        # Long answers were recorded up to their 300th byte.
        if name is None or not isinstance(entry.get("resp"), dict) or not 0 < len(entry.get("resp_hex") or "") < 600:
            continue
        message = MESSAGES[name].FromString(bytes.fromhex(entry["resp_hex"]))
        known = json_format.MessageToDict(message, preserving_proto_field_name=True)
        assert known == pick(entry["resp"], known), entry["rpc"]
        assert set(entry["resp"]) - set(known) <= {"pad_token_id", "shm_namespace_id", "multimodal_encoder_dtype",
                                                   "constrained_decoding_start"}  # fmt: skip
        compared += 1
    assert compared > 15


def pick(recorded, known):
    """Of what was recorded that which is in `known`, so that fields which we leave out do not matter."""
    if isinstance(known, dict):
        return {key: pick(recorded[key], value) for key, value in known.items() if key in recorded}
    if isinstance(known, list):
        return [pick(*pair) for pair in zip(recorded, known, strict=True)]
    if isinstance(known, float):
        return pytest.approx(recorded)
    # Paths of the machine that recorded were made neutral in the text, not in the bytes.
    return known if isinstance(known, str) and "/" in known else recorded


def test_a_stream_has_a_chunk_per_token_and_a_completion_that_repeats_the_last(channel):
    answers = list(call(channel, "Generate")(generate_request(PROMPT, max_tokens=5, ignore_eos=True), timeout=10))
    assert [answer.WhichOneof("response") for answer in answers] == ["chunk"] * 5 + ["complete"]
    assert [answer.chunk.completion_tokens for answer in answers[:5]] == [1] * 5
    tokens = [token for answer in answers[:5] for token in answer.chunk.token_ids]
    complete = answers[5].complete
    assert (list(complete.output_ids), complete.completion_tokens) == (tokens[-1:], 1)
    assert (complete.finish_reason, complete.prompt_tokens) == ("length", 200)
    # The same again: all but the last block's tokens are cached, and the reply is the same in one piece.
    whole = list(call(channel, "Generate")(generate_request(PROMPT, stream=False, max_tokens=5, ignore_eos=True), timeout=10))
    assert len(whole) == 1
    assert list(whole[0].complete.output_ids) == tokens
    assert (whole[0].complete.cached_tokens, whole[0].complete.completion_tokens) == (192, 5)


def test_text_and_tokens_are_the_same_prompt_and_http_says_the_same(engine, channel):
    tokens = httpx.post(f"{engine.url}/tokenize", json={"prompt": "Once upon a time"}).json()["tokens"]
    options = {"max_tokens": 12, "ignore_eos": True, "seed": 3, "stream": False}
    by_text = next(call(channel, "Generate")(generate_request(text="Once upon a time", **options), timeout=10))
    by_tokens = next(call(channel, "Generate")(generate_request(tokens, **options), timeout=10))
    assert by_text.complete.output_ids == by_tokens.complete.output_ids
    body = {"prompt": "Once upon a time", "max_tokens": 12, "ignore_eos": True, "seed": 3, "return_token_ids": True}
    by_http = httpx.post(f"{engine.url}/v1/completions", json=body).json()
    assert by_http["choices"][0]["token_ids"] == list(by_text.complete.output_ids)


def test_several_replies_logprobs_and_stop(channel):
    request = generate_request(PROMPT, stream=False, max_tokens=4, ignore_eos=True, n=3, temperature=1.0, logprobs=2)
    answers = sorted(call(channel, "Generate")(request, timeout=10), key=lambda answer: answer.complete.index)
    assert [answer.complete.index for answer in answers] == [0, 1, 2]
    assert len({tuple(answer.complete.output_ids) for answer in answers}) == 3
    logprobs = answers[0].complete.output_logprobs
    assert list(logprobs.token_ids) == list(answers[0].complete.output_ids)
    assert [len(top.values) for top in logprobs.top_logprobs] == [2] * 4
    assert all(value < 0 for value in logprobs.token_logprobs)
    word = answers[0].complete.output_ids[2]
    stopped = generate_request(PROMPT, stream=False, max_tokens=4, ignore_eos=True, stop_token_ids=[word])
    complete = next(call(channel, "Generate")(stopped, timeout=10)).complete
    assert (complete.finish_reason, complete.matched_token_id, complete.completion_tokens) == ("stop", word, 3)


REFUSALS = {
    "too long": (generate_request([1] * 5000), "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
    "empty": (generate_request([]), "The decoder prompt cannot be empty"),
    "rank": (generate_request(PROMPT, rank=9), "data_parallel_rank 9 is out of range [0, 1)."),
    "greedy": (generate_request(PROMPT, n=2, temperature=0.0), "n must be 1 when using greedy sampling, got 2."),
    "no token": (generate_request(PROMPT, max_tokens=0), "max_tokens must be at least 1, got 0."),
    "logprobs": (generate_request(PROMPT, logprobs=21), "Requested sample logprobs of 21"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_vllm_refuses(channel, name):
    request, message = REFUSALS[name]
    with pytest.raises(grpc.RpcError) as caught:
        list(call(channel, "Generate")(request, timeout=5))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(message)


@pytest.mark.parametrize("body", [b"\xff\xff", b"\x0a\x05ab"])
def test_malformed_messages(channel, body):
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream(f"/{engine_proto.SERVICE}/Generate")(body, timeout=5))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_client_that_cancels_ends_its_sequence(engine, channel):
    before = metric(engine, "stub:sequences_aborted_total")
    stream = call(channel, "Generate")(generate_request(PROMPT, max_tokens=3_000, ignore_eos=True), timeout=30)
    assert next(stream).chunk.token_ids
    assert loads(channel).num_running_reqs == 1
    stream.cancel()
    wait_until(lambda: metric(engine, "stub:sequences_aborted_total") == before + 1, what="the abort to be counted")
    wait_until(lambda: loads(channel).num_running_reqs == 0, what="the sequence to leave the batch")


def test_abort_ends_the_stream_in_good_order(channel):
    answers = []
    begun = threading.Event()

    def read():
        for answer in call(channel, "Generate")(generate_request(PROMPT, request_id="g14", max_tokens=3_000, ignore_eos=True), timeout=30):
            answers.append(answer)
            begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(5)
    call(channel, "Abort")(MESSAGES["AbortRequest"](request_ids=["g14", "nobody"]), timeout=5)
    reader.join(10)
    assert answers[-1].complete.finish_reason == "abort"
    assert len(answers) < 3_000


def test_deadline(engine, channel):
    before = metric(engine, "stub:sequences_aborted_total")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(channel, "Generate")(generate_request(PROMPT, max_tokens=3_800, ignore_eos=True), timeout=0.1))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: metric(engine, "stub:sequences_aborted_total") == before + 1, what="the abort to be counted")


def test_what_a_router_asks(engine, channel):
    health = call(channel, "HealthCheck")(MESSAGES["HealthCheckRequest"](), timeout=5)
    assert (health.healthy, health.message) == (True, "Health")
    info = call(channel, "GetModelInfo")(MESSAGES["GetModelInfoRequest"](), timeout=5)
    assert (info.served_model_name, info.max_context_length, info.is_generation) == ("stub-model", 4096, True)
    server = call(channel, "GetServerInfo")(MESSAGES["GetServerInfoRequest"](), timeout=5)
    assert (server.block_size, server.max_num_seqs, server.data_parallel_size) == (16, 64, 1)
    load = loads(channel)
    assert (load.num_total_reqs, load.max_running_requests, load.max_total_num_tokens) == (0, 64, 16_384 * 16)
    assert 0 < load.cache_hit_rate < 1
    answer = call(channel, "GetLoads")(MESSAGES["GetLoadsRequest"](dp_rank=9), timeout=5)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", answer.timestamp)
    flushed = call(channel, "FlushCache")(MESSAGES["FlushCacheRequest"](), timeout=5)
    assert flushed.success
    cold = next(call(channel, "Generate")(generate_request(PROMPT, stream=False, max_tokens=1), timeout=5))
    assert cold.complete.cached_tokens == 0
    stub = health_pb2_grpc.HealthStub(channel)
    check = stub.Check(health_pb2.HealthCheckRequest(service=engine_proto.SERVICE), timeout=5)
    assert check.status == health_pb2.HealthCheckResponse.SERVING


def test_embed(engine, channel):
    tokens = httpx.post(f"{engine.url}/tokenize", json={"prompt": "hello"}).json()["tokens"]
    request = MESSAGES["EmbedRequest"](request_id="e1")
    request.tokenized.input_ids.extend(tokens)
    answer = call(channel, "Embed")(request, timeout=5)
    assert (answer.embedding_dim, answer.prompt_tokens) == (96, len(tokens))
    by_http = httpx.post(f"{engine.url}/v1/embeddings", json={"input": "hello"}).json()["data"][0]["embedding"]
    assert list(answer.embedding) == pytest.approx(by_http, abs=1e-6)


@pytest.mark.parametrize("status, code", [(503, grpc.StatusCode.UNAVAILABLE), (429, grpc.StatusCode.RESOURCE_EXHAUSTED)])
def test_a_full_engine_refuses(start, status, code):
    engine = start(processes.stub, arguments=["--max-num-queued-reqs", "0", "--overload-status", status])
    with open_channel(engine.port) as channel, pytest.raises(grpc.RpcError) as caught:
        list(call(channel, "Generate")(generate_request(PROMPT), timeout=5))
    assert caught.value.code() == code and "busy" in caught.value.details()


FAULTS = {
    "error;status=503": (grpc.StatusCode.UNAVAILABLE, 0),
    "error;grpc_status=8": (grpc.StatusCode.RESOURCE_EXHAUSTED, 0),
    "error-event;after_events=2": (grpc.StatusCode.INTERNAL, 2),
    "close;after_events=2": (grpc.StatusCode.UNAVAILABLE, 2),
    "reset;after_events=2": (grpc.StatusCode.UNAVAILABLE, 2),
    "refuse-stream": (grpc.StatusCode.UNAVAILABLE, 0),
    "stall;after_events=1": (grpc.StatusCode.DEADLINE_EXCEEDED, 1),
    "black-hole": (grpc.StatusCode.DEADLINE_EXCEEDED, 0),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(engine, fault):
    code, messages = FAULTS[fault]
    seen = []
    with open_channel(engine.port) as channel, pytest.raises(grpc.RpcError) as caught:
        request = generate_request(PROMPT, max_tokens=8, ignore_eos=True)
        for answer in call(channel, "Generate")(request, timeout=1 if "stall" in fault or "hole" in fault else 10,
                                                metadata=(("x-stub-fault", fault),)):  # fmt: skip
            seen.append(answer)
    assert caught.value.code() == code
    # A client may drop what came just before its connection broke.
    assert len(seen) == messages or (len(seen) < messages and fault.startswith(("close", "reset")))


def test_a_call_is_served_after_its_stall(engine):
    """The request is here long before the call goes on; the delay itself is all that a deadline shorter than it sees."""
    with open_channel(engine.port) as channel:
        request = generate_request(PROMPT, max_tokens=3, ignore_eos=True)
        metadata = (("x-stub-fault", "stall;ms=300"),)
        assert len(list(call(channel, "Generate")(request, timeout=10, metadata=metadata))) == 4
        with pytest.raises(grpc.RpcError) as caught:
            list(call(channel, "Generate")(request, timeout=0.2, metadata=(("x-stub-fault", "stall;ms=60000"),)))
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        refused = (("x-stub-fault", "stall;ms=50,error;status=503"),)
        with pytest.raises(grpc.RpcError) as caught:
            list(call(channel, "Generate")(request, timeout=10, metadata=refused))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_calls_on_a_connection_that_goes_away(engine):
    """A graceful GOAWAY lets the call under way finish; the channel connects anew for the next."""
    with open_channel(engine.port) as channel:
        request = generate_request(PROMPT, max_tokens=3, ignore_eos=True)
        for fault in ("goaway", "goaway", ""):
            metadata = (("x-stub-fault", fault),) if fault else ()
            assert len(list(call(channel, "Generate")(request, timeout=10, metadata=metadata, wait_for_ready=True))) == 4
