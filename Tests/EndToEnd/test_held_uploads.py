"""Request bodies that a backend makes wait: they go on when there is room, and hold up nobody else's."""

import contextlib
import pathlib
import socket
import threading

import h2.events
import h2.settings
import pytest

from scripted_backend import answer_ok
from test_http2_bounds import readable
from waiting import wait_until, wait_until_steady
from wire_clients import HTTP1Client, HTTP2Client

#: A body that passes without being collected first.
STREAMED = (b"content-type", b"application/octet-stream")
UPLOAD = "/v1/audio/transcriptions"
MIB = 1 << 20


class SilentListener:
    """Takes connections and says nothing on them: who wants TLS of it waits."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                self.accepted.append(self._listener.accept()[0])

    def stop(self):
        # A close alone would leave the thread's accept() going.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for accepted in self.accepted:
            accepted.close()


def unread_bytes(router_port, client_port):
    """What the router has not read of a client's connection."""
    ends = f"0100007F:{router_port:04X}", f"0100007F:{client_port:04X}"
    lines = (line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:])
    return next(int(fields[4].split(":")[1], 16) for fields in lines if tuple(fields[1:3]) == ends)


def test_upload_paused_at_a_first_backend_goes_on_at_the_second(configured, scripted):
    """The second takes at once all that was kept for the first: no word of room will come from it."""
    silent, good = SilentListener(), scripted(answer_ok)
    lines = "loops: 1\nlimits: {stream_buffer_bytes: 16KiB}\ntimeouts: {connect: 10s}\n"
    program = configured(lines, good, silent.url, arguments_after=("--policy", "round-robin"))
    with HTTP1Client(program.port) as client:
        assert client.request(target=UPLOAD, body=b"warm", fields=(STREAMED,)).response().status == 200
        client.request(target=UPLOAD, fields=(STREAMED, (b"content-length", b"200000")))
        port = client.socket.getsockname()[1]
        # More than the buffer takes, in two reads, and less than is kept for another attempt.
        for _ in range(2):
            client.send(bytes(20_000))
            wait_until(lambda: unread_bytes(program.port, port) == 0, what="the router's read")
        client.send(bytes(160_000))
        assert unread_bytes(program.port, port) > 0 and silent.accepted
        silent.stop()
        response = client.response()
    assert (response.status, response.served_by) == (200, good.name)
    assert good.requests[-1].body == bytes(200_000)


@pytest.mark.parametrize("taken", [65_535, 0])
def test_held_uploads_leave_the_rest_of_the_connection_to_others(configured, by_frames, taken):
    """Four uploads use up the connection's window and hold more than half of it, but not all: the rest passes from hand to hand. Also when
    their backend takes nothing at all, so that the client's window, which is small at first, has never been given back."""
    stream_window, connection_window = MIB // 4, MIB
    streams, sizes = {}, {}

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            name = streams[event.stream_id] = dict(event.headers)[b"x-name"]
            connection.h2.increment_flow_control_window(1 << 28)
            if name == b"free":
                connection.h2.increment_flow_control_window(4 * MIB, event.stream_id)
        elif isinstance(event, h2.events.DataReceived):
            name = streams[event.stream_id]
            sizes[name] = sizes.get(name, 0) + len(event.data)
            if name == b"free":
                connection.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            if streams[event.stream_id] == b"warm":
                connection.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: taken})
            connection.h2.send_headers(event.stream_id, [(b":status", b"200")], end_stream=True)

    # Of each upload the backend takes `taken` and the router little more: less than half of a stream's window.
    backend = by_frames(answer)
    program = configured("loops: 1\nlimits: {stream_buffer_bytes: 16KiB}\n", backend)
    with HTTP2Client(program.port) as client:

        def begin(name):
            return client.request(target=UPLOAD, fields=(STREAMED, (b"x-name", name)), end=False)

        def send(stream, size, end=False):
            while size:
                while not (part := min(client.connection.local_flow_control_window(stream), 16_384, size)):
                    client.pump()
                size -= part
                client.connection.send_data(stream, bytes(part), end_stream=end and size == 0)
                client.flush()

        # What waits for a connection may be let in at once when there is one.
        warm = begin(b"warm")
        send(warm, 1, end=True)
        assert client.response(warm).status == 200
        names = [b"held-%d" % number for number in range(4)]
        held = {name: begin(name) for name in names}
        for stream in held.values():
            send(stream, stream_window)
        free = begin(b"free")
        send(free, 2 * MIB, end=True)
        assert client.response(free).status == 200 and sizes[b"free"] == 2 * MIB
        assert all(sizes.get(name, 0) < stream_window // 2 for name in names), sizes

        # The held ones lose nothing by it, and nothing has been given back twice.
        (connection,) = (connection for connection in backend.connections if connection.h2.highest_inbound_stream_id > 1)
        with connection.lock:
            for stream, name in streams.items():
                if name in names:
                    connection.h2.increment_flow_control_window(MIB, stream)
            connection.flush()
        for stream in held.values():
            send(stream, 1, end=True)
            assert client.response(stream).status == 200
        assert all(sizes[name] == stream_window + 1 for name in names), sizes
        while client.connection.outbound_flow_control_window < connection_window // 2:
            client.pump()
        assert client.connection.outbound_flow_control_window <= connection_window


# One bound for all of a loop ------------------------------------------------------------------------------------------


def begin(client, target=UPLOAD):
    return client.request(target=target, fields=(STREAMED,), end=False)


def push(client, streams):
    """Sends as much as the windows allow and takes what has come; returns how much was sent."""
    sent = 0
    while readable(client):
        client.pump()
    for stream in streams:
        while (part := min(client.connection.local_flow_control_window(stream), 16_384)) > 0:
            client.connection.send_data(stream, bytes(part))
            sent += part
    client.flush()
    return sent


class HeldUploads:
    """A HTTP/2 backend that takes 64 KiB of an upload, a stream's first window, and no more, unless it is `/free`."""

    def __init__(self):
        self.paths, self.sizes = {}, {}

    def __call__(self, connection, event):
        stream = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.RequestReceived):
            self.paths[stream] = dict(event.headers)[b":path"]
            connection.h2.increment_flow_control_window(2 * MIB)
        elif isinstance(event, h2.events.DataReceived):
            self.sizes[stream] = self.sizes.get(stream, 0) + len(event.data)
            if self.paths[stream] == b"/free":
                connection.h2.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, h2.events.StreamEnded):
            connection.h2.send_headers(stream, [(b":status", b"200")], end_stream=True)


def test_uploads_of_all_connections_have_one_bound(configured, by_frames):
    """Sixty clients would have a megabyte each taken from them. They have the room of two such windows, and 64 KiB for each of the rest."""
    count, bound = 60, 8 * MIB
    answers = HeldUploads()
    backend = by_frames(answers, stream_limit=256)
    lines = "loops: 1\nlimits: {connection_buffer_bytes: 8MiB, stream_buffer_bytes: 64KiB, http2_upstream_connections: 1}\n"
    program = configured(lines, backend, arguments_after=("--log-level", "error"))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(HTTP2Client(program.port)) for _ in range(count)]
        before, streams = program.resident_bytes(), [[begin(client) for _ in range(4)] for client in clients]
        total = [0] * count

        def push_all():
            for number, client in enumerate(clients):
                total[number] += push(client, streams[number])
            return sum(total)

        wait_until_steady(push_all, quiet=0.5, timeout=30, what="what the router takes")
        held = sum(total) - sum(answers.sizes.values())
        grown = program.resident_bytes() - before
        print(f"{held / MIB:.1f} MiB held of {sum(total) / MIB:.1f}, memory +{grown / MIB:.1f} MiB")
        # Of each connection its window, and of each stream the least of a queue with what one read may bring.
        assert held < bound + count * (64 + 4 * 32 << 10)
        assert grown < bound + count * (512 << 10)
        # One that its backend takes goes through, whatever the others hold.
        with HTTP2Client(program.port) as client:
            free, left = begin(client, "/free"), 2 * MIB
            while left:
                while not (part := min(client.connection.local_flow_control_window(free), 16_384, left)):
                    client.pump()
                left -= part
                client.connection.send_data(free, bytes(part), end_stream=not left)
                client.flush()
            assert client.response(free).status == 200
        # And those that were held go on when there is room.
        (connection,) = (connection for connection in backend.connections if connection.h2.highest_inbound_stream_id > 1)
        with connection.lock:
            for stream, path in answers.paths.items():
                if path != b"/free":
                    connection.h2.increment_flow_control_window(MIB, stream)
            connection.flush()
        for client, open_ones in zip(clients, streams, strict=True):
            for stream in open_ones:
                while client.connection.local_flow_control_window(stream) <= 0:
                    client.pump()
                client.connection.send_data(stream, b"x", end_stream=True)
                client.flush()
            assert [client.response(stream).status for stream in open_ones] == [200] * 4
    assert sum(answers.sizes.values()) == sum(total) + 4 * count + 2 * MIB


def test_a_wide_window_of_an_idle_connection_is_taken_over(configured, by_frames):
    """The room is for one connection at a time. While that is in use others go on with what they have; when it lies idle it ends for them."""
    program = configured("loops: 1\nlimits: {connection_buffer_bytes: 4MiB}\n", by_frames(HeldUploads()))

    def widest(client, size=MIB):
        """The widest window of the connection that is seen in an upload of so many bytes."""
        stream, seen = begin(client, "/free"), 0
        while size:
            seen = max(seen, client.connection.outbound_flow_control_window)
            while not (part := min(client.connection.local_flow_control_window(stream), 16_384, size)):
                client.pump()
            size -= part
            client.connection.send_data(stream, bytes(part), end_stream=not size)
            client.flush()
        assert client.response(stream).status == 200
        return max(seen, client.connection.outbound_flow_control_window)

    with HTTP2Client(program.port) as first, HTTP2Client(program.port) as second:
        assert widest(first) > MIB // 2
        busy = begin(first, "/free")
        assert widest(second) <= 65_535
        first.connection.send_data(busy, b"x", end_stream=True)
        first.flush()
        assert first.response(busy).status == 200 and first.goaway is None
        assert widest(second) > MIB // 2
        while first.goaway is None:
            first.pump()
        assert first.goaway == 0  # NO_ERROR


def test_bodies_that_wait_for_a_stream_count(configured, by_frames):
    """A backend with one stream, which is taken: what others have sent of theirs is as little as the loop has room for."""
    count, bound = 100, 4 * MIB
    streams = []

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            streams.append((connection, event.stream_id))
        elif isinstance(event, h2.events.DataReceived):
            connection.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded) and event.stream_id > streams[0][1]:
            connection.h2.send_headers(event.stream_id, [(b":status", b"200")], end_stream=True)

    lines = (
        "loops: 1\nlimits: {connection_buffer_bytes: 4MiB, http2_upstream_connections: 1}\n"
        "timeouts: {stream_queue: 60s}\nload_signals: {interval: 0s}\n"
    )
    program = configured(lines, by_frames(answer, stream_limit=1), arguments_after=("--log-level", "error"))
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(HTTP2Client(program.port))
        first.request(target="/first", method="GET")
        wait_until(lambda: streams, what="the first request")
        before = program.resident_bytes()
        size = 300_000
        clients = [stack.enter_context(HTTP1Client(program.port, timeout=30)) for _ in range(count)]
        for client in clients:
            client.request(target=UPLOAD, fields=(STREAMED, (b"content-length", b"%d" % size)))
            client.send(bytes(1_000))
        for client in clients:
            client.send(bytes(size - 1_000))
        grown = wait_until_steady(program.resident_bytes, what="the router's memory") - before
        print(f"{grown / MIB:.1f} MiB for {count} of them")
        # Those two, a read, and what may be sent again elsewhere.
        assert grown < bound + count * (112 << 10)
        connection, stream = streams[0]
        with connection.lock:
            connection.h2.send_headers(stream, [(b":status", b"200")], end_stream=True)
            connection.flush()
        assert {client.response().status for client in clients} == {200}
