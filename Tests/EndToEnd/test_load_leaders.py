"""Leaders that are asked for their load: which connection, how often, and what is shown of what they told."""

import asyncio
import contextlib
import functools
import itertools
import json
import socket
import time

import grpc

import admin
import processes
from test_load_signals import CHAT, ask, load, loads_text, running, scrapes, sglang
from test_load_signals_grpc import CALL, Engine, answers, channel_to, framed, loads_of
from waiting import wait_until


def tells(sequences):
    return answers(framed(loads_of({"num_running_reqs": sequences}).SerializeToString()))


def asked_for_load(engine, arguments):
    return running(processes.serve(engine.url, admin=True, arguments=arguments))


def test_a_connection_that_answers_nothing_is_replaced(by_frames, eager):
    """It is open and leads nowhere, as behind a gateway that has forgotten it."""
    questions = []

    def script(connection, stream):
        questions.append(connection)
        if connection is not questions[0]:
            tells(7)(connection, stream)

    with asked_for_load(Engine(by_frames, script), eager(timeout="200ms")) as router:
        wait_until(lambda: load(router).get("running") == 7, what="an answer on another connection")
        assert questions[0].ended.wait(1), "the dead one is closed"


def test_a_connection_that_answers_late_is_kept(by_frames, eager):
    """The head of an answer is a sign of life."""
    questions = []

    def script(connection, stream):
        questions.append(connection)
        connection.h2.send_headers(stream, CALL)

    with asked_for_load(Engine(by_frames, script), eager(timeout="500ms")):
        wait_until(lambda: len(questions) >= 3, what="questions")
        assert len({id(connection) for connection in questions}) == 1


def test_a_leader_that_comes_back_is_asked_at_once(by_frames, eager):
    """One without the call is let alone for minutes; the process that takes its place may have it."""
    silent = Engine(by_frames, answers(b"none", [(b":status", b"404")], None))
    with asked_for_load(silent, eager(timeout="200ms")) as router, channel_to(router.port) as channel:

        def serves():
            with contextlib.suppress(grpc.RpcError):
                return channel.unary_unary("/any.Service/Call")(b"", timeout=5) is not None

        wait_until(lambda: scrapes(router, "missing") == 2, what="both questions")
        asked = silent.asked
        assert serves()
        silent.backend.stop()
        for connection in silent.backend.connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not serves() and admin.groups(router)[0]["blamed"], what="nobody there")
        assert silent.asked == asked
        Engine(functools.partial(by_frames, port=silent.backend.port), tells(5))
        wait_until(lambda: serves() and load(router).get("running") == 5, what="an answer of the new one, and its load")


def sglang_at_work(scripted, loads_seconds=0.0):
    """An SGLang that takes so long for `/v1/loads`, and reports in its answers; and when it was asked for its loads."""
    asked_at = []

    async def loads(exchange, count):
        asked_at.append(time.monotonic())
        await asyncio.sleep(loads_seconds)
        await exchange.answer(200, loads_text(1, 700), fields=((b"content-type", b"text/plain"),))

    async def other(exchange):
        fields = ((b"content-type", b"application/json"), (b"endpoint-load-metrics", b"TEXT num_requests_waiting=3"))
        await exchange.answer(200, b"{}", fields=fields)

    return sglang(scripted, loads, other)[0], asked_at


def test_loads_that_cost_an_engine_much_are_asked_for_less_often(scripted, eager):
    """Fifty milliseconds at least, of which a tenth is believed at first: 0.5 % of a second, of which the jitter takes a fifth."""
    backend, asked_at = sglang_at_work(scripted, loads_seconds=0.05)
    with asked_for_load(backend, eager(interval="2s", greatest_share=0.005)):
        wait_until(lambda: len(asked_at) >= 2, 20, "two questions")
        assert asked_at[1] - asked_at[0] > 0.8


def test_loads_that_cost_an_engine_much_are_asked_for_as_often_as_its_metrics(scripted, eager):
    backend, asked_at = sglang_at_work(scripted, loads_seconds=0.05)
    with asked_for_load(backend, eager(greatest_share=0.005)):
        wait_until(lambda: len(asked_at) >= 5, 20, "questions")
        assert min(later - earlier for earlier, later in itertools.pairwise(asked_at)) < 0.7, "not what 0.5 % allow"


def test_what_was_told_of_a_queue_stays_when_answers_tell_less(scripted, eager):
    """Reports in answers know how many wait, not how long their prompts are."""
    backend, _ = sglang_at_work(scripted)
    with asked_for_load(backend, (*eager(), "--orca", "text")) as router:
        wait_until(lambda: load(router).get("queued_tokens") == 700, what="its loads")
        for _ in range(10):
            assert ask(router.url).status_code == 200
            told = load(router)
            assert told["queued_tokens"] == 700 and told["queued_tokens_age_seconds"] >= 0


def test_what_waits_for_room_is_shown_beside_what_fills_the_cache(configured, scripted):
    async def script(exchange):
        await exchange.peer_gone()

    group = f"{{name: small, leader: {scripted(script).url}, kv_capacity_tokens: 1000}}"
    router = configured(f"groups: [{group}]\nload_signals: {{interval: 0s}}\n", admin=True)

    def tokens():
        state = admin.groups(router)[0]["raw"]
        return [state[f"{name}_tokens"] for name in ("active_kv", "waiting_kv", "kv_capacity")]

    assert tokens() == [0, 0, 1_000]
    body = json.dumps(CHAT | {"max_tokens": 400}).encode()
    fields = b"Host: x\r\nContent-Type: application/json\r\nContent-Length: %d" % len(body)
    with contextlib.ExitStack() as clients:
        for _ in range(4):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", router.port)))
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n%b\r\n\r\n%b" % (fields, body))
        wait_until(lambda: admin.in_flight(router) == [4], what="all of them")
        active, waiting, capacity = tokens()
        assert active == capacity == 1_000 and waiting > 0
    wait_until(lambda: tokens() == [0, 0, 1_000], what="their end")
