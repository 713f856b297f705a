"""Request bodies that come a byte at a time: given up when they bring too little in a term, unless nobody may ask more of them."""

import contextlib
import socket
import threading
import time

import h2.events
import hpack
import pytest

import admin
from test_attacks_http2 import CANCEL, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, POST, PREFACE, SETTINGS, frame
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, assert_openai_error

#: Of a term, in milliseconds, and of the bytes that have to come in a second of it.
LIMITS = "timeouts: {request_body: %dms}\nlimits: {request_body_bytes_per_second: %d}\n"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LENGTH = HEAD + b"Content-Length: 1000000\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def drip(send, is_over, timeout=10.0):
    """A piece every 20 ms, until it is over; returns how many there were."""
    deadline, pieces = time.monotonic() + timeout, 0
    while not is_over():
        assert time.monotonic() < deadline, "the router waits for ever"
        send()
        pieces += 1
        time.sleep(0.02)
    return pieces


def has_answer(client):
    client.socket.settimeout(0.001)
    try:
        client._fill()
        return True
    except TimeoutError:
        return False
    finally:
        client.socket.settimeout(10)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_drips_is_refused(configured, scripted, framing):
    program = configured(LIMITS % (400, 500), scripted(), admin=True)
    with HTTP1Client(program.port) as client:
        client.send(LENGTH if framing == "length" else CHUNKED)
        pieces = drip(lambda: client.send(b" " if framing == "length" else b"1\r\n \r\n"), lambda: has_answer(client))
        assert_openai_error(client.response(), 408)
        # It had its term first, and was never silent for as long.
        assert pieces > 5
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the end of the request")


def test_a_stream_that_drips_is_refused_and_others_go_on(configured, scripted):
    """It is told why, and that the rest of its body is not wanted."""
    program = configured(LIMITS % (400, 500), scripted(), admin=True)
    with HTTP2Client(program.port) as client:
        slow = client.request(b"{", end=False)

        def send():
            client.connection.send_data(slow, b" ")
            client.flush()
            assert client.response(client.request(body={})).status == 200

        drip(send, lambda: client.responses[slow].complete or client.responses[slow].reset_code is not None)
        assert_openai_error(client.responses[slow], 408)
        while client.responses[slow].reset_code is None:
            client.pump()
        assert client.responses[slow].reset_code == 0  # NO_ERROR
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the end of the request")


def test_a_stream_that_drips_into_an_answer_is_reset(configured, by_frames):
    """What has begun cannot be called off with another answer."""

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            connection.h2.send_headers(event.stream_id, [(b":status", b"200")])
            connection.h2.send_data(event.stream_id, b"begun")

    program = configured("timeouts: {request_body: 300ms, downstream_idle: 300ms}\n", by_frames(answer))
    with HTTP2Client(program.port) as client:
        stream = client.request(b"x", fields=((b"content-type", b"text/plain"),), end=False)
        response = client.response(stream)
        assert (response.status, response.body, response.complete, response.reset_code) == (200, b"begun", False, CANCEL)


def test_trailers_that_we_hold_back_are_not_slow(configured, by_frames):
    """A backend's only stream is taken, and the end of a chunked upload comes while what is kept of it is enough: for three terms."""
    streams, trailers = [], []

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            streams.append((connection, event.stream_id))
        elif isinstance(event, h2.events.DataReceived):
            connection.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            trailers.extend(event.headers)
        elif isinstance(event, h2.events.StreamEnded) and len(streams) > 1:
            connection.h2.send_headers(event.stream_id, [(b":status", b"200")], end_stream=True)

    lines = (
        "loops: 1\nlimits: {stream_buffer_bytes: 16KiB, http2_upstream_connections: 1}\n"
        "timeouts: {request_body: 400ms, stream_queue: 60s}\nload_signals: {interval: 0s}\n"
    )
    program = configured(lines, by_frames(answer, stream_limit=1), admin=True)
    with HTTP2Client(program.port) as first, HTTP1Client(program.port) as client:
        first.request(target="/first", method="GET")
        wait_until(lambda: streams, what="the first request")
        client.send(CHUNKED.replace(b"application/json", b"text/plain") + b"1\r\nx\r\n")
        wait_until(lambda: sum(admin.in_flight(program)) == 2, what="the upload to wait")
        client.send(b"%x\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n" % (20_000, b"y" * 20_000))
        began = time.monotonic()
        while time.monotonic() - began < 1.2:
            assert not has_answer(client)
        connection, stream = streams[0]
        with connection.lock:
            connection.h2.send_headers(stream, [(b":status", b"200")], end_stream=True)
            connection.flush()
        assert client.response().status == 200
    assert trailers == [(b"x-sum", b"1")]


@pytest.mark.parametrize("rate", [500, 0], ids=["fast enough", "any pace will do"])
def test_a_body_that_keeps_its_pace_arrives(configured, scripted, rate):
    """For more than two terms: with five times what is asked for, or with next to nothing where nothing is."""
    program = configured(LIMITS % (900, rate), backend := scripted())
    piece = b" " * (50 if rate else 1)
    with HTTP1Client(program.port) as client:
        client.send(CHUNKED)
        began = time.monotonic()
        count = drip(lambda: client.send(b"%x\r\n%s\r\n" % (len(piece), piece)), lambda: time.monotonic() - began > 2.0)
        client.send(b"2\r\n{}\r\n0\r\n\r\n")
        assert client.response().status == 200
    assert backend.requests[-1].body == piece * count + b"{}"


def test_two_that_talk_go_at_their_own_pace(configured, raw):
    """Once the answer has begun its client is as slow as it likes."""

    def script(connection, _):
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += connection.read(1)
        connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (body.count(b"1\r\n"), b"b" * body.count(b"1\r\n")))

    program = configured(LIMITS % (900, 500), raw(script))
    with HTTP1Client(program.port) as client:
        client.send(CHUNKED.replace(b"application/json", b"text/plain"))
        client.send(b"1\r\nx\r\n")
        head = client.read_head()
        began = time.monotonic()
        count = drip(lambda: client.send(b"1\r\nx\r\n"), lambda: time.monotonic() - began > 2.0)
        client.send(b"0\r\n\r\n")
        assert client.read_body(head).body == b"a" + b"b" * (count + 1)


def test_who_waits_for_a_window_that_we_hold_is_not_slow(configured, raw):
    """One upload that the backend does not take uses up the connection's window, and another cannot send: for three terms of both kinds."""
    released = threading.Event()

    def script(connection, head):
        if b"/hold" in head:
            assert released.wait(20)
        data = connection.buffer
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data = data[-8:] + connection.socket.recv(1 << 16)
        connection.answer()

    program = configured(LIMITS % (600, 500), raw(script))
    text = ((b"content-type", b"text/plain"),)
    with HTTP2Client(program.port) as client:
        held = [client.request(target="/hold", fields=text, end=False) for _ in range(8)]

        def room(stream):
            return min(client.connection.local_flow_control_window(stream), 16_384)

        def is_used_up():
            """In turns, so that no stream starves by the client's own choice; then what the kernel still took may have come back."""
            while client.connection.outbound_flow_control_window > 0:
                for stream in held:
                    if (size := min(room(stream), 4_096)) > 0:
                        client.connection.send_data(stream, b" " * size)
                client.flush()
            try:
                client.pump()
            except TimeoutError:
                return True
            return client.connection.outbound_flow_control_window == 0

        client.socket.settimeout(0.2)
        wait_until(is_used_up, what="a window that is used up")
        waiting = client.request(target="/go", fields=text, end=False)
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            is_used_up()
        assert client.responses[waiting].reset_code is None
        released.set()
        client.socket.settimeout(10)
        for stream in held:
            while room(stream) <= 0:
                client.pump()
            client.connection.send_data(stream, b"}", end_stream=True)
            client.flush()
        while room(waiting) <= 0:
            client.pump()
        client.connection.send_data(waiting, b"{}", end_stream=True)
        client.flush()
        assert client.response(waiting).status == 200
        assert [client.response(stream).status for stream in held] == [200] * 8


def test_open_header_blocks_postpone_nothing(configured, scripted):
    """A stalled upload ends in its time, though a header block stands open for a moment again and again."""
    program = configured(LIMITS % (500, 500), scripted())
    block = hpack.Encoder().encode([(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")], huffman=False)
    end = b"\x00\x00\x04\x03\x00" + (1).to_bytes(4, "big")  # RST_STREAM on stream 1
    seen = bytearray()
    streams = iter(range(3, 1_000, 2))
    with socket.create_connection(("127.0.0.1", program.port), 10) as client:
        client.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, POST))

        def send():
            stream = next(streams)
            client.sendall(frame(HEADERS, END_STREAM, stream, block[:5]))
            time.sleep(0.01)
            client.sendall(frame(CONTINUATION, END_HEADERS, stream, block[5:]))

        def is_over():
            client.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                seen.extend(client.recv(1 << 16))
            client.settimeout(10)
            return end in seen

        drip(send, is_over, timeout=5)


@pytest.mark.parametrize("stream", [True, False])
def test_a_head_before_the_end_of_the_request_is_passed_on(serve, scripted, stream):
    """The client waits for it before it says more: nothing is held back for another backend, which could not answer either."""

    async def script(exchange):
        if stream:
            await exchange.event_stream_head()
        else:
            await exchange.head(200, [(b"content-length", b"2")])
        assert await exchange.reader.readexactly(20) == b"x" * 20
        await (exchange.send(b"2\r\nok\r\n0\r\n\r\n") if stream else exchange.send(b"ok"))
        exchange.close()

    program = serve(scripted(script, answers_early=lambda request: True))
    with HTTP1Client(program.port) as client:
        client.send(b"POST /talk HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\n" + b"x" * 10)
        response = client.read_head()
        assert response.status == 200
        client.send(b"x" * 10)
        assert client.read_body(response).body == b"ok"
