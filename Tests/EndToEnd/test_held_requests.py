"""Requests that wait in the router while the group that they would go to has prompts enough in its queue."""

import asyncio
import concurrent.futures
import contextlib

import grpc
import httpx
import pytest

import admin
import engine_proto
import processes
from scripted_backend import PeerGone, answer_as_asked, events
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, ask

#: By the tokens per byte that are presumed before any answer has told, more than a group is given while it has not begun with it.
LONG = {"model": "m", "messages": [{"role": "user", "content": "all work and no play " * 6_000}], "max_tokens": 9, "stream": True}
SHORT = LONG | {"messages": [{"role": "user", "content": "a short one"}]}


class Behind:
    """Answers the first prompt when the gate is open, and all others at once."""

    def __init__(self, gate):
        self._gate = gate
        self._asked = 0

    async def __call__(self, exchange):
        self._asked += 1
        if self._asked > 1:
            return await answer_as_asked(exchange)
        await exchange.event_stream_head()
        await self._gate.wait()
        for text in events(3):
            await exchange.event(text)
        await exchange.last_chunk()


def held(program):
    return admin.sample(program, "swiftlet_requests_held")


def wait_for_held(program, count):
    wait_until(lambda: held(program) == count, what=f"{count} requests to wait, there are {held(program)}")


def order(program, group, verb):
    """Takes a group out, or back in."""
    assert httpx.post(f"{program.admin_url}/groups/{group}/{verb}", trust_env=False).status_code == 200


def named(name):
    return ((b"x-request-id", name.encode()),)


@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("loops", [1, 3])
def test_what_waits_goes_when_the_first_has_its_token(configured, scripted, gate, protocol, loops):
    backend = scripted(Behind(gate))
    program = configured(f"loops: {loops}\n", backend, admin=True)
    kind = HTTP1Client if protocol == "http1" else HTTP2Client
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(HTTP1Client(program.port))
        first.request(body=LONG, fields=named("first"))
        wait_until(lambda: backend.requests, what="the first prompt at its group")
        clients = [stack.enter_context(kind(program.port)) for _ in range(6)]
        sent = [client.request(body=SHORT, fields=named(f"waits-{place}")) for place, client in enumerate(clients)]
        wait_for_held(program, 6)
        assert len(backend.requests) == 1
        gate.open()
        assert first.response().status == 200
        for client, stream in zip(clients, sent, strict=True):
            response = client.response() if protocol == "http1" else client.response(stream)
            assert response.status == 200 and b"[DONE]" in response.body
    assert held(program) == 0 and len(backend.requests) == 7
    assert admin.sample(program, "swiftlet_hold_seconds_count") == 6
    assert program.access_line("first")["held_ms"] == 0
    assert all(program.access_line(f"waits-{place}")["held_ms"] > 0 for place in range(6))


def test_an_explanation_tells_who_would_wait(configured, scripted, gate):
    def waits():
        return httpx.post(f"{program.admin_url}/explain", json=SHORT, trust_env=False).json()["waits"]

    backend = scripted(Behind(gate))
    program = configured("", backend, admin=True)
    assert waits() is False
    with HTTP1Client(program.port) as first:
        first.request(body=LONG)
        wait_until(lambda: backend.requests, what="the first prompt at its group")
        assert waits() is True and held(program) == 0
        gate.open()
        assert first.response().status == 200
    assert waits() is False


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_a_client_that_leaves_waits_no_longer(configured, scripted, gate, protocol):
    backend = scripted(Behind(gate))
    program = configured("", backend, admin=True)
    with HTTP1Client(program.port) as first:
        first.request(body=LONG)
        wait_until(lambda: backend.requests, what="the first prompt at its group")
        if protocol == "http1":
            client = HTTP1Client(program.port)
            client.request(body=SHORT, fields=named("gone"))
            wait_for_held(program, 1)
            client.reset()
            wait_for_held(program, 0)
        else:
            with HTTP2Client(program.port) as client:
                stream = client.request(body=SHORT, fields=named("gone"))
                wait_for_held(program, 1)
                client.reset(stream)
                wait_for_held(program, 0)
        gate.open()
        assert first.response().status == 200
    assert ask(program.port, SHORT).status == 200
    assert len(backend.requests) == 2 and program.access_line("gone")["outcome"] == "client_gone"


def test_what_has_no_prompt_does_not_wait(configured, scripted, gate):
    backend = scripted(Behind(gate))
    program = configured("", backend, admin=True)
    with HTTP1Client(program.port) as first:
        first.request(body=LONG)
        wait_until(lambda: backend.requests, what="the first prompt at its group")
        with HTTP1Client(program.port) as client:
            client.request(target="/v1/audio/transcriptions", body=b"x", fields=((b"content-type", b"audio/wav"),))
            assert client.response().status == 200
        gate.open()
        assert first.response().status == 200


def test_a_group_that_comes_back_takes_what_waits(configured, scripted, gate):
    busy, other = scripted(Behind(gate)), scripted(answer_as_asked)
    program = configured("", busy, other, admin=True)
    name = next(group["name"] for group in admin.groups(program) if other.url.endswith(group["raw"]["leader"]))
    order(program, name, "drain")
    with HTTP1Client(program.port) as first, HTTP1Client(program.port) as client:
        first.request(body=LONG)
        wait_until(lambda: busy.requests, what="the first prompt at its group")
        client.request(body=SHORT)
        wait_for_held(program, 1)
        order(program, name, "resume")
        response = client.response()
        assert (response.status, response.served_by) == (200, other.name)
        gate.open()
        assert first.response().status == 200


def test_what_waits_for_groups_that_are_taken_out_is_told(configured, scripted, gate):
    busy = scripted(Behind(gate))
    program = configured("", busy, admin=True)
    with HTTP1Client(program.port) as first, HTTP1Client(program.port) as client:
        first.request(body=LONG)
        wait_until(lambda: busy.requests, what="the first prompt at its group")
        client.request(body=SHORT)
        wait_for_held(program, 1)
        order(program, admin.groups(program)[0]["name"], "drain")
        response = client.response()
        assert response.status == 503 and response.json["error"]["code"] == "no_ready_group"
        gate.open()
        assert first.response().status == 200


def test_with_no_room_for_those_that_wait_all_go_at_once(configured, scripted, gate):
    backend = scripted(Behind(gate))
    program = configured("routing: {held_requests: 0}\n", backend, admin=True)
    with HTTP1Client(program.port) as first:
        first.request(body=LONG)
        wait_until(lambda: backend.requests, what="the first prompt at its group")
        assert ask(program.port, SHORT).status == 200
        gate.open()
        assert first.response().status == 200


def test_beyond_as_many_as_may_wait_the_oldest_go_on(configured, scripted, gate):
    backend = scripted(Behind(gate))
    program = configured("routing: {held_requests: 2}\n", backend, admin=True)
    with HTTP1Client(program.port) as first, concurrent.futures.ThreadPoolExecutor() as pool:
        first.request(body=LONG)
        wait_until(lambda: backend.requests, what="the first prompt at its group")
        oldest = pool.submit(ask, program.port, SHORT)
        wait_for_held(program, 1)
        waiting = [pool.submit(ask, program.port, SHORT)]
        wait_for_held(program, 2)
        waiting.append(pool.submit(ask, program.port, SHORT))
        assert oldest.result().status == 200
        assert held(program) == 2
        gate.open()
        assert first.response().status == 200
        assert [one.result().status for one in waiting] == [200, 200]


def test_nobody_waits_longer_than_an_answer_may_be_silent(configured, scripted):
    """Behind an engine that computes one prompt for ever, and says that it does."""

    async def never_begin(exchange):
        await exchange.event_stream_head()
        with contextlib.suppress(PeerGone):
            while True:
                await exchange.chunk(b": computing\n\n")
                await asyncio.sleep(0.05)

    backend = scripted(never_begin)
    program = configured("timeouts: {connect: 100ms, response: 400ms, head_hold: 0s}\n", backend, admin=True)
    with HTTP1Client(program.port) as first:
        first.request(body=LONG)
        wait_until(lambda: backend.requests, what="the first prompt at its group")
        response = ask(program.port, SHORT)
        assert response.status == 503 and response.json["error"]["code"] == "queue_timeout"
        assert len(backend.requests) == 1 and held(program) == 0
        assert admin.sample(program, "swiftlet_hold_seconds_count") == 1


def test_calls_wait_as_requests_do(configured):
    """With the official client, before an engine that needs half a second for the first prompt."""
    engine = processes.stub(prefill_us=20, decode_ms=1, arguments=["--max-model-len", "100000"])
    try:
        program = configured("", f"h2c://127.0.0.1:{engine.port}", admin=True)
        options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{program.port}", options) as channel:
            generate = engine_proto.call(channel, "Generate")
            calls = []
            for prompt in ("all work and no play " * 6_000, "a short one"):
                request = engine_proto.generate_request(text=prompt, max_tokens=3, ignore_eos=True)
                calls.append(generate(request, timeout=10))
                wait_until(lambda: sum(admin.in_flight(program)) + held(program) == len(calls), what="the call")
            assert held(program) == 1
            assert [sum(len(answer.chunk.token_ids) for answer in call) for call in calls] == [3, 3]
        assert held(program) == 0 and admin.sample(program, "swiftlet_hold_seconds_count") == 1
    finally:
        engine.stop()


def test_the_router_stops_only_when_all_that_waits_is_answered(configured, scripted, gate):
    backend = scripted(Behind(gate))
    program = configured("", backend, admin=True)
    with HTTP1Client(program.port) as first, HTTP1Client(program.port) as client:
        first.request(body=LONG)
        wait_until(lambda: backend.requests, what="the first prompt at its group")
        client.request(body=SHORT)
        wait_for_held(program, 1)
        program.signal(15)
        wait_until(lambda: not program.accepts_connections(), what="the router to take no more")
        gate.open()
        assert first.response().status == 200 and client.response().status == 200
    assert program.wait_exit() == 0
