"""Bounds on what a HTTP/2 client's open streams may hold: their fields together, their trailers, and the time of a call that says nothing."""

import contextlib
import select
import socket
import time

import h2.events
import pytest

import admin
from scripted_backend import answer_ok
from test_attacks_http2 import (
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    POST,
    PREFACE,
    SETTINGS,
    Attacker,
    attacked,  # noqa: F401
    batches,
    frame,
    stream_of,
)
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, ask, assert_openai_error

CANCEL, REFUSED_STREAM, ENHANCE_YOUR_CALM = 8, 7, 11
TEXT = ((b"content-type", b"text/plain"),)
CALL = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
MESSAGE = b"\0\0\0\0\2hi"


def fields_of(size, target):
    """One more field, so that a GET's come to `size` bytes as RFC 9113 counts in 6.5.2."""
    pseudo = {b":method": b"GET", b":scheme": b"http", b":authority": b"test", b":path": target.encode()}
    used = sum(len(name) + len(value) + 32 for name, value in pseudo.items()) + len(b"x-long") + 32
    return ((b"x-long", b"a" * (size - used)),)


def outcomes(program):
    samples = admin.metrics(program)["swiftlet_request_outcomes"].samples
    names = {sample.labels["outcome"] for sample in samples}
    return {name: sum(sample.value for sample in samples if sample.labels["outcome"] == name) for name in names}


def read_until(client, condition):
    while not condition():
        client.pump()


# Fields of open streams ----------------------------------------------------------------------------------------------


def test_heads_of_open_streams_have_one_bound(serve, scripted, gate):
    """4 KiB on each of 256 streams, and a byte more."""

    async def script(exchange):
        await gate.wait()
        await answer_ok(exchange)

    backend = scripted(script)
    program = serve(backend, admin=True, arguments=("--loops", "1"))

    def get(size):
        return client.request(target="/held", method="GET", fields=fields_of(size, "/held"))

    with HTTP2Client(program.port) as client:
        streams = [get(4_096) for _ in range(255)]
        refused = get(4_097)
        assert client.response(refused).reset_code == REFUSED_STREAM
        wait_until(lambda: outcomes(program).get("stream_refused") == 1, what="its count")
        streams.append(get(4_096))
        wait_until(lambda: len(backend.requests) == 256, what="256 requests at the backend")
        gate.open()
        assert {client.response(stream).status for stream in streams} == {200}
        # They are gone, and so is what they held.
        assert client.response(get(65_536)).status == 200
    assert len(backend.requests) == 257
    (line,) = wait_until(lambda: [line for line in program.access_log() if line["outcome"] == "stream_refused"], what="its line")
    assert (line["method"], line["path"], line["protocol"], line["status"], line["client"]) == ("GET", "/held", "HTTP/2", 0, "127.0.0.1")
    assert set(outcomes(program)) == {"completed", "stream_refused"}


def test_a_flood_of_heads_out_of_the_table(attacked):  # noqa: F811
    """Some fifty bytes on the wire are 62 KiB of fields, on streams that stay open."""
    attacked.memory_limit = 12 << 20
    entry = b"\x40\x03x-a\x7f" + bytes([(3_900 - 127) % 128 + 128, (3_900 - 127) // 128]) + b"a" * 3_900

    def piece(number):
        return frame(HEADERS, END_HEADERS, stream_of(number), POST + (entry if number == 0 else b"\xbe" * 16))

    with Attacker(attacked.port) as attacker:
        attacker.send(b"".join(piece(number) for number in range(200)))
        # The first, and 16 of 62 KiB each.
        wait_until(lambda: len(attacker.reset_codes()) == 200 - 17, what="the refusal of what goes beyond 1 MiB")
        assert set(attacker.reset_codes()) == {REFUSED_STREAM}
        attacker.send(frame(HEADERS, END_HEADERS | 1, stream_of(200), GET))
        wait_until(lambda: any(stream == stream_of(200) for stream, _, _ in attacker.frames(HEADERS)), what="an answer all the same")
        assert attacker.flood(batches(lambda number: piece(number + 201), 20_000))
        attacker.assert_calmed(9 + len(POST) + 16)


# Trailers ------------------------------------------------------------------------------------------------------------


def trailers_of(size):
    """Seventeen of them, that come to so many bytes as RFC 9113 counts."""
    names = [b"x-%02d" % number for number in range(17)]
    longest = 3_840
    rest = size - 16 * longest - 17 * 36
    return [(name, b"a" * (rest if name == names[-1] else longest)) for name in names]


def test_trailers_as_long_or_many_as_may_be_arrive_whole(serve, scripted):
    backend = scripted()
    program = serve(backend)
    for head, trailers in ((1, trailers_of(65_536)), (98, [(b"x-t", b"%d" % number) for number in range(100)])):
        fields = (*TEXT, *((b"x-h", b"1"),) * head)
        with HTTP2Client(program.port) as client:
            assert client.response(client.request(b"{}", fields=fields, trailers=trailers)).status == 200
        assert backend.requests[-1].trailers == trailers
        assert len(backend.requests[-1].values(b"x-h")) == head


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/grpc"])
@pytest.mark.parametrize("shape", ["bytes", "fields"])
def test_trailers_beyond_that_are_refused(serve, by_frames, scripted, kind, shape):
    is_call = kind == "application/grpc"
    program = serve(by_frames(lambda *_: None) if is_call else scripted(), admin=True)
    trailers = trailers_of(65_537) if shape == "bytes" else [(b"x-t", b"1")] * 101
    with HTTP2Client(program.port) as client:
        stream = client.request(b"{}", fields=((b"content-type", kind.encode()),), trailers=trailers)
        response = client.response(stream)
        if is_call:
            assert (response.status, response.value(b"grpc-status")) == (200, b"8")
        else:
            assert_openai_error(response, 431, "request_too_large")
        wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the end of the request")
        if not is_call:
            assert client.response(client.request({})).status == 200


def test_trailers_beyond_that_behind_an_answer_that_has_begun(serve, by_frames, scripted):
    backend = by_frames(lambda connection, event: isinstance(event, h2.events.RequestReceived)
                        and connection.h2.send_headers(event.stream_id, [(b":status", b"200"), CALL[0]]))  # fmt: skip
    program = serve(backend, admin=True)
    with HTTP2Client(program.port) as client:
        stream = client.request(MESSAGE, fields=CALL, end=False)
        read_until(client, lambda: client.responses[stream].status == 200)
        client.connection.send_headers(stream, [(b"x-t", b"1")] * 101, end_stream=True)
        client.flush()
        assert client.response(stream).reset_code == ENHANCE_YOUR_CALM
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the end of the request")


# Silent calls --------------------------------------------------------------------------------------------------------


def test_a_call_without_a_message_is_given_up(configured, by_frames):
    """One that has sent a message may be silent for longer, as may one that the backend talks to."""

    begun = set()

    def answer(connection, event):
        tells = isinstance(event, h2.events.RequestReceived) and dict(event.headers)[b":path"] == b"/any/Tells"
        ends = isinstance(event, h2.events.StreamEnded)
        if tells or (ends and event.stream_id not in begun):
            connection.h2.send_headers(event.stream_id, [(b":status", b"200"), CALL[0]])
            begun.add(event.stream_id)
        if ends:
            connection.h2.send_headers(event.stream_id, [(b"grpc-status", b"0")], end_stream=True)

    lines = "timeouts: {request_body: 600ms}\nload_signals: {interval: 0s}\n"
    # One loop, one connection: the stream's ids tell them apart.
    program = configured(lines, by_frames(answer), arguments_after=("--loops", "1"), admin=True)
    with HTTP2Client(program.port) as client:
        spoken = client.request(MESSAGE, "/any/Listens", fields=CALL, end=False)
        told = client.request(b"", "/any/Tells", fields=CALL, end=False)
        read_until(client, lambda: client.responses[told].status == 200)
        # The second one's term begins when the first one's is over: two terms for those above.
        for _ in range(2):
            response = client.response(client.request(b"", "/any/Listens", fields=CALL, end=False))
            assert (response.status, response.value(b"grpc-status"), response.complete) == (200, b"4", True)
        assert admin.sample(program, "swiftlet_requests_in_flight") == 2
        for stream in (spoken, told):
            client.connection.send_data(stream, MESSAGE, end_stream=True)
            client.flush()
            response = client.response(stream)
            assert response.complete and response.trailers == [(b"grpc-status", b"0")]


def test_a_call_on_which_nothing_moves_is_ended(configured, by_frames):
    """Whether its answer has begun or not; one on which either side says something now and then goes on for many times as long."""
    talking = {}

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            path = dict(event.headers)[b":path"]
            if path != b"/any/Listens":
                connection.h2.send_headers(event.stream_id, [(b":status", b"200"), CALL[0]])
            talking[path] = (connection, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            resets.append(event.error_code)

    resets = []
    lines = "timeouts: {call_idle: 500ms}\nload_signals: {interval: 0s}\n"
    program = configured(lines, by_frames(answer), arguments_after=("--loops", "1"), admin=True)
    with HTTP2Client(program.port) as client:
        asks, hears, listens, told = (
            client.request(MESSAGE, f"/any/{name}", fields=CALL, end=False) for name in ("Asks", "Hears", "Listens", "Told")
        )
        wait_until(lambda: len(talking) == 4, what="all calls at the backend")
        for _ in range(20):
            client.connection.send_data(asks, MESSAGE)
            client.flush()
            connection, stream = talking[b"/any/Hears"]
            with connection.lock:
                connection.h2.send_data(stream, MESSAGE)
                connection.flush()
            time.sleep(0.1)
        # Trailers alone, or behind what has begun; and nothing more is wanted of the client.
        silent = client.response(listens)
        assert (silent.status, silent.value(b"grpc-status"), silent.complete) == (200, b"4", True)
        broken = client.response(told)
        assert (b"grpc-status", b"4") in broken.trailers
        wait_until(lambda: resets == [CANCEL, CANCEL], what="the backend to be told")
        assert outcomes(program) == {"idle": 2}
        for stream in (asks, hears):
            assert client.responses[stream].reset_code is None and not client.responses[stream].complete
            client.reset(stream)


# What is refused or answered here ------------------------------------------------------------------------------------


def test_a_burst_of_refused_streams_costs_its_own_connection(serve, scripted):
    """In one read come more streams than may be open and more than resets are allowed: two reasons to end the connection, one after the other."""
    program = serve(scripted(), arguments=("--loops", "1"))
    head = PREFACE + frame(SETTINGS, 0, 0)
    open_ones = b"".join(frame(HEADERS, END_HEADERS, 2 * n + 1, POST) for n in range(256))
    refused = b"".join(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, GET) for n in range(256, 5_000))
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", program.port), 10) as client:
            # Our SETTINGS are not acknowledged: each stream beyond their limit is one more RST_STREAM.
            client.sendall(head + open_ones + refused)
            with contextlib.suppress(ConnectionError):
                while client.recv(1 << 16):
                    pass
    assert program.process.poll() is None
    assert ask(program.port, {"model": "m"}).status == 200


def test_health_checks_are_no_credit_for_bodies(configured, scripted):
    """What the router reads itself is counted as it comes and as it goes."""
    program = configured("loops: 1\nlimits: {body_bytes: 64KiB, buffered_body_bytes: 64KiB}\n", scripted())
    with HTTP2Client(program.port) as client:
        message = b"\0" + (4_000).to_bytes(4, "big") + b"a" * 4_000
        for _ in range(40):
            stream = client.request(message, "/grpc.health.v1.Health/Check", fields=CALL)
            client.response(stream)
    with HTTP1Client(program.port) as first, HTTP1Client(program.port) as second:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
        for client in (first, second):
            client.send(head + b" " * 50_000)
        # Both together are too much.
        wait_until(lambda: readable(first) or readable(second), what="a refusal")


def readable(client):
    """By poll, not select: a long run of tests has more than 1,024 descriptors open."""
    poll = select.poll()
    poll.register(client.socket, select.POLLIN)
    return bool(poll.poll(0))
