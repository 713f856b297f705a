"""Floods at the level of HTTP/2 frames: the attacker is stopped, its costs are bounded, and a client beside it does not notice."""

import contextlib
import os
import pathlib
import socket
import struct
import threading
import time

import pytest

import admin
import processes
from scripted_backend import answer_ok
from waiting import wait_until, wait_until_steady
from wire_clients import ConnectionEnded, HTTP2Client, Response

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
PROTOCOL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, CANCEL, ENHANCE_YOUR_CALM = 1, 5, 6, 8, 11
#: Of the streams that a client may have reset (`resets_per_second`, ten times as many at once) and of the bytes that the router reads
#: before it looks at their count.
RESETS_PER_SECOND, RESETS_AT_ONCE, BYTES_PER_READ = 100, 1_000, 128 << 10


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


# Literals only, so that any stream of a connection may use it.
POST = b"\x83\x86" + b"\x04\x08/flooded" + b"\x01\x01a"
GET = b"\x82\x86\x84" + b"\x01\x01a"


class Attacker:
    """Sends frames by hand and reads, if it is asked to, in a thread of its own, so that what comes back stops nothing."""

    def __init__(self, port, settings=b"", reads=True):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.received = bytearray()
        self.ended = threading.Event()
        self.sent = 0
        self.send(PREFACE + frame(SETTINGS, payload=settings))
        if reads:
            threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A thread that still reads would keep the connection open.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _read(self):
        with contextlib.suppress(OSError):
            while data := self.socket.recv(1 << 16):
                self.received += data
        self.ended.set()

    def send(self, data):
        self.socket.sendall(data)
        self.sent += len(data)

    def flood(self, pieces):
        """Sends until the router ends the connection or there is no more; returns whether it was ended."""
        try:
            for piece in pieces:
                self.send(piece)
                if self.ended.is_set():
                    return True
        except OSError:
            self.ended.wait(5)
            return True
        return self.ended.wait(2)

    def was_closed(self):
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(1 << 16):
                pass
        return True

    def frames(self, kind):
        found, at = [], 0
        data = bytes(self.received)
        while at + 9 <= len(data):
            length, code, flags, stream = int.from_bytes(data[at : at + 3]), data[at + 3], data[at + 4], data[at + 5 : at + 9]
            if code == kind:
                found.append((int.from_bytes(stream) & 0x7FFFFFFF, flags, data[at + 9 : at + 9 + length]))
            at += 9 + length
        return found

    @property
    def goaway_code(self):
        """The error code of the last GOAWAY."""
        frames = self.frames(GOAWAY)
        return int.from_bytes(frames[-1][2][4:8]) if frames else None

    @property
    def last_stream(self):
        """The last stream that the last GOAWAY calls taken."""
        return int.from_bytes(self.frames(GOAWAY)[-1][2][:4]) & 0x7FFFFFFF

    def assert_calmed(self, bytes_per_stream):
        """Told why, and after no more streams than the allowance, what came with the last of it, and ten seconds' worth beyond."""
        assert self.goaway_code == ENHANCE_YOUR_CALM
        taken = (self.last_stream + 1) // 2
        assert taken <= RESETS_AT_ONCE + BYTES_PER_READ // bytes_per_stream + 10 * RESETS_PER_SECOND

    def reset_codes(self):
        return [int.from_bytes(payload) for _, _, payload in self.frames(RST_STREAM)]


class Neighbour(threading.Thread):
    """A client that keeps asking over one connection of its own."""

    def __init__(self, port, body=b"{}"):
        super().__init__(daemon=True)
        self.port = port
        self.body = body
        self.asked = 0
        self.answers = []
        self.slowest = 0.0
        self.failure = None
        self.stopped = threading.Event()
        self.start()

    def run(self):
        try:
            self.ask_on()
        except OSError as error:
            self.failure = error

    def ask_on(self):
        with HTTP2Client(self.port) as client:
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self.stopped.is_set():
                started = time.monotonic()
                self.asked += 1
                response = client.response(client.request(body=self.body, target="/neighbour"))
                self.slowest = max(self.slowest, time.monotonic() - started)
                self.answers.append((response.status, response.complete))
                time.sleep(0.005)

    def stop(self):
        self.stopped.set()
        self.join(15)
        assert not self.is_alive() and self.failure is None, f"the neighbour got no answer: {self.failure}"
        assert len(self.answers) == self.asked and set(self.answers) == {(200, True)}
        # No measurement: an attack that holds the loop for so long is an outage.
        assert self.slowest < 5 or processes.IS_SANITIZED, f"{self.slowest:.1f} s for one answer"


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def attacked(serve, scripted, gate):
    """A router under attack: yields it, and afterwards looks at what the attack has cost it and its other client."""

    async def script(exchange):
        if exchange.request.path == b"/held":
            await gate.wait()
        if exchange.request.path == b"/large":
            return await exchange.answer(200, large)
        await answer_ok(exchange)

    large = bytes(1 << 20)

    program = serve(scripted(script), arguments=("--loops", "1", "--log-level", "error"))
    neighbour = Neighbour(program.port)
    wait_until(lambda: len(neighbour.answers) >= 20, what="the neighbour's first answers")
    program.forget_peak()
    memory, cpu, answers = program.resident_bytes(), cpu_seconds(program.pid), len(neighbour.answers)
    program.memory_limit, program.cpu_limit = 24 << 20, 3.0 if processes.IS_OPTIMISED else 6.0
    yield program
    grown, used = program.peak_bytes() - memory, cpu_seconds(program.pid) - cpu
    wait_until(lambda: len(neighbour.answers) >= answers + 20, what="the neighbour's answers after the attack")
    neighbour.stop()
    print(f"memory +{grown / 2**20:.1f} MiB, CPU {used:.2f} s, neighbour {len(neighbour.answers)}, slowest {neighbour.slowest:.3f} s")
    assert grown < program.memory_limit, f"{grown / 2**20:.1f} MiB"
    assert used < program.cpu_limit or processes.IS_SANITIZED, f"{used:.2f} CPU seconds"


def batches(make, count, size=500):
    """`count` pieces, `size` of them in a write; `make` gets a number from 0."""
    for first in range(0, count, size):
        yield b"".join(make(number) for number in range(first, min(first + size, count)))


def stream_of(number):
    return 2 * number + 1


# Streams that are reset ----------------------------------------------------------------------------------------------


def test_rapid_reset(attacked):
    """CVE-2023-44487: a request and its RST_STREAM at once, again and again."""

    def piece(number):
        stream = stream_of(number)
        return frame(HEADERS, END_STREAM | END_HEADERS, stream, POST) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")

    with Attacker(attacked.port) as attacker:
        assert attacker.flood(batches(piece, 100_000))
        attacker.assert_calmed(len(piece(0)))


BREACHES = {
    "window update of zero": lambda stream: frame(WINDOW_UPDATE, 0, stream, b"\0\0\0\0"),
    "window beyond 2^31-1": lambda stream: frame(WINDOW_UPDATE, 0, stream, b"\x7f\xff\xff\xff"),
    "stream that depends on itself": lambda stream: frame(PRIORITY, 0, stream, struct.pack(">IB", stream, 1)),
    "PRIORITY of four bytes": lambda stream: frame(PRIORITY, 0, stream, b"\0\0\0\0"),
    "trailers without an end": lambda stream: frame(HEADERS, END_HEADERS, stream, b"\x00\x01x\x01y"),
    "pseudo-field in trailers": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x82"),
    "more than content-length": lambda stream: frame(DATA, 0, stream, b"toomuch"),
    "less than content-length": lambda stream: frame(DATA, END_STREAM, stream, b"l"),
    "DATA after the end": lambda stream: frame(DATA, END_STREAM, stream, b"okay") + frame(DATA, 0, stream, b"more"),
    "HEADERS after the end": lambda stream: frame(DATA, END_STREAM, stream, b"okay") + frame(HEADERS, END_HEADERS, stream, POST),
}  # fmt: skip


#: Those that the library takes for a breach of the whole connection: the first ends it, with this code.
ENDING = {
    "window update of zero": PROTOCOL_ERROR,
    "stream that depends on itself": PROTOCOL_ERROR,
    "PRIORITY of four bytes": FRAME_SIZE_ERROR,
    "DATA after the end": STREAM_CLOSED,
    "HEADERS after the end": STREAM_CLOSED,
}


@pytest.mark.parametrize("breach", BREACHES)
def test_reset_by_the_server(attacked, breach):
    """CVE-2025-8671 ("MadeYouReset"): the client breaks the protocol so that the server resets the stream, which the client's own
    limit on RST_STREAM would not count."""

    def piece(number):
        stream = stream_of(number)
        return frame(HEADERS, END_HEADERS, stream, POST + b"\x0f\x0d\x014") + BREACHES[breach](stream)

    with Attacker(attacked.port) as attacker:
        assert attacker.flood(batches(piece, 100_000))
        if breach in ENDING:
            assert (attacker.goaway_code, attacker.last_stream) == (ENDING[breach], 1)
        else:
            attacker.assert_calmed(len(piece(0)))


def test_trailing_fields_that_break_the_rules_end_one_stream_only(attacked):
    with Attacker(attacked.port) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS, 1, POST) + frame(HEADERS, END_HEADERS, 1, b"\x00\x01x\x01y"))
        attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, GET))
        wait_until(lambda: attacker.frames(HEADERS), what="the answer on the other stream")
        assert [stream for stream, _, _ in attacker.frames(RST_STREAM)] == [1]
        assert attacker.goaway_code is None


# Header blocks -------------------------------------------------------------------------------------------------------


def test_continuation_flood(attacked):
    """CVE-2024-27316: a header block without an end."""
    with Attacker(attacked.port) as attacker:
        attacker.send(frame(HEADERS, 0, 1, POST))
        piece = frame(CONTINUATION, 0, 1, b"\x00\x01x\x7f\x81\x7d" + b"v" * 16_000)
        assert attacker.flood(piece for _ in range(10_000))
        assert attacker.goaway_code == ENHANCE_YOUR_CALM
        assert attacker.sent < 32 << 20


def test_empty_continuation_flood(attacked):
    with Attacker(attacked.port) as attacker:
        attacker.send(frame(HEADERS, 0, 1, POST))
        assert attacker.flood(batches(lambda _: frame(CONTINUATION, 0, 1), 1_000_000))
        assert attacker.goaway_code == ENHANCE_YOUR_CALM


def test_hpack_bomb(attacked):
    """One entry of the dynamic table, and thousands of one-byte references to it."""
    entry = b"\x40\x04bomb\x7f\x81\x1e" + b"x" * 3_968
    bomb = frame(HEADERS, END_HEADERS | END_STREAM, 1, POST + entry)
    block = POST + b"\xbe" * (16_384 - len(POST))

    def piece(number):
        return frame(HEADERS, END_HEADERS | END_STREAM, stream_of(number + 1), block)

    with Attacker(attacked.port) as attacker:
        attacker.send(bomb)
        assert attacker.flood(batches(piece, 10_000, 1))
        attacker.assert_calmed(len(block))


def test_fields_of_no_length(attacked):
    """CVE-2019-9516: names and values of zero length."""

    def piece(number):
        return frame(HEADERS, END_HEADERS | END_STREAM, stream_of(number), POST + b"\x00\x00\x00" * 5_000)

    with Attacker(attacked.port) as attacker:
        assert attacker.flood(batches(piece, 20_000, 10))
        attacker.assert_calmed(15_000)


def test_empty_headers_flood(attacked):
    """CVE-2019-9518 with HEADERS: the first resets the stream, and those after it cost next to nothing; the connection lives."""
    attacked.cpu_limit = 1.0
    with Attacker(attacked.port) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS, 1, POST))
        for piece in batches(lambda _: frame(HEADERS, END_HEADERS, 1), 100_000):
            attacker.send(piece)
        attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, GET))
        wait_until(lambda: 3 in [stream for stream, _, _ in attacker.frames(HEADERS)], 20, "the answer on the other stream")
        assert attacker.frames(RST_STREAM) == [(1, 0, struct.pack(">I", PROTOCOL_ERROR))]
        assert attacker.goaway_code is None


# Frames that carry nothing -------------------------------------------------------------------------------------------

IDLE = {
    "SETTINGS (CVE-2019-9515)": frame(SETTINGS),
    "SETTINGS with content": frame(SETTINGS, payload=struct.pack(">HIHI", 3, 100, 4, 65_535)),
    "PING (CVE-2019-9512)": frame(PING, payload=bytes(8)),
    "PING answers": frame(PING, ACK, payload=bytes(8)),
    "PRIORITY (CVE-2019-9513)": frame(PRIORITY, 0, 5, struct.pack(">IB", 3, 1)),
    "empty DATA (CVE-2019-9518)": frame(DATA, 0, 1),
    "steps of one byte (CVE-2019-9511)": frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
}


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
@pytest.mark.parametrize("kind", IDLE)
def test_flood_of_frames_that_carry_nothing(attacked, kind, reads):
    with Attacker(attacked.port, reads=reads) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS, 1, POST))
        if reads:
            assert attacker.flood(batches(lambda _: IDLE[kind], 1_000_000))
            assert attacker.goaway_code == ENHANCE_YOUR_CALM
        else:
            with contextlib.suppress(OSError):
                for piece in batches(lambda _: IDLE[kind], 1_000_000):
                    attacker.send(piece)
            assert attacker.was_closed()
            assert attacker.sent < 9_000_000


def test_padding_counts_against_the_window(attacked):
    with Attacker(attacked.port) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS, 1, POST))
        attacker.flood(batches(lambda _: frame(DATA, PADDED, 1, b"\xff" + bytes(255)), 20_000))
        assert attacker.reset_codes() == [3] or attacker.goaway_code in (3, ENHANCE_YOUR_CALM)


def test_a_few_of_them_are_no_flood(attacked):
    with Attacker(attacked.port) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS, 1, POST))
        for number in range(20):
            attacker.send(b"".join(IDLE.values()) * 10)
            stream = stream_of(number + 5)
            attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET))
            wait_until(lambda stream=stream: stream in [found for found, _, _ in attacker.frames(HEADERS)], what="an answer")
        assert attacker.goaway_code is None


# Windows -------------------------------------------------------------------------------------------------------------


def test_zero_window_stall(configured, scripted):
    """256 large answers that are never taken: held back at their backend, and given up when nothing has moved for the idle timeout."""

    async def script(exchange):
        if exchange.request.path == b"/neighbour":
            return await answer_ok(exchange)
        await exchange.answer(200, large)

    large = bytes(1 << 20)
    lines = "timeouts: {downstream_idle: 2s}\n"
    program = configured(lines, scripted(script), admin=True, arguments_after=("--loops", "1"))
    neighbour = Neighbour(program.port)
    wait_until(lambda: len(neighbour.answers) >= 20, what="the neighbour's first answers")
    program.forget_peak()
    memory, cpu = program.resident_bytes(), cpu_seconds(program.pid)

    def under_way():
        return admin.sample(program, "swiftlet_requests_in_flight")

    with Attacker(program.port, settings=struct.pack(">HI", 4, 0)) as attacker:
        attacker.send(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream_of(number), GET) for number in range(256)))
        wait_until(lambda: len(attacker.frames(HEADERS)) == 256, 20, "256 heads")
        wait_until_steady(program.resident_bytes, what="the router's memory")
        assert attacker.frames(DATA) == []
        # Its streams are reset one by one, or its connection ends: it has answered no PING.
        wait_until(lambda: attacker.ended.is_set() or attacker.reset_codes() == [CANCEL] * 256, 20, "the router to give up")
        wait_until(lambda: under_way() <= 1, 10, "the end of what was asked for")
    grown, used = program.peak_bytes() - memory, cpu_seconds(program.pid) - cpu
    neighbour.stop()
    print(f"memory +{grown / 2**20:.1f} MiB, CPU {used:.2f} s")
    # 256 MiB are asked for.
    assert grown < 44 << 20, f"{grown / 2**20:.1f} MiB"
    assert used < (3.0 if processes.IS_OPTIMISED else 6.0) or processes.IS_SANITIZED, f"{used:.2f} CPU seconds"


def test_data_dribble_upwards(attacked):
    """A body in frames of one byte is slow, not fatal: it is passed on, and others go on."""
    # What fits into the window of a client that acknowledges no SETTINGS.
    size = 60_000
    with Attacker(attacked.port) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS, 1, POST))
        attacker.flood(batches(lambda _: frame(DATA, 0, 1, b" "), size))
        attacker.send(frame(DATA, END_STREAM, 1, b"{}"))
        wait_until(lambda: attacker.frames(HEADERS), 20, "an answer")


LARGE = b"\x82\x86" + b"\x04\x06/large" + b"\x01\x01a"


def open_window(stream, size):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def test_data_dribble_downwards(attacked):
    """CVE-2019-9511: a large answer, and a window that is opened byte by byte, so that each byte costs a frame."""
    with Attacker(attacked.port, settings=struct.pack(">HI", 4, 0)) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, LARGE))
        attacker.send(open_window(1, 1))
        wait_until(lambda: attacker.frames(DATA), what="the first byte")
        assert attacker.flood(batches(lambda _: open_window(1, 1), 500_000))
        assert attacker.goaway_code == ENHANCE_YOUR_CALM
        # No more bytes than steps that the allowance and ten seconds of it, and the last read, hold.
        assert sum(len(payload) for _, _, payload in attacker.frames(DATA)) <= 10_000 + 10 * 1_000 + BYTES_PER_READ // 13


def test_many_data_dribbles_at_once(attacked):
    """The same on as many streams as there may be: the allowance is one for them all."""
    with Attacker(attacked.port, settings=struct.pack(">HI", 4, 0)) as attacker:
        attacker.send(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream_of(number), LARGE) for number in range(100)))
        wait_until(lambda: len(attacker.frames(HEADERS)) == 100, what="the heads")
        assert attacker.flood(batches(lambda number: open_window(stream_of(number % 100), 1), 500_000))
        assert attacker.goaway_code == ENHANCE_YOUR_CALM
    # 100 MiB are asked for.
    attacked.memory_limit = 48 << 20


def test_a_short_dribble_is_no_flood(attacked):
    """As a reader with little room may send it: what the window allows arrives, and then the rest."""
    with Attacker(attacked.port, settings=struct.pack(">HI", 4, 0)) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, LARGE) + open_window(0, 1 << 20))
        attacker.send(open_window(1, 1) * 2_000)
        wait_until(lambda: sum(len(payload) for _, _, payload in attacker.frames(DATA)) == 2_000, what="2,000 bytes")
        attacker.send(open_window(1, 1 << 20))
        wait_until(lambda: sum(len(payload) for _, _, payload in attacker.frames(DATA)) == 1 << 20, what="the rest")
        assert attacker.goaway_code is None


# What is refused one by one ------------------------------------------------------------------------------------------


def test_push_promise_from_a_client_ends_the_connection(attacked):
    with Attacker(attacked.port) as attacker:
        attacker.send(frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + GET))
        assert attacker.ended.wait(5)
        assert attacker.goaway_code == 1


def exchange_of(client, head, end=True):
    stream = client.connection.get_next_available_stream_id()
    client.connection.send_headers(stream, head, end_stream=end)
    client.responses[stream] = Response(body=bytearray())
    client.flush()
    with contextlib.suppress(ConnectionEnded):
        return client.response(stream)


def test_connect_is_refused_on_its_stream_alone(attacked):
    with HTTP2Client(attacked.port, strict=False) as client:
        refused = exchange_of(client, [(b":method", b"CONNECT"), (b":authority", b"elsewhere:443")])
        assert refused.status in (400, 501) or refused.reset_code is not None
        assert client.response(client.request(body={})).status == 200
