"""What RFC 9113 asks of a server, frame by frame: SETTINGS, PING, windows, stream limits, priorities, and a drain with two GOAWAYs."""

import contextlib
import itertools
import signal
import socket
import struct
import threading

import pytest

from raw_backend import RawBackend
from scripted_backend import answer_ok
from test_attacks_http2 import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, POST, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, WITH_PRIORITY, Attacker as Peer, frame,
)  # fmt: skip
from waiting import wait_until, wait_until_steady
from wire_clients import HTTP2Client

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(1, 7)
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, REFUSED_STREAM, COMPRESSION_ERROR = 1, 3, 6, 7, 9
CALL = POST + b"\x00\x0ccontent-type\x10application/grpc"


def setting(*pairs):
    return b"".join(struct.pack(">HI", *pair) for pair in pairs)


def window(stream, size):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def request(stream, fields=POST, end=True):
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, fields)


def body_of(peer, stream):
    return b"".join(payload for number, _, payload in peer.frames(DATA) if number == stream)


def is_answered(peer, stream):
    return any(number == stream and flags & END_STREAM for kind in (HEADERS, DATA) for number, flags, _ in peer.frames(kind))


def wait_answer(peer, stream):
    wait_until(lambda: is_answered(peer, stream), what=f"the answer on stream {stream}")


@pytest.fixture
def held(serve, scripted, gate):
    """A router whose backend answers /flooded once the gate is open."""

    async def script(exchange):
        await gate.wait()
        await answer_ok(exchange)

    backend = scripted(script)
    program = serve(backend, arguments=("--loops", "1"))
    program.backend = backend
    return program


def test_settings_are_announced_and_acknowledged(serve, scripted):
    with Peer(serve(scripted()).port, settings=setting((MAX_STREAMS, 7))) as peer:
        wait_until(lambda: len(peer.frames(SETTINGS)) == 2, what="SETTINGS and the acknowledgement of ours")
        (_, flags, payload), (_, other, empty) = peer.frames(SETTINGS)
        told = dict(struct.unpack_from(">HI", payload, at) for at in range(0, len(payload), 6))
        assert (flags, other, empty) == (0, ACK, b"")
        assert told[MAX_STREAMS] == 256 and told[MAX_HEADER_LIST] == 65_536 and told[INITIAL_WINDOW] >= 65_535


def test_ping_is_answered_with_its_own_bytes(serve, scripted):
    with Peer(serve(scripted()).port) as peer:
        peer.send(frame(PING, 0, 0, b"12345678") + frame(PING, 0, 0, b"abcdefgh"))
        wait_until(lambda: len(peer.frames(PING)) == 2, what="both answers")
        assert peer.frames(PING) == [(0, ACK, b"12345678"), (0, ACK, b"abcdefgh")]


@pytest.mark.parametrize("has_acknowledged", [False, True])
def test_256_streams_and_one_more(held, gate, has_acknowledged):
    """One that crosses our SETTINGS is refused unprocessed, on its stream alone; a client that knows the limit has broken it."""
    with Peer(held.port) as peer:
        wait_until(lambda: len(peer.frames(SETTINGS)) == 2, what="SETTINGS")
        acknowledgement = frame(SETTINGS, ACK) if has_acknowledged else b""
        peer.send(acknowledgement + b"".join(request(2 * number + 1) for number in range(256)))
        wait_until(lambda: len(held.backend.requests) == 256, what="256 requests at the backend")
        peer.send(request(513))
        if has_acknowledged:
            assert peer.ended.wait(5) and peer.goaway_code == PROTOCOL_ERROR
            return
        wait_until(lambda: peer.frames(RST_STREAM), what="the refusal")
        assert peer.frames(RST_STREAM) == [(513, 0, struct.pack(">I", REFUSED_STREAM))]
        gate.open()
        for number in range(256):
            wait_answer(peer, 2 * number + 1)
        # There is room again.
        peer.send(request(515))
        wait_answer(peer, 515)
    assert len(held.backend.requests) == 257


def test_priorities_are_ignored(serve, scripted):
    """RFC 9113, 5.3.2: deprecated, but legal; also of streams that are idle or gone."""
    program = serve(scripted())
    with Peer(program.port) as peer:
        peer.send(frame(PRIORITY, 0, 9, struct.pack(">IB", 0x80000000 | 7, 255)))
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, struct.pack(">IB", 0x80000000 | 5, 9) + POST))
        wait_answer(peer, 1)
        peer.send(frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 0)) + request(3))
        wait_answer(peer, 3)
        assert peer.goaway_code is None


def test_unknown_frames_and_settings_are_ignored(serve, scripted):
    """RFC 9113, 5.5."""
    with Peer(serve(scripted()).port, settings=setting((0xFEED, 1), (0x8, 1))) as peer:
        peer.send(frame(0x42, 0xFF, 0, b"?") + request(1, end=False) + frame(0x42, 0, 1, b"?") + frame(DATA, END_STREAM, 1, b"{}"))
        wait_answer(peer, 1)
        assert peer.goaway_code is None


def test_padding_both_of_fields_and_of_data(serve, scripted):
    backend = scripted()
    with Peer(serve(backend).port) as peer:
        peer.send(frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05" + POST + b"\0" * 5))
        peer.send(frame(DATA, PADDED, 1, b"\xff" + b"abc" + b"\0" * 255) + frame(DATA, PADDED | END_STREAM, 1, b"\x00def"))
        wait_answer(peer, 1)
    assert [request.body for request in backend.requests] == [b"abcdef"]


def test_fields_over_several_continuations(serve, scripted):
    backend = scripted()
    with Peer(serve(backend).port) as peer:
        pieces = [POST[at : at + 3] for at in range(0, len(POST), 3)]
        peer.send(frame(HEADERS, END_STREAM, 1, pieces[0]) + b"".join(frame(CONTINUATION, 0, 1, piece) for piece in pieces[1:]))
        peer.send(frame(CONTINUATION, END_HEADERS, 1))
        wait_answer(peer, 1)
    assert backend.requests[0].target == b"/flooded"


@pytest.mark.parametrize("drips", [False, True])
def test_header_block_that_does_not_end(configured, scripted, drips):
    """Its time is a request head's, not an idle connection's, also while a CONTINUATION drips."""
    backend = scripted()
    with Peer(configured("timeouts: {request_header: 500ms, downstream_idle: 60s}\n", backend).port) as peer:
        peer.send(frame(HEADERS, END_STREAM, 1, POST))

        rest = iter(frame(CONTINUATION, END_HEADERS, 1, b"\x00\x01x\x7f\x81\x7d" + b"v" * 16_000))

        def is_over():
            if drips and not peer.ended.is_set():
                with contextlib.suppress(OSError):
                    peer.send(bytes([next(rest)]))
            return peer.ended.is_set()

        wait_until(is_over, 10, "the end of the connection")
        assert peer.goaway_code == 0
    assert backend.requests == []


async def answer_20_kib(exchange):
    await exchange.answer(200, b"y" * 20_000)


def test_the_clients_windows_are_kept_to(serve, scripted):
    """Not a byte more than stream and connection allow, also when SETTINGS shrink a window below zero meanwhile."""
    with Peer(serve(scripted(answer_20_kib)).port, settings=setting((INITIAL_WINDOW, 1_000))) as peer:
        peer.send(request(1))
        wait_until(lambda: len(body_of(peer, 1)) == 1_000, what="the window's worth")
        # Down to 600 less than nothing; up again by 700 in two steps.
        peer.send(frame(SETTINGS, payload=setting((INITIAL_WINDOW, 400))) + window(1, 500))
        peer.send(frame(PING, payload=b"still no"))
        wait_until(lambda: peer.frames(PING), what="the answer behind them")
        assert len(body_of(peer, 1)) == 1_000
        peer.send(window(1, 200))
        wait_until(lambda: len(body_of(peer, 1)) == 1_100, what="the hundred that fit")
        # A window that grows by SETTINGS moves the stream, too.
        peer.send(frame(SETTINGS, payload=setting((INITIAL_WINDOW, 65_535))))
        wait_answer(peer, 1)
        assert len(body_of(peer, 1)) == 20_000
        # 45,535 are left of the connection's window: two more answers and a part of the third fit.
        peer.send(b"".join(request(stream) for stream in (3, 5, 7)))
        wait_until(lambda: sum(len(body_of(peer, stream)) for stream in (3, 5, 7)) == 45_535, what="the connection's window")
        peer.send(window(0, 1 << 20))
        for stream in (3, 5, 7):
            wait_answer(peer, stream)


def test_the_clients_frame_size_is_kept_to(serve, scripted):
    with Peer(serve(scripted(answer_20_kib)).port, settings=setting((MAX_FRAME, 16_384), (HEADER_TABLE_SIZE, 0))) as peer:
        for stream in (1, 3):
            peer.send(request(stream))
            wait_answer(peer, stream)
        assert max(len(payload) for _, _, payload in peer.frames(DATA)) <= 16_384


BREACHES = {
    "DATA before any stream": (frame(DATA, END_STREAM, 1, b"x"), PROTOCOL_ERROR),
    "SETTINGS of five bytes": (frame(SETTINGS, payload=b"\0" * 5), FRAME_SIZE_ERROR),
    "acknowledgement with a payload": (frame(SETTINGS, ACK, payload=setting((MAX_STREAMS, 1))), FRAME_SIZE_ERROR),
    "window beyond 2^31 by SETTINGS": (frame(SETTINGS, payload=setting((INITIAL_WINDOW, 1 << 31))), FLOW_CONTROL_ERROR),
    "frame size below its least": (frame(SETTINGS, payload=setting((MAX_FRAME, 100))), PROTOCOL_ERROR),
    "push allowed by two": (frame(SETTINGS, payload=setting((ENABLE_PUSH, 2))), PROTOCOL_ERROR),
    "PING of seven bytes": (frame(PING, payload=b"1234567"), FRAME_SIZE_ERROR),
    "PING on a stream": (frame(PING, 0, 1, b"12345678"), PROTOCOL_ERROR),
    "connection's window of nothing": (window(0, 0), PROTOCOL_ERROR),
    "stream's window of nothing": (request(1, end=False) + window(1, 0), PROTOCOL_ERROR),
    "connection's window beyond 2^31": (window(0, 0x7FFFFFFF) * 2, FLOW_CONTROL_ERROR),
    "even stream": (request(2), PROTOCOL_ERROR),
    "stream zero": (request(0), PROTOCOL_ERROR),
    "frame too long": (request(1, end=False) + frame(DATA, 0, 1, b"x" * 16_385), FRAME_SIZE_ERROR),
    "frame between fields": (frame(HEADERS, 0, 1, POST) + frame(PING, payload=b"12345678"), PROTOCOL_ERROR),
    "continuation of nothing": (frame(CONTINUATION, END_HEADERS, 1, POST), PROTOCOL_ERROR),
    "padding longer than its frame": (request(1, end=False) + frame(DATA, PADDED, 1, b"\x09ab"), PROTOCOL_ERROR),
    "fields that are none": (request(1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
    "table larger than agreed": (request(1, b"\x3f\xe1\xff\x03" + POST), COMPRESSION_ERROR),
    "RST_STREAM of an idle stream": (frame(RST_STREAM, 0, 9, struct.pack(">I", 8)), PROTOCOL_ERROR),
    "RST_STREAM of three bytes": (request(1, end=False) + frame(RST_STREAM, 0, 1, b"\0\0\0"), FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_ends_the_connection_with_its_code(held, breach):
    """RFC 9113, 5.4.1, and nothing is left behind: neither in the router nor for another client."""
    data, code = BREACHES[breach]
    with Peer(held.port) as peer:
        peer.flood([data])
        assert peer.goaway_code == code
        assert peer.ended.wait(5)
    with HTTP2Client(held.port) as other:
        assert other.response(other.request(method="GET", target="/health")).status == 200


STREAM_BREACHES = {
    "window beyond 2^31": (request(1, end=False) + window(1, 0x7FFFFFFF), FLOW_CONTROL_ERROR),
    "more body than its length": (request(1, POST + b"\x0f\x0d\x012", end=False) + frame(DATA, END_STREAM, 1, b"abc"), PROTOCOL_ERROR),
    "less body than its length": (request(1, POST + b"\x0f\x0d\x014", end=False) + frame(DATA, END_STREAM, 1, b"abc"), PROTOCOL_ERROR),
}


@pytest.mark.parametrize("breach", STREAM_BREACHES)
def test_a_breach_of_one_stream_ends_that_stream_alone(serve, scripted, breach):
    """RFC 9113, 5.4.2."""
    data, code = STREAM_BREACHES[breach]
    with Peer(serve(scripted()).port) as peer:
        peer.send(data)
        wait_until(lambda: peer.frames(RST_STREAM) or peer.goaway_code is not None, what="the reset")
        assert peer.goaway_code is None
        assert peer.frames(RST_STREAM) == [(1, 0, struct.pack(">I", code))]
        peer.send(request(3))
        wait_answer(peer, 3)


def test_a_stream_that_was_passed_over_is_closed(serve, scripted):
    """RFC 9113, 5.1.1: opening a stream closes the idle ones below it."""
    backend = scripted()
    with Peer(serve(backend).port) as peer:
        peer.send(request(5) + request(3) + frame(PING, payload=b"and then"))
        wait_answer(peer, 5)
        wait_until(lambda: peer.frames(PING), what="the answer behind it")
        assert not is_answered(peer, 3)
    assert len(backend.requests) == 1


def test_the_windows_we_offer_are_all_we_take(serve):
    """A backend that does not read stops its client at the window; what comes beyond ends the stream."""
    backend = RawBackend(lambda connection, head: connection.socket.recv(1, socket.MSG_WAITALL) and threading.Event().wait(20))
    program = serve(backend, arguments=("--loops", "1"))
    upload = POST + b"\x0f\x10\x18application/octet-stream"
    piece = frame(DATA, 0, 1, b"z" * 16_384)
    with Peer(program.port) as peer:
        before = program.resident_bytes()
        peer.send(request(1, upload, end=False))

        def credit():
            return sum(struct.unpack(">I", payload)[0] for stream, _, payload in peer.frames(WINDOW_UPDATE) if stream == 1)

        sent, window_size = 0, 262_144
        while sent + 16_384 <= window_size + credit():
            peer.send(piece)
            sent += 16_384
            if sent + 16_384 > window_size + credit():
                wait_until_steady(credit, what="the stream's credit")
            assert sent < 64 << 20, "a window without end"
        assert program.resident_bytes() - before < 8 << 20
        peer.send(piece)
        wait_until(lambda: peer.frames(RST_STREAM) or peer.goaway_code is not None, what="the reset")
        assert peer.reset_codes() == [FLOW_CONTROL_ERROR] or peer.goaway_code == FLOW_CONTROL_ERROR
    backend.stop()


@pytest.mark.parametrize("says_so", [True, False])
def test_drain_of_grpc_with_two_goaways(held, gate, says_so):
    """RFC 9113, 6.8: the first names no last stream, so that calls that cross it are served; the second follows once the client has
    read the first, as it says by answering a PING, or after a second."""
    with Peer(held.port) as peer:
        peer.send(request(1, CALL) + request(3))
        wait_until(lambda: held.backend.requests, what="a request under way")
        held.signal(signal.SIGTERM)
        wait_until(lambda: peer.frames(GOAWAY) and peer.frames(PING), what="the first GOAWAY and the PING behind it")
        peer.send(request(5))
        wait_until(lambda: len(held.backend.requests) == 2, what="the request that crossed the GOAWAY")
        if says_so:
            assert len(peer.frames(GOAWAY)) == 1
            peer.send(b"".join(frame(PING, ACK, 0, payload) for _, _, payload in peer.frames(PING)))
        wait_until(lambda: len(peer.frames(GOAWAY)) == 2, what="the second GOAWAY")
        first, second = (struct.unpack(">II", payload[:8]) for _, _, payload in peer.frames(GOAWAY))
        assert first == (0x7FFFFFFF, 0) and second == (5, 0)
        # Above what the second named: not taken, and the client knows.
        peer.send(request(7))
        gate.open()
        wait_answer(peer, 3)
        wait_answer(peer, 5)
        assert peer.ended.wait(5)
    assert held.wait_exit(5) == 0
    assert len(held.backend.requests) == 2


def test_drain_of_others_waits_with_its_goaway(held, gate):
    """Some clients drop their open streams at the first GOAWAY: what is open ends before it."""
    with Peer(held.port) as peer:
        peer.send(request(1))
        wait_until(lambda: held.backend.requests, what="the request")
        held.signal(signal.SIGTERM)
        wait_until(lambda: not held.accepts_connections(), what="the drain")
        peer.send(frame(PING, payload=b"goodbye?"))
        wait_until(lambda: peer.frames(PING), what="an answer in the drain")
        assert not peer.frames(GOAWAY)
        gate.open()
        wait_answer(peer, 1)
        assert peer.ended.wait(5)
        assert [struct.unpack(">II", payload[:8]) for _, _, payload in peer.frames(GOAWAY)] == [(1, 0)]
    assert held.wait_exit(5) == 0


def test_drain_of_others_tells_them_in_good_time(configured, scripted, gate):
    """After a third of the drain at the latest: who keeps a stream open would be cut off with the rest, and know of nothing."""

    async def script(exchange):
        await gate.wait()
        await answer_ok(exchange)

    backend = scripted(script)
    program = configured("timeouts: {drain: 3s}\n", backend)
    with Peer(program.port) as peer:
        peer.send(request(1))
        wait_until(lambda: backend.requests, what="the request")
        program.signal(signal.SIGTERM)
        wait_until(lambda: peer.frames(GOAWAY), what="the first GOAWAY")
        assert peer.frames(GOAWAY)[0][2][:4] == b"\x7f\xff\xff\xff"
        gate.open()
        wait_answer(peer, 1)
        assert peer.ended.wait(5)
    assert program.wait_exit(5) == 0


# Idle connections ----------------------------------------------------------------------------------------------------

SIGNS_OF_LIFE = {
    "nothing": [b""],
    "PING": [frame(PING, payload=b"12345678")],
    "SETTINGS": [frame(SETTINGS)],
    "a wider window": [window(0, 64)],
    "an unknown frame": [frame(0x42)],
    "a byte of a frame": [bytes([byte]) for byte in frame(0x42, payload=b"x" * 16_000)],
}


@pytest.mark.parametrize("sign", SIGNS_OF_LIFE)
def test_only_requests_keep_a_connection(configured, scripted, sign):
    """Whatever else comes now and then, a connection without a request ends as an idle one, and in good order."""
    program = configured("timeouts: {downstream_idle: 300ms}\n", scripted())
    pieces = itertools.cycle(SIGNS_OF_LIFE[sign])
    with Peer(program.port) as peer:
        peer.send(request(1))
        wait_answer(peer, 1)

        def is_over():
            with contextlib.suppress(OSError):
                peer.send(next(pieces))
            return peer.ended.is_set()

        wait_until(is_over, what="the end of the connection")
        assert [struct.unpack(">II", payload[:8]) for _, _, payload in peer.frames(GOAWAY)] == [(1, 0)]


def test_pings_keep_a_connection_with_a_request(configured, scripted, gate):
    """As gRPC's clients send them while a call is silent: longer than an idle connection or an unanswered PING may last."""

    async def script(exchange):
        await gate.wait()
        await answer_ok(exchange)

    program = configured("timeouts: {downstream_idle: 200ms}\n", scripted(script))
    with Peer(program.port) as peer:
        peer.send(request(1))
        # One in 5 ms at most.
        wait_until(lambda: peer.send(frame(PING, payload=b"12345678")) or len(peer.frames(PING)) > 160, what="answers to PINGs")
        gate.open()
        wait_answer(peer, 1)


# A client that says GOAWAY --------------------------------------------------------------------------------------------

GOODBYE = frame(GOAWAY, payload=struct.pack(">II", 0, 0))


def test_goaway_of_an_idle_client_ends_the_connection(held):
    with Peer(held.port) as peer:
        wait_until(lambda: peer.frames(SETTINGS), what="our SETTINGS")
        peer.send(GOODBYE)
        assert peer.ended.wait(5)


@pytest.mark.parametrize("steps", [1, 2])
def test_goaway_of_a_client_lets_its_streams_end(held, gate, steps):
    """RFC 9113, 6.8: it will take no streams of ours; those of its own go on, and with the last of them the connection ends."""
    with Peer(held.port) as peer:
        peer.send(request(1) + request(3, end=False))
        wait_until(lambda: held.backend.requests, what="the first request")
        if steps == 2:
                # The last there may be of a server's, which are even.
                peer.send(frame(GOAWAY, payload=struct.pack(">II", 0x7FFFFFFE, 0)))
        peer.send(GOODBYE + frame(DATA, END_STREAM, 3, b"{}") + frame(PING, payload=b"still on"))
        wait_until(lambda: peer.frames(PING), what="an answer behind the GOAWAY")
        assert not peer.ended.is_set()
        gate.open()
        wait_answer(peer, 1)
        wait_answer(peer, 3)
        assert peer.ended.wait(5)
        assert peer.reset_codes() == []


def test_goaway_of_a_client_that_resets_its_last_stream(held):
    with Peer(held.port) as peer:
        peer.send(request(1))
        wait_until(lambda: held.backend.requests, what="the request")
        peer.send(GOODBYE + frame(PING, payload=b"still on"))
        wait_until(lambda: peer.frames(PING), what="an answer behind the GOAWAY")
        assert not peer.ended.is_set()
        peer.send(frame(RST_STREAM, 0, 1, struct.pack(">I", 8)))
        assert peer.ended.wait(5)


def test_goaway_of_a_client_whose_window_opens_late(serve, scripted):
    """The last stream ends with bytes that the client's window held back."""

    async def script(exchange):
        await exchange.answer(200, b"z" * 10_000)

    with Peer(serve(scripted(script)).port, settings=setting((INITIAL_WINDOW, 1_000))) as peer:
        peer.send(request(1) + GOODBYE)
        wait_until(lambda: len(body_of(peer, 1)) == 1_000, what="what the window takes")
        assert not peer.ended.is_set()
        peer.send(window(1, 9_000))
        wait_answer(peer, 1)
        assert body_of(peer, 1) == b"z" * 10_000
        assert peer.ended.wait(5)


def test_a_silent_client_has_time_to_answer_a_ping(configured, scripted, gate):
    """As long as it may be silent, also when a stream's own time is up meanwhile."""

    async def script(exchange):
        if len(backend.requests) == 1:
            await gate.wait()
        await answer_ok(exchange)

    backend = scripted(script)
    program = configured("timeouts:\n  downstream_idle: 1s\n", backend, arguments_after=("--loops", "1"))
    with Peer(program.port, settings=setting((INITIAL_WINDOW, 0))) as peer:
        peer.send(request(1))
        wait_until(lambda: backend.requests, what="the first request")
        peer.send(request(3))
        wait_until(lambda: peer.frames(RST_STREAM), what="the end of an answer that nobody takes")
        assert [number for number, _, _ in peer.frames(RST_STREAM)] == [3]
        (_, flags, payload), = peer.frames(PING)
        assert flags == 0
        peer.send(frame(PING, ACK, 0, payload) + window(1, 1_000))
        gate.open()
        wait_answer(peer, 1)


def test_a_client_that_answers_no_ping_is_gone(configured, scripted, gate):
    async def script(exchange):
        await gate.wait()
        await answer_ok(exchange)

    program = configured("timeouts:\n  downstream_idle: 300ms\n", scripted(script))
    with Peer(program.port) as peer:
        peer.send(request(1))
        assert peer.ended.wait(5) and peer.frames(PING)
        wait_until(lambda: program.access_log(), what="the end of its request")
