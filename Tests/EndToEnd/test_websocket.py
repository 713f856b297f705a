"""WebSockets (realtime endpoints): a 101, then bytes in both directions with backpressure and an end of its own for each."""

import contextlib
import socket
import threading

import pytest
import websockets.sync.client
import websockets.sync.server

import admin
from raw_backend import RawBackend
from waiting import wait_until, wait_until_steady
from wire_clients import ConnectionEnded, HTTP1Client, assert_openai_error

WISH = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"Sec-WebSocket-Version", b"13"))  # fmt: skip
AGREED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"


@pytest.fixture
def echo():
    """A real WebSocket server that sends back what it gets; remembers the requests."""
    requests = []

    def handler(connection):
        requests.append(connection.request)
        with contextlib.suppress(websockets.ConnectionClosed):
            for message in connection:
                connection.send(message)

    server = websockets.sync.server.serve(handler, "127.0.0.1", 0, subprotocols=["realtime"], max_size=1 << 25)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.requests, server.url = requests, f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    yield server
    server.shutdown()
    thread.join(5)


def wish(program, target="/v1/realtime?model=m", fields=(), behind=b"", receive_buffer=None):
    """A client that has asked for a tunnel and sent `behind` in the same write."""
    client = HTTP1Client(program.port, receive_buffer=receive_buffer)
    lines = b"".join(b"%s: %s\r\n" % pair for pair in (*WISH, *fields))
    client.send(b"GET %s HTTP/1.1\r\nHost: test\r\n%s\r\n%s" % (target.encode(), lines, behind))
    return client


def opened(program, **options):
    client = wish(program, **options)
    assert client.read_head().status == 101
    return client


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_real_client_and_server(serve, echo, compression):
    program = serve(echo)
    url = f"ws://127.0.0.1:{program.port}/v1/realtime?model=any&x=%20"
    options = {"subprotocols": ["realtime"], "compression": compression, "max_size": 1 << 25}
    with websockets.sync.client.connect(url, additional_headers={"Authorization": "Bearer b"}, **options) as client:
        assert client.subprotocol == "realtime"
        for message in ("", "héllo", b"\x00\xff" * 3, b"a" * 126, b"b" * 65_536, bytes(range(256)) * (1 << 14)):
            client.send(message)
            assert client.recv(10) == message
        assert client.ping().wait(5)
    seen = echo.requests[0]
    assert seen.path == "/v1/realtime?model=any&x=%20"
    assert seen.headers["authorization"] == "Bearer b" and seen.headers["upgrade"] == "websocket"


def test_many_at_once(serve, echo):
    program = serve(echo, admin=True)
    with contextlib.ExitStack() as stack:
        url = f"ws://127.0.0.1:{program.port}/v1/realtime"
        clients = [stack.enter_context(websockets.sync.client.connect(url, subprotocols=["realtime"])) for _ in range(50)]
        for number, client in enumerate(clients):
            client.send(str(number))
        assert [client.recv(10) for client in clients] == [str(number) for number in range(50)]
        # Each is a request under way for as long as it is open.
        wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 50, what="fifty tunnels in flight")
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the tunnels' ends")


def test_the_model_of_the_query_is_routed(serve, scripted):
    """As a body would name it: one that nobody serves is answered here."""
    program = serve(scripted(models=["known"]))
    wait_until(lambda: b"known" in _models(program), what="the models to be known")
    with wish(program, "/v1/realtime?model=unknown") as client:
        assert_openai_error(client.response(), 404, "model_not_found")


def _models(program):
    with HTTP1Client(program.port) as client:
        return client.request("GET", "/v1/models").response().body


def test_bytes_on_both_heels_of_the_heads(serve, raw):
    """What the client sent behind its wish, and the backend behind its 101, are the tunnel's first."""

    def script(connection, head):
        assert b"upgrade: websocket" in head.lower() and b"x-kept: 1" in head.lower()
        connection.send(AGREED + b"\r\nfirst of the backend")
        connection.send(b"|" + connection.read(19))

    program = serve(raw(script))
    with wish(program, fields=[(b"X-Kept", b"1")], behind=b"first of the client") as client:
        response = client.read_head()
        assert response.status == 101 and response.value(b"sec-websocket-accept").startswith(b"s3p")
        assert response.value(b"upgrade").lower() == b"websocket" and response.value(b"connection").lower() == b"upgrade"
        with contextlib.suppress(ConnectionEnded):
            client.read_until(b"nothing of the kind")
        assert bytes(client._buffer) == b"first of the backend|first of the client"


@pytest.mark.parametrize("ender", ["client", "backend"])
def test_half_close(serve, raw, ender):
    """One side ends, the other goes on, and all of it arrives."""
    received, late = [], b"late" * 50_000

    def script(connection, head):
        connection.send(AGREED + b"\r\n")
        if ender == "backend":
            connection.socket.shutdown(socket.SHUT_WR)
        received.append(connection.read(1 << 30))
        if ender == "client":
            connection.send(late)

    program = serve(raw(script), admin=True)
    with opened(program) as client:
        if ender == "client":
            client.send(b"end")
            client.socket.shutdown(socket.SHUT_WR)
            body = bytearray()
            client._to_end(body)
            assert bytes(body) == late
        else:
            assert client.ended()
            client.send(late)
            client.socket.shutdown(socket.SHUT_WR)
        wait_until(lambda: received, what="the backend's end of input")
    assert received == [b"end" if ender == "client" else late]
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the tunnel's end")


@pytest.mark.parametrize("reader", ["client", "backend"])
def test_backpressure(serve, raw, reader):
    """A side that does not read stops the other; the router holds its bound of it, and then all arrives."""
    size, piece, release, sent, got = 48 << 20, b"x" * 65_536, threading.Event(), [0], []

    def pour(connection):
        while sent[0] < size:
            connection.sendall(piece)
            sent[0] += len(piece)
        connection.shutdown(socket.SHUT_WR)

    def drink(connection, count=0):
        release.wait(20)
        while data := connection.recv(1 << 18):
            count += len(data)
        got.append(count)

    def script(connection, head):
        connection.send(AGREED + b"\r\n")
        (drink if reader == "backend" else pour)(connection.socket)

    program = serve(raw(script), arguments=("--loops", "1"))
    with opened(program) as client:
        before = program.resident_bytes()
        # What came with the head has been read already.
        other = threading.Thread(target=drink, args=(client.socket, len(client._buffer)))
        if reader == "backend":
            other = threading.Thread(target=pour, args=(client.socket,))
        other.start()
        held = wait_until_steady(lambda: sent[0], what="the bytes sent")
        assert 0 < held < size
        assert program.resident_bytes() - before < 4 << 20
        release.set()
        wait_until(lambda: got, 20, "all bytes")
        assert got == [size]
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_RDWR)
        other.join(10)


@pytest.mark.parametrize("status", [400, 403, 426, 404])
def test_a_refusal_is_passed_on(serve, raw, status):
    """And the client's connection is good for another request."""

    def script(connection, head):
        while head:
            connection.send(b"HTTP/1.1 %d No\r\nx-why: because\r\ncontent-length: 2\r\n\r\nno" % status)
            head = connection.read_head()

    program = serve(raw(script))
    with wish(program) as client:
        for _ in range(2):
            response = client.response()
            assert (response.status, response.value(b"x-why"), response.body) == (status, b"because", b"no")
            client.request("GET", "/again")


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_backend_that_dies_before_it_agrees_is_replaced(serve, raw, end):
    def dead(connection, head):
        if end == "reset":
            connection.reset()

    def good(connection, head):
        connection.send(AGREED + b"\r\nwell")
        connection.read(1)

    program = serve(raw(dead), raw(dead), raw(good))
    with opened(program) as client:
        assert client._exactly(4, bytearray()) == b"well"


@pytest.mark.parametrize("who", ["client", "backend"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_end_of_one_reaches_the_other(serve, raw, who, how):
    ends = []

    def script(connection, head):
        connection.send(AGREED + b"\r\n")
        if who == "backend":
            assert connection.read(2) == b"go"
            return connection.reset() if how == "reset" else None
        try:
            ends.append(connection.read(1))
        except ConnectionError:
            ends.append(b"")

    program = serve(raw(script), admin=True)
    with opened(program) as client:
        if who == "backend":
            client.send(b"go")
            assert client.ended()
        elif how == "reset":
            client.reset()
        else:
            client.close()
        if who == "client":
            wait_until(lambda: ends, what="the end at the backend")
            assert ends == [b""]
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the tunnel's end")


def test_silence_ends_a_tunnel_and_a_word_keeps_it(configured, raw):
    def script(connection, head):
        connection.send(AGREED + b"\r\n")
        while word := connection.read(1):
            connection.send(word)

    program = configured("timeouts: {tunnel_idle: 400ms}\n", raw(script))
    with opened(program) as client:
        # A second and more in steps shorter than the limit: the waits are the router's own answers.
        client.socket.settimeout(0.1)
        for _ in range(12):
            with contextlib.suppress(TimeoutError):
                client.socket.recv(1)
            client.send(b"w")
        client.socket.settimeout(10)
        body = bytearray()
        client._to_end(body)
        assert len(body) <= 12


def test_other_upgrades_are_not_offered(serve, raw):
    """RFC 9110, 7.8: a server may ignore the wish; what it would mean to the backend must not reach it."""
    heads = []

    def script(connection, head):
        heads.append(head.lower())
        connection.answer()

    program = serve(raw(script))
    for wish_for in (b"h2c", b"TLS/1.0", b"websocket2"):
        with HTTP1Client(program.port) as client:
            fields = [(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", wish_for), (b"HTTP2-Settings", b"AAMAAABk")]
            assert client.request("GET", "/x", fields=fields).response().status == 200
    assert len(heads) == 3 and not any(b"upgrade" in head or b"http2-settings" in head for head in heads)


def test_client_that_resets_while_nothing_is_taken(serve):
    """The backend reads nothing and the client's bytes wait: its reset ends the tunnel all the same."""
    done, ends = threading.Event(), []

    def script(connection, _):
        connection.send(AGREED + b"\r\n")
        done.wait(20)
        with contextlib.suppress(ConnectionError):
            while connection.socket.recv(1 << 20):
                pass
        ends.append(connection)

    backend = RawBackend(script)
    program = serve(backend, admin=True)
    client = opened(program)
    client.socket.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while True:
            client.send(b"x" * 65_536)
    assert admin.sample(program, "swiftlet_requests_in_flight") == 1
    client.reset()
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the end of the tunnel")
    done.set()
    wait_until(lambda: ends, what="the end at the backend")
    backend.stop()
