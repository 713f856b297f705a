"""What the router holds for readers that are slow: bounded for all of a loop's connections together, by taking no more from backends."""

import contextlib
import socket
import struct
import subprocess
import time

import h2.events
import pytest

import admin
import processes
from scripted_backend import PeerGone, answer_ok
from test_attacks_http2 import CANCEL, END_HEADERS, END_STREAM, HEADERS, Attacker, Neighbour, frame, stream_of
from waiting import wait_until, wait_until_steady
from wire_clients import HTTP1Client, HTTP2Client

MIB = 1 << 20
ANSWER, READ = 16 * MIB, 2 * MIB
BOUND = 8 * MIB
#: Below the bound of one stream's queue and one more window or read, with what an exchange is beside them.
PER_REQUEST = 40 << 10
#: Chunks that buffers gave back as they grew, which a loop keeps for reuse (`ChunkPool.keptLongBytes`): how many depends on whose bytes came first.
KEPT = 8 * MIB
GET = b"\x82\x86" + b"\x04\x06/large" + b"\x01\x01a"
#: In whose answer every position can be told from every other.
PATTERN = b"".join(struct.pack(">I", number) for number in range(ANSWER // 4))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A HTTP/2 server of another make that sends as fast as it is let."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "large").write_bytes(PATTERN)
    (folder / "read").write_bytes(PATTERN[:READ])
    (folder / "neighbour").write_bytes(b"ok")
    port = processes.unused_port()
    command = ["nghttpd", "--no-tls", "--max-concurrent-streams=256", f"--htdocs={folder}", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def is_up():
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True

    wait_until(is_up, what="nghttpd")
    yield f"h2c://127.0.0.1:{port}"
    server.terminate()
    server.wait(10)


@pytest.fixture
def bounded(configured, files, scripted):
    """A router of one loop with little room, over HTTP/2 or HTTP/1.1, and a client beside the slow ones."""
    neighbours = []

    def make(upstream):
        async def script(exchange):
            if exchange.request.path == b"/neighbour":
                return await answer_ok(exchange)
            size = ANSWER if exchange.request.path == b"/large" else READ
            with contextlib.suppress(PeerGone):
                await exchange.head(200, ((b"content-length", b"%d" % size),))
                for at in range(0, size, 64 << 10):
                    await exchange.send(PATTERN[at : at + (64 << 10)])

        backend = files if upstream == "h2c" else scripted(script)
        lines = f"limits: {{connection_buffer_bytes: {BOUND // MIB}MiB}}\n"
        program = configured(lines, backend, arguments_after=("--loops", "1", "--log-level", "error"))
        neighbours.append(Neighbour(program.port))
        wait_until(lambda: len(neighbours[0].answers) >= 20, what="the neighbour's first answers")
        program.memory_before = program.resident_bytes()
        return program

    yield make
    if neighbours:
        before = len(neighbours[0].answers)
        wait_until(lambda: len(neighbours[0].answers) >= before + 20, 15, "answers beside those that nobody reads")
        neighbours[0].stop()


def held_bytes(program):
    return wait_until_steady(program.resident_bytes, what="the router's memory", timeout=20) - program.memory_before


@pytest.mark.parametrize("upstream", ["h2c", "http1"])
def test_many_streams_of_clients_that_do_not_read(bounded, upstream):
    """Gigabytes are asked for in a thousand streams; then one client begins to read and gets all of an answer."""
    clients, streams = (4, 256) if upstream == "h2c" else (4, 32)
    program = bounded(upstream)
    with contextlib.ExitStack() as stack:
        for _ in range(clients):
            attacker = stack.enter_context(Attacker(program.port, settings=struct.pack(">HI", 4, 0)))
            attacker.send(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream_of(number), GET) for number in range(streams)))
            wait_until(lambda attacker=attacker: len(attacker.frames(HEADERS)) == streams, 30, "the heads")
        held = held_bytes(program)
        print(f"{held / MIB:.1f} MiB for {clients * streams} streams")
        assert held < BOUND + clients * streams * PER_REQUEST
        # Room or not: one who reads is served at whatever pace the least of windows allows.
        with HTTP2Client(program.port, timeout=30) as reader:
            response = reader.response(reader.request(target="/read", method="GET"))
            assert response.complete and response.body == PATTERN[:READ]


@pytest.mark.parametrize("upstream", ["h2c", "http1"])
def test_many_connections_that_do_not_read(bounded, upstream):
    """The same with a connection for each: what one of them holds is as little, once all hold much."""
    count = 200 if upstream == "h2c" else 100
    program = bounded(upstream)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(HTTP1Client(program.port, timeout=30, receive_buffer=4096)) for _ in range(count)]
        for client in clients:
            client.request("GET", "/large", body=None)
        held = held_bytes(program)
        print(f"{held / MIB:.1f} MiB for {count} connections")
        assert held < BOUND + KEPT + count * PER_REQUEST
        # What was held back is not lost.
        response = clients[0].response("GET")
        assert response.complete and response.body == PATTERN


#: By how much a window is widened.
WIDE = (256 << 10) - (16 << 10)
PART = 10_000


class Parts:
    """A HTTP/2 backend that begins each answer with more than half of a first window, and keeps what windows it is given."""

    def __init__(self):
        self.begun, self.updates = {}, {}

    def __call__(self, connection, event):
        if isinstance(event, h2.events.RequestReceived):
            self.begun[event.stream_id], self.updates[event.stream_id] = connection, []
            connection.h2.send_headers(event.stream_id, [(b":status", b"200")])
            connection.h2.send_data(event.stream_id, bytes(PART))
        elif isinstance(event, h2.events.WindowUpdated) and event.stream_id:
            self.updates[event.stream_id].append(event.delta)

    def ask(self, client):
        """One more answer begins; returns its stream at the client, its stream here, and the window that this got."""
        known = set(self.begun)
        stream = client.request(target="/part", method="GET")
        while len(client.responses[stream].body) < PART:
            client.pump()
        (here,) = set(self.begun) - known
        wait_until(lambda: self.updates[here], what="a WINDOW_UPDATE")
        return stream, here, self.updates[here][0]

    def act(self, here, *actions):
        connection = self.begun[here]
        with connection.lock:
            for action in actions:
                action(connection.h2)
            connection.flush()

    def send_window(self, here):
        """All that the router allows of that stream; returns how much that was."""
        sent = 0

        def send(h2):
            nonlocal sent
            while (part := min(h2.local_flow_control_window(here), 16_384)) > 0:
                h2.send_data(here, bytes(part))
                sent += part

        self.act(here, lambda h2: h2.increment_flow_control_window(1), send)
        return sent


def test_as_many_wide_windows_as_there_is_room_for(configured, by_frames):
    """Half a megabyte for them: two clients' streams may send more, the third's as much as before, until one of the two has ended."""
    backend = Parts()
    program = configured("loops: 1\nlimits: {connection_buffer_bytes: 1MiB}\n", by_frames(backend))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(HTTP2Client(program.port)) for _ in range(3)]
        begun = [backend.ask(client) for client in clients]
        assert [window for _, _, window in begun] == [WIDE, WIDE, PART]
        stream, here, _ = begun[0]
        backend.act(here, lambda h2: h2.end_stream(here))
        assert clients[0].response(stream).complete
        assert backend.ask(clients[2])[2] == WIDE


def test_no_client_has_more_of_the_wide_windows_than_it_leaves(configured, by_frames):
    """A megabyte for them: one connection gets two, however many it wants, and two others get theirs."""
    backend = Parts()
    program = configured("loops: 1\nlimits: {connection_buffer_bytes: 2MiB}\n", by_frames(backend))
    with HTTP2Client(program.port) as greedy, HTTP2Client(program.port) as second, HTTP2Client(program.port) as third:
        assert [backend.ask(greedy)[2] for _ in range(6)] == [WIDE] * 2 + [PART] * 4
        assert [backend.ask(second)[2], backend.ask(third)[2]] == [WIDE] * 2
        assert backend.ask(second)[2] == PART


def test_what_a_client_leaves_lying_is_no_reason_for_a_wide_window(configured, by_frames):
    """It is others' until the client has taken what it has; then its window is widened with that."""
    backend = Parts()
    lines = "loops: 1\nlimits: {connection_buffer_bytes: 2MiB, stream_buffer_bytes: 16KiB}\n"
    program = configured(lines, by_frames(backend))
    with contextlib.ExitStack() as stack:
        lazy, *others = (stack.enter_context(HTTP2Client(program.port)) for _ in range(5))
        (first, here, window), (second, there, other) = backend.ask(lazy), backend.ask(lazy)
        assert (window, other) == (WIDE, WIDE)
        assert [backend.ask(client)[2] for client in others[:3]] == [WIDE, WIDE, PART]
        sent = 2 * PART + sum(backend.send_window(stream) for stream in (here, there))
        # As soon as it is held, and no earlier.
        wait_until(lambda: backend.ask(others[3])[2] == WIDE, what="a wide window")
        while len(lazy.responses[first].body) + len(lazy.responses[second].body) < sent:
            lazy.pump()
        # Of the two the one that goes on first may find the other's answer in the room that it would need.
        wait_until(lambda: max(backend.updates[here][1:] + backend.updates[there][1:], default=0) > WIDE // 2, what="a wide window again")


def test_beginnings_of_heads_are_as_short_as_they_look(configured, by_frames):
    """A hundred clients have sent one byte each: they leave the room to others."""
    backend = Parts()
    program = configured("loops: 1\nlimits: {connection_buffer_bytes: 1MiB}\n", by_frames(backend), admin=True)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(HTTP1Client(program.port)).send(b"G")
        wait_until(lambda: admin.sample(program, "swiftlet_downstream_connections_open") == 100, what="all connections")
        with HTTP2Client(program.port) as client:
            assert backend.ask(client)[2] == WIDE


def test_a_slow_reader_outlives_one_that_has_stopped(configured, scripted):
    """On one HTTP/2 connection: what moves now and then stays, for many times the idle timeout; what does not move is reset."""

    async def script(exchange):
        with contextlib.suppress(PeerGone):
            await exchange.answer(body=PATTERN[:MIB])

    program = configured("timeouts: {downstream_idle: 300ms}\n", scripted(script))
    with HTTP2Client(program.port) as client:
        # The windows of streams are what is left to the test: the connection's is wide.
        client.connection.increment_flow_control_window(1 << 30)
        slow, stopped = (client.request(target=f"/{name}", method="GET") for name in ("slow", "stopped"))
        steps = range((MIB - 65_535) // 32_768)
        for step in steps:
            while len(client.responses[slow].body) < 65_535 + step * 32_768:
                client.pump(acknowledge=False)
            client.connection.increment_flow_control_window(32_768, slow)
            client.flush()
            time.sleep(0.05)
        client.connection.increment_flow_control_window(MIB, slow)
        client.flush()
        # All the steps took five times as long as nothing may move.
        assert client.response(slow).body == PATTERN[:MIB] and client.responses[slow].complete
        assert client.responses[stopped].reset_code == CANCEL
        assert not client.responses[stopped].complete


def test_a_window_grows_while_there_is_room_and_its_promise_is_given_back(bounded):
    """More streams one after the other than there is room for at once, each as fast as the first."""
    program = bounded("h2c")
    with HTTP2Client(program.port, timeout=30) as reader:
        for _ in range(2):
            streams = [reader.request(target="/read", method="GET") for _ in range(10)]
            for stream in streams:
                assert reader.response(stream).body == PATTERN[:READ]
    # With the free chunks that a loop keeps for the next.
    assert held_bytes(program) < BOUND + (12 << 20)
