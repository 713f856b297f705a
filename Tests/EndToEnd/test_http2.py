"""HTTP/2 towards the client: `httpx` with prior knowledge on the cleartext port, frames by hand, and `h2load`."""

import asyncio
import json
import re
import subprocess

import httpx
import pytest

import processes
from scripted_backend import Gate, answer_as_asked, answer_ok, answer_stream
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, ask, sse_payloads

CHAT = {"model": "stub-model", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 4}


@pytest.fixture
def client(router):
    with httpx.Client(http1=False, http2=True, base_url=router.url, timeout=10) as client:
        yield client


def test_chat(client):
    answer = client.post("/v1/chat/completions", json=CHAT)
    assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
    assert answer.json()["usage"]["completion_tokens"] == 4
    assert answer.headers["x-served-by"].startswith("stub-")


def test_event_stream(client):
    with client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
        payloads = sse_payloads(answer.read())
    assert answer.http_version == "HTTP/2"
    assert payloads[-1] == "[DONE]"
    assert all(json.loads(payload)["choices"] for payload in payloads[:-1])


def test_both_protocols_on_one_port(router, client):
    assert client.get("/v1/models").http_version == "HTTP/2"
    assert ask(router.port, target="/v1/models", method="GET").version == b"HTTP/1.1"


def test_streams_run_beside_each_other(router):
    """One connection, a hundred streams at once."""

    async def many():
        async with httpx.AsyncClient(http1=False, http2=True, base_url=router.url, timeout=10) as client:
            answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=CHAT) for _ in range(100)))
        return [(answer.http_version, answer.status_code) for answer in answers]

    assert asyncio.run(many()) == [("HTTP/2", 200)] * 100


def test_a_slow_stream_does_not_hold_up_its_neighbours(serve, scripted, gate):
    async def script(exchange):
        if exchange.request.path == b"/slow":
            await gate.wait()
        await answer_ok(exchange)

    program = serve(scripted(script))
    with HTTP2Client(program.port) as client:
        slow = client.request(target="/slow", body={})
        fast = client.request(target="/fast", body={})
        assert client.response(fast).status == 200
        assert client.responses[slow].status == 0
        gate.open()
        assert client.response(slow).status == 200


def test_request_body_larger_than_every_window(serve, scripted):
    backend = scripted()
    program = serve(backend)
    body = bytes(range(256)) * (3 << 12)
    with httpx.Client(http1=False, http2=True, timeout=10) as client:
        assert client.post(f"{program.url}/upload", content=body).status_code == 200
    assert backend.requests[0].body == body


def test_client_resets_its_stream(serve, scripted, hub):
    """RST_STREAM closes the upstream request; the connection lives on."""
    gone = []

    async def script(exchange):
        if exchange.request.path == b"/later":
            return await answer_ok(exchange)
        await exchange.event_stream_head()
        await exchange.peer_gone()
        gone.append(True)

    backend = scripted(script)
    program = serve(backend)
    with HTTP2Client(program.port) as client:
        stream = client.request(body=CHAT)
        wait_until(lambda: backend.requests, what="the request at the backend")
        client.reset(stream)
        wait_until(lambda: gone, 2, "the upstream connection to be closed")
        assert client.response(client.request(target="/later", body={})).status == 200


def test_request_fields_survive_the_change_of_protocol(serve, scripted):
    """HTTP/2 in, HTTP/1.1 out: order, duplicates and values stay."""
    backend = scripted()
    program = serve(backend)
    sent = [(b"x-a", b"1"), (b"x-b", b"two words"), (b"x-a", b"2"), (b"x-empty", b""), (b"authorization", b"Bearer k")]
    with HTTP2Client(program.port) as client:
        assert client.response(client.request(body=b"{}", fields=sent)).status == 200
    names = {name for name, _ in sent}
    received = [(name.lower(), value) for name, value in backend.requests[0].fields if name.lower() in names]
    assert received == sent
    assert backend.requests[0].values(b"host") != []


def test_http2_upstream(start, fleet):
    """`h2c://` speaks HTTP/2 to the engine, whatever the client speaks."""
    program = start(processes.serve, f"h2c://127.0.0.1:{fleet.port}")
    answer = ask(program.port, CHAT)
    assert (answer.version, answer.status) == (b"HTTP/1.1", 200)
    assert answer.served_by.startswith("stub-")
    with httpx.Client(http1=False, http2=True, timeout=10) as client:
        with client.stream("POST", f"{program.url}/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
            assert sse_payloads(stream.read())[-1] == "[DONE]"


def test_concurrent_requests_over_http2_upstream(start, fleet):
    program = start(processes.serve, f"h2c://127.0.0.1:{fleet.port}")

    async def many():
        async with httpx.AsyncClient(timeout=10) as client:
            answers = await asyncio.gather(
                *(client.post(f"{program.url}/v1/chat/completions", json=CHAT) for _ in range(64))
            )
        return {answer.status_code for answer in answers}

    assert asyncio.run(many()) == {200}


def test_stream_relayed_event_by_event(serve, scripted, hub):
    """An event is with the client before the next one exists."""
    gates = [Gate(hub) for _ in range(3)]

    async def script(exchange):
        await exchange.event_stream_head()
        for number, gate in enumerate(gates):
            await gate.wait()
            await exchange.event(f'{{"number":{number}}}')
        await exchange.event("[DONE]")
        await exchange.last_chunk()

    program = serve(scripted(script))
    with HTTP2Client(program.port) as client:
        stream = client.request(body=CHAT)
        for number, gate in enumerate(gates):
            gate.open()
            mark = b'{"number":%d}' % number
            while mark not in client.responses[stream].body:
                client.pump()
        assert client.response(stream).complete


def h2load(*arguments):
    """Runs h2load and returns its counts of requests."""
    done = subprocess.run(["h2load", *map(str, arguments)], capture_output=True, text=True, timeout=28)
    assert done.returncode == 0, done.stderr
    line = re.search(r"^requests: (.*)$", done.stdout, re.M)[1]
    counts = {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", line)}
    counts["2xx"] = int(re.search(r"(\d+) 2xx", done.stdout)[1])
    return counts


@pytest.mark.parametrize("protocol", [["-m", 10], ["--h1"]], ids=["h2c", "http1"])
def test_ten_thousand_requests(router, tmp_path, protocol):
    body = tmp_path / "body.json"
    body.write_text(json.dumps(CHAT | {"max_tokens": 1}))
    counts = h2load(
        "-n", 10_000, "-c", 20, *protocol, "-d", body, "-H", "content-type: application/json",
        f"{router.url}/v1/chat/completions",
    )  # fmt: skip
    assert (counts["succeeded"], counts["2xx"]) == (10_000, 10_000)
    assert (counts["failed"], counts["errored"], counts["timeout"]) == (0, 0, 0)


def test_pipelined_and_parallel_answers_are_not_mixed_up(serve, scripted):
    """Every answer carries what its own request carried."""

    async def script(exchange):
        await exchange.answer(200, exchange.request.body)

    program = serve(scripted(script), scripted(script))
    with HTTP2Client(program.port) as client:
        streams = [client.request(body={"number": number}) for number in range(50)]
        assert [client.response(stream).json["number"] for stream in streams] == list(range(50))
    with HTTP1Client(program.port) as client:
        for number in range(50):
            client.request(body={"number": number})
        assert [client.response().json["number"] for _ in range(50)] == list(range(50))


def test_event_stream_over_http2_from_a_scripted_engine(serve, scripted):
    program = serve(scripted(answer_as_asked), scripted(answer_stream))
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(body=json.dumps(CHAT | {"stream": True}).encode()))
    assert response.complete and sse_payloads(response.body)[-1] == "[DONE]"
