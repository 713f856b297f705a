"""`curl` as people and scripts use it."""

import gzip
import hashlib
import json
import os
import subprocess
from types import SimpleNamespace

import pytest

from scripted_backend import answer_ok, answer_stream

CHAT = json.dumps({"model": "stub-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3})


def curl(*arguments, data=None):
    """Runs curl; gives status, HTTP version, head lines, body and the talk of `-v`."""
    done = subprocess.run(
        ["curl", "-sS", "-v", "--max-time", "15", "-D", "/dev/fd/2", *map(str, arguments)],
        input=data, capture_output=True, timeout=20,
        env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
    )  # fmt: skip
    talk = done.stderr.decode("latin-1")
    assert done.returncode == 0, talk
    heads = [line[2:] for line in talk.splitlines() if line.startswith("< ")]
    final = [line for line in heads if line.startswith("HTTP/")][-1].split()
    return SimpleNamespace(status=int(final[1]), version=final[0], head="\n".join(heads).lower(), body=done.stdout,
                           talk=talk)  # fmt: skip


@pytest.fixture
def backend(scripted):
    return scripted()


@pytest.fixture
def program(serve, backend):
    return serve(backend)


def test_chat(router):
    answer = curl(f"{router.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", CHAT)
    assert answer.status == 200
    assert json.loads(answer.body)["usage"]["completion_tokens"] == 3


def test_http10(router):
    answer = curl("-0", f"{router.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", CHAT)
    assert answer.status == 200
    assert json.loads(answer.body)["usage"]["completion_tokens"] == 3
    assert "transfer-encoding" not in answer.head


def test_http10_event_stream_is_not_chunked(serve, scripted):
    """An HTTP/1.0 client knows no chunks: the stream ends with the connection."""
    program = serve(scripted(answer_stream))
    answer = curl("-0", f"{program.url}/v1/chat/completions", "-d", CHAT)
    assert "transfer-encoding" not in answer.head
    assert answer.body.startswith(b"data: {") and answer.body.endswith(b"data: [DONE]\n\n")


def test_head_of_a_local_path(router):
    answer = curl("-I", f"{router.url}/health")
    assert answer.status == 200


def test_head_is_forwarded(serve, scripted):
    async def script(exchange):
        await exchange.head(200, [(b"content-type", b"text/plain"), (b"content-length", b"12345")])

    backend = scripted(script)
    program = serve(backend)
    answer = curl("-I", f"{program.url}/some/file", "--next", "-sS", "-I", f"{program.url}/some/file")
    assert answer.status == 200
    assert "content-length: 12345" in answer.head
    assert [request.method for request in backend.requests] == [b"HEAD", b"HEAD"]


def test_expect_continue_with_two_megabytes(program, backend, tmp_path):
    body = os.urandom(2 << 20)
    file = tmp_path / "body"
    file.write_bytes(body)
    answer = curl(f"{program.url}/upload", "-H", "Expect: 100-continue", "--expect100-timeout", "10",
                  "--data-binary", f"@{file}")  # fmt: skip
    assert "HTTP/1.1 100" in answer.talk
    assert answer.status == 200
    assert hashlib.sha256(backend.requests[0].body).digest() == hashlib.sha256(body).digest()


def test_chunked_upload(program, backend):
    body = os.urandom(300_000)
    answer = curl(f"{program.url}/upload", "-H", "Transfer-Encoding: chunked", "--data-binary", "@-", data=body)
    assert answer.status == 200
    assert backend.requests[0].body == body


def test_gzip_body_is_untouched(program, backend):
    body = gzip.compress(CHAT.encode())
    answer = curl(f"{program.url}/v1/chat/completions", "-H", "Content-Encoding: gzip", "-H",
                  "Content-Type: application/json", "--data-binary", "@-", data=body)  # fmt: skip
    assert answer.status == 200
    request = backend.requests[0]
    assert (request.body, request.values(b"content-encoding")) == (body, [b"gzip"])


def test_gzip_answer_is_untouched(serve, scripted):
    packed = gzip.compress(b"x" * 10_000)

    async def script(exchange):
        await exchange.answer(200, packed, ((b"content-encoding", b"gzip"),))

    program = serve(scripted(script))
    assert curl(f"{program.url}/packed").body == packed
    assert curl("--compressed", f"{program.url}/packed").body == b"x" * 10_000


def test_openai_prefix_is_an_alias(program, backend):
    assert curl(f"{program.url}/openai/v1/chat/completions?api-version=7", "-d", CHAT).status == 200
    assert backend.requests[0].target == b"/v1/chat/completions?api-version=7"


def test_openai_prefix_of_local_paths(router):
    plain, alias = (json.loads(curl(f"{router.url}{path}").body) for path in ("/v1/models", "/openai/v1/models"))
    assert [model["id"] for model in alias["data"]] == [model["id"] for model in plain["data"]]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
def test_any_method_and_path_is_forwarded(program, backend, method):
    target = "/not/a/known/path;v=1/%2e%2E/caf%C3%A9?a=1&a=2&empty="
    assert curl("-X", method, "--path-as-is", f"{program.url}{target}").status == 200
    assert backend.requests[0].method == method.encode()
    assert backend.requests[0].target == target.encode()


def test_keep_alive_and_connection_close(program):
    answer = curl(f"{program.url}/a", "--next", "-v", "-sS", f"{program.url}/b")
    assert "Re-using existing connection" in answer.talk
    assert "connection: close" in curl("-H", "Connection: close", f"{program.url}/a").head


def test_http2_with_prior_knowledge(router):
    answer = curl("--http2-prior-knowledge", f"{router.url}/v1/chat/completions", "-H",
                  "Content-Type: application/json", "-d", CHAT)  # fmt: skip
    assert (answer.status, answer.version) == (200, "HTTP/2")


def test_upgrade_to_h2c_is_ignored(serve, scripted):
    """curl --http2 offers an upgrade; RFC 9113 has dropped it, and HTTP/1.1 is a valid answer."""
    backend = scripted(answer_ok)
    program = serve(backend)
    answer = curl("--http2", f"{program.url}/v1/chat/completions", "-d", CHAT)
    assert (answer.status, answer.version) == (200, "HTTP/1.1")
    names = {name.lower() for name, _ in backend.requests[0].fields}
    assert not names & {b"upgrade", b"http2-settings"}
