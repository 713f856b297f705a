"""HTTP/2 backends that lie or flood: an error for those who asked it, nothing for those who did not, and no memory for it."""

import contextlib
import socket
import struct
import threading

import hpack
import pytest

import admin
import processes
from scripted_backend import BACKGROUND_PATHS, answer_ok
from test_attacks_http2 import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, PUSH_PROMISE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, cpu_seconds, frame,
)  # fmt: skip
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client

OK = b"\x88"  # :status 200
NAMED = b"\x00\x01a" + b"\x7f\x81\x1f" + b"b" * 4_096  # a literal of four KiB


class FrameLiar:
    """Speaks HTTP/2 as far as SETTINGS, then sends `answer(stream)` for each request's HEADERS, again and again if it is to flood."""

    def __init__(self, answer, floods=False):
        self.answer = answer
        self.floods = floods
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"h2c://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._listener.close()

    @staticmethod
    def is_background(path):
        """Whether it is the router's own question."""
        return path in BACKGROUND_PATHS or path.endswith(b"/GetLoads")

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted):
        with contextlib.suppress(OSError), accepted:
            accepted.sendall(frame(SETTINGS))
            data, decoder = b"", hpack.Decoder()
            while piece := accepted.recv(1 << 16):
                data = (data + piece).removeprefix(PREFACE)
                while len(data) >= 9 and len(data) >= (size := 9 + int.from_bytes(data[:3])):
                    kind, flags, stream, payload = data[3], data[4], int.from_bytes(data[5:9]), data[9:size]
                    data = data[size:]
                    if kind == SETTINGS and not flags & ACK:
                        accepted.sendall(frame(SETTINGS, ACK))
                    elif kind == HEADERS and self.is_background(dict(decoder.decode(payload, raw=True))[b":path"]):
                        accepted.sendall(frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x8d"))  # 404
                    elif kind == HEADERS:
                        self.asked += 1
                        accepted.sendall(self.answer(stream))
                        while self.floods:
                            accepted.sendall(self.answer(stream))


#: Frames that break the protocol, on the stream that asked or on the connection.
BROKEN = {
    "no status": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x00\x01a\x01b"),
    "two statuses": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, OK + OK),
    "status below 100": lambda stream: frame(HEADERS, END_HEADERS, stream, b"\x08\x03099") + frame(DATA, END_STREAM, stream, b"ok"),
    "status of zeros": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x08\x03000"),
    "status that is none": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x08\x03abc"),
    "switch of protocols": lambda stream: frame(HEADERS, END_HEADERS, stream, b"\x08\x03101"),
    "upper case": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, OK + b"\x00\x01A\x01b"),
    "line feed in a value": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, OK + b"\x00\x01a\x03b\nc"),
    "NUL in a value": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, OK + b"\x00\x01a\x03b\0c"),
    "connection field": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, OK + b"\x00\x0aconnection\x05close"),
    "request's field": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, OK + b"\x84"),
    "DATA before its head": lambda stream: frame(DATA, END_STREAM, stream, b"ok"),
    "fields that are none": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\xff\xff\xff\xff\xff\xff"),
    "DATA of another stream": lambda stream: frame(DATA, END_STREAM, stream + 100, b"ok"),
    "a stream of its own": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, 2, OK),
    "a promise": lambda stream: frame(PUSH_PROMISE, END_HEADERS, stream, struct.pack(">I", 2) + b"\x82\x86\x84"),
    "SETTINGS of five bytes": lambda stream: frame(SETTINGS, payload=b"12345"),
    "window beyond 2^31": lambda stream: frame(WINDOW_UPDATE, payload=struct.pack(">I", 0x7FFFFFFF)),
    "frame too long": lambda stream: frame(HEADERS, END_HEADERS, stream, OK) + frame(DATA, 0, stream, b"x" * 16_385),
    "HTTP/1": lambda stream: b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "reset": lambda stream: frame(RST_STREAM, 0, stream, struct.pack(">I", 2)),
    "fields beyond the bound": lambda stream: b"".join(
        [frame(HEADERS, 0, stream, OK), *[frame(CONTINUATION, 0, stream, NAMED)] * 64, frame(CONTINUATION, END_HEADERS, stream)]
    ),
}


@pytest.fixture
def liar():
    liars = []

    def make(answer, floods=False):
        liars.append(FrameLiar(answer, floods))
        return liars[-1]

    yield make
    for one in liars:
        one.stop()


@pytest.mark.parametrize("case", BROKEN)
def test_an_answer_that_breaks_the_rules_is_an_error(serve, liar, case):
    backend = liar(BROKEN[case])
    program = serve(backend)
    for make in (HTTP1Client, HTTP2Client):
        with make(program.port) as client:
            started = client.request(method="GET", target="/x")
            response = client.response() if make is HTTP1Client else client.response(started)
            assert response.status == 502, response
    assert backend.asked >= 2


@pytest.mark.parametrize(("count", "status"), [(200, 200), (201, 502)])
@pytest.mark.parametrize("where", ["head", "trailers"])
def test_as_many_fields_as_over_http1(serve, liar, where, count, status):
    fields = b"\x00\x01a\x01b" * count

    def answer(stream):
        if where == "head":
            return frame(HEADERS, END_HEADERS | END_STREAM, stream, OK + fields)
        return frame(HEADERS, END_HEADERS, stream, OK) + frame(HEADERS, END_HEADERS | END_STREAM, stream, fields)

    with HTTP1Client(serve(liar(answer)).port) as client:
        client.request(method="GET", target="/x")
        assert client.response().status == status


def head_of(count, stream):
    """A head that RFC 9113 counts as so many bytes (6.5.2), and a short body."""
    fields = [(b":status", b"200"), *[(b"x-%d" % number, b"a" * 16_000) for number in range(8)]]
    fields.append((b"x", b"b" * (count - sum(len(name) + len(value) + 32 for name, value in fields) - 33)))
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields], huffman=False)
    pieces = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    frames = [frame(CONTINUATION if number else HEADERS, 0, stream, piece) for number, piece in enumerate(pieces)]
    return b"".join([*frames, frame(CONTINUATION, END_HEADERS, stream), frame(DATA, END_STREAM, stream, b"ok")])


@pytest.mark.parametrize(("count", "status"), [(131_072, 200), (131_073, 502)])
@pytest.mark.parametrize("make", [HTTP1Client, HTTP2Client])
def test_a_head_of_the_most_bytes(serve, liar, make, count, status):
    """What the router adds to it finds room, too."""
    with make(serve(liar(lambda stream: head_of(count, stream))).port) as client:
        if make is HTTP2Client:
            client.connection.decoder.max_header_list_size = 1 << 20
        started = client.request(method="GET", target="/x", fields=((b"x-request-id", b"r" * 250),))
        response = client.response() if make is HTTP1Client else client.response(started)
        assert response.status == status
        if status == 200:
            assert bytes(response.body) == b"ok" and len(response.value(b"x-7")) == 16_000
            assert response.value(b"x-request-id") == b"r" * 250


#: An answer that has begun and breaks off: it must not look whole.
CUT = {
    "more than its length": lambda stream: frame(HEADERS, END_HEADERS, stream, OK + b"\x0f\x0d\x012") + frame(DATA, END_STREAM, stream, b"abc"),
    "less than its length": lambda stream: frame(HEADERS, END_HEADERS, stream, OK + b"\x0f\x0d\x014") + frame(DATA, END_STREAM, stream, b"abc"),
    "reset in its body": lambda stream: frame(HEADERS, END_HEADERS, stream, OK) + frame(DATA, 0, stream, b"abc") + BROKEN["reset"](stream),
    "pseudo-field in its trailers": lambda stream: frame(HEADERS, END_HEADERS, stream, OK) + frame(DATA, 0, stream, b"abc")
    + frame(HEADERS, END_HEADERS | END_STREAM, stream, OK),
    "trailers that end nothing": lambda stream: frame(HEADERS, END_HEADERS, stream, OK) + frame(DATA, 0, stream, b"abc")
    + frame(HEADERS, END_HEADERS, stream, b"\x00\x01a\x01b") + frame(DATA, END_STREAM, stream, b"abc"),
    "GOAWAY that leaves it out": lambda stream: frame(HEADERS, END_HEADERS, stream, OK) + frame(DATA, 0, stream, b"abc")
    + frame(GOAWAY, payload=struct.pack(">II", 0, 2)),
}  # fmt: skip


@pytest.mark.parametrize("case", CUT)
def test_an_answer_cut_short_never_looks_whole(serve, liar, case):
    program = serve(liar(CUT[case]))
    with HTTP1Client(program.port) as client:
        client.request(method="GET", target="/x")
        response = client.response()
        assert response.status == 502 or not response.complete, response
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(method="GET", target="/x"))
        assert response.status == 502 or not response.complete, response


FLOODS = {
    "PING": lambda stream: frame(PING, payload=b"12345678") * 1_000,
    "SETTINGS": lambda stream: frame(SETTINGS) * 1_000,
    "empty DATA": lambda stream: frame(DATA, 0, stream) * 1_000,
    "CONTINUATION": lambda stream: frame(HEADERS, 0, stream, OK) + frame(CONTINUATION, 0, stream, NAMED) * 16,
    "interim answers": lambda stream: frame(HEADERS, END_HEADERS, stream, b"\x08\x03103") * 100,
    "WINDOW_UPDATE": lambda stream: frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 1)) * 1_000,
    "promises": lambda stream: frame(PUSH_PROMISE, END_HEADERS, stream, struct.pack(">I", 2) + b"\x82\x86\x84") * 100,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_with_its_request(configured, liar, scripted, kind):
    """However much a backend talks, its silence about the request is told, and memory stays bounded."""
    good = scripted(answer_ok)
    flooder = liar(FLOODS[kind], floods=True)
    lines = "timeouts: {response: 1s}\nretries: {attempts: 1}\n"
    program = configured(lines, flooder, good, admin=True, arguments_after=("--loops", "1", "--policy", "round-robin"))
    before, cpu = program.resident_bytes(), cpu_seconds(program.pid)
    statuses = []
    for _ in range(2):
        with HTTP1Client(program.port, timeout=20) as client:
            client.request(method="GET", target="/x")
            statuses.append(client.response("GET").status)
    assert 200 in statuses and set(statuses) <= {200, 502, 504}, statuses
    assert flooder.asked == 1
    assert program.resident_bytes() - before < 24 << 20
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the request's end")
    with HTTP1Client(program.port) as client:
        assert client.request(method="GET", target="/health").response("GET").status == 200
    assert cpu_seconds(program.pid) - cpu < 8 or processes.IS_SANITIZED
