"""Hostile and sloppy bytes: what must be refused is refused before any backend hears of it; what is legal passes."""

import pytest

import processes
from scripted_backend import ScriptedBackend, answer_ok
from wire_clients import ConnectionEnded, HTTP1Client, HTTP2Client, ask, assert_openai_error

POST = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

REFUSED = {
    "content-length and transfer-encoding": POST + HOST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "transfer-encoding and content-length": POST + HOST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "content-length twice, different": POST + HOST + b"Content-Length: 0\r\nContent-Length: 37\r\n\r\n" + SMUGGLED,
    "content-length twice, equal": POST + HOST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "content-length as a list": POST + HOST + b"Content-Length: 2, 2\r\n\r\n{}",
    "content-length with a sign": POST + HOST + b"Content-Length: +2\r\n\r\n{}",
    "content-length negative": POST + HOST + b"Content-Length: -2\r\n\r\n{}",
    "content-length in hexadecimal": POST + HOST + b"Content-Length: 0x2\r\n\r\n{}",
    "content-length with a blank": POST + HOST + b"Content-Length: 1 0\r\n\r\n{}",
    "content-length empty": POST + HOST + b"Content-Length:\r\n\r\n",
    "content-length beyond 64 bits": POST + HOST + b"Content-Length: 18446744073709551618\r\n\r\n{}",
    "bare LF everywhere": b"GET /x HTTP/1.1\nHost: x\n\n",
    "bare LF after one field": b"GET /x HTTP/1.1\r\nHost: x\nX-A: 1\r\n\r\n",
    "bare LF as the end of the head": b"GET /x HTTP/1.1\r\nHost: x\r\n\n",
    "bare CR in a value": b"GET /x HTTP/1.1\r\nHost: x\r\nX-A: 1\rX-B: 2\r\n\r\n",
    "folded field": b"GET /x HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n and more\r\n\r\n",
    "folded first field": b"GET /x HTTP/1.1\r\n Host: x\r\n\r\n",
    "space before the colon": b"GET /x HTTP/1.1\r\nHost: x\r\nX-A : 1\r\n\r\n",
    "space before the colon of content-length": POST + HOST + b"Content-Length : 2\r\n\r\n{}",
    "tab before the colon": b"GET /x HTTP/1.1\r\nHost: x\r\nX-A\t: 1\r\n\r\n",
    "field without a colon": b"GET /x HTTP/1.1\r\nHost: x\r\nX-A\r\n\r\n",
    "field without a name": b"GET /x HTTP/1.1\r\nHost: x\r\n: 1\r\n\r\n",
    "NUL in a value": b"GET /x HTTP/1.1\r\nHost: x\r\nX-A: a\x00b\r\n\r\n",
    "escape in a value": b"GET /x HTTP/1.1\r\nHost: x\r\nX-A: a\x1bb\r\n\r\n",
    "NUL in a name": b"GET /x HTTP/1.1\r\nHost: x\r\nX\x00A: 1\r\n\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "host twice": b"GET /x HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "coding other than chunked": POST + HOST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "coding before chunked": POST + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding identity": POST + HOST + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "chunked twice": POST + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two fields": POST + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked misspelt": POST + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked with a control byte": POST + HOST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked from HTTP/1.0": b"POST /x HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size not a number": POST + HOST + b"Transfer-Encoding: chunked\r\n\r\nG\r\n\r\n0\r\n\r\n",
    "chunk size with a sign": POST + HOST + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
    "chunk size with a prefix": POST + HOST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": POST + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
    "chunk without its end": POST + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
    "chunk line ended by bare LF": POST + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n",
    "garbage": b"GARBAGE\r\n\r\n",
    "method with a separator": b"G(T /x HTTP/1.1\r\nHost: x\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "blank in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "control byte in the target": b"GET /a\x01b HTTP/1.1\r\nHost: x\r\n\r\n",
    "version of another protocol": b"GET /x FTP/1.1\r\nHost: x\r\n\r\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded(hub):
    backend = ScriptedBackend(hub, answer_ok, "guarded")
    program = processes.serve(backend.url)
    yield program, backend
    program.stop()
    backend.stop()


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_400_and_close(guarded, case):
    program, backend = guarded
    before = len(backend.requests)
    with HTTP1Client(program.port, timeout=5) as client:
        client.send_unless_refused(REFUSED[case])
        response = client.response()
        assert_openai_error(response, 400, "invalid_request")
        assert [value.lower() for value in response.values(b"connection")] == [b"close"]
        assert client.ended()
    assert len(backend.requests) == before
    assert backend.errors == []
    assert ask(program.port, {}).status == 200


def test_header_block_over_64_kib(guarded):
    program, backend = guarded
    before = len(backend.requests)
    with HTTP1Client(program.port) as client:
        client.send_unless_refused(b"GET /x HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 70_000 + b"\r\n\r\n")
        response = client.response()
        assert_openai_error(response, 431, "request_too_large")
        assert client.ended()
    assert len(backend.requests) == before


def test_endless_header_is_not_collected(guarded):
    """A head that never ends is refused at the bound, not at the client's leisure."""
    program, _ = guarded
    with HTTP1Client(program.port, timeout=5) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: x\r\n")
        for number in range(400):
            try:
                client.send(b"X-%d: %s\r\n" % (number, b"a" * 1_000))
            except ConnectionError:
                break
        assert client.response().status == 431


def test_header_block_of_60_kib_passes(guarded):
    program, backend = guarded
    assert ask(program.port, {}, fields=[(b"X-Big", b"a" * 60_000)]).status == 200
    assert backend.requests[-1].values(b"x-big") == [b"a" * 60_000]


def test_more_than_100_fields(guarded):
    program, backend = guarded
    before = len(backend.requests)
    with HTTP1Client(program.port) as client:
        fields = b"".join(b"X-%d: 1\r\n" % number for number in range(120))
        client.send(b"GET /x HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n")
        assert client.response().status == 431
        assert client.ended()
    assert len(backend.requests) == before


def test_100_fields_pass_and_one_more_does_not(guarded):
    program, backend = guarded
    before = len(backend.requests)
    for count, status in ((100, 200), (101, 431)):
        # Host is one of them.
        fields = [(b"X-%d" % number, b"1") for number in range(count - 1)]
        assert ask(program.port, method="GET", target="/x", fields=fields).status == status
    assert len(backend.requests) == before + 1
    assert sum(name.startswith(b"X-") and name[2:].isdigit() for name, _ in backend.requests[-1].fields) == 99


def test_announced_body_over_64_mib(guarded):
    """Refused on its announcement, without waiting for a byte of it."""
    program, backend = guarded
    before = len(backend.requests)
    with HTTP1Client(program.port, timeout=5) as client:
        client.send(POST + HOST + b"Content-Length: 67108865\r\n\r\n")
        assert_openai_error(client.response(), 413, "request_too_large")
        assert client.ended()
    assert len(backend.requests) == before


def test_chunked_body_over_64_mib(guarded):
    program, backend = guarded
    before = len(backend.requests)
    chunk = b"100000\r\n" + b"a" * (1 << 20) + b"\r\n"
    with HTTP1Client(program.port) as client:
        client.send(POST + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(80):
            try:
                client.send(chunk)
            except ConnectionError:
                break
        try:
            assert client.response().status == 413
        except ConnectionEnded as ended:  # a reset may overtake the answer while the body is still on its way
            assert not ended.received.startswith(b"HTTP/1.1 2")
    assert len(backend.requests) == before


def test_errors_do_not_reflect_input(guarded):
    program, _ = guarded
    with HTTP1Client(program.port) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: x\r\nX-A : <script>needle</script>\r\n\r\n")
        assert b"needle" not in client.response().body


# Legal, if unusual ---------------------------------------------------------------------------------------------------


def test_chunk_extensions_and_trailers(guarded):
    program, backend = guarded
    with HTTP1Client(program.port) as client:
        client.send(
            POST + HOST + b'Transfer-Encoding: Chunked\r\n\r\n1;a=b\r\n{\r\n1;c="d"\r\n}\r\n0\r\nX-After: 1\r\n\r\n'
        )
        assert client.response().status == 200
        client.request(body={})
        assert client.response().status == 200
    assert backend.requests[-2].body == b"{}"
    assert backend.requests[-2].values(b"x-after") == []


def test_request_in_single_bytes(guarded):
    program, backend = guarded
    with HTTP1Client(program.port) as client:
        for byte in POST + HOST + b"Transfer-Encoding: chunked\r\nX-A:  spaced \t\r\n\r\n2\r\n{}\r\n0\r\n\r\n":
            client.send(bytes([byte]))
        assert client.response().status == 200
    assert backend.requests[-1].body == b"{}"
    assert backend.requests[-1].values(b"x-a") == [b"spaced"]


def test_pipelined_requests_are_answered_in_order(serve, scripted):
    async def script(exchange):
        await exchange.answer(200, exchange.request.target)

    program = serve(scripted(script))
    with HTTP1Client(program.port) as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(20)))
        assert [client.response().body for _ in range(20)] == [b"/%d" % number for number in range(20)]


def test_empty_lines_before_a_request(guarded):
    """RFC 9112 section 2.2: at least one is to be ignored."""
    program, _ = guarded
    with HTTP1Client(program.port) as client:
        client.send(b"\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response().status == 200


def test_hop_by_hop_fields_stay_on_their_hop(guarded):
    program, backend = guarded
    fields = [
        (b"Connection", b"X-Named, keep-alive"), (b"X-Named", b"1"), (b"Keep-Alive", b"timeout=9"),
        (b"Proxy-Connection", b"keep-alive"), (b"Upgrade", b"websocket"), (b"TE", b"trailers"), (b"X-Kept", b"1"),
    ]  # fmt: skip
    assert ask(program.port, {}, fields=fields).status == 200
    names = {name.lower() for name, _ in backend.requests[-1].fields}
    assert b"x-kept" in names
    assert not names & {b"x-named", b"keep-alive", b"proxy-connection", b"upgrade", b"te"}


def test_connection_cannot_name_fields_that_carry_the_request(guarded):
    """`Connection: content-length` must not strip the framing or the host from what is forwarded."""
    program, backend = guarded
    assert ask(program.port, {"a": 1}, fields=[(b"Connection", b"content-length, host, content-type")]).status == 200
    assert backend.requests[-1].json == {"a": 1}
    assert len(backend.requests[-1].values(b"host")) == 1


# What must not be touched --------------------------------------------------------------------------------------------


def test_body_and_fields_pass_unchanged(guarded):
    """Unknown JSON fields, duplicate keys, odd spacing; unknown and duplicate header fields in their order."""
    program, backend = guarded
    body = (
        b'{ "model":"m",\t"model" : "n","unknown":{"deep":[1e400,-0,1.10]},"messages":[{"role":"user",'
        b'"content":"caf\\u00e9 \xc3\xa9 \\ud83d\\ude00"}],"unknown":null, "vllm_xargs":{"a":1}}\r\n '
    )
    fields = [
        (b"X-Zebra", b"1"), (b"x-custom", b"first"), (b"X-Custom", b"second, third"), (b"Authorization", b"Bearer t"),
        (b"X-Latin", b"caf\xe9"), (b"Cookie", b"a=1; b=2"), (b"Cookie", b"c=3"), (b"X-Empty", b""),
        (b"X-custom", b"first"), (b"Accept-Encoding", b"gzip, deflate"), (b"User-Agent", b"OpenAI/Python 3.54.0"),
        (b"x-stainless-retry-count", b"0"), (b"Content-Type", b"application/json; charset=utf-8"),
    ]  # fmt: skip
    assert ask(program.port, body, fields=fields).status == 200
    request = backend.requests[-1]
    assert request.body == body
    names = {name.lower() for name, _ in fields}
    received = [(name.lower(), value) for name, value in request.fields if name.lower() in names]
    assert received == [(name.lower(), value) for name, value in fields]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[1,2]", b"\xef\xbb\xbf{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"messages":' * 20_000,
     b'{"prompt":"\\ud800"}', b'{"prompt":"' + b"a" * 100_000, b'{"max_tokens":' + b"9" * 5_000 + b"}"],
    ids=["empty", "cut", "null", "array", "bom", "not-utf8", "deep", "deep-object", "surrogate", "unclosed",
         "huge-number"],
)  # fmt: skip
def test_bodies_that_are_no_good_json_are_the_engines_business(guarded, body):
    program, backend = guarded
    assert ask(program.port, body).status == 200
    assert backend.requests[-1].body == body


# HTTP/2 --------------------------------------------------------------------------------------------------------------

BAD_HTTP2_FIELDS = {
    "upper-case name": [(b"X-Upper", b"1")],
    "connection field": [(b"connection", b"close")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
    "te other than trailers": [(b"te", b"gzip")],
    "line feed in a value": [(b"x-a", b"1\r\nx-b: 2")],
    "NUL in a value": [(b"x-a", b"a\x00b")],
    "unknown pseudo field": [(b":unknown", b"1")],
    "pseudo field after a field": [(b"x-a", b"1"), (b":path", b"/other")],
    "content-length too small": [(b"content-length", b"1")],
    "content-length too large": [(b"content-length", b"100")],
}


@pytest.mark.parametrize("case", BAD_HTTP2_FIELDS)
def test_malformed_http2_request(guarded, case):
    """A stream or connection error, or 400; never a request to a backend (RFC 9113 section 8.1.1)."""
    program, backend = guarded
    before = len(backend.requests)
    with HTTP2Client(program.port, timeout=5, strict=False) as client:
        response = client.response(client.request(body=b"{}", fields=BAD_HTTP2_FIELDS[case]))
    assert response.reset_code is not None or client.goaway is not None or response.status == 400, response
    assert len(backend.requests) == before
    assert ask(program.port, {}).status == 200


def test_http2_preface_then_garbage(guarded):
    program, _ = guarded
    with HTTP1Client(program.port, timeout=5) as client:
        client.send_unless_refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100)
        while True:
            try:
                if client.socket.recv(4_096) == b"":
                    break
            except ConnectionError:
                break
    assert ask(program.port, {}).status == 200


def test_http2_body_over_64_mib(guarded):
    program, backend = guarded
    before = len(backend.requests)
    with HTTP2Client(program.port, timeout=10) as client:
        stream = client.request(fields=[(b"content-length", b"67108865")], end=False)
        response = client.response(stream)
    assert response.status == 413 or response.reset_code is not None
    assert len(backend.requests) == before
