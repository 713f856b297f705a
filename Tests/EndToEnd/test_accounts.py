"""The accounts that decisions rest on: what neither errors nor clients may bend."""

import itertools
import json
import socket

import httpx
import pytest

import admin
import processes
from scripted_backend import answer_ok, events
from test_faults import close_before_head, reset_before_head
from test_websocket import AGREED, opened
from waiting import wait_until, wait_until_steady
from wire_clients import HTTP1Client, HTTP2Client, ask

PROMPT = "a prompt of some length " * 400
numbers = itertools.count()


def chat(text=PROMPT, **extra):
    return {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 400} | extra


def fresh(**extra):
    return chat(f"{next(numbers)} {PROMPT}", **extra)


def groups(program):
    return [group["raw"] for group in admin.groups(program)]


def explain(program, body):
    return httpx.post(f"{program.admin_url}/explain", json=body, timeout=10).json()


def status(code):
    async def script(exchange):
        await exchange.answer(code, b'{"error":{"message":"no","type":"x"}}')

    return script


async def stream_an_error(exchange):
    await exchange.event_stream_head()
    await exchange.event('{"error":{"message":"no","code":500}}')
    await exchange.event("[DONE]")
    await exchange.last_chunk()


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [status(400), status(404), status(422), status(500), stream_an_error])
def test_an_error_is_no_first_token(serve, scripted, script):
    """llm-d's index keeps what its requests were to bring even when they fail; an error of a millisecond says nothing of prefill."""
    program = serve(scripted(script), admin=True)
    before = groups(program)[0]
    ask(program.port, chat(stream=True), fields=[(b"x-request-id", b"refused")])
    after = groups(program)[0]
    assert after["decisions"] == 1 and after["prefix_index_blocks"] == 0
    assert after["prefill_tokens_per_second"] == before["prefill_tokens_per_second"]
    assert admin.total(admin.family(admin.metrics(program), "histogram", "first_token"), "_count") == 0
    assert program.access_line("refused")["ttft_ms"] is None


@pytest.mark.parametrize("script", [status(500), status(502), status(504), stream_an_error, close_before_head, reset_before_head])
def test_a_group_that_fails_fast_does_not_draw_the_traffic(serve, scripted, script):
    """One that answers in a millisecond, with errors, always looks the emptiest; and its prompts come again. Where they are tried elsewhere,
    it costs each of them the way there."""
    broken, well = scripted(script), scripted()
    program = serve(broken, well, admin=True)
    bodies = [fresh(stream=script is stream_an_error) for _ in range(16)]
    for body in bodies * 2:
        ask(program.port, body)
    assert len(broken.requests) <= 5
    states = {state["leader"]: state for state in groups(program)}
    assert states[f"127.0.0.1:{broken.port}"]["obstacle"] == "failing"
    assert "obstacle" not in states[f"127.0.0.1:{well.port}"]


def test_refusals_are_their_clients(serve, scripted):
    program = serve(scripted(status(400)), scripted(status(422)), admin=True)
    for _ in range(20):
        ask(program.port, fresh())
    assert [state.get("obstacle") for state in groups(program)] == [None, None]


def test_a_recovered_group_is_used_again(serve, scripted):
    broken = True

    async def script(exchange):
        await (status(500)(exchange) if broken else answer_ok(exchange))

    backend = scripted(script)
    program = serve(backend, scripted(), admin=True)
    for _ in range(12):
        ask(program.port, fresh())
    broken = False
    wait_until(lambda: ask(program.port, fresh()).served_by == backend.name, what="the group to be used again")
    assert [state.get("obstacle") for state in groups(program)] == [None, None]


# Answers ---------------------------------------------------------------------------------------------------------------


def test_a_prefill_is_charged_until_the_first_event_and_no_longer(serve, scripted, gate):
    """Charged until its end, as Dynamo's once was, a long answer looks like a long queue."""

    async def script(exchange):
        await exchange.event_stream_head()
        await gate.wait()
        await exchange.event('{"choices":[{"delta":{"content":"a"}}]}')
        await exchange.peer_gone()

    program = serve(scripted(script), admin=True)

    def booked():
        state = groups(program)[0]
        return state["in_flight"], state["awaiting_first_token"], state["queued_uncached_tokens"] > 1_000

    def queue_wait():
        return explain(program, fresh())["groups"][0]["seconds"]["queue_wait"]

    with HTTP1Client(program.port) as client:
        client.request(body=fresh(stream=True))
        wait_until(lambda: booked() == (1, 1, True), what="the booking")
        assert queue_wait() > 0
        gate.open()
        wait_until(lambda: booked() == (1, 0, False), what="the first token")
        assert queue_wait() == 0
    wait_until(lambda: booked() == (0, 0, False), what="the end")


def test_what_an_engine_answered_with_calls_is_not_others_doing(serve, scripted):
    """Items of /v1/responses without roles are answers, too: what the engine holds of them nobody else brought."""

    async def script(exchange):
        # Everything that came before and the call that answered it is in the cache.
        held = len(json.dumps(exchange.request.json["input"])) // 4 - 40 if len(exchange.request.json["input"]) > 1 else 0
        prompt = len(json.dumps(exchange.request.json["input"])) // 4
        usage = {"input_tokens": prompt, "input_tokens_details": {"cached_tokens": held}, "output_tokens": 1_000}
        await exchange.answer(200, json.dumps({"object": "response", "usage": usage}).encode())

    program = serve(scripted(script), scripted(script), admin=True)
    for _ in range(20):
        items = [{"role": "user", "content": f"{next(numbers)} {PROMPT}"}]
        for turn in range(3):
            answer = ask(program.port, {"model": "m", "input": items}, "/v1/responses")
            assert answer.status == 200
            call = {"type": "function_call", "name": "look", "call_id": str(turn), "arguments": f"{turn} what is to be looked for " * 130}
            items += [call, {"type": "function_call_output", "call_id": str(turn), "output": "nothing"}]
    told = explain(program, fresh())["groups"]
    assert [group["others_tokens"] for group in told] == [0, 0]


# Answers that say nothing of the cache -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        {"prompt_logprobs": 1},
        {"echo": True, "logprobs": 1},
        {"cache_prompt": False},
        {"chat_template_kwargs": {}},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_request_past_the_cache_empties_no_index(serve, scripted, extra):
    """Engines compute such prompts anew: that they found nothing does not mean that they have nothing. lm-eval asks so all day."""

    async def script(exchange):
        body = exchange.request.json
        cached = 0 if extra.keys() & body.keys() or not seen else 2_000
        seen.append(cached)
        usage = {"prompt_tokens": 2_400, "prompt_tokens_details": {"cached_tokens": cached}, "completion_tokens": 4}
        await exchange.answer(200, json.dumps({"usage": usage}).encode())

    seen = []
    program = serve(scripted(script), admin=True)
    bodies = [fresh(), fresh()]
    for body in (*bodies, *bodies):
        assert ask(program.port, body).status == 200
    before = [explain(program, body)["groups"][0]["cached_tokens"] for body in bodies]
    assert min(before) > 1_000
    for turn in range(3):
        if "chat_template_kwargs" in extra:
            extra = {"chat_template_kwargs": {"date_string": f"{turn + 1} Jul 2026"}}
        for body in bodies:
            assert ask(program.port, body | extra).status == 200
    assert [explain(program, body)["groups"][0]["cached_tokens"] for body in bodies] == pytest.approx(before, rel=0.1)
    assert groups(program)[0]["hit_yield"] > 0.9


# Clients -------------------------------------------------------------------------------------------------------------


def test_a_wish_beyond_measure_is_told_and_survived(configured, scripted):
    """A millisecond to the first token, behind millions of tokens on the slowest of groups."""
    backend = scripted()
    program = configured(
        f"groups: [{{leader: {backend.url}, prefill_tokens_per_second: 1}}]\nrouting: {{explain_header: true}}\n", admin=True
    )
    body = chat(PROMPT * 400)
    asks = [(b"x-slo-ttft-ms", b"1"), (b"x-slo-tpot-ms", b"1"), (b"x-swiftlet-explain", b"1")]
    answer = ask(program.port, body, fields=asks)
    told = dict(part.split("=", 1) for part in answer.value(b"x-swiftlet-explain").decode().split(";"))
    assert answer.status == 200 and int(told["lateness_us"]) > 1e18
    assert ask(program.port, chat()).status == 200


def test_several_answers_are_several_sequences(start, configured):
    """vLLM's gauges count each of `n`; were they one of ours, the others would be somebody else's load."""
    engine = start(processes.stub, decode_ms=20)
    program = configured(
        "load_signals: {interval: 100ms, load_interval: 0s}\n", f"http://127.0.0.1:{engine.port}", admin=True
    )
    with HTTP1Client(program.port) as client:
        client.request(body=chat("hello", model="stub-model", n=8, ignore_eos=True))
        state = wait_until(
            lambda: next((s for s in groups(program) if s.get("load", {}).get("running") == 8), None), what="8 that run"
        )
        assert state["in_flight"] == 8
        assert state["load"]["others_running"] < 0.5 and state["load"]["others_waiting"] < 0.5
    assert_nothing_is_booked(program)


@pytest.mark.parametrize("is_slow", [False, True])
def test_who_reads_slowly_does_not_make_an_engine_slow(configured, scripted, is_slow):
    """An answer of which the client took its time says nothing of the engine's steps; one that came at its own pace does."""
    sent = []

    async def script(exchange):
        await exchange.event_stream_head()
        for _ in range(80):
            await exchange.event(json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 200_000}}]}))
            sent.append(1)
        await exchange.last_chunk()

    backend = scripted(script, send_buffer=1 << 16)
    program = configured("limits: {stream_buffer_bytes: 64KiB}\n", backend, admin=True)

    def decode():
        return explain(program, chat())["groups"][0]["seconds"]["decode"]

    before = decode()
    with HTTP1Client(program.port, receive_buffer=4_096 if is_slow else None) as client:
        client.request(body=chat(stream=True))
        if is_slow:
            wait_until_steady(lambda: len(sent), what="events of an answer that nobody reads")
            assert len(sent) < 64
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        assert client.response().complete
    wait_until(lambda: groups(program)[0]["in_flight"] == 0, what="the end")
    assert (decode() == pytest.approx(before, rel=1e-9)) == is_slow


# Bookings that no answer ends ----------------------------------------------------------------------------------------


def assert_nothing_is_booked(program):
    names = ("in_flight", "awaiting_first_token", "queued_uncached_tokens", "active_kv_tokens", "waiting_kv_tokens")
    wait_until(lambda: not any(state[name] for state in groups(program) for name in names), what="every booking's end")


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_is_reset_leaves_nothing_booked(serve, scripted, begun):
    async def script(exchange):
        await exchange.event_stream_head()
        if begun:
            await exchange.event(events(1)[0])
        await exchange.peer_gone()

    program = serve(scripted(script), scripted(script), admin=True)
    with HTTP2Client(program.port) as client:
        streams = [client.request(body=fresh(stream=True, n=3)) for _ in range(6)]
        wait_until(lambda: sum(admin.in_flight(program)) == 18, what="six requests to be booked")
        if begun:
            wait_until(lambda: sum(s["awaiting_first_token"] for s in groups(program)) == 0, what="first tokens")
        for stream in streams:
            client.reset(stream)
        assert_nothing_is_booked(program)
        assert (sum(state["prefix_index_blocks"] for state in groups(program)) > 0) == begun


@pytest.mark.parametrize("end", ["client", "backend", "reset"])
def test_a_tunnel_is_booked_until_it_ends(serve, raw, end):
    def script(connection, head):
        connection.send(AGREED + b"\r\n")
        if end == "backend":
            assert connection.read(4) == b"over"
        else:
            connection.read(1 << 20)

    program = serve(raw(script), admin=True)
    client = opened(program)
    assert admin.in_flight(program) == [1]
    if end == "backend":
        client.send(b"over")
        assert client.ended()
        client.close()
    elif end == "client":
        client.close()
    else:
        client.reset()
    assert_nothing_is_booked(program)


@pytest.mark.parametrize("end", ["reset", "close", "answer"])
def test_a_call_is_booked_until_it_ends(start, end):
    """gRPC: booked with its first bytes, whatever becomes of it."""
    engine = start(processes.stub)
    program = start(processes.serve, f"h2c://127.0.0.1:{engine.port}", admin=True)
    fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    with HTTP2Client(program.port) as client:
        stream = client.request(target="/inference.GRPCInferenceService/ServerLive", fields=fields, end=False)
        wait_until(lambda: admin.in_flight(program) == [1], what="the call to be booked")
        if end == "reset":
            client.reset(stream)
            assert_nothing_is_booked(program)
        elif end == "answer":
            client.connection.send_data(stream, bytes(5), end_stream=True)
            client.flush()
            assert dict(client.response(stream).trailers)[b"grpc-status"] == b"0"
            assert_nothing_is_booked(program)
    assert_nothing_is_booked(program)
