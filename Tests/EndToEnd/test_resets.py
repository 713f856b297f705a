"""RST in every state, of clients and of backends: nothing is left behind, nobody else notices, and what can be saved is."""

import contextlib
import socket
import ssl
import struct
import threading

import pytest

import admin
import pki
import processes
from raw_backend import RawBackend
from scripted_backend import ScriptedBackend, answer_ok, answer_stream
from test_attacks_http2 import ACK, DATA, END_HEADERS, END_STREAM, HEADERS, POST, PREFACE, SETTINGS, frame
from test_descriptors import descriptors
from waiting import wait_until, wait_until_steady
from wire_clients import HTTP1Client, HTTP2Client, ask, assert_openai_error, connect

H1_POST = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"POST /answered HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
WISH = b"GET /tunnel HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
OPENED = PREFACE + frame(SETTINGS) + frame(SETTINGS, ACK)
UPLOAD = POST + b"\x0f\x10\x18application/octet-stream"


def get(path):
    """A request's fields, none of them indexed."""
    return b"\x82\x86\x04" + bytes([len(path)]) + path + b"\x01\x01a"


#: What a client has sent when it resets, and what it has waited for before it does.
CLIENTS = {
    "connected": (b"", None),
    "in the request line": (b"POST /v1/ch", None),
    "in the head": (b"POST /answered HTTP/1.1\r\nHost: x\r\nContent-", None),
    "before the body": (b"POST /answered HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", None),
    "in the body": (b"POST /answered HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234", None),
    "in a chunk's size": (CHUNKED + b"1", None),
    "in a chunk": (CHUNKED + b"8\r\n1234", None),
    "in the trailers": (CHUNKED + b"0\r\nx: y", None),
    "in an upload": (CHUNKED.replace(b"Host", b"Content-Type: application/octet-stream\r\nHost") + b"2\r\nab\r\n", "upload"),
    "before the answer": (H1_POST % b"held", "held"),
    "in the answer": (H1_POST % b"streaming", "streaming"),
    "with one request more": (H1_POST % b"held" * 2, "held"),
    "between requests": (H1_POST % b"answered", "answer"),
    "in the next head": (H1_POST % b"answered" + b"GET /", "answer"),
    "in a tunnel": (WISH, "answer"),
    "in the preface": (PREFACE[:15], None),
    "behind the preface": (PREFACE, None),
    "behind SETTINGS": (OPENED, None),
    "in a frame's head": (OPENED + b"\0\0\x10\0", None),
    "in a block of fields": (OPENED + frame(HEADERS, 0, 1, POST[:9]), None),
    "in a stream's body": (OPENED + frame(HEADERS, END_HEADERS, 1, UPLOAD) + frame(DATA, 0, 1, b"ab"), "upload"),
    "in a frame of the body": (OPENED + frame(HEADERS, END_HEADERS, 1, UPLOAD) + frame(DATA, 0, 1, b"ab" * 99)[:50], None),
    "before a stream's answer": (OPENED + frame(HEADERS, END_HEADERS | END_STREAM, 1, get(b"/held")), "held"),
    "in a stream's answer": (OPENED + frame(HEADERS, END_HEADERS | END_STREAM, 1, get(b"/streaming")), "streaming"),
    "between streams": (OPENED + frame(HEADERS, END_HEADERS | END_STREAM, 1, get(b"/answered")), "answer"),
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.Authority(tmp_path_factory.mktemp("resets"))


@pytest.fixture(scope="module")
def identity(authority):
    return authority.issue("both", "DNS:localhost", "IP:127.0.0.1")


@pytest.fixture(scope="module", params=["plain", "TLS"])
def house(request, hub, authority, identity):
    """A router and its backend, for all states one after the other."""

    async def script(exchange):
        path = exchange.request.path
        if path == b"/tunnel":
            await exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello")
            await exchange.peer_gone()
        elif path == b"/held":
            await exchange.peer_gone()
        elif path == b"/streaming":
            await exchange.event_stream_head()
            await exchange.event("{}")
            await exchange.peer_gone()
        elif path == b"/flooded":
            await exchange.answer()
        else:
            await answer_ok(exchange)

    backend = ScriptedBackend(hub, script, "house")
    secured = request.param == "TLS"
    arguments = identity.arguments() if secured else ()
    program = processes.serve(backend.url, admin=True, arguments=("--loops", "1", *arguments))
    program.backend, program.trusted = backend, authority.file if secured else None
    assert ask(program.port, b"{}", tls=program.trusted).status == 200
    program.descriptors = descriptors_at_rest(program)
    yield program
    program.stop()
    backend.stop()
    assert not [error for error in backend.errors if "cut in its head" not in str(error)], backend.errors


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def open_connections(program, side):
    return admin.sample(program, f"swiftlet_{side}_connections_open")


def descriptors_at_rest(program):
    wait_until(lambda: open_connections(program, "downstream") == 0, what="all connections' ends")
    return wait_until_steady(lambda: descriptors(program), quiet=0.1, what="descriptors")


def assert_nothing_left(house):
    """And the next client is served."""
    wait_until(lambda: open_connections(house, "downstream") == 0, what="the connection's end")
    wait_until(lambda: sum(admin.in_flight(house)) == 0, what="the booking's end")
    wait_until(lambda: house.backend.in_flight == 0, what="the backend to be told")
    assert ask(house.port, b"{}", tls=house.trusted).status == 200
    wait_until(lambda: descriptors(house) <= house.descriptors, what="the descriptors to come back")


@pytest.mark.parametrize("state", CLIENTS)
def test_a_client_resets(house, state):
    sent, awaited = CLIENTS[state]
    protocol = "h2" if sent.startswith(PREFACE[:15]) else "http/1.1"
    connection = connect(house.port, 5, tls=house.trusted, protocol=protocol)
    wait_until(lambda: open_connections(house, "downstream") == 1, what="the connection")
    connection.sendall(sent)
    if awaited == "held":
        wait_until(lambda: house.backend.in_flight == 1, what="the request at the backend")
    elif awaited == "upload":
        wait_until(lambda: sum(admin.in_flight(house)) == 1, what="the upload to be booked")
    elif awaited is not None:
        mark = {"streaming": b"data: {}", "answer": b"hello" if sent == WISH else b'{"object":"ok"}'}[awaited]
        seen = b""
        while mark not in seen:
            seen += connection.recv(65_536)
    reset(connection)
    assert_nothing_left(house)


@pytest.mark.parametrize("house", ["TLS"], indirect=True)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("state", ["in ClientHello", "behind ClientHello", "at the server's flight", "in the client's flight"])
def test_a_client_resets_in_its_handshake(house, version, state):
    context = ssl.create_default_context(cafile=str(house.trusted))
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    before = admin.sample(house, "swiftlet_tls_handshake_failures_total", reason="closed") or 0
    connection = socket.create_connection(("127.0.0.1", house.port), 5)
    wait_until(lambda: open_connections(house, "downstream") == 1, what="the connection")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    hello = outgoing.read()
    connection.sendall(hello[:50] if state == "in ClientHello" else hello)
    if state in ("at the server's flight", "in the client's flight"):
        while not outgoing.pending:
            incoming.write(connection.recv(65_536))
            with contextlib.suppress(ssl.SSLWantReadError):
                session.do_handshake()
        if state == "in the client's flight":
            connection.sendall(outgoing.read()[:-10])
    reset(connection)
    assert_nothing_left(house)
    assert admin.sample(house, "swiftlet_tls_handshake_failures_total", reason="closed") == before + 1


def server_context(identity, protocol):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    context.set_alpn_protocols([protocol])
    return context


def exactly(connection, count):
    """So many bytes; a socket under TLS cannot be told to wait for all."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


class FrameReset:
    """An HTTP/2 backend that resets each connection when it has come as far as `state` says; over TLS with a server's context."""

    STATES = ("accepted", "preface", "settings", "request", "in the head", "head")
    HANDSHAKE = ("at ClientHello", "in the server's flight", "behind the server's flight")

    def __init__(self, state, tls=None, scheme="h2"):
        self.state = state
        self.resets = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{scheme if tls else 'h2c'}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                accepted.settimeout(5)
                with contextlib.suppress(OSError):
                    if self.state in self.HANDSHAKE:
                        self._play_handshake(accepted)
                    elif self.state != "accepted":
                        if self._tls:
                            accepted = self._tls.wrap_socket(accepted, server_side=True)
                        self._play(accepted)
                self.resets += 1
                reset(accepted)

    def _play_handshake(self, accepted):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = self._tls.wrap_bio(incoming, outgoing, server_side=True)
        while not outgoing.pending:
            incoming.write(accepted.recv(65_536))
            with contextlib.suppress(ssl.SSLWantReadError):
                session.do_handshake()
        flight = outgoing.read()
        accepted.sendall(flight[: {"at ClientHello": 0, "in the server's flight": len(flight) // 2}.get(self.state)])

    def _play(self, accepted):
        exactly(accepted, 24)
        if self.state == "preface":
            return
        accepted.sendall(frame(SETTINGS) + frame(SETTINGS, ACK))
        if self.state == "settings":
            return
        stream = self._next_request(accepted)
        if self.state == "in the head":
            accepted.sendall(frame(HEADERS, 0, stream, b"\x88"))
        elif self.state == "head":
            accepted.sendall(frame(HEADERS, END_HEADERS, stream, b"\x88"))

    @staticmethod
    def _next_request(accepted):
        while True:
            head = exactly(accepted, 9)
            exactly(accepted, int.from_bytes(head[:3]))
            if head[3] == HEADERS:
                return int.from_bytes(head[5:9])


#: (state, scheme of the backend's URL)
FRAME_RESETS = [(state, scheme) for scheme in ("h2c", "h2") for state in FrameReset.STATES]
FRAME_RESETS += [(state, scheme) for scheme in ("h2", "https") for state in FrameReset.HANDSHAKE]


@pytest.fixture
def resetting(authority, identity, configured):
    """Starts a backend that resets and a router before it and the others."""
    broken = []

    def make(state, scheme, *others, arguments=()):
        tls = None if scheme == "h2c" else server_context(identity, "http/1.1" if scheme == "https" else "h2")
        broken.append(FrameReset(state, tls, scheme))
        lines = f"upstream_tls: {{ca_file: {authority.file}}}\nload_signals: {{interval: 0s}}\n"
        return broken[0], configured(lines, broken[0], *others, admin=True, arguments_after=("--loops", "1", *arguments))

    yield make
    for backend in broken:
        backend.stop()


@pytest.mark.parametrize(("state", "scheme"), FRAME_RESETS)
def test_a_backend_resets_before_its_answer(resetting, fleet, state, scheme):
    """Before its answer has begun another group gives it; the one that resets is not asked for ever."""
    broken, program = resetting(state, scheme, f"h2c://127.0.0.1:{fleet.ports[0]}", arguments=("--policy", "round-robin"))
    body = {"model": "stub-model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    with HTTP2Client(program.port) as client:
        for _ in range(6):
            assert client.response(client.request(body=body, fields=[(b"content-type", b"application/json")])).status == 200
    assert broken.resets >= 1
    wait_until(lambda: sum(admin.in_flight(program)) == 0, what="all bookings' ends")


@pytest.mark.parametrize(("state", "scheme"), FRAME_RESETS)
def test_a_backend_that_resets_is_all_there_is(resetting, state, scheme):
    _, program = resetting(state, scheme)
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(body={}))
        assert response.status in (502, 503) and response.json["error"]["code"].startswith(("upstream_", "no_ready"))
    wait_until(lambda: sum(admin.in_flight(program)) == 0, what="the booking's end")
    wait_until(lambda: open_connections(program, "upstream") == 0, what="the upstream connections' ends")


JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

#: What a backend has said of its answer when it resets, and whether the client has the answer's head by then.
ANSWERS = {
    "before the answer": (b"", False),
    "in the head": (JSON[:30], False),
    "behind the head": (JSON + b"content-length: 9\r\n\r\n", False),
    "in the body": (JSON + b"content-length: 9\r\n\r\n{", True),
    "in a body without a length": (JSON + b"\r\n{}", True),
    "in a chunk": (JSON + b"transfer-encoding: chunked\r\n\r\n9\r\n{", True),
    "behind a chunk": (JSON + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", True),
    "behind an event": (EVENTS + b"a\r\ndata: {}\n\n\r\n", True),
}


@pytest.fixture(scope="module", params=["plain", "TLS"])
def cutter(request, authority, identity, tmp_path_factory):
    """A router before a backend that resets as the request's path says, and answers other paths."""

    def script(connection, head):
        path = head.split(b" ", 2)[1].decode()[1:].replace("-", " ")
        if path not in ANSWERS:
            return connection.answer()
        connection.read(2)
        said, is_begun = ANSWERS[path]
        connection.send(said)
        if is_begun:
            assert program.begun.wait(5)
        connection.reset()

    secured = request.param == "TLS"
    backend = RawBackend(script, tls=server_context(identity, "http/1.1") if secured else None)
    config = tmp_path_factory.mktemp("cutter") / "swiftlet.yaml"
    config.write_text(f"upstream_tls: {{ca_file: {authority.file}}}\nload_signals: {{interval: 0s}}\n")
    program = processes.serve(backend.url, admin=True, arguments=("--loops", "1", "--config", config))
    program.begun = threading.Event()
    assert ask(program.port, b"{}", "/whole").status == 200
    program.descriptors = descriptors_at_rest(program)
    yield program
    program.stop()
    backend.stop()


@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("state", ANSWERS)
def test_a_backend_resets_in_its_answer(cutter, state, protocol):
    """502 while nothing of it has left; then an answer that is not complete, or an event that says so."""
    cutter.begun.clear()
    target, is_begun = "/" + state.replace(" ", "-"), ANSWERS[state][1]
    with (HTTP1Client if protocol == "http1" else HTTP2Client)(cutter.port) as client:
        if protocol == "http1":
            response = client.request(target=target, body={}).read_head()
            cutter.begun.set()
            client.read_body(response)
        else:
            stream = client.request(target=target, body={}, fields=[(b"content-type", b"application/json")])
            while not client.responses[stream].status:
                client.pump()
            cutter.begun.set()
            response = client.response(stream)
    if not is_begun:
        assert_openai_error(response, 502, "upstream_reset")
    elif state == "behind an event":
        assert response.status == 200 and b'"code":"upstream_reset"' in response.body and b"[DONE]" not in response.body
    else:
        assert response.status == 200 and not response.complete
    wait_until(lambda: admin.sample(cutter, "swiftlet_requests_in_flight") == 0, what="the request's end")
    assert ask(cutter.port, b"{}", "/whole").status == 200
    wait_until(lambda: descriptors(cutter) <= cutter.descriptors, what="the descriptors to come back")


def test_answers_of_a_crowd_that_resets(serve, scripted):
    """A hundred streams at once whose clients all vanish: one connection, and connections of their own."""
    backend = scripted(answer_stream)
    program = serve(backend, admin=True, arguments=("--loops", "1"))
    with HTTP2Client(program.port) as client:
        for _ in range(100):
            client.request(body={"stream": True})
        reset(client.socket)
    connections = [socket.create_connection(("127.0.0.1", program.port), 5) for _ in range(100)]
    for connection in connections:
        connection.sendall(H1_POST % b"x")
    for connection in connections:
        reset(connection)
    wait_until(lambda: open_connections(program, "downstream") == 0, what="all connections' ends")
    wait_until(lambda: sum(admin.in_flight(program)) == 0, what="all bookings' ends")
    assert ask(program.port, b"{}").status == 200


@pytest.mark.parametrize("answers", [True, False], ids=["early answer", "no answer"])
@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
def test_a_backend_resets_in_a_large_upload(configured, tmp_path, protocol, answers, secured):
    """The answer that it gave before is the client's, whichever of write and read finds the reset first; without one there is a 502."""

    def script(connection, head):
        connection.read(100_000)
        if answers:
            connection.answer(b"enough")
        connection.reset()

    authority = pki.Authority(tmp_path)
    identity = authority.issue("backend", "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    backend = RawBackend(script, tls=context if secured else None)
    program = configured(f"upstream_tls: {{ca_file: {authority.file}}}\nload_signals: {{interval: 0s}}\n", backend)
    body = b"a" * 4_000_000
    for _ in range(8):
        if protocol == "http1":
            with HTTP1Client(program.port) as client:
                client.send(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4000000\r\n\r\n")
                client.send_unless_refused(body)
                response = client.response()
        else:
            with HTTP2Client(program.port) as client:
                stream = client.request(body[:1_000_000], "/upload", fields=((b"content-type", b"text/plain"),), end=False)
                response = client.response(stream)
        if answers:
            assert (response.status, response.complete, response.body) == (200, True, b"enough")
        else:
            assert_openai_error(response, 502, "upstream_reset")
    backend.stop()


@pytest.mark.parametrize("uploads", [True, False], ids=["while it uploads", "while it waits"])
def test_an_answer_without_a_length_that_is_cut_off_is_not_whole(serve, uploads):
    """A reset is no end, whichever of write and read finds it: the client must not see the last chunk."""
    cut = threading.Event()

    def script(connection, head):
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        connection.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                connection.send(b"x" * 65_536)
        connection.reset()
        cut.set()

    backend = RawBackend(script)
    program = serve(backend)
    with HTTP1Client(program.port, receive_buffer=32_768) as client:
        client.send(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n" + b"u" * 100_000)
        assert cut.wait(10)
        if uploads:
            client.send(b"u" * 1_000)
        response = client.response()
        assert response.body.startswith(b"xxx") and not response.complete
    backend.stop()
