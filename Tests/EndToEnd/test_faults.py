"""Everything that goes wrong behind the router: what can be saved is saved unseen, what cannot is ended loudly."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import admin
import processes
from scripted_backend import answer_as_asked, answer_ok, answer_stream, events
from waiting import wait_until, wait_until_steady
from wire_clients import HTTP1Client, HTTP2Client, ask, assert_openai_error, sse_payloads

STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
PLAIN = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class FirstAskedFails:
    """A script for several backends: whichever is asked first fails in the given way, always; the others answer."""

    def __init__(self, fail, succeed=answer_as_asked):
        self.fail = fail
        self.succeed = succeed
        self.attempts = []

    async def __call__(self, exchange):
        self.attempts.append(exchange.backend.name)
        await (self.fail if exchange.backend.name == self.attempts[0] else self.succeed)(exchange)


async def close_before_head(exchange):
    exchange.close()


async def reset_before_head(exchange):
    exchange.reset()


async def cut_in_head(exchange):
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: appli")
    exchange.close()


async def close_after_stream_head(exchange):
    await exchange.event_stream_head()
    exchange.close()


async def reset_after_stream_head(exchange):
    await exchange.event_stream_head()
    exchange.reset()


async def close_after_comment(exchange):
    await exchange.event_stream_head()
    await exchange.chunk(b": keep-alive\n\n")
    exchange.close()


async def close_after_plain_head(exchange):
    await exchange.head(200, [(b"content-type", b"application/json"), (b"content-length", b"100")])
    exchange.close()


async def not_http(exchange):
    await exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    exchange.close()


def status_of(status, body=b'{"error":{"message":"busy","type":"x","param":null,"code":%d}}'):
    async def script(exchange):
        await exchange.answer(status, body % status if b"%d" in body else body)

    return script


DRAIN = (
    b'{"error":{"message":"cannot schedule new futures after shutdown","type":"InternalServerError",'
    b'"param":null,"code":500}}'
)

# Before the answer has begun -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fail",
    [close_before_head, reset_before_head, cut_in_head, close_after_stream_head, reset_after_stream_head,
     close_after_comment, not_http],
)  # fmt: skip
@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_stream_that_dies_in_prefill_is_replaced_unseen(serve, scripted, fail, protocol):
    script = FirstAskedFails(fail)
    program = serve(scripted(script), scripted(script))
    if protocol == "http1":
        response = ask(program.port, STREAM)
    else:
        with HTTP2Client(program.port) as client:
            response = client.response(client.request(body=STREAM))
    assert (response.status, response.complete) == (200, True)
    assert sse_payloads(response.body) == [*events(3), "[DONE]"]
    assert len(set(script.attempts)) == 2, script.attempts
    assert response.served_by == script.attempts[-1]


@pytest.mark.parametrize("fail", [close_before_head, reset_before_head, cut_in_head, close_after_plain_head, not_http])
def test_plain_request_survives_its_backend(serve, scripted, fail):
    script = FirstAskedFails(fail)
    program = serve(scripted(script), scripted(script))
    response = ask(program.port, PLAIN)
    assert (response.status, response.body) == (200, b'{"object":"ok"}')
    assert len(set(script.attempts)) == 2, script.attempts


def test_refused_connection_is_tried_elsewhere(serve, scripted):
    backend = scripted()
    program = serve(f"http://127.0.0.1:{processes.unused_port()}", backend, admin=True)
    assert [ask(program.port, PLAIN).status for _ in range(8)] == [200] * 8
    assert len(backend.requests) == 8


@pytest.mark.parametrize("status", [503, 429, 529])
def test_full_backend_is_tried_elsewhere_and_not_blamed(serve, scripted, status):
    script = FirstAskedFails(status_of(status))
    program = serve(scripted(script), scripted(script), admin=True)
    response = ask(program.port, PLAIN)
    assert (response.status, response.body) == (200, b'{"object":"ok"}')
    assert len(set(script.attempts)) == 2, script.attempts
    assert [group["blamed"] for group in admin.groups(program)] == [False, False]


@pytest.mark.parametrize("status", [503, 429])
def test_when_all_are_full_their_own_answer_arrives(serve, scripted, status):
    program = serve(scripted(status_of(status)), scripted(status_of(status)))
    response = ask(program.port, PLAIN)
    assert response.status == status
    assert response.json["error"]["message"] == "busy"


def both_models(full, other):
    return f"groups: [{{leader: '{full.url}', models: [m]}}, {{leader: '{other.url}', models: [another]}}]\n"


@pytest.mark.parametrize(
    ("fail", "message"), [(status_of(503), "busy"), (status_of(500, DRAIN), "cannot schedule new futures after shutdown")]
)
def test_a_group_of_another_model_is_no_place_to_try(configured, scripted, gate, fail, message):
    async def fail_at_last(exchange):
        await gate.wait()
        await fail(exchange)

    failing, other = scripted(fail_at_last), scripted(answer_ok)
    program = configured(f"loops: 1\n{both_models(failing, other)}")
    with HTTP1Client(program.port) as client:
        client.request(body=PLAIN)
        wait_until(lambda: failing.requests, what="the request at its group")
        # The router has read another one by the time that the first one's group refuses.
        assert ask(program.port, PLAIN | {"model": "another"}).status == 200
        gate.open()
        response = client.response()
    assert response.status >= 500 and response.json["error"]["message"] == message
    assert len(failing.requests) == 1 and len(other.requests) == 1


def test_a_websocket_gets_the_own_answer_of_the_only_group_of_its_model(configured, scripted):
    full, other = scripted(status_of(503)), scripted(answer_ok)
    program = configured(both_models(full, other))
    with HTTP1Client(program.port) as client:
        fields = ((b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-version", b"13"))
        fields += ((b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),)
        client.request(method="GET", target="/v1/realtime?model=m", fields=fields)
        response = client.response()
    assert response.status == 503 and response.json["error"]["message"] == "busy"
    assert len(full.requests) == 1 and not other.requests


def test_draining_engine_is_left_and_avoided(serve, scripted):
    """vLLM with a drain timeout: /health says 200 and every new POST gets this 500."""
    script = FirstAskedFails(status_of(500, DRAIN))
    backends = [scripted(script), scripted(script)]
    program = serve(*backends)
    assert ask(program.port, PLAIN).status == 200
    assert len(set(script.attempts)) == 2, script.attempts
    draining = script.attempts[0]
    for _ in range(6):
        assert ask(program.port, PLAIN).status == 200
    # Out for one second at least; asking six times takes a fraction of that.
    assert script.attempts.count(draining) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 405, 413, 422])
def test_client_errors_are_the_clients(serve, scripted, status):
    """Passed on as they are, asked once."""
    body = b'{"detail":"not yours"}'
    script = FirstAskedFails(status_of(status, body))
    program = serve(scripted(script), scripted(script))
    response = ask(program.port, PLAIN)
    assert (response.status, response.body) == (status, body)
    assert len(script.attempts) == 1


def test_all_backends_dead_before_their_head(serve, scripted):
    backends = [scripted(close_before_head) for _ in range(2)]
    program = serve(*backends)
    response = ask(program.port, PLAIN)
    assert_openai_error(response, 502, "upstream_reset")
    assert 1 <= sum(len(backend.requests) for backend in backends) <= 4
    assert all(str(backend.port).encode() not in response.body for backend in backends)


def test_nothing_listens(serve):
    port = processes.unused_port()
    program = serve(f"http://127.0.0.1:{port}")
    response = ask(program.port, PLAIN)
    assert response.status in (502, 503)
    assert_openai_error(response, response.status)
    assert response.json["error"]["code"] in ("upstream_connect_error", "no_ready_group")
    assert str(port).encode() not in response.body


def test_kept_connection_that_the_backend_closed(serve, scripted):
    """uvicorn closes idle connections without notice: the next request must not meet the closed one."""

    async def script(exchange):
        await answer_ok(exchange)
        exchange.close()

    backend = scripted(script)
    program = serve(backend, arguments=["--loops", 1])
    assert [ask(program.port, PLAIN).status for _ in range(20)] == [200] * 20
    assert len(backend.requests) == 20


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("body", [STREAM, PLAIN], ids=["stream", "plain"])
def test_kept_connection_that_ends_as_it_is_reused(serve, scripted, end, body):
    """The race that no check before reuse can win: replayed on a fresh connection, to the same backend if need be."""

    async def script(exchange):
        if exchange.request.index > 0:
            getattr(exchange, end)()
        else:
            await answer_as_asked(exchange)

    backend = scripted(script)
    program = serve(backend, admin=True, arguments=["--loops", 1])  # one pool, so that reuse is certain
    assert [ask(program.port, body).status for _ in range(6)] == [200] * 6
    assert backend.connections > 1
    assert any(request.index > 0 for request in backend.requests), "the connection was never reused"
    assert [group["blamed"] for group in admin.groups(program)] == [False]


# After the answer has begun ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_stream_that_dies_in_its_middle_ends_loudly(serve, scripted, gate, protocol):
    """What came is delivered, then an error event; no [DONE]; nobody else is asked."""

    async def script(exchange):
        await exchange.event_stream_head()
        for payload in events(5):
            await exchange.event(payload)
        await gate.wait()
        exchange.close()

    backends = [scripted(script), scripted(script)]
    program = serve(*backends)
    if protocol == "http1":
        with HTTP1Client(program.port) as client:
            head = client.request(body=STREAM).read_head()
            gate.open()
            response = client.read_body(head)
    else:
        with HTTP2Client(program.port) as client:
            stream = client.request(body=STREAM)
            while len(sse_payloads(client.responses[stream].body)) < 5:
                client.pump()
            gate.open()
            response = client.response(stream)
    payloads = sse_payloads(response.body)
    assert response.status == 200
    assert payloads[:5] == events(5)
    assert len(payloads) == 6, payloads
    error = json.loads(payloads[5])["error"]
    assert error["code"] == "upstream_reset"
    assert {"message", "type", "param"} <= set(error)
    assert sum(len(backend.requests) for backend in backends) == 1


def test_half_an_event_is_not_glued_to_the_error(serve, scripted, gate):
    """The error must be an event of its own, also when the engine dies within a line."""

    async def script(exchange):
        await exchange.event_stream_head()
        await exchange.event(events(1)[0])
        await gate.wait()
        await exchange.chunk(b'data: {"choices":[{"ind')
        exchange.close()

    program = serve(scripted(script))
    with HTTP1Client(program.port) as client:
        head = client.request(body=STREAM).read_head()
        gate.open()
        response = client.read_body(head)
    last = sse_payloads(response.body)[-1]
    assert json.loads(last)["error"]["code"] == "upstream_reset"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "framing", [(b"content-length", b"1000"), (b"transfer-encoding", b"chunked")], ids=["length", "chunked"]
)
@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_json_cut_in_its_body_is_not_completed(serve, scripted, gate, protocol, framing, how):
    """Not an event stream: nothing can be said in the body, so its end must not look like one."""

    async def script(exchange):
        await exchange.head(200, [(b"content-type", b"application/json"), framing])
        await (exchange.chunk if framing[1] == b"chunked" else exchange.send)(b'{"half":')
        await gate.wait()
        getattr(exchange, how)()

    program = serve(scripted(script))
    if protocol == "http1":
        with HTTP1Client(program.port) as client:
            # The head shows that the answer has begun: from now on no other backend can take over.
            head = client.request(body=PLAIN).read_head()
            gate.open()
            response = client.read_body(head)
    else:
        with HTTP2Client(program.port) as client:
            stream = client.request(body=PLAIN)
            while not client.responses[stream].status:
                client.pump()
            gate.open()
            response = client.response(stream)
        assert response.reset_code is not None
    assert (response.status, response.complete) == (200, False)
    assert b'{"half":'.startswith(response.body)


def test_engine_crash_with_done_is_recorded_as_a_failure(serve, scripted):
    """vLLM's dead engine core ends its streams with an error event and [DONE]: passed on, not counted as success."""
    crash = '{"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}'

    async def script(exchange):
        await exchange.event_stream_head()
        await exchange.event(events(1)[0])
        if exchange.request.values(b"x-crash"):
            await exchange.event(crash)
        await exchange.event("[DONE]")
        await exchange.last_chunk()

    program = serve(scripted(script))
    fine = ask(program.port, STREAM, fields=[(b"x-request-id", b"fine")])
    crashed = ask(program.port, STREAM, fields=[(b"x-request-id", b"crashed"), (b"x-crash", b"1")])
    assert sse_payloads(fine.body) == [events(1)[0], "[DONE]"]
    assert sse_payloads(crashed.body) == [events(1)[0], crash, "[DONE]"]
    assert program.access_line("crashed")["outcome"] != program.access_line("fine")["outcome"]


def test_killing_an_engine_in_the_middle_of_a_run(start):
    """Forty conversations on four engines, one is killed: only answers begun there may fail, and they say so."""
    engines = [start(processes.stub, prefill_us=20, decode_ms=10, arguments=["--max-num-seqs", 4]) for _ in range(4)]
    program = start(processes.serve, *(engine.url for engine in engines))
    victim = engines[0]
    begun_on_victim = threading.Semaphore(0)

    def one(number):
        streaming = number % 4 != 3
        body = {"model": "stub-model", "max_tokens": 30, "stream": streaming,
                "messages": [{"role": "user", "content": f"{number} " + "of all the words " * 40}]}  # fmt: skip
        if not streaming:
            return "plain", ask(program.port, body, timeout=20)
        with HTTP1Client(program.port, timeout=20) as client:
            # The head comes with the first event: an answer that names the victim had begun when it died.
            head = client.request(body=body).read_head()
            on_victim = head.status == 200 and head.served_by == f"stub-{victim.port}"
            if on_victim:
                begun_on_victim.release()
            return "begun there" if on_victim else "elsewhere", client.read_body(head)

    with ThreadPoolExecutor(40) as pool:
        pending = [pool.submit(one, number) for number in range(40)]
        for _ in range(2):
            assert begun_on_victim.acquire(timeout=10), "no answer began on the engine that is to die"
        victim.kill()
        outcomes = [future.result() for future in pending]

    failed = 0
    for kind, response in outcomes:
        assert response.status == 200, (kind, response.status, response.body[:300])
        if kind == "plain":
            assert response.complete and response.json["usage"]["completion_tokens"] == 30
            continue
        payloads = sse_payloads(response.body)
        if payloads[-1] == "[DONE]":
            continue
        assert kind == "begun there", payloads[-1]
        assert json.loads(payloads[-1])["error"]["code"] == "upstream_reset"
        failed += 1
    assert failed >= 1


# The client goes away ------------------------------------------------------------------------------------------------


async def hang_silent(exchange):
    exchange.backend.seen.set()
    await exchange.peer_gone()
    exchange.backend.gone.set()


async def hang_in_prefill(exchange):
    await exchange.event_stream_head()
    await hang_silent(exchange)


async def hang_in_stream(exchange):
    await exchange.event_stream_head()
    await exchange.event(events(1)[0])
    await hang_silent(exchange)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    ("script", "body"),
    [(hang_silent, PLAIN), (hang_silent, STREAM), (hang_in_prefill, STREAM), (hang_in_stream, STREAM)],
    ids=["plain", "stream-before-head", "stream-in-prefill", "stream-begun"],
)
def test_client_that_leaves_frees_the_engine(serve, scripted, script, body, how):
    backend = scripted(script)
    backend.seen, backend.gone = threading.Event(), threading.Event()
    program = serve(backend, admin=True)
    client = HTTP1Client(program.port)
    client.request(body=body)
    assert backend.seen.wait(5)
    assert not backend.gone.is_set()
    getattr(client, how)()
    assert backend.gone.wait(1), "the engine still works for a client that has left"
    wait_until(lambda: admin.in_flight(program) == [0], 1, "the booking to be released")
    assert len(backend.requests) == 1


def test_client_that_leaves_before_its_body_is_complete(serve, scripted):
    backend = scripted()
    program = serve(backend)
    with HTTP1Client(program.port) as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert ask(program.port, PLAIN).status == 200
    assert [request.json for request in backend.requests] == [PLAIN]


def test_upstream_side_is_never_half_closed(serve, scripted, gate):
    """uvicorn takes a half-close for a client that left; the router's side stays open while it waits."""
    reads = []

    async def script(exchange):
        reader = asyncio.ensure_future(exchange.reader.read(1))
        await gate.wait()
        reads.append(reader.done())
        reader.cancel()
        try:
            await reader
        except asyncio.CancelledError:
            pass
        await answer_ok(exchange)
        exchange.close()

    program = serve(scripted(script))
    with HTTP1Client(program.port) as client:
        client.request(body=PLAIN, fields=[(b"Connection", b"close")])
        wait_until_steady(lambda: len(reads), quiet=0.1)
        gate.open()
        assert client.response().status == 200
    assert reads == [False]


# Backpressure --------------------------------------------------------------------------------------------------------

SIZE = 64 << 20


class Flood:
    """Sends 64 MiB and counts what the router has taken."""

    def __init__(self):
        self.sent = 0

    async def __call__(self, exchange):
        if exchange.request.path != b"/flood":
            return await answer_ok(exchange)
        exchange.writer.transport.set_write_buffer_limits(high=65_536)
        await exchange.head(200, [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % SIZE)])
        piece = bytes(range(256)) * 256
        while self.sent < SIZE:
            await exchange.send(piece)
            self.sent += len(piece)


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_slow_reader_stops_the_backend(serve, scripted, protocol):
    """The client does not read: the backend's send blocks and the router's memory stays where it was."""
    flood = Flood()
    program = serve(scripted(flood, send_buffer=65_536))
    assert ask(program.port, PLAIN).status == 200
    before = program.resident_bytes()
    if protocol == "http1":
        client = HTTP1Client(program.port, receive_buffer=65_536)
        client.request("GET", "/flood")
    else:
        client = HTTP2Client(program.port, receive_buffer=65_536)
        stream = client.request(target="/flood", method="GET")
    with client:
        wait_until(lambda: flood.sent > 0, what="the first bytes")
        sent = wait_until_steady(lambda: flood.sent, what="the backend's sending")
        assert 0 < sent < SIZE // 2
        assert program.resident_bytes() - before < 8 << 20
        # Others are served meanwhile, and this client still gets every byte once it reads.
        assert ask(program.port, PLAIN).status == 200
        response = client.response() if protocol == "http1" else client.response(stream)
        assert response.complete
        assert len(response.body) == SIZE
        assert response.body[: 1 << 16] == response.body[-(1 << 16) :] == bytes(range(256)) * 256
    assert program.resident_bytes() - before < 8 << 20


def test_large_upload(serve, scripted):
    """16 MiB towards the engine: every byte arrives."""
    backend = scripted()
    program = serve(backend)
    body = bytes(range(256)) * (1 << 16)
    answer = httpx.post(f"{program.url}/upload", content=body, timeout=15)
    assert answer.status_code == 200
    assert backend.requests[0].body == body


# Idle and slow peers -------------------------------------------------------------------------------------------------


def test_upstream_connection_is_reused(serve, scripted):
    backend = scripted(answer_stream)
    program = serve(backend, arguments=["--loops", 1])
    assert [ask(program.port, STREAM).complete for _ in range(10)] == [True] * 10
    assert backend.connections <= 3  # one for the requests; the router's own probing may have its own
    assert len({request.connection for request in backend.requests}) == 1
