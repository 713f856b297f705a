"""HTTP/2 towards the engine, at a connection's end: what was asked on it in vain is asked again, where it was kept for that."""

import pathlib
import socket
import struct
import subprocess

import h2.events
import pytest

import admin
import processes
from frame_backend import FrameBackend
from scripted_backend import answer_ok
from test_http2_upstream import LimitedBackend, answer
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, ask

FORM = [(b"content-type", b"multipart/form-data")]
UPLOAD = "/v1/audio/transcriptions"


@pytest.mark.skipif(processes.IS_SANITIZED, reason="a sanitizer's library must be the first")
def test_a_connection_that_has_used_up_its_stream_ids(start, by_frames, tmp_path, monkeypatch):
    """RFC 9113, 5.1.1: new streams take a new connection, those open on the old one end in peace, and then it does."""
    library = tmp_path / "stream_ids.so"
    source = pathlib.Path(__file__).with_name("stream_ids.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    asked = []

    def script(connection, event):
        if isinstance(event, h2.events.StreamEnded):
            asked.append((connection, event.stream_id))
            if len(asked) > 1:
                answer(connection, event.stream_id)

    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        program = start(processes.serve, by_frames(script).url, arguments=["--loops", "1"])
    with HTTP2Client(program.port) as client:
        held = client.request(body={})
        wait_until(lambda: asked, what="the request that is held")
        assert [client.response(client.request(body={})).status for _ in range(14)] == [200] * 14
        old, stream = asked[0]
        assert [number for connection, number in asked if connection is old] == list(range(0x7FFFFFF5, 0x80000000, 2))
        assert len({id(connection) for connection, _ in asked}) == 3
        assert not old.ended.is_set()
        with old.lock:
            answer(old, stream)
        assert client.response(held).status == 200
        assert old.ended.wait(5)


def close(connection, how):
    if how == "reset":
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.socket.close()
    else:
        connection.socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_kept_connection_that_ends_as_it_is_reused(serve, by_frames, how):
    """Replayed on a fresh connection, as over HTTP/1.1, though there is no other group; and nobody is to blame."""
    asked = []

    def script(connection, event):
        if not isinstance(event, h2.events.StreamEnded):
            return
        asked.append(connection)
        if asked.count(connection) == 1:
            return answer(connection, event.stream_id)
        close(connection, how)
        raise ConnectionResetError

    program = serve(by_frames(script), admin=True, arguments=["--loops", "1"])
    assert [ask(program.port, b"{}").status for _ in range(4)] == [200] * 4
    # Each connection but the last saw its own request and another's.
    assert len(asked) == 7 and len({id(connection) for connection in asked}) == 4
    assert [group["blamed"] for group in admin.groups(program)] == [False]


def test_fresh_connection_that_ends_without_an_answer(serve, by_frames):
    """That is the backend's failure, and is not tried again there."""
    asked = []

    def script(connection, event):
        if isinstance(event, h2.events.StreamEnded):
            asked.append(connection)
            close(connection, "close")
            raise ConnectionResetError

    program = serve(by_frames(script), arguments=["--loops", "1"])
    assert ask(program.port, b"{}").status == 502
    assert len(asked) == 1


def test_all_kept_connections_end_at_once(configured, by_frames):
    """One more try is enough: the others are looked at before one is used."""
    backend = by_frames(1, kind=LimitedBackend)
    program = configured("loops: 1\nretries: {attempts: 2}\n", backend)
    with HTTP2Client(program.port) as client:
        streams = [client.request(body={}) for _ in range(3)]
        wait_until(lambda: len(backend.open) == 3, what="three requests on three connections")
        connections = [connection for connection, _ in backend.open]
        backend.release()
        assert [client.response(stream).status for stream in streams] == [200] * 3

        def script(connection, event):
            if not isinstance(event, h2.events.StreamEnded):
                return
            if connection not in connections:
                return answer(connection, event.stream_id)
            for other in sorted(connections, key=lambda other: other is connection):
                close(other, "close")
            raise ConnectionResetError

        backend.answer = script
        assert client.response(client.request(body={})).status == 200


def test_idle_connection_ends_with_upstream_idle_http2(configured, by_frames):
    used = []

    def script(connection, event):
        if isinstance(event, h2.events.StreamEnded):
            used.append(connection)
            answer(connection, event.stream_id)

    program = configured("timeouts: {upstream_idle_http2: 300ms}\n", by_frames(script))
    assert ask(program.port, b"{}").status == 200
    assert used[0].ended.wait(5)


class RefusingBackend(FrameBackend):
    """Reads `most` bytes of the first body, or all of it, and refuses it; answers the others."""

    def __init__(self, most=1 << 30):
        self.most, self.bodies = most, {}
        super().__init__(self.on_event)

    def on_event(self, connection, event):
        key = (connection, getattr(event, "stream_id", None))
        if isinstance(event, h2.events.RequestReceived):
            self.bodies[key] = bytearray()
        elif isinstance(event, h2.events.DataReceived) and len(self.bodies[key]) < self.most:
            self.bodies[key] += event.data
            connection.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if len(self.bodies[key]) >= self.most:
                self.refuse(connection, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            if len(self.bodies) == 1:
                self.refuse(connection, event.stream_id)
            else:
                answer(connection, event.stream_id)

    def refuse(self, connection, stream):
        self.most = 1 << 30
        connection.h2.reset_stream(stream, 7)


@pytest.mark.parametrize("size, status", [(65_536, 200), (65_537, 502)])
@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_a_body_that_is_no_json_is_kept_up_to_replay_bytes(configured, by_frames, protocol, size, status):
    backend = by_frames(kind=RefusingBackend)
    program = configured("loops: 1\nlimits: {replay_bytes: 64KiB}\n", backend)
    body = b"ab" * (size // 2) + b"c" * (size % 2)
    if protocol == "http1":
        assert ask(program.port, body, UPLOAD, fields=FORM).status == status
    else:
        with HTTP2Client(program.port) as client:
            assert client.response(client.request(body, UPLOAD, fields=FORM)).status == status
    assert list(map(bytes, backend.bodies.values())) == [body] * (2 if status == 200 else 1)


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_a_body_that_is_refused_in_its_middle(serve, by_frames, protocol):
    """What was kept is more than the second try takes at once; what still comes goes behind it. 1 MiB by default."""
    backend = by_frames(kind=RefusingBackend, most=600_000)
    program = serve(backend, arguments=["--loops", "1"])
    body = b"".join(struct.pack(">I", number) for number in range(1 << 18))
    if protocol == "http1":
        assert ask(program.port, body, UPLOAD, fields=FORM).status == 200
    else:
        with HTTP2Client(program.port) as client:
            assert client.response(client.request(body, UPLOAD, fields=FORM)).status == 200
    refused, taken = backend.bodies.values()
    assert len(refused) < len(body) and taken == body


def test_a_body_for_which_there_is_no_room_is_only_forwarded(configured, scripted, gate):
    """What is kept for another try counts as all bodies do; that there is no room for it refuses nobody."""

    async def script(exchange):
        if exchange.request.body.startswith(b"a"):
            await gate.wait()
        await answer_ok(exchange)

    backend = scripted(script)
    program = configured("loops: 1\nlimits: {body_bytes: 64KiB, buffered_body_bytes: 64KiB}\n", backend)
    with HTTP1Client(program.port) as first:
        first.request(target=UPLOAD, body=b"a" * 40_000, fields=FORM)
        wait_until(lambda: backend.requests, what="the first body")
        assert ask(program.port, b"b" * 40_000, UPLOAD, fields=FORM).status == 200
        gate.open()
        assert first.response().status == 200
