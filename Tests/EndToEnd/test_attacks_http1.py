"""Slow clients and wide ones over HTTP/1.1: a thousand connections that never finish cost little, and nobody else notices."""

import collections
import contextlib
import selectors
import socket
import time

import pytest

import processes
from scripted_backend import answer_ok
from test_attacks_http2 import Neighbour, cpu_seconds
from waiting import wait_until
from wire_clients import ConnectionEnded, HTTP1Client

#: Below one default connection limit, above what any honest client opens.
CROWD = 1_000


@pytest.fixture
def attacked(configured, scripted):
    """A router under attack with short timeouts: afterwards its memory, its CPU time and its other client are looked at."""
    backend = scripted(answer_ok)
    program = configured(
        "timeouts: {request_header: 1s, request_body: 1s, downstream_idle: 60s}\n", backend, arguments_after=("--loops", "1")
    )
    neighbour = Neighbour(program.port)
    wait_until(lambda: len(neighbour.answers) >= 20, what="the neighbour's first answers")
    program.forget_peak()
    memory, cpu, answers = program.resident_bytes(), cpu_seconds(program.pid), len(neighbour.answers)
    program.memory_limit, program.cpu_limit = 16 << 20, 3.0
    program.backend = backend
    yield program
    grown, used = program.peak_bytes() - memory, cpu_seconds(program.pid) - cpu
    wait_until(lambda: len(neighbour.answers) >= answers + 20, what="the neighbour's answers after the attack")
    neighbour.stop()
    print(f"memory +{grown / 2**20:.1f} MiB, CPU {used:.2f} s, slowest neighbour {neighbour.slowest:.3f} s")
    assert grown < program.memory_limit, f"{grown / 2**20:.1f} MiB"
    assert used < program.cpu_limit or processes.IS_SANITIZED, f"{used:.2f} CPU seconds"
    assert not [r for r in backend.requests if r.path == b"/attack"]


@contextlib.contextmanager
def crowd(port, opening, count=CROWD):
    """That many connections, each with `opening` sent."""
    sockets = []
    try:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), 10)
            sockets.append(connection)
            connection.sendall(opening)
        yield sockets
    finally:
        for connection in sockets:
            connection.close()


def drip(sockets, piece, timeout=30.0):
    """Sends `piece` on all of them, again and again, until the router has closed each; what it said to the first is returned."""
    deadline = time.monotonic() + timeout
    said = {}
    with selectors.DefaultSelector() as selector:
        for connection in sockets:
            selector.register(connection, selectors.EVENT_READ)
        while alive := list(selector.get_map().values()):
            assert time.monotonic() < deadline, f"{len(alive)} connections still stand"
            for key, _ in selector.select(0.1):
                try:
                    data = key.fileobj.recv(1 << 16)
                except ConnectionError:
                    data = b""
                said[key.fileobj] = said.get(key.fileobj, b"") + data
                if not data:
                    selector.unregister(key.fileobj)
            for key in alive if piece else ():
                with contextlib.suppress(OSError):
                    key.fileobj.send(piece)
    return said


def test_slowloris(attacked):
    """Heads that grow by a field now and then and never end."""
    with crowd(attacked.port, b"POST /attack HTTP/1.1\r\nHost: x\r\n") as sockets:
        said = drip(sockets, b"X-a: b\r\n")
    assert collections.Counter(answer[:12] for answer in said.values()) == {b"HTTP/1.1 408": CROWD}


def test_silence_after_a_first_byte(attacked):
    with crowd(attacked.port, b"P") as sockets:
        drip(sockets, b"")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_bodies_that_stop(attacked, framing):
    """R.U.D.Y.: a long body is announced and never comes."""
    field = b"Content-Length: 1000000\r\n" if framing == "length" else b"Transfer-Encoding: chunked\r\n"
    start = b"x" if framing == "length" else b"f4240\r\nx"
    head = b"POST /attack HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + field + b"\r\n"
    with crowd(attacked.port, head + start) as sockets:
        said = drip(sockets, b"")
    assert collections.Counter(answer[:12] for answer in said.values()) == {b"HTTP/1.1 408": CROWD}


def test_chunks_of_one_byte(attacked):
    """A body of a hundred thousand chunks, each of one byte: six bytes of framing for one of content."""
    attacked.memory_limit = 8 << 20
    with HTTP1Client(attacked.port) as client:
        client.send(b"POST /crumbs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            client.send(b"1\r\nx\r\n" * 1_000)
        client.send(b"0\r\n\r\n")
        assert client.response().status == 200
    assert [len(r.body) for r in attacked.backend.requests if r.path == b"/crumbs"] == [100_000]


def test_chunk_extensions_without_end(attacked):
    with HTTP1Client(attacked.port) as client:
        client.send(b"POST /attack HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        for _ in range(200):
            client.send_unless_refused(b"a" * 10_000)
        assert client.response().status == 400


@pytest.mark.parametrize("item", [b",", b"a,", b"x-94,"])
def test_a_list_of_connection_fields_as_long_as_a_head(attacked, item):
    """A hundred fields, each of which would be looked for in a list of up to sixty thousand."""
    attacked.cpu_limit = 1.0 if processes.IS_OPTIMISED else 6.0
    fields = b"".join(b"x-%d: a\r\n" % number for number in range(95))
    head = b"GET /listed HTTP/1.1\r\nHost: x\r\n" + fields + b"Connection: " + item * (60_000 // len(item)) + b"\r\n\r\n"
    with HTTP1Client(attacked.port) as client:
        for _ in range(100):
            client.send(head)
            assert client.response().status == 200
    seen = [r for r in attacked.backend.requests if r.path == b"/listed"]
    assert len(seen) == 100 and all(r.values(b"x-93") and bool(r.values(b"x-94")) == (b"x" not in item) for r in seen)


@pytest.mark.parametrize("shape", ["many fields", "long field", "long name", "many empty lines"])
def test_heads_that_are_bombs(attacked, shape):
    bomb = {
        "many fields": b"GET /attack HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 200_000,
        "long field": b"GET /attack HTTP/1.1\r\nHost: x\r\nx: " + b"a" * 2_000_000,
        "long name": b"GET /attack HTTP/1.1\r\nHost: x\r\n" + b"a" * 2_000_000,
        "many empty lines": b"\r\n" * 100_000,
    }[shape]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(HTTP1Client(attacked.port)) for _ in range(20)]
        for client in clients:
            with contextlib.suppress(OSError, ConnectionEnded):
                client.send_unless_refused(bomb)
        for client in clients:
            # A reset may overtake the answer, and whoever sends nothing but empty lines is owed none.
            with contextlib.suppress(OSError, ConnectionEnded):
                assert client.response().status == 431


def test_pipelined_without_end(attacked):
    """A client that asks and never reads: the router stops reading it."""
    attacked.memory_limit = 12 << 20
    with socket.create_connection(("127.0.0.1", attacked.port), 10) as connection:
        connection.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(20_000):
                sent += connection.send(b"GET /pipelined HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert sent < 40_000_000


def test_connections_beyond_the_limit_wait_or_are_refused(configured, scripted):
    """Those that are there go on, and whoever leaves makes room."""
    program = configured("limits: {connections: 50}\n", scripted(answer_ok), arguments_after=("--loops", "1"))
    with crowd(program.port, b"", 50) as sockets:
        for connection in sockets[:3]:
            connection.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        late = socket.create_connection(("127.0.0.1", program.port), 10)
        late.settimeout(0.2)
        with contextlib.suppress(TimeoutError, ConnectionError):
            late.sendall(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
            assert late.recv(1 << 16) == b""
        sockets[0].sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sockets[0].recv(1 << 16).startswith(b"HTTP/1.1 200")
        late.close()
    wait_until(lambda: program.accepts_connections(), what="room")
    with HTTP1Client(program.port) as client:
        client.request(target="/after")
        assert client.response().status == 200
