"""What vLLM said to requests that it refused, and to its operators, when it was recorded: the stub says the same, byte for byte."""

import json
import re
import socket

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
    "vllm-a/reset_prefix_cache",
]  # fmt: skip


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


def test_answers_are_those_that_were_recorded(stub):
    different = {}
    for case in CASES:
        recorded = parse((FOLDER / f"{case}.resp").read_bytes())
        answered = parse(ask(stub.port, (FOLDER / f"{case}.req").read_bytes()))
        if recorded != answered:
            different[case] = (recorded, answered)
    assert not different, json.dumps(different, default=repr, indent=1)
