"""HTTP/1.1 on both sides: informational answers, expectations, trailers, targets, versions, lengths and limits."""

import gzip
import json
import pathlib
import threading
import time

import pytest

import processes
from scripted_backend import Gate, answer_ok, answer_stream
from waiting import wait_until
from wire_clients import ConnectionEnded, HTTP1Client, HTTP2Client, ask, assert_openai_error

PLAIN = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"


# Informational answers -----------------------------------------------------------------------------------------------


async def hint_then_answer(exchange):
    await exchange.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nconnection: x-own\r\nx-own: 1\r\n\r\n")
    await exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    await answer_ok(exchange)


@pytest.mark.parametrize("client", ["http1", "http2"])
def test_informational_answers_are_passed_on(serve, scripted, client):
    program = serve(scripted(hint_then_answer))
    if client == "http1":
        response = ask(program.port, PLAIN)
    else:
        with HTTP2Client(program.port) as connection:
            response = connection.response(connection.request(body=PLAIN))
    assert (response.status, bytes(response.body)) == (200, b'{"object":"ok"}')
    assert response.interim == [(103, [(b"link", b"</a>; rel=preload")]), (102, [])]


def test_informational_answers_are_not_for_http10(serve, scripted):
    program = serve(scripted(hint_then_answer))
    with HTTP1Client(program.port) as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        response = client.response()
    assert (response.status, response.interim) == (200, [])


def test_informational_answers_without_end_are_an_error(serve, scripted):
    async def script(exchange):
        for _ in range(1_000):
            await exchange.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        await answer_ok(exchange)

    program = serve(scripted(script))
    response = ask(program.port, PLAIN)
    assert_openai_error(response, 502, "upstream_reset")
    assert len(response.interim) <= 16


def test_unasked_switch_of_protocols_is_an_error(serve, scripted):
    async def script(exchange):
        await exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        exchange.close()

    program = serve(scripted(script))
    assert_openai_error(ask(program.port, PLAIN), 502, "upstream_reset")


# Expectations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [POST, UPLOAD], ids=["collected", "forwarded"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_client_that_waits_for_100_gets_it(serve, scripted, head, framing):
    backend = scripted()
    program = serve(backend)
    with HTTP1Client(program.port) as client:
        field = b"Content-Length: 2" if framing == "length" else b"Transfer-Encoding: chunked"
        client.send(head + b"Expect: 100-Continue\r\n" + field + b"\r\n\r\n")
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"{}" if framing == "length" else b"2\r\n{}\r\n0\r\n\r\n")
        response = client.response()
        assert (response.status, response.interim) == (200, [])
    assert backend.requests[0].body == b"{}"
    assert backend.requests[0].values(b"expect") == []


def test_http2_client_that_waits_for_100_gets_it(serve, scripted):
    program = serve(scripted())
    with HTTP2Client(program.port) as client:
        stream = client.request(fields=[(b"expect", b"100-continue")], end=False)
        while not client.responses[stream].interim:
            client.pump()
        client.connection.send_data(stream, b"{}", end_stream=True)
        client.flush()
        response = client.response(stream)
    assert (response.status, response.interim) == (200, [(100, [])])


def test_every_request_of_a_connection_gets_its_100(serve, scripted):
    """More of them than one request may have: the router's objects are used again, their counts are not."""
    program = serve(scripted(), arguments=("--loops", "1"))
    with HTTP1Client(program.port) as client:
        for _ in range(20):
            client.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"{}")
            assert client.response().status == 200


def test_every_answer_of_a_connection_has_its_hints(serve, scripted):
    program = serve(scripted(hint_then_answer), arguments=("--loops", "1"))
    with HTTP2Client(program.port) as client:
        for _ in range(20):
            assert len(client.response(client.request(body=PLAIN)).interim) == 2


def test_no_100_where_the_answer_is_known(serve, scripted):
    program = serve(scripted())
    with HTTP1Client(program.port) as client:
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n")
        response = client.response()
    assert (response.status, response.interim) == (413, [])


def test_no_100_for_http10(serve, scripted):
    program = serve(scripted())
    with HTTP1Client(program.port) as client:
        client.send(b"POST /x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}")
        response = client.response()
    assert (response.status, response.interim) == (200, [])


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_other_expectations_cannot_be_met(serve, scripted, protocol):
    backend = scripted()
    program = serve(backend)
    fields = [(b"expect", b"the-best")]
    if protocol == "http1":
        response = ask(program.port, PLAIN, fields=fields)
    else:
        with HTTP2Client(program.port) as client:
            response = client.response(client.request(body=PLAIN, fields=fields))
    assert_openai_error(response, 417, "expectation_failed")
    assert backend.requests == []


# Trailers ------------------------------------------------------------------------------------------------------------

FORBIDDEN = [b"Content-Length: 9", b"Transfer-Encoding: chunked", b"Host: evil", b"Authorization: Bearer evil",
             b"Content-Type: text/evil", b"Set-Cookie: evil=1", b"Connection: x-kept", b"Expect: evil",
             b"If-Match: evil", b"Cache-Control: evil"]  # fmt: skip


@pytest.mark.parametrize("head", [POST, UPLOAD], ids=["collected", "forwarded"])
def test_request_trailers_reach_the_backend(serve, scripted, head):
    backend = scripted()
    program = serve(backend)
    with HTTP1Client(program.port) as client:
        client.send(
            head
            + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\n{}\r\n0\r\nX-Sum:  abc \r\n"
            + b"".join(line + b"\r\n" for line in FORBIDDEN if b"x-kept" not in line)
            + b"X-Empty:\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert [client.response().status for _ in range(2)] == [200, 200]
    request, following = backend.requests
    assert (request.body, request.trailers) == (b"{}", [(b"X-Sum", b"abc"), (b"X-Empty", b"")])
    assert request.values(b"trailer") == [b"X-Sum"]
    assert following.target == b"/next"


def test_http2_request_trailers_reach_a_http1_backend(serve, scripted):
    backend = scripted()
    program = serve(backend)
    with HTTP2Client(program.port) as client:
        stream = client.request(body=b"{}", end=False)
        client.connection.send_headers(stream, [(b"x-sum", b"abc"), (b"authorization", b"evil")], end_stream=True)
        client.flush()
        assert client.response(stream).status == 200
    assert (backend.requests[0].body, backend.requests[0].trailers) == (b"{}", [(b"x-sum", b"abc")])


@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("kind", [b"application/octet-stream", b"text/event-stream"])
def test_response_trailers_reach_the_client(serve, scripted, protocol, kind):
    async def script(exchange):
        await exchange.head(200, [(b"content-type", kind), (b"transfer-encoding", b"chunked"), (b"trailer", b"x-sum")])
        await exchange.chunk(b"data: 1\n\n")
        await exchange.send(b"0\r\nX-Sum: abc\r\n" + b"".join(line + b"\r\n" for line in FORBIDDEN) + b"X-Kept: 1\r\n\r\n")

    program = serve(scripted(script))
    if protocol == "http1":
        with HTTP1Client(program.port) as client:
            response = client.request(body=PLAIN).response()
            assert client.request(body=PLAIN).response().complete
    else:
        with HTTP2Client(program.port) as client:
            response = client.response(client.request(body=PLAIN))
    assert (response.status, bytes(response.body), response.complete) == (200, b"data: 1\n\n", True)
    # x-kept is nominated by a Connection field, and so belongs to that hop.
    assert [(name.lower(), value) for name, value in response.trailers] == [(b"x-sum", b"abc")]


#: Legal there (RFC 9530), though their names begin as those of fields that are not.
DIGESTS = [(b"content-digest", b"sha-256=:YWJj:"), (b"repr-digest", b"sha-256=:ZGVm:")]


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_digests_are_trailers_in_both_directions(serve, scripted, protocol):
    async def script(exchange):
        await exchange.head(200, [(b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked")])
        await exchange.chunk(b"abc")
        await exchange.send(b"0\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in DIGESTS) + b"\r\n")

    backend = scripted(script)
    program = serve(backend)
    if protocol == "http1":
        with HTTP1Client(program.port) as client:
            lines = b"".join(b"%s: %s\r\n" % pair for pair in DIGESTS)
            client.send(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + lines + b"\r\n")
            response = client.response()
    else:
        with HTTP2Client(program.port) as client:
            response = client.response(client.request(body=PLAIN, trailers=DIGESTS))
    assert (response.status, response.complete, response.trailers) == (200, True, DIGESTS)
    assert backend.requests[0].trailers == DIGESTS


BROKEN_TRAILERS = {
    "no colon": b"X-Sum\r\n\r\n",
    "no name": b": 1\r\n\r\n",
    "space before the colon": b"X-Sum : 1\r\n\r\n",
    "folded": b"X-Sum: 1\r\n 2\r\n\r\n",
    "bare LF": b"X-Sum: 1\n\r\n",
    "bare CR": b"X-Sum: 1\rX: 2\r\n\r\n",
    "NUL": b"X-Sum: \0\r\n\r\n",
    "CR alone": b"\rX",
    "a request in their place": b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("case", BROKEN_TRAILERS)
def test_broken_request_trailers(serve, scripted, case):
    backend = scripted()
    program = serve(backend)
    with HTTP1Client(program.port) as client:
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + BROKEN_TRAILERS[case])
        assert_openai_error(client.response(), 400, "invalid_request")
        assert client.ended()
    assert backend.requests == []


@pytest.mark.parametrize("case", BROKEN_TRAILERS)
def test_broken_response_trailers_do_not_look_whole(serve, scripted, case):
    async def script(exchange):
        await exchange.head(200, [(b"transfer-encoding", b"chunked")])
        await exchange.chunk(b"abc")
        await exchange.send(b"0\r\n" + BROKEN_TRAILERS[case])
        await exchange.peer_gone()

    program = serve(scripted(script))
    response = ask(program.port, PLAIN)
    assert (response.status, response.complete) == (200, False)


@pytest.mark.parametrize("shape", ["bytes", "fields"])
def test_trailers_are_bounded_as_heads_are(serve, scripted, shape):
    backend = scripted()
    program = serve(backend)
    begin = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    # The line ends and the one behind them count.
    whole = b"X-Big: " + b"a" * (65_536 - 11) + b"\r\n" if shape == "bytes" else b"X-Many: 1\r\n" * 100
    with HTTP1Client(program.port) as client:
        client.send(begin + whole + b"\r\n")
        assert client.response().status == 200
    assert sum(len(name) + len(value) + 4 for name, value in backend.requests[0].trailers) == len(whole)
    line = whole[:-2] + b"a\r\n" if shape == "bytes" else whole + b"X-Many: 1\r\n"
    with HTTP1Client(program.port) as client:
        client.send_unless_refused(begin + line + b"\r\n")
        assert_openai_error(client.response(), 431, "request_too_large")


# Targets and heads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "target", "host"),
    [
        (b"GET http://other:81/a?b=c HTTP/1.1", b"/a?b=c", b"other:81"),
        (b"GET HTTP://Other/ HTTP/1.1", b"/", b"Other"),
        (b"GET http://other HTTP/1.1", b"/", b"other"),
        (b"OPTIONS http://other HTTP/1.1", b"*", b"other"),
        (b"OPTIONS * HTTP/1.1", b"*", b"named"),
        (b"GET //double/slash HTTP/1.1", b"//double/slash", b"named"),
    ],
)
def test_targets(serve, scripted, line, target, host):
    backend = scripted()
    program = serve(backend)
    with HTTP1Client(program.port) as client:
        client.send(line + b"\r\nHost: named\r\n\r\n")
        assert client.response().status == 200
    request = backend.requests[0]
    assert (request.target, request.values(b"host")) == (target, [host])


@pytest.mark.parametrize("target", [b"http://", b"http:///a", b"http://user@other/", b"http://other?a=b", b"ftp://other/", b"other/a"])
def test_targets_that_are_none(serve, scripted, target):
    program = serve(scripted())
    with HTTP1Client(program.port) as client:
        client.send(b"GET " + target + b" HTTP/1.1\r\nHost: named\r\n\r\n")
        assert client.response().status == 400


@pytest.mark.parametrize("part", ["target", "field"])
def test_a_head_of_64_kib_and_one_byte_more(serve, scripted, part):
    backend = scripted()
    program = serve(backend)

    def head(size):
        ends = (b"GET /", b" HTTP/1.1\r\nHost: x\r\n\r\n") if part == "target" else (
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", b"\r\n\r\n")  # fmt: skip
        return ends[0] + b"a" * (size - len(ends[0]) - len(ends[1])) + ends[1]

    with HTTP1Client(program.port) as client:
        client.send(head(65_536))
        assert client.response().status == 200
        client.send_unless_refused(head(65_537))
        assert_openai_error(client.response(), 431, "request_too_large")
        assert client.ended()
    assert len(backend.requests) == 1


@pytest.mark.parametrize("size", [90_000, 140_000, 1 << 20])
def test_heads_beyond_all_bounds(serve, scripted, size):
    program = serve(scripted())
    with HTTP1Client(program.port) as client:
        client.send_unless_refused(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * size + b"\r\n\r\n")
        assert_openai_error(client.response(), 431, "request_too_large")


def test_the_bound_of_heads_is_one_that_can_be_kept(tmp_path):
    file = tmp_path / "swiftlet.yaml"
    file.write_text("limits: {header_bytes: 65KiB}\ngroups: [{leader: http://127.0.0.1:1}]\n")
    result = processes.run("check", "--config", file)
    assert result.returncode != 0 and "limits.header_bytes" in result.stderr


# Versions, persistence, lengths --------------------------------------------------------------------------------------


def test_http10_with_and_without_keep_alive(serve, scripted):
    program = serve(scripted())
    with HTTP1Client(program.port) as client:
        for _ in range(2):
            client.send(b"GET /x HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            response = client.response()
            assert response.complete and response.value(b"connection") == b"keep-alive"
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        assert client.response().value(b"connection") == b"close"
        assert client.ended()


def test_http10_and_an_answer_without_a_length(serve, scripted):
    program = serve(scripted(answer_stream))
    with HTTP1Client(program.port) as client:
        client.send(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = client.response()
        assert response.value(b"connection") == b"close" and not response.values(b"transfer-encoding")
        assert response.body.endswith(b"data: [DONE]\n\n")


def test_close_asked_by_either_side(serve, scripted):
    async def script(exchange):
        await exchange.answer(200, b"{}", ((b"Connection", b"close"),) if exchange.request.target == b"/close" else ())
        if exchange.request.target == b"/close":
            exchange.close()

    backend = scripted(script)
    program = serve(backend, arguments=["--loops", 1])
    with HTTP1Client(program.port) as client:
        # The backend's wish concerns its own connection alone.
        for target in ("/close", "/close", "/open"):
            response = client.request("GET", target).response()
            assert (response.status, response.values(b"connection")) == (200, [])
        response = client.request("GET", "/open", fields=[(b"Connection", b"Close")]).response()
        assert response.value(b"connection") == b"close"
        assert client.ended()
    first, second, third, fourth = backend.requests
    assert len({first.connection, second.connection, third.connection}) == 3
    assert (fourth.connection, fourth.index) == (third.connection, third.index + 1)


def test_a_cut_answer_takes_none_before_it_away(serve, raw):
    """Three requests in a row: the answer to the first still lies in the kernel when that to the second is cut and the third is unread."""
    third_is_sent = threading.Event()

    def script(connection, head):
        if head.startswith(b"GET /whole"):
            return connection.answer(bytes(1_000_000))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut")
        third_is_sent.wait(5)
        return connection.reset()

    program = serve(raw(script))
    with HTTP1Client(program.port, receive_buffer=4096) as client:
        client.request("GET", "/whole").request("GET", "/cut")
        wait_until(lambda: len(program.access_log()) == 1, what="the end of the first")
        client.request("GET", "/third")
        third_is_sent.set()
        wait_until(lambda: len(program.access_log()) == 2, what="the end of the second")
        whole, cut = client.response(), client.response()
        assert (len(whole.body), whole.complete) == (1_000_000, True)
        assert (cut.status, cut.complete) == (200, False)
        assert b"cut".startswith(cut.body) and client.ended()


@pytest.mark.parametrize("ender", ["client", "drain"])
def test_what_comes_behind_the_last_request_costs_no_answer(serve, scripted, gate, ender):
    """Bytes that are unread at a close make it a reset, and the client's kernel throws away what is still to be read. As RFC 9112, 9.6, has it."""

    async def script(exchange):
        await gate.wait()
        await exchange.answer(body=bytes(3_000_000))

    backend = scripted(script)
    program = serve(backend)
    with HTTP1Client(program.port, receive_buffer=4096) as client:
        client.request(body=PLAIN, fields=[(b"Connection", b"close")] if ender == "client" else [])
        wait_until(lambda: backend.requests, what="the request")
        if ender == "client":
            client.send(b"\r\n")
        else:
            client.request(body=PLAIN)
            program.process.terminate()
            wait_until(lambda: any("draining" in line for line in program.stderr_lines), what="the drain")
        gate.open()
        response = client.response()
        assert (len(response.body), response.complete) == (3_000_000, True)
        assert response.value(b"connection") == b"close" and client.ended()


@pytest.mark.parametrize(
    ("status", "kept"),
    [(204, []), (304, [b"5"])],
)
def test_answers_without_a_body_that_name_a_length(serve, scripted, status, kept):
    async def script(exchange):
        await exchange.head(status, [(b"content-length", b"5")])

    program = serve(scripted(script))
    with HTTP1Client(program.port) as client:
        for _ in range(2):
            response = client.request("GET", "/x").response()
            assert (response.status, response.values(b"content-length")) == (status, kept)


def test_no_length_of_a_204_reaches_http2(serve, scripted):
    """RFC 9110, 8.6."""

    async def script(exchange):
        await exchange.send(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nX-Kept: 1\r\n\r\n")

    program = serve(scripted(script))
    with HTTP2Client(program.port) as client:
        response = client.response(client.request(method="GET", target="/x"))
    assert (response.status, response.complete, response.value(b"x-kept")) == (204, True, b"1")
    assert response.values(b"content-length") == []


def test_head_keeps_the_length_and_the_connection(serve, scripted):
    async def script(exchange):
        await exchange.head(200, [(b"content-length", b"12345")])

    program = serve(scripted(script))
    with HTTP1Client(program.port) as client:
        for _ in range(3):
            response = client.request("HEAD", "/x").response("HEAD")
            assert (response.status, response.values(b"content-length")) == (200, [b"12345"])
            assert response.values(b"transfer-encoding") == []


def test_a_length_of_nineteen_digits_goes_out_alone(serve, scripted, gate):
    async def script(exchange):
        await exchange.head(200, [(b"content-length", b"9000000000000000000")])
        await exchange.send(b"beginning")
        await gate.wait()
        exchange.close()

    program = serve(scripted(script))
    with HTTP1Client(program.port) as client:
        head = client.request("GET", "/x").read_head()
        assert head.values(b"transfer-encoding") == []
        assert head.values(b"content-length") == [b"9000000000000000000"]
        gate.open()
        assert not client.read_body(head).complete


def test_empty_lines_between_requests(serve, scripted):
    program = serve(scripted())
    with HTTP1Client(program.port) as client:
        for _ in range(3):
            client.send(b"\r\n\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.response().status == 200


def test_mixed_case_names(serve, scripted):
    backend = scripted()
    program = serve(backend)
    with HTTP1Client(program.port) as client:
        client.send(b"POST /x HTTP/1.1\r\nhOsT: x\r\ncOnTeNt-LeNgTh: 2\r\nX-MiXeD: Yes\r\nconnECTION: CLOSE\r\n\r\n{}")
        assert client.response().status == 200
        assert client.ended()
    assert backend.requests[0].body == b"{}"
    assert (b"X-MiXeD", b"Yes") in backend.requests[0].fields


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_cut_short_never_looks_whole(serve, scripted, hub, framing, how):
    seen = {b"/1.1": Gate(hub), b"/1.0": Gate(hub)}

    async def script(exchange):
        if framing == "length":
            await exchange.head(200, [(b"content-length", b"100000")])
            await exchange.send(b"a" * 99_999)
        else:
            await exchange.head(200, [(b"transfer-encoding", b"chunked")])
            await exchange.chunk(b"a" * 99_999)
            await exchange.send(b"0\r\n")
        # A reset throws away what has not been passed on.
        await seen[exchange.request.path].wait()
        getattr(exchange, how)()

    program = serve(scripted(script))
    for version in (b"1.1", b"1.0"):
        with HTTP1Client(program.port) as client:
            client.send(b"GET /" + version + b" HTTP/" + version + b"\r\nHost: x\r\n\r\n")
            head = client.read_head()
            seen[b"/" + version].open()
            body = bytearray()
            with pytest.raises(ConnectionError) if version == b"1.0" and framing == "chunked" else pytest.raises(ConnectionEnded):
                if version == b"1.0" and framing == "chunked":
                    while data := client.socket.recv(1 << 16):
                        body += data
                elif framing == "length":
                    client._exactly(100_000, body)
                else:
                    while size := int(client.read_until(b"\r\n"), 16):
                        client._exactly(size + 2, body)
                    client.read_until(b"\r\n")
            assert head.status == 200


# Bodies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("head", [POST, UPLOAD], ids=["collected", "forwarded"])
def test_a_body_of_the_limit_and_one_byte_more(configured, scripted, framing, head):
    backend = scripted()
    program = configured("limits: {body_bytes: 1MiB}\n", backend)

    def send(client, size):
        body = b"[" + b"1" * (size - 2) + b"]"
        if framing == "length":
            client.send_unless_refused(head + b"Content-Length: %d\r\n\r\n" % size + body)
        else:
            client.send_unless_refused(head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (size, body))

    with HTTP1Client(program.port) as client:
        send(client, 1 << 20)
        assert client.response().status == 200
        assert len(backend.requests[0].body) == 1 << 20
        send(client, (1 << 20) + 1)
        assert_openai_error(client.response(), 413, "request_too_large")
        assert client.ended()


def unread_bytes(port):
    """What waits in the kernel on connections with this port, at either end."""
    lines = (line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:])
    waiting = (queues.split(":") for _, local, remote, _, queues, *_ in lines if f"{port:04X}" in (local[-4:], remote[-4:]))
    return sum(int(sending, 16) + int(receiving, 16) for sending, receiving in waiting)


def test_bodies_that_are_kept_have_a_bound_together(configured, scripted):
    backend = scripted()
    program = configured("loops: 1\nlimits: {body_bytes: 1MiB, buffered_body_bytes: 2MiB}\n", backend)
    head = POST + b"Content-Length: 1000000\r\n\r\n"
    patient = [HTTP1Client(program.port) for _ in range(2)]
    for client in patient:
        client.send(head + b"[" + b" " * 999_990)

    # Others find no room, until one of these two has gone.
    wait_until(lambda: unread_bytes(program.port) == 0, what="both bodies in the router")
    refused = ask(program.port, b"[" + b" " * 199_998 + b"]")
    assert_openai_error(refused, 503, "overloaded")
    assert refused.value(b"retry-after") == b"1"
    assert ask(program.port, PLAIN).status == 200
    patient[0].close()
    wait_until(lambda: ask(program.port, b"[" + b" " * 199_998 + b"]").status == 200, what="room after a client has left")
    patient[1].send(b" " * 8 + b"]")
    assert patient[1].response().status == 200
    patient[1].close()
    # All is given back: as much fits as at first.
    for _ in range(4):
        assert ask(program.port, b"[" + b" " * 999_998 + b"]").status == 200


def test_the_bound_of_kept_bodies_holds_one(tmp_path):
    file = tmp_path / "swiftlet.yaml"
    file.write_text("limits: {body_bytes: 2MiB, buffered_body_bytes: 1MiB}\ngroups: [{leader: http://127.0.0.1:1}]\n")
    result = processes.run("check", "--config", file)
    assert result.returncode != 0 and "limits.buffered_body_bytes" in result.stderr


def test_an_answer_before_the_body_is_read(serve, raw):
    """Passed on; the rest of the body is thrown away, and neither connection is used again."""
    released = threading.Event()

    def script(connection, head):
        connection.answer(b"early")
        released.wait(10)

    backend = raw(script)
    program = serve(backend)
    with HTTP1Client(program.port) as client:
        client.send(UPLOAD + b"Content-Length: 3000000\r\n\r\n" + b"a" * 100_000)
        response = client.response()
        assert (response.status, response.body, response.value(b"connection")) == (200, b"early", b"close")
        client.send_unless_refused(b"a" * 2_900_000)
        assert client.ended()
    released.set()
    assert ask(program.port, PLAIN).body == b"early"
    assert backend.connections == 2


def test_an_answer_before_the_body_to_a_client_that_reads_last(serve, raw):
    """A client that sends all of its body before it reads: no reset may overtake the answer."""

    def script(connection, head):
        connection.answer(b"early")
        while connection.socket.recv(1 << 16):
            pass

    program = serve(raw(script))
    with HTTP1Client(program.port) as client:
        client.send(UPLOAD + b"Content-Length: 8000000\r\n\r\n")
        for _ in range(8):
            client.send(b"a" * 1_000_000)
            time.sleep(0.3)  # longer in all than one term of patience, never silent for one
        assert client.response().body == b"early"


def test_a_kept_connection_that_closes_is_replaced_for_a_forwarded_body(serve, scripted):
    async def script(exchange):
        if exchange.request.index > 0:
            exchange.close()
        else:
            await answer_ok(exchange)

    backend = scripted(script)
    program = serve(backend, arguments=["--loops", 1])
    body = gzip.compress(json.dumps(PLAIN).encode())
    for _ in range(6):
        assert ask(program.port, body, fields=[(b"Content-Encoding", b"gzip")]).status == 200
    assert any(request.index > 0 for request in backend.requests)
    assert all(request.body == body for request in backend.requests)
