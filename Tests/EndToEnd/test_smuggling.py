"""Request smuggling: a backend sees exactly one request of each client's request, or none, and every client gets its own answer."""

import itertools
import re

import pytest

import processes
from attacks import HTTP1, SMUGGLED
from scripted_backend import ScriptedBackend
from wire_clients import ConnectionEnded, HTTP1Client, HTTP2Client, Response, ask, assert_openai_error

numbers = itertools.count(1)
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


async def echo(exchange):
    """The answer names the request that it belongs to."""
    await exchange.answer(200, b"%s %s" % (exchange.request.method, exchange.request.target))


@pytest.fixture(scope="module")
def guarded(hub):
    backend = ScriptedBackend(hub, echo, "guarded")
    program = processes.serve(backend.url, arguments=("--loops", "1"))
    yield program, backend
    program.stop()
    backend.stop()


@pytest.fixture
def innocent(guarded):
    """Another client, whose request uses the upstream connection before the attack and after it."""
    program, backend = guarded

    def check():
        target = f"/innocent-{next(numbers)}"
        assert ask(program.port, b"{}", target).body == b"POST " + target.encode()

    check()
    before = len(backend.requests)
    yield
    seen = backend.requests[before:]
    check()
    assert backend.errors == []
    for request in [*seen, backend.requests[-1]]:
        assert_clean(request)


def assert_clean(request):
    """Every byte of the head is as RFC 9112 wants it, and the framing leaves no choice."""
    line, *fields = request.head[:-4].split(b"\r\n")
    assert re.fullmatch(rb"[A-Za-z-]+ /[\x21-\x7e]* HTTP/1\.1", line), line
    for field in fields:
        name, colon, value = field.partition(b": ")
        assert colon and TOKEN.fullmatch(name) and VALUE.fullmatch(value), field
    assert len(request.values(b"host")) == 1
    assert len(request.values(b"content-length")) + len(request.values(b"transfer-encoding")) <= 1
    assert all(length.isdigit() for length in request.values(b"content-length"))
    hop = (b"connection", b"upgrade", b"http2-settings", b"te", b"keep-alive", b"proxy-connection")
    assert not [name for name in hop if request.values(name)]


@pytest.mark.parametrize("name", HTTP1)
@pytest.mark.usefixtures("innocent")
def test_http1(guarded, name):
    program, backend = guarded
    attack, number = HTTP1[name], next(numbers) % 1000
    before = len(backend.requests)
    with HTTP1Client(program.port, timeout=5) as client:
        client.send_unless_refused(attack.numbered(number))
        response = client.response()
        assert response.status in attack.statuses, response
        if response.status == 200:
            assert response.body.endswith(b"/victim-%03d" % number)
            if not response.values(b"connection"):
                assert client.request("GET", "/own").response("GET").body == b"GET /own"
        else:
            assert_openai_error(response, response.status)
            assert response.values(b"connection") == [b"close"]
            assert client.ended()
    seen = [request for request in backend.requests[before:] if request.target != b"/own"]
    expected = [] if attack.body is None else [(b"/victim-%03d" % number, attack.body.replace(b"-000 ", b"-%03d " % number))]
    assert [(request.target, request.body) for request in seen] == expected


@pytest.mark.usefixtures("innocent")
def test_every_control_byte_in_a_value(guarded):
    program, backend = guarded
    before = len(backend.requests)
    for byte in [*range(9), *range(10, 32), 127]:
        with HTTP1Client(program.port, timeout=5) as client:
            client.send_unless_refused(b"GET /v HTTP/1.1\r\nHost: x\r\nX-A: a%cb\r\n\r\n" % byte)
            assert client.response().status == 400, byte
    assert len(backend.requests) == before


@pytest.mark.usefixtures("innocent")
def test_every_byte_in_a_name(guarded):
    program, backend = guarded
    for byte in range(256):
        before = len(backend.requests)
        with HTTP1Client(program.port, timeout=5) as client:
            client.send_unless_refused(b"GET /v HTTP/1.1\r\nHost: x\r\nX%cA: a\r\n\r\n" % byte)
            legal = TOKEN.fullmatch(bytes([byte])) or byte == 58
            assert client.response().status == (200 if legal else 400), byte
        assert len(backend.requests) - before == bool(legal)


@pytest.mark.usefixtures("innocent")
def test_every_byte_in_a_target(guarded):
    program, backend = guarded
    for byte in range(256):
        before = len(backend.requests)
        with HTTP1Client(program.port, timeout=5) as client:
            client.send_unless_refused(b"GET /v%cv HTTP/1.1\r\nHost: x\r\n\r\n" % byte)
            legal = 33 <= byte < 127 and byte != 35
            assert client.response().status == (200 if legal else 400), byte
        assert len(backend.requests) - before == bool(legal)


@pytest.mark.parametrize("target", [b"/health", b"/v1/models", b"/v1/models/none"])
@pytest.mark.parametrize("chunked", [False, True])
def test_body_of_a_request_that_is_answered_here(guarded, target, chunked):
    """CL.0: an answer that needs no body must not leave it behind as the next request."""
    program, backend = guarded
    before = len(backend.requests)
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % len(SMUGGLED)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED) if chunked else SMUGGLED
    with HTTP1Client(program.port, timeout=5) as client:
        client.send(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n" + body)
        client.send_unless_refused(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not client.response().body.startswith(b"GET /")
        try:
            assert client.response().body == b"GET /second"
        except ConnectionEnded as ended:
            assert ended.received == b""
    assert all(b"smuggled" not in request.target for request in backend.requests[before:])


@pytest.mark.parametrize("expect", [b"100-continue", b"100-Continue", b" 100-continue ", b"100-continue, x", b"y"])
def test_expectation_does_not_part_a_body_from_its_head(guarded, expect):
    program, backend = guarded
    before = len(backend.requests)
    with HTTP1Client(program.port, timeout=5) as client:
        client.send(
            b"POST /victim HTTP/1.1\r\nHost: x\r\nExpect: " + expect + b"\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
        )
        response = client.response()
        assert response.status in (200, 417)
    assert [request.body for request in backend.requests[before:]] == ([SMUGGLED] if response.status == 200 else [])


# HTTP/2 to HTTP/1.1 --------------------------------------------------------------------------------------------------

FIELDS = {
    "CR LF in a value": [(b"x-a", b"1\r\nx-evil: 2")],
    "LF in a value": [(b"x-a", b"1\nx-evil: 2")],
    "CR in a value": [(b"x-a", b"1\rx")],
    "NUL in a value": [(b"x-a", b"1\0")],
    "request in a value": [(b"x-a", b"1\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n")],
    "CR LF in a name": [(b"x-a: 1\r\nx-evil", b"2")],
    "LF in a name": [(b"x-a\n", b"2")],
    "colon in a name": [(b"x:a", b"1")],
    "transfer-encoding behind a colon": [(b"transfer-encoding: chunked\r\nx", b"1")],
    "NUL in a name": [(b"x\0a", b"1")],
    "blank in a name": [(b"x a", b"1")],
    "blank behind a name": [(b"transfer-encoding ", b"chunked")],
    "empty name": [(b"", b"1")],
    "name of another alphabet": [(b"x\xc3\xa9", b"1")],
    "upper-case name": [(b"X-A", b"1")],
    "upper-case framing": [(b"Content-Length", b"2")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
    "transfer-encoding identity": [(b"transfer-encoding", b"identity")],
    "two lengths": [(b"content-length", b"2"), (b"content-length", b"2")],
    "two lengths that differ": [(b"content-length", b"2"), (b"content-length", b"0")],
    "length as a list": [(b"content-length", b"2, 2")],
    "length with a sign": [(b"content-length", b"+2")],
    "length negative": [(b"content-length", b"-2")],
    "length in hexadecimal": [(b"content-length", b"0x2")],
    "length empty": [(b"content-length", b"")],
    "length with a line": [(b"content-length", b"2\r\nx-evil: 1")],
    "length too small": [(b"content-length", b"1")],
    "length zero": [(b"content-length", b"0")],
    "length too large": [(b"content-length", b"3")],
    "length of 2^64 + 2": [(b"content-length", b"18446744073709551618")],
    "connection": [(b"connection", b"close")],
    "connection names a field": [(b"connection", b"content-length")],
    "keep-alive": [(b"keep-alive", b"timeout=5")],
    "proxy-connection": [(b"proxy-connection", b"close")],
    "upgrade": [(b"upgrade", b"websocket")],
    "te": [(b"te", b"chunked")],
    "pseudo field last": [(b"x-a", b"1"), (b":path", b"/smuggled")],
    "unknown pseudo field": [(b":path2", b"/smuggled")],
    "status of a request": [(b":status", b"200")],
    "protocol": [(b":protocol", b"websocket")],
}
PSEUDO = {
    "path with CR LF": {b":path": b"/v HTTP/1.1\r\nx-evil: 1\r\n\r\nGET /smuggled"},
    "path with LF": {b":path": b"/v\nx"},
    "path with NUL": {b":path": b"/v\0"},
    "path with a version": {b":path": b"/v HTTP/1.1"},
    "path with a blank": {b":path": b"/a b"},
    "path with a tab": {b":path": b"/a\tb"},
    "path of another alphabet": {b":path": b"/\xc3\xa9"},
    "path with a fragment": {b":path": b"/v#x"},
    "path empty": {b":path": b""},
    "path without a slash": {b":path": b"v"},
    "path absolute": {b":path": b"http://evil/v"},
    "path of an authority": {b":path": b"@evil/v"},
    "path twice": {b":path": (b"/v", b"/smuggled")},
    "no path": {b":path": None},
    "method with a request": {b":method": b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\nPOST"},
    "method with a blank": {b":method": b"GET /smuggled"},
    "method with CR LF": {b":method": b"GET\r\n"},
    "method with NUL": {b":method": b"GET\0"},
    "method with a colon": {b":method": b"GE:T"},
    "method empty": {b":method": b""},
    "method twice": {b":method": (b"POST", b"GET")},
    "no method": {b":method": None},
    "scheme with a request": {b":scheme": b"http://evil/smuggled?"},
    "scheme with CR LF": {b":scheme": b"http\r\nx-evil: 1"},
    "scheme empty": {b":scheme": b""},
    "scheme twice": {b":scheme": (b"http", b"https")},
    "no scheme": {b":scheme": None},
    "authority with CR LF": {b":authority": b"x\r\nx-evil: 1"},
    "authority with a blank": {b":authority": b"x y"},
    "authority with a path": {b":authority": b"x/smuggled"},
    "authority with a user": {b":authority": b"user@x"},
    "authority with NUL": {b":authority": b"x\0"},
    "authority with a query": {b":authority": b"x?y"},
    "authority twice": {b":authority": (b"x", b"y")},
    "no authority and no host": {b":authority": None},
}


def raw_request(client, pseudo, fields, body=b"{}"):
    head = []
    for name, value in {b":method": b"POST", b":scheme": b"http", b":authority": b"x", b":path": b"/v", **pseudo}.items():
        head += [(name, each) for each in (value if isinstance(value, tuple) else (value,)) if each is not None]
    stream = client.connection.get_next_available_stream_id()
    client.connection.send_headers(stream, head + fields, end_stream=not body)
    if body:
        client.connection.send_data(stream, body, end_stream=True)
    client.responses[stream] = Response(body=bytearray())
    client.flush()
    return client.response(stream)


@pytest.mark.parametrize("name", [*FIELDS, *PSEUDO])
@pytest.mark.usefixtures("innocent")
def test_http2_downgrade(guarded, name):
    program, backend = guarded
    before = len(backend.requests)
    with HTTP2Client(program.port, timeout=5, strict=False) as client:
        response = raw_request(client, PSEUDO.get(name, {}), FIELDS.get(name, []))
    assert response.reset_code is not None or client.goaway is not None or response.status == 400, response
    assert backend.requests[before:] == []


LEGAL = {
    "te: trailers": ({}, [(b"te", b"trailers")], b"{}"),
    "right length": ({}, [(b"content-length", b"2")], b"{}"),
    "host of its own": ({}, [(b"host", b"evil")], b"{}"),
    "host alone": ({b":authority": None}, [(b"host", b"x")], b"{}"),
    "odd scheme": ({b":scheme": b"https"}, [], b"{}"),
    "method of another kind": ({b":method": b"X-post"}, [], b"{}"),
    "escaped line break": ({b":path": b"/v?%0d%0aGET%20/smuggled"}, [(b"x-request-id", b"%0d%0a")], b"{}"),
    "body of GET": ({b":method": b"GET"}, [], SMUGGLED),
    "body of DELETE": ({b":method": b"DELETE"}, [(b"content-length", b"%d" % len(SMUGGLED))], SMUGGLED),
    "names that look like framing": ({}, [(b"transfer_encoding", b"chunked"), (b"content_length", b"0")], b"{}"),
}


@pytest.mark.parametrize("name", LEGAL)
@pytest.mark.usefixtures("innocent")
def test_http2_downgrade_of_legal_requests(guarded, name):
    program, backend = guarded
    pseudo, fields, body = LEGAL[name]
    before = len(backend.requests)
    with HTTP2Client(program.port, timeout=5, strict=False) as client:
        assert raw_request(client, pseudo, fields, body).status == 200
    (request,) = backend.requests[before:]
    assert (request.body, request.values(b"host")) == (body, [b"x"])
    assert request.target == pseudo.get(b":path", b"/v")
