"""The official `openai` client, as applications use it."""

import asyncio

import httpx
import openai
import pytest

import admin
import processes
from waiting import wait_until
from wire_clients import HTTP1Client


@pytest.fixture
def client(router):
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="unused", max_retries=0, timeout=10) as client:
        yield client


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me of the sea. " * 20}]


def test_chat(client):
    answer = client.chat.completions.create(model="stub-model", messages=MESSAGES, max_tokens=8)
    assert answer.object == "chat.completion"
    assert answer.model == "stub-model"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens > 0


def test_streaming_with_usage(client):
    with client.chat.completions.create(
        model="stub-model", messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert all(c.usage is None for c in chunks[:-1])


def test_streaming_without_usage(client):
    """The router adds nothing that the client did not ask for."""
    with client.chat.completions.create(model="stub-model", messages=MESSAGES, max_tokens=4, stream=True) as stream:
        chunks = list(stream)
    assert chunks and all(c.usage is None and c.choices for c in chunks)


def test_text_completion(client):
    answer = client.completions.create(model="stub-model", prompt="Once upon a time", max_tokens=6)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.usage.completion_tokens == 6


def test_models(client):
    assert [model.id for model in client.models.list()] == ["stub-model"]
    model = client.models.retrieve("stub-model")
    assert (model.id, model.object) == ("stub-model", "model")


def test_unknown_model_to_retrieve(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


def test_unknown_model_to_chat_with(router, client):
    # Model lists are learnt from the engines: they are known at the latest when the union shows them.
    wait_until(lambda: httpx.get(f"{router.url}/v1/models").json()["data"], what="a model list")
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no-such-model", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert caught.value.response.headers["x-request-id"]


def test_bad_request_of_the_engine_reaches_the_client(client):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="stub-model", messages="not a list")


def test_cached_tokens_are_reported(client):
    """The same prompt again: routed to the same engine, which has it in its cache."""
    messages = [{"role": "user", "content": "A prompt of its own for this test. " * 200}]
    first, second = (
        client.chat.completions.with_raw_response.create(model="stub-model", messages=messages, max_tokens=2)
        for _ in range(2)
    )
    assert first.headers["x-served-by"] == second.headers["x-served-by"]
    usage = second.parse().usage
    assert usage.prompt_tokens_details.cached_tokens > usage.prompt_tokens // 2


def test_concurrent_async_calls(router):
    async def one(client, number):
        messages = [{"role": "user", "content": f"Question {number}"}]
        stream = await client.chat.completions.create(
            model="stub-model", messages=messages, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
        return [chunk async for chunk in stream][-1].usage.completion_tokens

    async def many():
        async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="unused", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(64)))

    assert asyncio.run(many()) == [5] * 64


def test_leaving_a_stream_early(router, client):
    """Closing a stream in its middle disturbs nothing that follows, and frees the engine's slot."""
    for _ in range(3):
        stream = client.chat.completions.create(model="stub-model", messages=MESSAGES, max_tokens=2_000, stream=True)
        next(iter(stream))
        stream.close()
    assert client.chat.completions.create(model="stub-model", messages=MESSAGES, max_tokens=1).choices
    wait_until(lambda: sum(admin.in_flight(router)) == 0, what="no request in flight")


def test_head_and_body_in_separate_segments(router):
    """As the client library sends them."""
    body = b'{"model":"stub-model","messages":[{"role":"user","content":"hi"}],"max_tokens":1}'
    with HTTP1Client(router.port) as client:
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        for byte in range(0, len(body), 7):
            client.send(body[byte : byte + 7])
        assert client.response().json["usage"]["completion_tokens"] == 1


def test_engine_that_is_gone(start):
    """A clear error of OpenAI's shape, and no address of an engine in it."""
    port = processes.unused_port()
    program = start(processes.serve, f"http://127.0.0.1:{port}")
    with openai.OpenAI(base_url=f"{program.url}/v1", api_key="unused", max_retries=0, timeout=10) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="any", messages=MESSAGES)
    assert caught.value.status_code in (502, 503)
    assert caught.value.code in ("upstream_connect_error", "no_ready_group")
    assert str(port) not in caught.value.response.text
