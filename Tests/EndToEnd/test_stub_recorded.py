"""What vLLM said to requests that it refused, and to its operators, when it was recorded: the stub says the same, byte for byte."""

import json
import re
import socket

import httpx
import pytest

import processes

FOLDER = processes.REPOSITORY.parent / "shared" / "engine-recordings"

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no recordings")

CASES = [
    "vllm/err_array_body", "vllm/err_bad_type", "vllm/err_bad_utf8", "vllm/err_chat_maxtokens_over", "vllm/err_ctype_none",
    "vllm/err_ctype_text", "vllm/err_empty_body", "vllm/err_gzip_body", "vllm/err_logprobs_many", "vllm/err_maxtokens_over",
    "vllm/err_missing_messages", "vllm/err_missing_prompt", "vllm/err_n0", "vllm/err_neg_maxtokens", "vllm/err_prompt_empty_list",
    "vllm/err_stream_opts_nostream", "vllm/err_temp", "vllm/err_top_p", "vllm/err_unknown_model", "vllm/err_unknown_model_comp",
    "vllm/err_unknown_model_stream", "vllm/comp_maxtokens0", "vllm/comp_prompt_empty_str", "vllm/comp_cache_salt_empty",
    "vllm/comp_dprank5", "vllm/messages_err_missing", "vllm/messages_err_model", "vllm/put_chat_405", "vllm/get_get_completions_405",
    "vllm/get_nope", "vllm/get_version", "vllm/head_health", "vllm/get_health", "vllm/responses_get_unknown",
    "vllm/responses_cancel_unknown", "vllm/responses_store_prev", "vllm-lora/load_lora_bad", "vllm-lora/load_lora",
    "vllm-lora/load_lora_again", "vllm-lora/unload", "vllm-lora/unload_missing", "vllm-a/pause", "vllm-a/is_paused",
    "vllm-a/health_paused", "vllm-a/resume", "vllm-a/sleep1", "vllm-a/is_sleeping", "vllm-a/health_sleeping", "vllm-a/wake_up",
    "vllm-a/reset_prefix_cache", "vllm/err_badjson", "vllm/err_badjson_chat", "vllm/err_lone_surrogate", "vllm/err_too_long",
    "vllm/err_too_long_chat_stream",
]  # fmt: skip


# With a key and request ids; those that generate say something else and are compared by their fields.
GUARDED = [
    "vllm-b/noauth_chat", "vllm-b/badauth_chat", "vllm-b/noauth_models", "vllm-b/xapikey_messages", "vllm-b/noauth_health",
    "vllm-b/noauth_load",
]  # fmt: skip


@pytest.fixture(scope="module")
def guarded():
    arguments = ["--uvicorn", "--max-model-len", "2048", "--api-key", "other", "--api-key", "sekret", "--enable-request-id-headers"]
    program = processes.stub(model="tiny-llama", arguments=arguments)
    yield program
    program.stop()


@pytest.fixture(scope="module")
def stub():
    arguments = ["--uvicorn", "--model", "tiny-llama-alias", "--max-loras", "2", "--max-model-len", "2048"]
    program = processes.stub(model="tiny-llama", arguments=arguments)
    yield program
    program.stop()


def parse(answer):
    """Status line, header fields but those that vary, and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT", fields.pop("date"))
    fields.pop("x-served-by", None)
    if "x-request-id" in fields:
        assert re.fullmatch("[0-9a-f]{32}", fields["x-request-id"])
        fields["x-request-id"] = "id"
    return status, fields, body


def ask(port, request):
    """One answer, whole: by its declared length, or, of a HEAD, its head."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request)
        answer = b""
        while not (declared := re.search(rb"content-length: (\d+)", answer)) or b"\r\n\r\n" not in answer:
            answer += receive(connection)
        while not request.startswith(b"HEAD") and len(answer.partition(b"\r\n\r\n")[2]) < int(declared[1]):
            answer += receive(connection)
        return answer


def receive(connection):
    data = connection.recv(65536)
    assert data, "the connection ended early"
    return data


def differences(port, cases):
    different = {}
    for case in cases:
        recorded = parse((FOLDER / f"{case}.resp").read_bytes())
        answered = parse(ask(port, (FOLDER / f"{case}.req").read_bytes()))
        if recorded != answered:
            different[case] = (recorded, answered)
    return json.dumps(different, default=repr, indent=1) if different else ""


def test_answers_are_those_that_were_recorded(stub):
    assert not differences(stub.port, CASES)


def test_without_a_key_answers_are_those_that_were_recorded(guarded):
    assert not differences(guarded.port, GUARDED)


def events(answer):
    """The JSON of each event of a stream that was recorded or received whole."""
    return [json.loads(text) for text in re.findall(rb"^data: (\{.*\})\r?$", answer, re.M)]


def shape(value):
    """Names and types, in the order in which they stand there."""
    if isinstance(value, dict):
        return [(key, shape(field)) for key, field in value.items()]
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def test_a_streamed_call_has_the_pieces_that_were_recorded(guarded):
    """The recorded model was cut in the middle of its arguments: what comes until then has the same fields in the same order."""
    request = (FOLDER / "vllm-b/tools_required_stream.req").read_bytes()
    body = json.loads(request.partition(b"\r\n\r\n")[2])
    # That vLLM was started so that it told the usage in every event.
    body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    recorded = events((FOLDER / "vllm-b/tools_required_stream.resp").read_bytes())
    answer = httpx.post(f"{guarded.url}/v1/chat/completions", json=body, headers={"authorization": "Bearer sekret"})
    answered = events(answer.content)
    for place in range(3):
        assert shape(recorded[place]) == shape(answered[place])
    assert answered[1]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "f"
