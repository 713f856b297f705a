"""Clients that take an answer slowly but steadily. The router's kernel takes megabytes for them and then nothing for long, so what
counts is what their own has acknowledged. And clients that have stopped; `test_hostile.py` has more of them."""

import socket
import time

import h2.settings
import pytest

import pki
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client

#: More than fits between the two: the greatest send buffer (4 MiB), the client's receive buffer, and what the router holds for a reader.
SIZE = 12_000_000
#: A reader has stopped when it is found unmoved after this time.
IDLE = "timeouts: {downstream_idle: 400ms}\n"


@pytest.fixture
def slow(configured, scripted, tmp_path):
    """Starts a router whose answers are too long for every buffer; gives it and the certificate file to trust, None in cleartext."""

    def make(secured=False, size=SIZE):
        async def script(exchange):
            await exchange.answer(body=bytes(size))

        if not secured:
            return configured(IDLE, scripted(script)), None
        authority = pki.Authority(tmp_path)
        identity = authority.issue("server", "DNS:localhost")
        return configured(IDLE, scripted(script), arguments_after=identity.arguments()), authority.file

    return make


def read(client, size):
    """What is there, under TLS of ciphertext: its records would be steps of 16 KiB."""
    return socket.socket.recv(client.socket, size)


def widen(client, window):
    """Allows so much for each stream, and for all together."""
    client.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    if window > 65_535:
        client.connection.increment_flow_control_window(window - 65_535)


def sip(client, take):
    """Some 37 KB/s for more than four times the limit. The client's kernel opens its window in steps of up to 6 KiB: two or more within the limit."""
    received = 0
    for _ in range(45):
        piece = read(client, 1_500)
        assert piece, f"cut after {received} bytes"
        take(piece)
        received += len(piece)
        time.sleep(0.04)


@pytest.mark.parametrize("secured", [False, True], ids=["cleartext", "tls"])
def test_slow_but_steady_http1_reader_keeps_its_answer(slow, secured):
    program, trusted = slow(secured)
    with HTTP1Client(program.port, receive_buffer=4096, tls=trusted) as client:
        client.request()
        received = []
        sip(client, lambda piece: received.append(len(piece)))
        while sum(received) < SIZE:
            piece = read(client, 1 << 18)
            assert piece, f"cut after {sum(received)} bytes"
            received.append(len(piece))


@pytest.mark.parametrize("window", [65_535, 1 << 24], ids=["first window", "wide window"])
def test_slow_but_steady_http2_reader_keeps_its_answer(slow, window):
    """With a wide window the answer fills the kernel's buffers, and a PING waits behind megabytes of it."""
    program, _ = slow()
    with HTTP2Client(program.port, receive_buffer=4096) as client:
        widen(client, window)
        stream = client.request()
        sip(client, client.take)
        assert len(client.response(stream).body) == SIZE
        assert client.responses[stream].complete


def test_connection_whose_last_answer_is_still_read_is_not_idle(slow):
    """All of it is in the kernel's hands: a close would have the client's next frame answered with a reset, which drops the rest."""
    size = 1_500_000
    program, _ = slow(size=size)
    with HTTP2Client(program.port, receive_buffer=4096) as client:
        widen(client, 1 << 24)
        stream = client.request()
        sip(client, client.take)
        client.connection.ping(bytes(8))
        client.flush()
        assert len(client.response(stream).body) == size


def test_stream_left_unread_is_given_up_beside_one_that_is_read(slow):
    """All that was sent of it has arrived: it waits for a window, for which nothing that moves elsewhere is an excuse."""
    program, _ = slow()
    with HTTP2Client(program.port) as client:
        client.connection.increment_flow_control_window(1 << 24)
        unread, slowly_read = client.request(), client.request()
        given_back = 0
        while client.responses[unread].reset_code is None:
            client.pump(acknowledge=False)
            count = len(client.responses[slowly_read].body) - given_back
            if count > 16_000:
                client.connection.increment_flow_control_window(count, slowly_read)
                client.flush()
                given_back += count
                time.sleep(0.04)
        assert client.responses[slowly_read].reset_code is None
        assert len(client.responses[unread].body) == 65_535


@pytest.mark.parametrize("window", [65_535, 1 << 24], ids=["first window", "wide window"])
def test_http2_reader_that_stops_is_given_up(slow, window):
    """It reads nothing any more, be it that the answer waits for its window or in the kernel's buffers."""
    program, _ = slow()
    with HTTP2Client(program.port, receive_buffer=4096) as client:
        widen(client, window)
        client.request()
        wait_until(lambda: program.access_log(), 10, "the end of the exchange")
