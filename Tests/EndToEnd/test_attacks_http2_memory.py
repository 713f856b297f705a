"""Attacks over HTTP/2 that make a server hold: frames or answers that nobody reads, and fields without end."""

import contextlib
import socket
import struct

import pytest

from test_attacks_http2 import (
    BYTES_PER_READ,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADERS,
    LARGE,
    POST,
    PROTOCOL_ERROR,
    SETTINGS,
    Attacker,
    attacked,  # noqa: F401
    batches,
    frame,
    open_window,
    stream_of,
)
from waiting import wait_until, wait_until_steady
from wire_clients import HTTP2Client, assert_openai_error

MIB = 1 << 20
REFUSED_STREAM = 7

#: Fields of requests that are none, each of which the server has to reset.
INVALID = {
    "no path": b"\x83\x86" + b"\x01\x01a",
    "name in upper case": POST + b"\x00\x01X\x01y",
    "line break in a value": POST + b"\x00\x01x\x03a\r\n",
    "transfer-encoding": POST + b"\x00\x11transfer-encoding\x07chunked",
    "method twice": POST[:1] + POST,
}


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
@pytest.mark.parametrize("fields", INVALID)
def test_reset_flood(attacked, fields, reads):  # noqa: F811
    """CVE-2019-9514: an invalid request on stream after stream, for the RST_STREAM that each of them draws."""

    def piece(number):
        return frame(HEADERS, END_HEADERS | END_STREAM, stream_of(number), INVALID[fields])

    with Attacker(attacked.port, reads=reads) as attacker:
        if reads:
            assert attacker.flood(batches(piece, 100_000))
            assert set(attacker.reset_codes()) <= {PROTOCOL_ERROR, REFUSED_STREAM}
            # One read may bring more of them than frames may wait: then the connection goes without a word.
            assert attacker.goaway_code in (ENHANCE_YOUR_CALM, None)
            assert attacker.sent < 9_000_000
        else:
            with contextlib.suppress(OSError):
                for data in batches(piece, 100_000):
                    attacker.send(data)
            assert attacker.was_closed()
            # What the sockets of both sides may hold, and no flood.
            assert attacker.sent < 9_000_000


@pytest.mark.parametrize("streams", [1, 256])
def test_internal_data_buffering(attacked, streams):  # noqa: F811
    """CVE-2019-9517: HTTP/2's windows stand wide open, TCP's is shut, and answers are asked for."""
    attacked.memory_limit = 48 * MIB
    before = attacked.resident_bytes()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    with connection:
        connection.connect(("127.0.0.1", attacked.port))
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, payload=struct.pack(">HI", 4, 0x7FFFFFFF)))
        connection.sendall(open_window(0, 0x7FFF0000))
        for number in range(streams):
            connection.sendall(frame(HEADERS, END_HEADERS | END_STREAM, stream_of(number), LARGE))
        wait_until_steady(attacked.resident_bytes, what="the router's memory", timeout=20)
        # 256 MiB are asked for at most.
        assert attacked.resident_bytes() - before < (8 if streams == 1 else 48) * MIB


def test_a_header_list_of_64_kib_and_one_byte_more(attacked):  # noqa: F811
    """As RFC 9113 counts in 6.5.2: names, values and 32 bytes for each field."""
    pseudo = {b":method": b"GET", b":scheme": b"http", b":authority": b"test", b":path": b"/fields"}
    used = sum(len(name) + len(value) + 32 for name, value in pseudo.items()) + len(b"x-long") + 32
    with HTTP2Client(attacked.port) as client:
        for size, status in ((65_536, 200), (65_537, 431), (65_560, 431)):
            stream = client.request(target="/fields", method="GET", fields=((b"x-long", b"a" * (size - used)),))
            response = client.response(stream)
            assert response.status == status, size
            if status == 431:
                assert_openai_error(response, 431, "request_too_large")
        # One too long is no reason to end the connection.
        assert client.response(client.request(target="/fields", method="GET")).status == 200


def test_header_lists_far_beyond_the_bound_end_the_connection(attacked):  # noqa: F811
    """A megabyte of fields on stream after stream: each is reset long before its end, and they are counted."""
    block = b"\x00\x01x\x7f\x81\x7d" + b"v" * 16_000
    with Attacker(attacked.port) as attacker:

        def piece(number):
            stream = stream_of(number)
            frames = [frame(HEADERS, END_STREAM, stream, POST)]
            frames += [frame(9, 0, stream, block[:16_384]) for _ in range(6)]
            return b"".join(frames) + frame(9, END_HEADERS, stream)

        assert attacker.flood(batches(piece, 5_000, 10))
        assert attacker.goaway_code is not None
        assert attacker.sent < 1_100 * len(piece(0)) + 20 * BYTES_PER_READ


def test_settings_that_change_with_every_frame(attacked):  # noqa: F811
    """The table of fields resized, the window moved up and down: each costs a look at all streams."""
    with Attacker(attacked.port) as attacker:
        attacker.send(b"".join(frame(HEADERS, END_HEADERS, stream_of(number), POST) for number in range(100)))

        def piece(number):
            return frame(SETTINGS, payload=struct.pack(">HIHI", 1, number % 2 * 4_096, 4, 65_535 + number % 2 * 60_000))

        assert attacker.flood(batches(piece, 500_000))
        wait_until(lambda: attacker.goaway_code is not None, what="the GOAWAY")
        assert len(attacker.frames(SETTINGS)) < 25_000
