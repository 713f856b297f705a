"""gRPC's own client where the router itself says no: with the right status and a reason, and the next call is served."""

import contextlib
import threading

import grpc
import h2.events
import pytest

from test_grpc import EchoServer, channel_to


@pytest.fixture
def server():
    server = EchoServer()
    yield server
    server.cancelled.set()
    server.stop()


def failure_of(call, *arguments, **named):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=8, **named)
    return caught.value


def assert_exhausted(failure, *words):
    assert failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, failure
    assert failure.details() and all(word in failure.details().lower() for word in words), failure.details()
    assert "127.0.0.1" not in failure.details()


def test_a_message_of_the_body_limit_and_one_byte_more(configured, server):
    """The limit counts gRPC's five bytes before a message, too."""
    program = configured("limits: {header_bytes: 16KiB, body_bytes: 64KiB}\n", f"h2c://127.0.0.1:{server.port}")
    with channel_to(program) as channel:
        unary = channel.unary_unary("/echo/Unary")
        assert unary(b"a" * (65_536 - 5), timeout=5) == b"a" * (65_536 - 5)
        assert_exhausted(failure_of(unary, b"a" * (65_536 - 4)), "large")
        assert unary(b"next", timeout=5) == b"next"


def test_a_stream_of_messages_beyond_the_body_limit(configured, server):
    """Every message is small; their sum is not, and the call ends when it is."""
    program = configured("limits: {header_bytes: 16KiB, body_bytes: 64KiB}\n", f"h2c://127.0.0.1:{server.port}")
    with channel_to(program) as channel:
        assert_exhausted(failure_of(channel.stream_unary("/echo/Collect"), iter([b"a" * 8_000] * 20)), "large")
        assert channel.stream_unary("/echo/Collect")(iter([b"a", b"b"]), timeout=5) == b"a+b"


def test_as_many_requests_as_may_be_under_way_and_one_more(configured, server):
    program = configured("limits: {requests: 2}\nload_signals: {interval: 0s}\n", f"h2c://127.0.0.1:{server.port}")
    with channel_to(program) as channel, contextlib.ExitStack() as stack:
        hanging = [channel.unary_unary("/echo/Hang").future(b"", timeout=20) for _ in range(2)]
        for call in hanging:
            stack.callback(call.cancel)
        # Calls of one channel come in the order in which they were made.
        assert server.entered.wait(5)
        assert_exhausted(failure_of(channel.unary_unary("/echo/Unary"), b"more"), "too many requests")
        server.cancelled.set()
        for call in hanging:
            assert call.result() == b""
        assert channel.unary_unary("/echo/Unary")(b"room again", timeout=5) == b"room again"


def test_a_backend_whose_streams_are_all_taken(configured, by_frames):
    """No stream comes free in time."""
    begun = threading.Event()

    def answer(connection, event):
        if isinstance(event, h2.events.RequestReceived):
            begun.set()

    backend = by_frames(answer, stream_limit=1)
    program = configured(
        "limits: {http2_upstream_connections: 1}\ntimeouts: {stream_queue: 200ms}\nload_signals: {interval: 0s}\n", backend
    )
    with channel_to(program) as channel:
        first = channel.unary_unary("/any/Call").future(b"", timeout=20)
        assert begun.wait(5)
        failure = failure_of(channel.unary_unary("/any/Call"), b"")
        first.cancel()
    # UNAVAILABLE, which clients try again: the call was never sent.
    assert failure.code() == grpc.StatusCode.UNAVAILABLE and "had room" in failure.details()
