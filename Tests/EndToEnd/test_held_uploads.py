"""Request bodies that a backend makes wait: they go on when there is room, and hold up nobody else's."""

import contextlib
import pathlib
import socket
import threading

import h2.events

from frame_backend import FrameBackend
from scripted_backend import answer_ok
from waiting import wait_until
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


def test_held_uploads_leave_the_rest_of_the_connection_to_others(configured):
    """Four uploads use up the connection's window and hold more than half of it, but not all: the rest passes from hand to hand."""
    stream_window, connection_window = MIB // 4, MIB
    streams, sizes = {}, {}

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            streams[event.stream_id] = dict(event.headers)[b"x-name"]
            connection.h2.increment_flow_control_window(1 << 28)
        elif isinstance(event, h2.events.DataReceived):
            name = streams[event.stream_id]
            sizes[name] = sizes.get(name, 0) + len(event.data)
            if name == b"free":
                connection.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            connection.h2.send_headers(event.stream_id, [(b":status", b"200")], end_stream=True)

    # Of each upload the backend takes 64 KiB and the router little more: less than half of a stream's window.
    backend = FrameBackend(answer)
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
        assert all(sizes[name] < stream_window // 2 for name in names), sizes

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
