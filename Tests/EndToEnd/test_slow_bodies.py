"""Request bodies that come a byte at a time: given up when they bring too little in a term, unless nobody may ask more of them."""

import time

import pytest

import admin
from raw_backend import RawBackend
from waiting import wait_until
from wire_clients import HTTP1Client, HTTP2Client, assert_openai_error

#: A term of 0.4 seconds, in which 200 bytes have to come.
LIMITS = "timeouts: {request_body: 400ms}\nlimits: {request_body_bytes_per_second: %d}\n"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LENGTH = HEAD + b"Content-Length: 1000000\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def raw():
    """Makes backends from scripts `(connection, head)`."""
    backends = []

    def make(script):
        backends.append(RawBackend(script))
        return backends[-1]

    yield make
    for backend in backends:
        backend.stop()


def drip(send, is_over, timeout=10.0):
    """A piece every 20 ms, until it is over; returns how many there were."""
    deadline, pieces = time.monotonic() + timeout, 0
    while not is_over():
        assert time.monotonic() < deadline, "the router waits for ever"
        send()
        pieces += 1
        time.sleep(0.02)
    return pieces


def has_answer(client):
    client.socket.settimeout(0.001)
    try:
        client._fill()
        return True
    except TimeoutError:
        return False
    finally:
        client.socket.settimeout(10)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_drips_is_refused(configured, scripted, framing):
    program = configured(LIMITS % 500, scripted(), admin=True)
    with HTTP1Client(program.port) as client:
        client.send(LENGTH if framing == "length" else CHUNKED)
        pieces = drip(lambda: client.send(b" " if framing == "length" else b"1\r\n \r\n"), lambda: has_answer(client))
        assert_openai_error(client.response(), 408)
        # It had its term first, and was never silent for as long.
        assert pieces > 5
    wait_until(lambda: admin.sample(program, "swiftlet_requests_in_flight") == 0, what="the end of the request")


def test_a_stream_that_drips_is_reset_and_others_go_on(configured, scripted):
    program = configured(LIMITS % 500, scripted())
    with HTTP2Client(program.port) as client:
        slow = client.request(b"{", end=False)

        def send():
            client.connection.send_data(slow, b" ")
            client.flush()
            assert client.response(client.request(body={})).status == 200

        drip(send, lambda: client.responses[slow].reset_code is not None)


@pytest.mark.parametrize("rate", [500, 0], ids=["fast enough", "any pace will do"])
def test_a_body_that_keeps_its_pace_arrives(configured, scripted, rate):
    """For three terms: with five times what is asked for, or with next to nothing where nothing is."""
    program = configured(LIMITS % rate, backend := scripted())
    piece = b" " * (50 if rate else 1)
    with HTTP1Client(program.port) as client:
        client.send(CHUNKED)
        began = time.monotonic()
        count = drip(lambda: client.send(b"%x\r\n%s\r\n" % (len(piece), piece)), lambda: time.monotonic() - began > 1.3)
        client.send(b"2\r\n{}\r\n0\r\n\r\n")
        assert client.response().status == 200
    assert backend.requests[-1].body == piece * count + b"{}"


def test_two_that_talk_go_at_their_own_pace(configured, raw):
    """Once the answer has begun its client is as slow as it likes."""

    def script(connection, _):
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += connection.read(1)
        connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (body.count(b"1\r\n"), b"b" * body.count(b"1\r\n")))

    program = configured(LIMITS % 500, raw(script))
    with HTTP1Client(program.port) as client:
        client.send(CHUNKED.replace(b"application/json", b"text/plain"))
        client.send(b"1\r\nx\r\n")
        head = client.read_head()
        began = time.monotonic()
        count = drip(lambda: client.send(b"1\r\nx\r\n"), lambda: time.monotonic() - began > 1.0)
        client.send(b"0\r\n\r\n")
        assert client.read_body(head).body == b"a" + b"b" * (count + 1)
