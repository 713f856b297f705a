"""HTTP/2 towards the engine: stream limits, refusals, GOAWAY, silence, PING; and gRPC deadlines and health of the router."""

import threading
import time

import grpc
import h2.events
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hyperframe.frame import GoAwayFrame, RstStreamFrame

import processes
from frame_backend import FrameBackend
from test_grpc import EchoServer, channel_to
from test_hostile import GRPC, GRPC_HEAD
from waiting import wait_until
from wire_clients import HTTP2Client, ask

OK = [(b":status", b"200"), (b"content-length", b"2")]
SERVING, NOT_SERVING, UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


class LimitedBackend(FrameBackend):
    """Answers when told, and allows so many streams at once."""

    def __init__(self, limit):
        self.open, self.asked, self.most = [], 0, 0
        self.holds = True
        super().__init__(self.on_event, stream_limit=limit)

    def on_event(self, connection, event):
        if isinstance(event, h2.events.StreamEnded):
            self.asked += 1
            self.open.append((connection, event.stream_id))
            self.most = max(self.most, sum(1 for held, _ in self.open if held is connection))
            if not self.holds:
                self.release()

    def release(self):
        held, self.open = self.open, []
        for connection, stream in held:
            connection.h2.send_headers(stream, OK)
            connection.h2.send_data(stream, b"ok", end_stream=True)
            connection.flush()


def answer(connection, stream, head=OK, body=b"ok"):
    connection.h2.send_headers(stream, head)
    connection.h2.send_data(stream, body, end_stream=True)
    connection.flush()


def test_as_many_connections_as_the_stream_limit_requires(serve, by_frames):
    backend = by_frames(2, kind=LimitedBackend)
    program = serve(backend, arguments=("--loops", "1"))
    with HTTP2Client(program.port) as client:
        streams = [client.request(body={}) for _ in range(6)]
        wait_until(lambda: backend.asked == 6, what="six requests at the backend")
        backend.release()
        assert [client.response(stream).status for stream in streams] == [200] * 6
    assert backend.most <= 2
    assert 3 <= len(backend.connections) <= 5


def test_requests_beyond_all_connections_wait_their_turn(serve, by_frames):
    backend = by_frames(1, kind=LimitedBackend)
    program = serve(backend, arguments=("--loops", "1"))
    with HTTP2Client(program.port) as client:
        streams = [client.request(body={}) for _ in range(20)]
        wait_until(lambda: len(backend.open) == 8, what="eight requests at the backend")
        backend.holds = False
        backend.release()
        assert [client.response(stream).status for stream in streams] == [200] * 20
    assert len(backend.connections) <= 9


def test_backend_that_allows_no_stream(configured, by_frames):
    backend = by_frames(0, kind=LimitedBackend)
    program = configured("timeouts: {stream_queue: 500ms}\n", backend, arguments_after=("--loops", "1"))
    with HTTP2Client(program.port) as client:
        streams = [client.request(body={}) for _ in range(20)]
        responses = [client.response(stream) for stream in streams]
    assert {(response.status, response.json["error"]["code"]) for response in responses} == {(503, "queue_timeout")}
    # One of the proxy, one of its model listing.
    assert len(backend.connections) <= 2
    assert backend.asked == 0


def test_refused_stream_is_tried_again(serve, by_frames):
    refused = []

    def script(connection, event):
        if not isinstance(event, h2.events.StreamEnded):
            return
        if not refused:
            refused.append(event.stream_id)
            connection.h2.reset_stream(event.stream_id, 7)
        else:
            answer(connection, event.stream_id)

    program = serve(by_frames(script))
    assert ask(program.port, b"{}").status == 200
    assert refused


def test_refusals_do_not_leak(serve, by_frames):
    def script(connection, event):
        if isinstance(event, h2.events.StreamEnded):
            connection.h2.reset_stream(event.stream_id, 7)

    program = serve(by_frames(script))
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(body={}))
    assert (response.status, response.reset_code) == (502, None)


def test_goaway_lets_streams_finish_and_sends_the_rest_elsewhere(serve, by_frames):
    held = []

    def script(connection, event):
        if not isinstance(event, h2.events.StreamEnded):
            return
        if not held:
            held.append((connection, event.stream_id))
        elif connection is held[0][0]:
            # Left out: the last stream that is served is the first.
            connection.socket.sendall(GoAwayFrame(0, last_stream_id=held[0][1]).serialize())
        else:
            answer(connection, event.stream_id)

    backend = by_frames(script)
    program = serve(backend, arguments=("--loops", "1"))
    with HTTP2Client(program.port) as client:
        first = client.request(body={})
        wait_until(lambda: held, what="the first request")
        second = client.request(body={})
        assert client.response(second).status == 200
        third = client.request(body={})
        assert client.response(third).status == 200
        connection, stream = held[0]
        with connection.lock:
            answer(connection, stream)
        assert client.response(first).status == 200


def test_goaway_in_two_steps(serve, by_frames):
    """RFC 9113, 6.8: the first names no last stream and takes nothing back; what the second leaves out is asked elsewhere."""
    held = []

    def script(connection, event):
        if not isinstance(event, h2.events.StreamEnded):
            return
        if held and connection is not held[0][0]:
            return answer(connection, event.stream_id)
        if held:
            connection.socket.sendall(GoAwayFrame(0, last_stream_id=0x7FFFFFFF).serialize())
        held.append((connection, event.stream_id))

    backend = by_frames(script)
    program = serve(backend, arguments=("--loops", "1"))
    with HTTP2Client(program.port) as client:
        first = client.request(body={})
        wait_until(lambda: len(held) == 1, what="the first request")
        crossing = client.request(body={})
        wait_until(lambda: len(held) == 2, what="the request that crosses the first GOAWAY")
        assert client.response(client.request(body={})).status == 200
        connection, stream = held[0]
        assert client.responses[crossing].status == 0 and not connection.ended.is_set()
        connection.socket.sendall(GoAwayFrame(0, last_stream_id=stream).serialize())
        assert client.response(crossing).status == 200
        with connection.lock:
            answer(connection, stream)
        assert client.response(first).status == 200
        assert connection.ended.wait(5)
    assert len(held) == 2


def test_silence_ends_one_stream_only(configured, by_frames):  # noqa: F811
    """Two streams of one connection: the silent one ends, the one that moves does not."""
    stopped = threading.Event()

    def script(connection, event):
        if isinstance(event, h2.events.RequestReceived) and dict(event.headers)[b":path"] == b"/moves":
            connection.h2.send_headers(event.stream_id, [(b":status", b"200")])

            def drip(stream=event.stream_id):
                for _ in range(15):
                    time.sleep(0.1)
                    with connection.lock:
                        connection.h2.send_data(stream, b".")
                        connection.flush()
                with connection.lock:
                    connection.h2.end_stream(stream)
                    connection.flush()
                stopped.set()

            threading.Thread(target=drip, daemon=True).start()

    backend = by_frames(script)
    program = configured("timeouts:\n  response: 500ms\n  connect: 400ms\n", backend)
    with HTTP2Client(program.port) as client:
        moving = client.request(body={}, target="/moves")
        silent = client.request(body={}, target="/silent")
        assert client.response(silent).status == 504
        response = client.response(moving)
        assert (response.status, bytes(response.body), response.complete) == (200, b"." * 15, True)


PINGED = "timeouts:\n  ping_interval: 200ms\n  ping_timeout: 300ms\n"


def test_silent_backend_that_answers_pings_lives(configured, by_frames):  # noqa: F811
    backend = by_frames(100, kind=LimitedBackend)
    program = configured(PINGED, backend)
    with HTTP2Client(program.port) as client:
        stream = client.request(body={})
        wait_until(lambda: backend.open, what="the request")
        time.sleep(1.5)
        connection = backend.open[0][0]
        with connection.lock:
            backend.release()
        assert client.response(stream).status == 200


def test_dead_backend_is_found_and_replaced(configured, by_frames):  # noqa: F811
    """Its connection stands and says nothing, PING or not: what had not begun is asked elsewhere."""
    dead = []

    def script(connection, event):
        if isinstance(event, h2.events.StreamEnded):
            if not dead:
                dead.append(connection)
                connection.lock.release()
                time.sleep(4)
                connection.lock.acquire()
            else:
                answer(connection, event.stream_id)

    program = configured(PINGED, by_frames(script), by_frames(script))
    with HTTP2Client(program.port) as client:
        started = time.monotonic()
        assert client.response(client.request(body={})).status == 200
        assert 0.4 < time.monotonic() - started < 3
    assert dead


def reset_with(code, at_once, head=((b":status", b"200"),)):
    """A script that begins an answer and resets it."""

    def script(connection, event):
        if isinstance(event, h2.events.StreamEnded):
            connection.h2.send_headers(event.stream_id, head)
            connection.h2.send_data(event.stream_id, b"part")
            if not at_once:
                connection.flush()
            connection.socket.sendall(connection.h2.data_to_send() + RstStreamFrame(event.stream_id, code).serialize())

    return script


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("code, told", [(7, 2), (11, 2), (0, 2), (8, 8)])
def test_upstream_reset_in_mid_stream_reaches_the_client(serve, by_frames, code, told, at_once):
    """As INTERNAL_ERROR: another code would be about the client's own connection, or say that nothing was done. Only CANCEL stays."""
    program = serve(by_frames(reset_with(code, at_once)))
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(body={}))
    assert (response.status, bytes(response.body), response.complete, response.reset_code) == (200, b"part", False, told)


def test_answer_before_the_end_of_the_request(serve, scripted):
    """NO_ERROR after END_STREAM: the rest of the request is of no use (RFC 9113, 8.1)."""
    program = serve(scripted())
    with HTTP2Client(program.port) as client:
        stream = client.request(b"{", target="/v1/models", method="GET", end=False)
        response = client.response(stream)
        assert (response.status, response.complete) == (200, True)
        wait_until(lambda: response.reset_code is not None or client.pump(), what="RST_STREAM")
        assert response.reset_code == 0


def test_cookie_crumbs_are_joined(serve, scripted):
    backend = scripted()
    program = serve(backend)
    with HTTP2Client(program.port) as client:
        fields = [(b"cookie", b"a=1"), (b"x-a", b"1"), (b"cookie", b"b=2")]
        assert client.response(client.request(b"{}", fields=fields)).status == 200
    assert backend.requests[0].values(b"cookie") == [b"a=1; b=2"]


@pytest.mark.parametrize("count, status", [(100, 200), (101, 431)])
def test_number_of_fields(serve, scripted, count, status):
    program = serve(scripted())
    with HTTP2Client(program.port) as client:
        fields = [(b"x-%d" % number, b"v") for number in range(count)]
        assert client.response(client.request(b"{}", fields=fields)).status == status
        assert client.response(client.request(b"{}")).status == 200


# gRPC ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo():
    server = EchoServer()
    yield server
    server.stop()


def test_deadline_is_enforced_by_the_router(serve, by_frames):
    """A client that says grpc-timeout and does not keep it itself."""
    codes = []

    def script(connection, event):
        if isinstance(event, h2.events.StreamReset):
            codes.append(event.error_code)

    program = serve(by_frames(script))
    with HTTP2Client(program.port) as client:
        started = time.monotonic()
        response = client.response(client.request(b"\0\0\0\0\0", "/a/b", fields=(*GRPC, (b"grpc-timeout", b"200m"))))
        assert 0.15 < time.monotonic() - started < 2
    assert dict(response.fields)[b"grpc-status"] == b"4"
    wait_until(lambda: codes == [8], what="CANCEL at the backend")


def test_retry_has_less_time(serve, by_frames):
    timeouts = []

    def script(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            timeouts.append(dict(event.headers)[b"grpc-timeout"])
        if isinstance(event, h2.events.StreamEnded):
            if len(timeouts) == 1:
                time.sleep(0.3)
                connection.h2.reset_stream(event.stream_id, 7)
            else:
                connection.h2.send_headers(event.stream_id, [*GRPC_HEAD, (b"grpc-status", b"0")], end_stream=True)

    program = serve(by_frames(script))
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(b"\0\0\0\0\0", "/a/b", fields=(*GRPC, (b"grpc-timeout", b"5S"))))
    assert dict(response.fields)[b"grpc-status"] == b"0"
    assert timeouts[0] == b"5S" and timeouts[1].endswith(b"u") and int(timeouts[1][:-1]) <= 4_700_000


@pytest.mark.parametrize("value", [b"5", b"123456789S", b"1s", b"S"])
def test_malformed_timeout_goes_on_as_it_came(serve, by_frames, value):
    timeouts = []

    def script(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            timeouts.append(dict(event.headers)[b"grpc-timeout"])
            connection.h2.send_headers(event.stream_id, [*GRPC_HEAD, (b"grpc-status", b"0")], end_stream=True)

    program = serve(by_frames(script))
    with HTTP2Client(program.port) as client:
        assert client.response(client.request(b"", "/a/b", fields=(*GRPC, (b"grpc-timeout", value)))).complete
    assert timeouts == [value]


@pytest.mark.parametrize(
    "status, code", [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (500, 2), (502, 14), (503, 14), (504, 14), (200, 2)]
)
def test_answers_that_are_no_grpc(serve, by_frames, status, code):
    def script(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            answer(connection, event.stream_id, [(b":status", b"%d" % status), (b"content-type", b"text/html")], b"<p>")

    program = serve(by_frames(script))
    with channel_to(program) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/a/b")(b"", timeout=5)
    assert caught.value.code().value[0] == code


@pytest.mark.parametrize("code, status", [
    (0, 13), (1, 13), (2, 13), (3, 13), (6, 13), (7, 14), (8, 1), (9, 13), (11, 8), (12, 7), (13, 13), (99, 13),
])  # fmt: skip
def test_reset_of_a_call_that_has_begun(serve, by_frames, code, status):
    """The table of gRPC over HTTP/2 (grpc/grpc, doc/PROTOCOL-HTTP2.md, "Errors"), behind the messages that had come."""
    program = serve(by_frames(reset_with(code, False, GRPC_HEAD)))
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(b"\0\0\0\0\0", "/a/b", fields=GRPC))
    assert (bytes(response.body), response.complete) == (b"part", True)
    assert dict(response.trailers)[b"grpc-status"] == b"%d" % status


def test_client_that_cancels_a_call(serve, by_frames):
    """CANCEL is CANCEL at the backend too, before and after its head, and other calls of the connection go on."""
    codes, begun = {}, []

    def script(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            if dict(event.headers)[b":path"] == b"/a/begins":
                connection.h2.send_headers(event.stream_id, GRPC_HEAD)
            begun.append(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            codes[event.stream_id] = event.error_code
        elif isinstance(event, h2.events.StreamEnded) and len(begun) == 3:
            connection.h2.send_headers(event.stream_id, [*GRPC_HEAD, (b"grpc-status", b"0")], end_stream=True)

    program = serve(by_frames(script), arguments=("--loops", "1"))
    with HTTP2Client(program.port) as client:
        streams = [client.request(b"\0\0\0\0\0", path, fields=GRPC) for path in ("/a/begins", "/a/waits")]
        wait_until(lambda: len(begun) == 2, what="both calls")
        wait_until(lambda: client.responses[streams[0]].status or client.pump(), what="the head of the first")
        for stream in streams:
            client.reset(stream)
        wait_until(lambda: codes == dict.fromkeys(begun, 8), what="CANCEL of both at the backend")
        response = client.response(client.request(b"\0\0\0\0\0", "/a/last", fields=GRPC))
    assert dict(response.fields)[b"grpc-status"] == b"0"


def test_calls_of_one_channel_spread_over_groups(serve, fleet):
    program = serve(*(f"h2c://127.0.0.1:{port}" for port in fleet.ports), admin=True, arguments=("--policy", "round-robin"))
    with channel_to(program) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        for _ in range(40):
            call(b"", timeout=5)
    counts = wait_until(lambda: len(lines := program.access_log()) >= 40 and lines, what="forty lines")
    groups = [line["group"] for line in counts]
    assert sorted(groups.count(group) for group in set(groups)) == [10] * 4


def health(channel):
    return health_pb2_grpc.HealthStub(channel)


def test_health_check_of_the_router(serve, scripted):
    program = serve(scripted(models=["m-1"]))
    with channel_to(program) as channel:
        stub = health(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
        wait_until(lambda: ask(program.port, target="/v1/models", method="GET").json["data"], what="the model")
        assert stub.Check(health_pb2.HealthCheckRequest(service="m-1"), timeout=5).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_watch_of_the_router(serve, scripted):
    backend = scripted(models=["m-1"])
    program = serve(backend)
    with channel_to(program) as channel:
        stub = health(channel)
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
        assert next(unknown).status == UNKNOWN
        whole = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(whole).status == SERVING
        # What it serves must be known before it goes, or it never was a service.
        known = stub.Watch(health_pb2.HealthCheckRequest(service="m-1"), timeout=20)
        assert any(answer.status == SERVING for answer in known)
        known.cancel()
        backend.stop()
        assert ask(program.port, b"{}").status == 502
        assert next(whole).status == NOT_SERVING
        unknown.cancel()
        whole.cancel()
        assert stub.Check(health_pb2.HealthCheckRequest(service="m-1"), timeout=5) is not None


def test_watch_ends_when_the_router_drains(start, fleet):
    program = start(processes.serve, f"h2c://127.0.0.1:{fleet.port}")
    with channel_to(program) as channel:
        watch = health(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == SERVING
        program.signal(15)
        with pytest.raises(grpc.RpcError):
            while True:
                assert next(watch).status == NOT_SERVING
        assert watch.code() == grpc.StatusCode.UNAVAILABLE
    assert program.wait_exit(8) == 0


