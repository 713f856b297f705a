"""WebSockets over TLS (wss), on either side: the same tunnel, with TLS's own end for each direction."""

import contextlib
import select
import socket
import ssl
import threading

import pytest
import websockets.sync.client

import admin
import pki
from raw_backend import RawBackend
from test_websocket import AGREED, WISH, echo  # noqa: F401
from waiting import wait_until, wait_until_steady
from wire_clients import HTTP1Client

MIB = 1 << 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.Authority(tmp_path_factory.mktemp("wss"))


@pytest.fixture(scope="module")
def identity(authority):
    return authority.issue("router", "DNS:localhost", "IP:127.0.0.1")


@pytest.fixture
def serve_tls(serve, identity):
    def make(*backends, **named):
        return serve(*backends, arguments=("--loops", "1", *identity.arguments()), **named)

    return make


def opened(program, authority, receive_buffer=None):
    """A client with a tunnel through TLS."""
    client = HTTP1Client(program.port, tls=authority.file, receive_buffer=receive_buffer)
    client.send(b"GET /v1/realtime HTTP/1.1\r\nHost: test\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in WISH) + b"\r\n")
    assert client.read_head().status == 101
    return client


def say_goodbye(end):
    """close_notify, without waiting for the other side's. Python looks for that at once, and OpenSSL takes data that it finds instead for
    an error, for good: the other side must say nothing until this has returned."""
    end.socket.settimeout(0)
    with contextlib.suppress(ssl.SSLWantReadError):
        end.socket.unwrap()
    end.socket.settimeout(10)


def test_real_client_over_tls(serve_tls, echo, authority):  # noqa: F811
    program = serve_tls(echo)
    context = ssl.create_default_context(cafile=authority.file)
    options = {"subprotocols": ["realtime"], "max_size": 1 << 25, "ssl": context}
    with websockets.sync.client.connect(f"wss://localhost:{program.port}/v1/realtime?model=any", **options) as client:
        assert client.subprotocol == "realtime"
        for message in ("", "héllo", b"\x00\xff" * 3, b"b" * 65_536, bytes(range(256)) * (1 << 14)):
            client.send(message)
            assert client.recv(10) == message


def test_http2_was_agreed_on_and_no_tunnel_is_offered(serve_tls, echo, authority):  # noqa: F811
    """A client that speaks HTTP/2 by ALPN has no `Upgrade`; its wish is a plain request there."""
    program = serve_tls(echo)
    context = ssl.create_default_context(cafile=authority.file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(socket.create_connection(("127.0.0.1", program.port), 5), server_hostname="localhost") as connection:
        assert connection.selected_alpn_protocol() == "h2"
    context.set_alpn_protocols(["http/1.1"])
    url = f"wss://localhost:{program.port}/v1/realtime"
    with websockets.sync.client.connect(url, ssl=context, subprotocols=["realtime"]) as client:
        client.send("over HTTP/1.1")
        assert client.recv(10) == "over HTTP/1.1"


@pytest.fixture
def tunnels(configured, identity, authority):
    """Starts a backend of a script, behind TLS or in clear, and a router with TLS before it."""
    backends = []

    def make(script, secured):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate, identity.key)
        backends.append(RawBackend(script, tls=context if secured else None))
        lines = f"upstream_tls: {{ca_file: {authority.file}}}\nload_signals: {{interval: 0s}}\n"
        return configured(lines, backends[0], admin=True, arguments_after=("--loops", "1", *identity.arguments()))

    yield make
    for backend in backends:
        backend.stop()


def read_to_end(connection):
    """All that comes until the peer's end, which behind our own close_notify Python takes for an error."""
    received = bytearray()
    with contextlib.suppress(ssl.SSLZeroReturnError):
        while data := connection.recv(1 << 16):
            received += data
    return bytes(received)


SECURED = pytest.mark.parametrize("secured", [False, True], ids=["cleartext backend", "TLS backend"])


@SECURED
@pytest.mark.parametrize("ender", ["client", "backend"])
def test_half_close_over_tls(tunnels, authority, ender, secured):
    """close_notify of one side ends that direction alone; all that the other says later arrives."""
    received, late, said = [], b"late" * 50_000, threading.Event()

    def script(connection, head):
        connection.send(AGREED + b"\r\n")
        if ender == "backend":
            say_goodbye(connection) if secured else connection.socket.shutdown(socket.SHUT_WR)
            said.set()
        received.append(read_to_end(connection.socket))
        if ender == "client":
            assert said.wait(5)
            connection.send(late)
            if secured:
                say_goodbye(connection)

    program = tunnels(script, secured)
    with opened(program, authority) as client:
        # Nothing but a close_notify is an end.
        client.socket.suppress_ragged_eofs = False
        if ender == "client":
            client.send(b"end")
            say_goodbye(client)
            said.set()
            assert bytes(client._buffer) + read_to_end(client.socket) == late
        else:
            assert client.ended() and said.wait(5)
            client.send(late)
            say_goodbye(client)
        wait_until(lambda: received, what="the backend's end of input")
    assert received == [b"end" if ender == "client" else late]
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the tunnel's end")


@SECURED
@pytest.mark.parametrize("who", ["client", "backend"])
@pytest.mark.parametrize("how", ["close_notify", "cut", "reset"])
def test_the_end_of_one_reaches_the_other_over_tls(tunnels, authority, who, how, secured):
    """A reset, or an end that no close_notify announced, must not look like an end in good order to one who could tell them apart."""
    ends, gone = [], threading.Event()

    def leave(end):
        if how == "close_notify" and isinstance(end.socket, ssl.SSLSocket):
            say_goodbye(end)
        end.reset() if how == "reset" else end.socket.close()
        gone.set()

    def end_of(connection):
        if isinstance(connection, ssl.SSLSocket):
            connection.suppress_ragged_eofs = False
        try:
            end = "whole" if connection.recv(1) == b"" else "more"
        except (ssl.SSLEOFError, ConnectionError):
            end = "broken"
        assert gone.wait(5)
        ends.append(end)

    def script(connection, head):
        connection.send(AGREED + b"\r\n")
        if who == "client":
            end_of(connection.socket)
        elif connection.read(2) == b"go":
            leave(connection)

    program = tunnels(script, secured)
    with opened(program, authority) as client:
        if who == "client":
            leave(client)
            wait_until(lambda: ends, what="the end at the backend")
        else:
            client.send(b"go")
            end_of(client.socket)
    # Without TLS on one side an end is an end: who is cut there has ended, and who listens there hears an end. Only a reset tells more.
    speaks_tls = secured or who == "client"
    hears_tls = secured or who == "backend"
    told = hears_tls and (how == "reset" or (how == "cut" and speaks_tls))
    assert ends == ["broken" if told else "whole"]
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the tunnel's end")
    for side in ("downstream", "upstream"):
        wait_until(lambda side=side: admin.sample(program, f"swiftlet_{side}_connections_open") == 0, what=f"the {side} end")


def test_backpressure_over_tls(serve_tls, raw, authority):
    """A client that does not read stops the backend; then it reads, and nothing is missing."""
    piece, stop, sent = bytes(range(256)) * 256, threading.Event(), [0]

    def script(connection, head):
        connection.send(AGREED + b"\r\n")
        connection.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while not stop.is_set():
                sent[0] += connection.socket.send(piece[sent[0] % len(piece) :])
        connection.socket.settimeout(10)
        connection.socket.shutdown(socket.SHUT_WR)
        connection.read(1 << 30)

    program = serve_tls(raw(script))
    before = program.resident_bytes()
    with opened(program, authority, receive_buffer=4_096) as client:
        wait_until_steady(lambda: sent[0], quiet=0.5, what="bytes that the backend could send")
        stop.set()
        assert program.resident_bytes() - before < 4 * MIB
        total, twice = len(client._buffer), piece * 2
        assert bytes(client._buffer) == piece[:total]
        while data := client.socket.recv(1 << 15):
            assert twice[total % len(piece) :][: len(data)] == data
            total += len(data)
        assert total == sent[0]


def exchanged(connection, message):
    """Sends all of it and reads as much. In one thread: OpenSSL lets no two use one connection, and Python crashes when they do."""
    connection.setblocking(False)
    sent, received = 0, bytearray()
    # Not select(), which takes no descriptor above 1,023.
    readiness = select.poll()
    while len(received) < len(message):
        wants_more = sent < len(message)
        readiness.register(connection, select.POLLIN | select.POLLOUT if wants_more else select.POLLIN)
        assert readiness.poll(10_000), "neither side goes on"
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if wants_more:
                sent += connection.send(message[sent : sent + (1 << 16)])
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            data = connection.recv(1 << 16)
            assert data, "it ended"
            received += data
    return received


def test_tls_on_both_sides(configured, authority, identity):
    """https upstream: the tunnel is encrypted twice, with verification of the backend."""

    def script(connection, head):
        connection.send(AGREED + b"\r\n")
        while data := connection.socket.recv(1 << 16):
            connection.send(data)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    backend = RawBackend(script, tls=context)
    program = configured(f"upstream_tls: {{ca_file: {authority.file}}}\n", backend, arguments_after=identity.arguments())
    with opened(program, authority) as client:
        message = bytes(range(256)) * 4_000
        assert exchanged(client.socket, message) == message
    backend.stop()
