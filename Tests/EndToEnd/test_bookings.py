"""A booking ends with its request, however that ends: what leaked would keep traffic from a group for ever."""

import contextlib
import socket

import pytest

import admin
from scripted_backend import answer_as_asked, events
from test_faults import (
    FirstAskedFails,
    close_after_stream_head,
    close_before_head,
    reset_before_head,
    status_of,
)
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, ask

PROMPT = "a prompt of some length " * 400
PLAIN = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 400}
STREAM = PLAIN | {"stream": True}


async def begin_and_die(exchange):
    await exchange.event_stream_head()
    await exchange.event(events(1)[0])
    exchange.reset()


async def begin_and_fall_silent(exchange):
    await exchange.event_stream_head()
    await exchange.event(events(1)[0])
    await exchange.peer_gone()


async def stay_silent(exchange):
    await exchange.peer_gone()


def assert_nothing_is_booked(program):
    def booked():
        names = ("in_flight", "awaiting_first_token", "queued_uncached_tokens", "active_kv_tokens", "waiting_kv_tokens")
        return [[group["raw"][name] for name in names] for group in admin.groups(program)]

    wait_until(lambda: not any(map(any, booked())), what=f"every booking's end, there is {booked()}")


@pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("script", "statuses"),
    [
        (lambda: answer_as_asked, {200}),
        (lambda: status_of(422), {422}),
        # Tried elsewhere: the first group's booking must go as well as the second's.
        (lambda: FirstAskedFails(status_of(503)), {200}),
        (lambda: FirstAskedFails(close_before_head), {200}),
        (lambda: FirstAskedFails(reset_before_head), {200}),
        # In vain everywhere.
        (lambda: status_of(429), {429}),
        (lambda: reset_before_head, {502}),
        (lambda: stay_silent, {504}),
    ],
    ids=["answered", "refused", "full", "closed", "reset", "all-full", "all-reset", "timeout"],
)
def test_an_end_leaves_nothing_booked(configured, scripted, script, statuses, body):
    script = script()
    program = configured("timeouts: {connect: 200ms, response: 300ms}\n", scripted(script), scripted(script), admin=True)
    assert ask(program.port, body).status in statuses
    assert_nothing_is_booked(program)


@pytest.mark.parametrize("script", [begin_and_die, begin_and_fall_silent, close_after_stream_head])
def test_a_stream_that_is_cut_leaves_nothing_booked(configured, scripted, script):
    program = configured("timeouts: {connect: 200ms, response: 300ms}\n", scripted(script), scripted(script), admin=True)
    with contextlib.suppress(OSError, AssertionError):
        ask(program.port, STREAM)
    assert sum(group["raw"]["decisions"] for group in admin.groups(program)) >= 1
    assert_nothing_is_booked(program)


@pytest.mark.parametrize("script", [stay_silent, begin_and_fall_silent])
@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_a_client_that_leaves_leaves_nothing_booked(serve, scripted, script, protocol):
    program = serve(scripted(script), scripted(script), admin=True)
    if protocol == "http1":
        client = HTTP1Client(program.port)
        client.request(body=STREAM)
        wait_until(lambda: sum(admin.in_flight(program)) == 1, what="the request to be booked")
        client.reset()
    else:
        with HTTP2Client(program.port) as client:
            client.request(body=STREAM)
            wait_until(lambda: sum(admin.in_flight(program)) == 1, what="the request to be booked")
    assert_nothing_is_booked(program)


def test_a_request_that_never_ends_is_not_booked(serve, scripted):
    """Booked when it is complete: one that stops in its body holds nobody's place."""
    program = serve(scripted(), admin=True)
    with socket.create_connection(("127.0.0.1", program.port)) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{")
        assert ask(program.port, PLAIN).status == 200
        assert_nothing_is_booked(program)
