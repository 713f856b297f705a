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
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, ask, assert_openai_error

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
def house(hub):
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
    program = processes.serve(backend.url, admin=True, arguments=("--loops", "1"))
    program.backend = backend
    yield program
    program.stop()
    backend.stop()
    assert not [error for error in backend.errors if "cut in its head" not in str(error)], backend.errors


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def open_connections(program, side):
    return admin.sample(program, f"swiftlet_{side}_connections_open")


@pytest.mark.parametrize("state", CLIENTS)
def test_a_client_resets(house, state):
    sent, awaited = CLIENTS[state]
    connection = socket.create_connection(("127.0.0.1", house.port), 5)
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
    wait_until(lambda: open_connections(house, "downstream") == 0, what="the connection's end")
    wait_until(lambda: sum(admin.in_flight(house)) == 0, what="the booking's end")
    wait_until(lambda: house.backend.in_flight == 0, what="the backend to be told")
    assert ask(house.port, b"{}").status == 200


class FrameReset:
    """An HTTP/2 backend that resets each connection when it has come as far as `state` says."""

    STATES = ("accepted", "preface", "settings", "request", "in the head", "head")

    def __init__(self, state):
        self.state = state
        self.resets = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"h2c://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                with contextlib.suppress(OSError):
                    self._play(accepted)
                self.resets += 1
                reset(accepted)

    def _play(self, accepted):
        accepted.settimeout(5)
        if self.state == "accepted":
            return
        accepted.recv(24, socket.MSG_WAITALL)
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
            head = accepted.recv(9, socket.MSG_WAITALL)
            if len(head) < 9:
                raise ConnectionError
            if size := int.from_bytes(head[:3]):
                accepted.recv(size, socket.MSG_WAITALL)
            if head[3] == HEADERS:
                return int.from_bytes(head[5:9])


@pytest.mark.parametrize("state", FrameReset.STATES)
def test_an_http2_backend_resets(serve, fleet, state):
    """Before its answer has begun another group gives it; the one that resets is not asked for ever."""
    broken = FrameReset(state)
    program = serve(broken, f"h2c://127.0.0.1:{fleet.ports[0]}", arguments=("--loops", "1", "--policy", "round-robin"))
    body = {"model": "stub-model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    with HTTP2Client(program.port) as client:
        for _ in range(6):
            assert client.response(client.request(body=body, fields=[(b"content-type", b"application/json")])).status == 200
    assert broken.resets >= 1
    broken.stop()


@pytest.mark.parametrize("state", FrameReset.STATES)
def test_an_http2_backend_resets_and_is_all_there_is(serve, state):
    broken = FrameReset(state)
    program = serve(broken, arguments=("--loops", "1"))
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(body={}))
        assert response.status in (502, 503) and response.json["error"]["code"].startswith(("upstream_", "no_ready"))
    broken.stop()


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
