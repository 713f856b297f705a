"""Peers that mean harm, or only behave like it: none may crash the router, fill its memory, or reach another's request."""

import asyncio
import json
import select
import socket
import struct
import time

import h2.events
import pytest

import admin
from scripted_backend import answer_ok
from waiting import wait_until, wait_until_steady
from wire_clients import HTTP1Client, HTTP2Client, Response, ask, assert_openai_error, sse_payloads

STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
GRPC = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
GRPC_HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]


# Backends ------------------------------------------------------------------------------------------------------------


def test_a_backend_that_answers_first_and_reads_later_gets_the_whole_request(serve, hub):
    """What was left of the body is not forgotten, and the next client's request is not taken for it."""
    size = 6_000_000
    lengths = []

    async def serve_one(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET"):
                    writer.write(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await asyncio.wait_for(reader.readexactly(length), 5)
                lengths.append(length)
                writer.write(b"0\r\n\r\n")
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    server = hub.run(asyncio.start_server(serve_one, "127.0.0.1", 0))
    program = serve(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    body = json.dumps({"model": "m", "prompt": "y"}).encode().ljust(size)
    response = ask(program.port, body)
    assert (response.body, response.complete) == (b"hello", True)
    assert ask(program.port, b'{"model":"m"}').complete
    assert lengths == [size, 13]
    hub.loop.call_soon_threadsafe(server.close)


def test_credit_after_an_early_answer(serve, by_frames):
    """A backend answers a call before it has read it, and asks for the rest when its client has gone."""
    asked = []

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            asked.append((connection, event.stream_id))

    backend = by_frames(answer)
    program = serve(backend)
    with HTTP2Client(program.port) as client:
        stream = client.request(b"x" * 400_000, "/s/m", fields=GRPC)
        wait_until(lambda: asked, 5, "the call at the backend")
        connection, number = asked[0]
        with connection.lock:
            connection.h2.send_headers(number, [*GRPC_HEAD, (b"grpc-status", b"12")], end_stream=True)
            connection.flush()
        assert client.response(stream).complete
        connection.open_windows(number, 1_000_000)
    for _ in range(5):
        assert ask(program.port, target="/health", method="GET").status == 200


def test_head_request_whose_answer_ends_late(serve, by_frames):
    asked = []

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            connection.h2.send_headers(event.stream_id, GRPC_HEAD)
            asked.append((connection, event.stream_id))

    backend = by_frames(answer)
    program = serve(backend, admin=True)
    with HTTP2Client(program.port) as client:
        stream = client.request(b"", "/s/m", method="HEAD", fields=GRPC)
        while not client.responses[stream].status:
            client.pump()
        connection, number = asked[0]
        with connection.lock:
            connection.h2.end_stream(number)
            connection.flush()
        assert client.response(stream).complete
    wait_until(lambda: admin.groups(program)[0]["in_flight"] == 0, 5, "the booking to be given back")


def test_slow_grpc_readers_do_not_hold_up_their_neighbours(serve, by_frames):
    left = {}

    def push(connection):
        for stream in list(left):
            while (size := min(left[stream], connection.h2.local_flow_control_window(stream), 16_384)) > 0:
                connection.h2.send_data(stream, bytes(size))
                left[stream] -= size
            if left[stream] == 0:
                del left[stream]
                connection.h2.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            connection.h2.send_headers(event.stream_id, GRPC_HEAD)
            left[event.stream_id] = 3_000_000 if dict(event.headers)[b":path"] == b"/big/m" else 100
        if isinstance(event, h2.events.StreamReset):
            left.pop(event.stream_id, None)
        push(connection)

    backend = by_frames(answer)
    program = serve(backend, arguments=("--loops", "1"))
    slow = [HTTP2Client(program.port, receive_buffer=4096) for _ in range(8)]
    for client in slow:
        client.request(b"q", "/big/m", fields=GRPC)
    wait_until(lambda: len(left) == 8 and all(count < 2_900_000 for count in left.values()), 5, "eight stalled answers")
    with HTTP2Client(program.port, timeout=5) as client:
        assert client.response(client.request(b"q", "/small/m", fields=GRPC)).complete
    for client in slow:
        client.socket.close()


def test_long_first_event_arrives_whole(serve, scripted):
    event = json.dumps({"tools": "x" * 400_000})

    async def script(exchange):
        await exchange.event_stream_head()
        await exchange.event(event)
        await exchange.event("[DONE]")
        await exchange.last_chunk()

    response = ask(serve(scripted(script)).port, STREAM)
    assert (response.complete, sse_payloads(response.body)) == (True, [event, "[DONE]"])


def test_slow_500_after_the_grace_is_passed_on_once(configured, scripted):
    body = b'{"error":"cannot schedule new futures after shutdown"}'.ljust(5_000)
    asked = []

    async def script(exchange):
        asked.append(exchange.backend.name)
        await exchange.head(500, ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))))
        await asyncio.sleep(0.5)
        await exchange.send(body)

    program = configured("timeouts:\n  head_hold: 100ms\n", scripted(script), scripted(script))
    response = ask(program.port, STREAM)
    assert (response.status, response.body, len(asked)) == (500, body, 1)


# Clients -------------------------------------------------------------------------------------------------------------


def test_answered_at_its_head_keeps_the_connection(router):
    with HTTP1Client(router.port) as client:
        for _ in range(3):
            response = client.request("GET", "/health").response("GET")
            assert (response.status, response.values(b"connection")) == (200, [])


def test_pipelining_without_reading_is_bounded(serve, scripted):
    """What waits for the client is what the kernel holds for it and one high-water mark of ours: some megabytes of sixty."""

    async def script(exchange):
        await exchange.answer(body=bytes(60_000))

    backend = scripted(script)
    with HTTP1Client(serve(backend).port, receive_buffer=4096) as client:
        client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)
        assert wait_until_steady(lambda: len(backend.requests)) < 300
        assert all(client.response().complete for _ in range(1_000))


def test_broken_streams_without_reading_are_bounded(serve, scripted):
    program = serve(scripted())
    before = program.resident_bytes()
    flood = socket.create_connection(("127.0.0.1", program.port), 5)
    flood.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    flood.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    with pytest.raises(ConnectionError):
        for first in range(1, 4_000_000, 4_000):
            # HEADERS with END_STREAM and END_HEADERS, of `:method: GET` alone.
            flood.sendall(b"".join(b"\0\0\1\1\5" + struct.pack(">I", first + 2 * i) + b"\x82" for i in range(2_000)))
    assert program.resident_bytes() - before < 16 << 20
    assert ask(program.port, target="/health", method="GET").status == 200


@pytest.mark.parametrize("path", [b"nowhere", b"http://elsewhere/x", b"*"])
def test_http2_path_is_in_origin_form(serve, scripted, path):
    backend = scripted()
    with HTTP2Client(serve(backend).port, strict=False) as client:
        head = [(b":method", b"POST"), (b":scheme", b"x"), (b":authority", b"a"), (b":path", path)]
        client.connection.send_headers(1, head, end_stream=True)
        client.responses[1] = Response(body=bytearray())
        client.flush()
        assert client.response(1).status == 400
    assert backend.requests == []


@pytest.mark.parametrize("length", [b"9223372036854775808", b"18446744073709551605"])
def test_length_beyond_all_bounds(router, length):
    with HTTP1Client(router.port) as client:
        client.send(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response().status == 400


def test_head_that_drips_is_refused(configured, scripted):
    program = configured("timeouts:\n  request_header: 500ms\n", scripted())
    with HTTP1Client(program.port) as client:
        # Not select(): the tests' process may have more than 1,024 descriptors.
        readable = select.poll()
        readable.register(client.socket, select.POLLIN)
        client.send(b"GET / HTTP/1.1\r\nHost: ")
        for _ in range(100):
            client.send(b"a")
            if readable.poll(50):
                break
        assert_openai_error(client.response(), 408, "request_timeout")
        assert client.ended()


@pytest.mark.parametrize("pieces", [(b"\r\n",), (b"\r", b"\n")], ids=["whole", "halves"])
def test_empty_lines_buy_no_time(configured, scripted, pieces):
    """They are no request (RFC 9112, 2.2): the connection ends when it would have without them."""
    program = configured("timeouts: {request_header: 400ms, downstream_idle: 400ms}\n", scripted())
    with HTTP1Client(program.port) as client, pytest.raises(ConnectionError):
        for _ in range(150):
            for piece in pieces:
                client.send(piece)
                time.sleep(0.02)


def test_empty_lines_before_a_head_leave_it_its_time(configured, scripted):
    program = configured("timeouts: {request_header: 300ms, downstream_idle: 60s}\n", scripted())
    with HTTP1Client(program.port) as client:
        for _ in range(20):
            client.send(b"\r\n")
            time.sleep(0.02)
        client.send(b"GET /late HTTP/1.1\r\n")
        time.sleep(0.05)
        client.send(b"Host: x\r\n\r\n")
        assert client.response().status == 200
        client.send(b"\r\n\r\nGET / HT")
        assert_openai_error(client.response(), 408)


def test_connection_without_a_request_has_the_idle_time(configured, scripted):
    """A pool that connects ahead of its requests is not cut off after the time that a head may take."""
    program = configured("timeouts: {request_header: 300ms, downstream_idle: 60s}\n", scripted())
    with HTTP1Client(program.port) as ahead, HTTP1Client(program.port) as begun:
        # Accepted later than `ahead`: when its head is overdue, so would be one that `ahead` had owed.
        begun.send(b"P")
        begun.socket.settimeout(10)
        assert begun.socket.recv(1) == b""
        assert ahead.request(body=STREAM).response().status == 200


def test_connection_without_a_request_ends_after_the_idle_time(configured, scripted):
    program = configured("timeouts: {request_header: 60s, downstream_idle: 300ms}\n", scripted())
    with HTTP1Client(program.port) as client:
        assert client.ended()


@pytest.mark.parametrize("protocol", ["http1", "http1 close", "http2"])
def test_reader_that_stops_is_given_up(configured, scripted, protocol):
    async def script(exchange):
        await exchange.answer(body=bytes(30_000_000))

    program = configured("timeouts:\n  downstream_idle: 400ms\n", scripted(script))
    if protocol == "http2":
        with HTTP2Client(program.port) as client:
            response = client.responses[client.request(body=STREAM)]
            while response.reset_code is None:
                client.pump(acknowledge=False)
            assert not response.complete
    else:
        fields = ((b"connection", b"close"),) if "close" in protocol else ()
        with HTTP1Client(program.port, receive_buffer=4096) as client:
            client.request(body=STREAM, fields=fields)
            wait_until(lambda: program.access_log(), 5, "the end of the exchange")
            assert not client.response().complete


def test_http2_request_that_stops_is_given_up(configured, scripted):
    program = configured("timeouts:\n  downstream_idle: 400ms\n", scripted())
    with HTTP2Client(program.port) as client:
        stream = client.request(b"{", end=False)
        assert client.response(stream).reset_code is not None


def test_patient_reader_keeps_its_answer(configured, scripted):
    """The limit is on an answer that does not move, not on one that takes long."""

    async def script(exchange):
        if exchange.request.path == b"/late":
            await asyncio.sleep(1)
            return await answer_ok(exchange)
        await exchange.answer(body=bytes(2_000_000))

    program = configured("timeouts:\n  downstream_idle: 400ms\n", scripted(script))
    with HTTP1Client(program.port, receive_buffer=4096) as client:
        client.request("POST", "/slow")
        received, began = 0, time.monotonic()
        while time.monotonic() < began + 1.2:
            received += len(client.socket.recv(20_000))
            time.sleep(0.05)
        assert received < 1_000_000, "most of it is still to come"
        while received < 2_000_000:
            received += len(client.socket.recv(1 << 18))
    for protocol in (HTTP1Client, HTTP2Client):
        with protocol(program.port) as client:
            request = client.request(body=STREAM, target="/late")
            response = client.response(request) if protocol is HTTP2Client else client.response()
            assert response.status == 200
