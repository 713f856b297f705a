"""gRPC with the official `grpcio`: through an `h2c://` backend the stub engine, and for the rest a Python server, in clear and over TLS."""

import socket
import threading
from concurrent import futures

import grpc
import h2.events
import pytest

import admin
import kserve
import pki
import processes
from kserve import MESSAGES
from waiting import wait_until
from wire_clients import HTTP2Client, Response

INFERENCE = "/inference.GRPCInferenceService"
HEALTH = "/grpc.health.v1.Health"


def channel_to(program, trusted=None):
    """A channel in clear, or over TLS with the PEM file of an authority to trust."""
    # Proxies from the environment and retries of the client would hide what the router does.
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    if trusted is None:
        return grpc.insecure_channel(f"127.0.0.1:{program.port}", options)
    return grpc.secure_channel(f"localhost:{program.port}", grpc.ssl_channel_credentials(trusted.read_bytes()), options)


# The stub engine -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stub_router(fleet):
    program = processes.serve(*(f"h2c://127.0.0.1:{port}" for port in fleet.ports))
    yield program
    program.stop()


@pytest.fixture
def channel(stub_router):
    with channel_to(stub_router) as channel:
        yield channel


def test_server_live_and_ready(channel):
    for name, field in (("ServerLive", "live"), ("ServerReady", "ready")):
        call = kserve.method(channel, f"{INFERENCE}/{name}", f"{name}Request", f"{name}Response")
        assert getattr(call(MESSAGES[f"{name}Request"](), timeout=5), field) is True


def test_model_ready(channel):
    call = kserve.method(channel, f"{INFERENCE}/ModelReady", "ModelReadyRequest", "ModelReadyResponse")
    assert call(MESSAGES["ModelReadyRequest"](name="stub-model"), timeout=5).ready is True


def test_model_infer(channel):
    call = kserve.method(channel, f"{INFERENCE}/ModelInfer", "ModelInferRequest", "ModelInferResponse")
    answer, details = call.with_call(kserve.infer_request("Tell me of the sea.", identifier="id-7"), timeout=5)
    assert details.code() == grpc.StatusCode.OK
    assert answer.model_name == "stub-model"
    assert answer.id == "id-7"
    assert kserve.infer_text(answer)


def test_many_calls_on_one_channel(channel):
    call = kserve.method(channel, f"{INFERENCE}/ModelInfer", "ModelInferRequest", "ModelInferResponse")
    pending = [call.future(kserve.infer_request(f"prompt {n}", identifier=str(n)), timeout=10) for n in range(100)]
    assert [future.result().id for future in pending] == [str(n) for n in range(100)]


def test_health_check(channel):
    call = kserve.method(channel, f"{HEALTH}/Check", "HealthCheckRequest", "HealthCheckResponse")
    assert call(MESSAGES["HealthCheckRequest"](), timeout=5).status == kserve.SERVING


def test_health_watch_is_a_server_stream(channel):
    call = kserve.method(channel, f"{HEALTH}/Watch", "HealthCheckRequest", "HealthCheckResponse", "unary_stream")
    stream = call(MESSAGES["HealthCheckRequest"](), timeout=5)
    assert next(stream).status == kserve.SERVING
    stream.cancel()


def test_model_stream_infer(channel):
    """Triton's bidirectional call: answers to the requests in their order."""
    call = kserve.method(
        channel, f"{INFERENCE}/ModelStreamInfer", "ModelInferRequest", "ModelStreamInferResponse", "stream_stream"
    )
    requests = [kserve.infer_request(f"question {number}", identifier=str(number)) for number in range(3)]
    answers = list(call(iter(requests), timeout=5))
    assert [answer.error_message for answer in answers] == [""] * len(answers)
    order = [answer.infer_response.id for answer in answers]
    assert sorted(set(order)) == ["0", "1", "2"] and order == sorted(order)


@pytest.mark.parametrize("path", [f"{INFERENCE}/NoSuchMethod", "/no.such.Service/Method"])
def test_unknown_method(channel, path):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"", timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_deadline_of_a_slow_engine(start):
    engine = start(processes.stub, prefill_us=200_000, decode_ms=1)
    program = start(processes.serve, f"h2c://127.0.0.1:{engine.port}")
    with channel_to(program) as channel:
        call = kserve.method(channel, f"{INFERENCE}/ModelInfer", "ModelInferRequest", "ModelInferResponse")
        with pytest.raises(grpc.RpcError) as caught:
            call(kserve.infer_request("a long prompt " * 1_000), timeout=0.2)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


# A Python server as backend ------------------------------------------------------------------------------------------


class EchoServer(grpc.GenericRpcHandler):
    """Raw bytes of all four kinds of call, with metadata, trailers and errors on demand; over TLS with a `pki.Identity`."""

    def __init__(self, identity=None):
        self.metadata = []
        self.cancelled = threading.Event()
        self.entered = threading.Event()
        self.remaining = None
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((self,))
        if identity:
            pair = identity.key.read_bytes(), identity.certificate.read_bytes()
            self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        else:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"{'h2' if identity else 'h2c'}://127.0.0.1:{self.port}"
        self._server.start()

    def stop(self):
        self._server.stop(0).wait(5)

    def service(self, details):
        kinds = {
            "/echo/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/echo/Collect": grpc.stream_unary_rpc_method_handler(self.collect),
            "/echo/Spread": grpc.unary_stream_rpc_method_handler(self.spread),
            "/echo/Converse": grpc.stream_stream_rpc_method_handler(self.converse),
            "/echo/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/echo/FailLate": grpc.unary_stream_rpc_method_handler(self.fail_late),
            "/echo/Hang": grpc.unary_unary_rpc_method_handler(self.hang),
        }
        return kinds.get(details.method)

    def _greet(self, context):
        self.metadata.append([(key, value) for key, value in context.invocation_metadata()])
        context.send_initial_metadata((("x-initial", "one"), ("x-initial", "two"), ("x-binary-bin", b"\x00\xff\x01")))
        context.set_trailing_metadata((("x-trailing", "end"), ("x-trailing-bin", b"\x80\x00")))

    def unary(self, request, context):
        self._greet(context)
        return request

    def collect(self, requests, context):
        self._greet(context)
        return b"+".join(requests)

    def spread(self, request, context):
        self._greet(context)
        for number in range(int(request)):
            yield b"%d" % number

    def converse(self, requests, context):
        self._greet(context)
        for request in requests:
            yield request[::-1]

    def fail(self, request, context):
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100 % certain, ünïcode")

    def fail_late(self, request, context):
        yield b"first"
        context.set_trailing_metadata((("x-why", "later"),))
        context.abort(grpc.StatusCode.DATA_LOSS, "lost")

    def hang(self, request, context):
        self.remaining = context.time_remaining()
        context.add_callback(self.cancelled.set)
        self.entered.set()
        self.cancelled.wait(10)
        return b""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.Authority(tmp_path_factory.mktemp("grpc"))


@pytest.fixture(scope="module", params=["plain to plain", "plain to TLS", "TLS to plain", "TLS to TLS"])
def echo_setup(request, authority, tmp_path_factory):
    """The server, the router before it and what a client must trust, each side of the router with TLS and without."""
    client_side, server_side = (side == "TLS" for side in request.param.split(" to "))
    identity = authority.issue("both", "DNS:localhost", "IP:127.0.0.1")
    config = tmp_path_factory.mktemp("echo") / "swiftlet.yaml"
    config.write_text(f"upstream_tls: {{ca_file: {authority.file}}}\nload_signals: {{interval: 0s}}\n")
    server = EchoServer(identity if server_side else None)
    shown = identity.arguments() if client_side else ()
    program = processes.serve(server.url, admin=True, arguments=("--config", config, *shown))
    yield server, program, authority.file if client_side else None
    wait_until(lambda: sum(admin.in_flight(program)) == 0, what="all calls to be booked out")
    program.stop()
    server.stop()


@pytest.fixture
def echo(echo_setup):
    server, program, trusted = echo_setup
    server.metadata.clear()
    server.entered.clear()
    server.cancelled.clear()
    with channel_to(program, trusted) as channel:
        yield server, channel


def assert_greeted(call):
    initial = [(key, value) for key, value in call.initial_metadata() if key in ("x-initial", "x-binary-bin")]
    assert initial == [("x-initial", "one"), ("x-initial", "two"), ("x-binary-bin", b"\x00\xff\x01")]
    trailing = dict((key, value) for key, value in call.trailing_metadata())
    assert (trailing["x-trailing"], trailing["x-trailing-bin"]) == ("end", b"\x80\x00")
    assert call.code() == grpc.StatusCode.OK


def test_metadata_both_ways(echo):
    server, channel = echo
    sent = (("x-plain", "1"), ("x-plain", "2"), ("x-data-bin", b"\x00\x01\xfe"))
    answer, call = channel.unary_unary("/echo/Unary").with_call(b"\x00payload", metadata=sent, timeout=5)
    assert answer == b"\x00payload"
    received = [(key, value) for key, value in server.metadata[0] if key in ("x-plain", "x-data-bin")]
    assert received == list(sent)
    assert_greeted(call)


def test_request_id_is_made_and_given_back(echo):
    server, channel = echo
    _, call = channel.unary_unary("/echo/Unary").with_call(b"", timeout=5)
    forwarded = [value for key, value in server.metadata[0] if key == "x-request-id"]
    assert len(forwarded) == 1 and forwarded[0]
    assert [value for key, value in call.initial_metadata() if key == "x-request-id"] == forwarded


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 3 << 20])
def test_message_sizes(echo, size):
    _, channel = echo
    payload = bytes(size)
    assert channel.unary_unary("/echo/Unary")(payload, timeout=10) == payload


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages(echo, algorithm):
    """The flag before each message and `grpc-encoding` pass untouched, or the server could not read a word."""
    server, channel = echo
    payload = b"compress me " * 20_000
    call = channel.stream_stream("/echo/Converse")
    answers = list(call(iter([payload, b"", payload]), compression=algorithm, timeout=10))
    assert answers == [payload[::-1], b"", payload[::-1]]
    assert channel.unary_unary("/echo/Unary")(payload, compression=algorithm, timeout=10) == payload


def test_client_streaming(echo):
    _, channel = echo
    answer, call = channel.stream_unary("/echo/Collect").with_call(iter([b"a", b"b", b"c"]), timeout=5)
    assert answer == b"a+b+c"
    assert_greeted(call)


def test_server_streaming(echo):
    _, channel = echo
    call = channel.unary_stream("/echo/Spread")(b"500", timeout=10)
    assert list(call) == [b"%d" % number for number in range(500)]
    assert_greeted(call)


def test_bidirectional_streaming_in_lockstep(echo):
    """Each message is answered before the next is sent: nothing waits for the end of the request."""
    _, channel = echo
    answered = threading.Semaphore(1)

    def questions():
        for number in range(20):
            assert answered.acquire(timeout=5)
            yield b"%d-ab" % number

    call = channel.stream_stream("/echo/Converse")(questions(), timeout=10)
    for number in range(20):
        assert next(call) == (b"%d-ab" % number)[::-1]
        answered.release()
    assert list(call) == []
    assert_greeted(call)


def test_error_status_details_and_trailers(echo):
    _, channel = echo
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/echo/Fail")(b"", timeout=5)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "not now: 100 % certain, ünïcode"
    assert ("x-why", "because") in [(key, value) for key, value in caught.value.trailing_metadata()]


def test_error_after_the_first_message(echo):
    _, channel = echo
    call = channel.unary_stream("/echo/FailLate")(b"", timeout=5)
    assert next(call) == b"first"
    with pytest.raises(grpc.RpcError):
        next(call)
    assert (call.code(), call.details()) == (grpc.StatusCode.DATA_LOSS, "lost")


def test_deadline_reaches_the_backend(echo):
    server, channel = echo
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/echo/Hang")(b"", timeout=0.3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.entered.is_set()
    assert server.remaining is not None and server.remaining <= 0.31
    assert server.cancelled.wait(2), "the backend still works for a call whose deadline has passed"


def test_cancel_reaches_the_backend(echo):
    server, channel = echo
    future = channel.unary_unary("/echo/Hang").future(b"", timeout=10)
    assert server.entered.wait(5)
    assert not server.cancelled.is_set()
    future.cancel()
    assert server.cancelled.wait(2), "the backend still works for a call that was cancelled"


# Failures that the router answers itself -----------------------------------------------------------------------------


def test_backend_that_is_gone():
    program = processes.serve(f"h2c://127.0.0.1:{processes.unused_port()}")
    try:
        with channel_to(program) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/echo/Unary")(b"", timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        program.stop()


def test_no_group_that_speaks_http2(serve, scripted):
    """A group that speaks HTTP/1.1 only is no group for gRPC; it is not asked at all."""
    backend = scripted()
    program = serve(backend)
    with channel_to(program) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/echo/Unary")(b"", timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert backend.requests == []


REFUSED_BY_THE_TRANSPORT = {
    "malformed": ([(b":path", b"/echo/Unary#part")], b"3"),
    "too many fields": ([(b":path", b"/echo/Unary"), *((b"x-%d" % number, b"v") for number in range(100))], b"8"),
    "head too large": ([(b":path", b"/echo/Unary"), (b"x", b"v" * 65_600)], b"8"),
}


@pytest.mark.parametrize("fields, status", REFUSED_BY_THE_TRANSPORT.values(), ids=REFUSED_BY_THE_TRANSPORT)
def test_call_that_the_transport_refuses(serve, fields, status):
    """A call is told in trailers, never by HTTP's status and JSON."""
    program = serve(f"h2c://127.0.0.1:{processes.unused_port()}")
    with HTTP2Client(program.port, strict=False) as client:
        path, *others = fields
        head = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"test"), path]
        head += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *others]
        client.connection.send_headers(1, head, end_stream=True)
        client.responses[1] = Response(body=bytearray())
        client.flush()
        answer = client.response(1)
    assert (answer.status, answer.value(b"content-type"), answer.value(b"grpc-status")) == (200, b"application/grpc", status)
    assert answer.complete and not answer.body


@pytest.mark.parametrize("way, code", [("dies", grpc.StatusCode.UNAVAILABLE), ("cancels", grpc.StatusCode.CANCELLED)])
def test_backend_ends_a_call_in_mid_stream(serve, by_frames, way, code):
    """gRPC's own client is told why: its backend is gone, or has cancelled the call."""

    def script(connection, event):
        if isinstance(event, h2.events.StreamEnded):
            connection.h2.send_headers(event.stream_id, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            connection.h2.send_data(event.stream_id, b"\0\0\0\0\5first")
            if way == "cancels":
                connection.h2.reset_stream(event.stream_id, 8)
            connection.flush()
            if way == "dies":
                connection.socket.shutdown(socket.SHUT_RDWR)

    program = serve(by_frames(script))
    with channel_to(program) as channel:
        call = channel.unary_stream("/echo/Hold")(b"", timeout=10)
        assert next(call) == b"first"
        with pytest.raises(grpc.RpcError):
            next(call)
        assert call.code() == code


def test_killed_engine_is_replaced_for_calls_that_have_not_begun(start):
    """Unary calls in prefill survive the death of their engine."""
    engines = [start(processes.stub, prefill_us=500, decode_ms=1) for _ in range(2)]
    program = start(processes.serve, *(f"h2c://127.0.0.1:{engine.port}" for engine in engines), admin=True)
    with channel_to(program) as channel:
        call = kserve.method(channel, f"{INFERENCE}/ModelInfer", "ModelInferRequest", "ModelInferResponse")
        pending = [
            call.future(kserve.infer_request(f"{number} " + "word " * 800, identifier=str(number)), timeout=20)
            for number in range(4)
        ]
        wait_until(lambda: min(admin.in_flight(program)) >= 1, what="a call on each engine")
        engines[0].kill()
        assert [future.result().id for future in pending] == ["0", "1", "2", "3"]


def answered(serve, by_frames, trailers, fields=()):
    """What a client gets of an answer with these trailing fields, and what the backend got of the call's own."""
    seen = []

    def script(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            seen.append(dict(event.headers))
        if isinstance(event, h2.events.StreamEnded):
            connection.h2.send_headers(event.stream_id, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            connection.h2.send_data(event.stream_id, bytes(5))
            connection.h2.send_headers(event.stream_id, trailers, end_stream=True)

    program = serve(by_frames(script))
    with HTTP2Client(program.port) as client:
        head = ((b"content-type", b"application/grpc"), (b"te", b"trailers"), *fields)
        return client.response(client.request(bytes(5), "/echo/Unary", fields=head)), seen


def test_trailing_metadata_may_have_any_name(serve, by_frames):
    """Of HTTP's trailers some are dropped; a call's are its application's own."""
    names = [b"date", b"retry-after", b"location", b"via", b"authorization", b"content-x", b"if-x", b"set-cookie", b"cache-control"]
    trailers = [(b"grpc-status", b"0"), *((name, b"1") for name in names)]
    answer, _ = answered(serve, by_frames, [*trailers, (b"host", b"evil"), (b"trailer", b"x"), (b"content-length", b"5")])
    assert answer.complete and answer.trailers == trailers


def test_expectations_are_no_concern_of_calls(serve, by_frames):
    answer, seen = answered(serve, by_frames, [(b"grpc-status", b"0")], fields=((b"expect", b"the-best"),))
    assert answer.trailers == [(b"grpc-status", b"0")] and len(seen) == 1
