"""Backends that lie: what they answer against the rules never reaches a client as if it were whole, and never another client at all."""

import contextlib

import pytest

from scripted_backend import answer_ok
from waiting import wait_until
from wire_clients import ConnectionEnded, HTTP1Client, HTTP2Client

SMUGGLED = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled"

#: Heads (and bodies) that must come to nothing.
BROKEN = {
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
    "length list": b"HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok!",
    "length and coding": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "length with a sign": b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
    "length beyond all": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nok",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "folded field": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
    "blank before the colon": b"HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 2\r\n\r\nok",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nok",
    "CR in a value": b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 2\r\n\r\nok",
    "no status": b"HTTP/1.1 OK\r\ncontent-length: 2\r\n\r\nok",
    "status of four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok",
    "status of zero": b"HTTP/1.1 000 OK\r\ncontent-length: 2\r\n\r\nok",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "nothing but noise": bytes(range(1, 256)) * 8,
    "head beyond the bound": b"HTTP/1.1 200 OK\r\n" + b"x: " + b"a" * 70_000 + b"\r\n\r\n",
    "head without end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000,
    "interim heads without end": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2_000,
}


def liar(answer):
    def script(connection, head):
        while head:
            with contextlib.suppress(OSError):
                connection.send(answer)
            head = connection.read_head()

    return script


@pytest.mark.parametrize("case", BROKEN)
def test_an_answer_that_breaks_the_rules_is_an_error(serve, raw, case):
    program = serve(raw(liar(BROKEN[case])))
    with HTTP1Client(program.port) as client:
        client.request(method="GET", target="/x")
        response = client.response()
        assert response.status == 502, response
        assert b"upstream" in bytes(response.body)
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(method="GET", target="/x"))
        assert response.status == 502, response


#: Twice the fields of a request's, and as many bytes; the status line and the line ends count.
LARGEST = {
    "fields": lambda more: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + b"x: y\r\n" * (199 + more) + b"\r\n",
    "bytes": lambda more: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: " + b"a" * (65_536 - 17 - 19 - 3 - 4 + more) + b"\r\n\r\n",
}


@pytest.mark.parametrize("shape", LARGEST)
def test_the_largest_head_and_one_beyond_it(serve, raw, shape):
    for more, status in ((0, 200), (1, 502)):
        head = LARGEST[shape](more)
        assert shape == "fields" or len(head) == 65_536 + more
        program = serve(raw(liar(head + b"ok")))
        with HTTP1Client(program.port) as client:
            response = client.request(method="GET", target="/x").response()
        assert (response.status, len(response.values(b"x"))) == (status, {"fields": 199, "bytes": 1}[shape] if not more else 0)


@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("size", [b"zz", b"-1", b"", b"0x2", b"2 2", b"ffffffffffffffffff", b"2\n"])
def test_a_chunk_of_no_size_cuts_the_answer(serve, raw, size, protocol):
    program = serve(raw(liar(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n" + size + b"\r\nmore\r\n0\r\n\r\n")))
    if protocol == "http2":
        with HTTP2Client(program.port) as client:
            response = client.response(client.request(method="GET", target="/x"))
            assert not response.complete or response.status == 502
        return
    with HTTP1Client(program.port) as client:
        client.request(method="GET", target="/x")
        with contextlib.suppress(ConnectionEnded):
            assert client.response("GET").status == 502


def test_an_answer_behind_the_answer_reaches_nobody(serve, raw):
    """Response splitting: the second answer must not be the next client's."""

    def script(connection, head):
        while head:
            name = head.split(b" ")[1][1:]
            with contextlib.suppress(OSError):
                connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(name), name) + SMUGGLED)
            head = connection.read_head()

    program = serve(raw(script))
    for number in range(20):
        with HTTP1Client(program.port) as client:
            client.request(method="GET", target=f"/{number}")
            assert bytes(client.response("GET").body) == b"%d" % number


def test_an_answer_before_any_question_reaches_nobody(serve, raw):
    """A kept connection on which the backend speaks up is given up, not read."""
    spoke = []

    def script(connection, head):
        while head:
            name = head.split(b" ")[1][1:]
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(name), name))
            with contextlib.suppress(OSError):
                connection.socket.settimeout(0.02)
                try:
                    head = connection.read_head()
                except TimeoutError:
                    connection.send(SMUGGLED)
                    spoke.append(1)
                    connection.socket.settimeout(5)
                    head = connection.read_head()

    program = serve(raw(script))
    for number in range(5):
        with HTTP1Client(program.port) as client:
            before = len(spoke)
            client.request(method="GET", target=f"/{number}")
            assert bytes(client.response("GET").body) == b"%d" % number
            wait_until(lambda: len(spoke) > before, what="the backend to speak up")  # noqa: B023


def test_a_body_where_there_is_none_reaches_nobody(serve, raw):
    """204 and 304 have no body, and what follows HEAD is none, whatever a backend sends."""

    def script(connection, head):
        while head:
            status = head.split(b" ")[1][1:]
            with contextlib.suppress(OSError):
                connection.send(b"HTTP/1.1 %s X\r\ncontent-length: 8\r\n\r\nsmuggled" % status)
            head = connection.read_head()

    program = serve(raw(script))
    for method, status in (("GET", 204), ("GET", 304), ("HEAD", 200)) * 3:
        with HTTP1Client(program.port) as client:
            client.request(method=method, target=f"/{status}")
            assert client.read_head().status == status
            client.request(method="GET", target="/200")
            assert client.read_head().status == 200


def test_a_good_backend_beside_a_liar(serve, raw, scripted):
    """Requests that may be tried elsewhere are."""
    good = scripted(answer_ok)
    program = serve(raw(liar(b"\x16\x03\x01 not HTTP")), good)
    for _ in range(10):
        with HTTP1Client(program.port) as client:
            client.request(body={"model": "m", "messages": []})
            assert client.response().status == 200
