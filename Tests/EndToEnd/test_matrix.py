"""Any to any: every protocol of a client by every protocol of a backend, with bodies, fields and ends compared byte for byte."""

import contextlib
import hashlib
import socket
import ssl
from dataclasses import dataclass

import h2.exceptions
import pytest

import pki
import processes
from frame_backend import FrameBackend
from matrix_backends import Plans, StreamAnswers, content, http1_script
from pairwise import rows
from scripted_backend import PeerGone, ScriptedBackend
from waiting import wait_until
from wire_clients import ConnectionEnded, HTTP1Client, HTTP2Client, assert_openai_error

KIB, MIB = 1 << 10, 1 << 20
LIMIT = 64 * MIB
DOWNSTREAMS = ["http1", "h2c", "https1", "h2", "grpc", "grpcs"]
#: https1 and h2: over TLS, with the backend's certificate verified by its CA.
UPSTREAMS = ["http1", "h2c", "https1", "h2"]
HTTP1 = ("http1", "https1")
PAIRS = [(down, up) for down in DOWNSTREAMS for up in UPSTREAMS if not (down.startswith("grpc") and up in HTTP1)]
SIZES = [None, 0, 1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB]
#: Over TLS to the backend: around a record's, a window's and a buffer's length.
SECURED_SIZES = (None, 0, 1, 16 * KIB + 1, 64 * KIB, MIB)


@dataclass
class House:
    """Routers of each upstream protocol: cleartext and TLS."""

    plans: Plans
    ports: dict
    certificate: str
    programs: dict

    def answered(self, up):
        """Paths of the requests that the cleartext router of that upstream has logged as ended."""
        return {line["path"] for line in self.programs[up, False].access_log()}

    def client(self, down, up, **named):
        tls = self.certificate if down in ("https1", "h2", "grpcs") else None
        kind = HTTP1Client if down in ("http1", "https1") else HTTP2Client
        return kind(self.ports[up, bool(tls)], tls=tls, **named)


@pytest.fixture(scope="module")
def house(hub, certificate, tmp_path_factory):
    plans = Plans()
    folder = tmp_path_factory.mktemp("matrix")
    authority = pki.Authority(folder)
    identity = authority.issue("backend", "IP:127.0.0.1")
    trusting = folder / "swiftlet.yaml"
    trusting.write_text(f"upstream_tls: {{ca_file: {authority.file}}}\n")

    def context(protocol):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(identity.certificate, identity.key)
        made.set_alpn_protocols([protocol])
        return made

    async def script(exchange):
        with contextlib.suppress(PeerGone):
            await http1_script(plans, exchange)

    def is_early(request):
        return request.path in plans and plans[request.path].way == "early"

    backends = {
        "http1": ScriptedBackend(hub, script, answers_early=is_early),
        "h2c": FrameBackend(StreamAnswers(plans)),
        "https1": ScriptedBackend(hub, script, answers_early=is_early, tls=context("http/1.1")),
        "h2": FrameBackend(StreamAnswers(plans), tls=context("h2")),
    }
    programs = {}
    for up, backend in backends.items():
        arguments = ("--loops", "1", "--scrape-interval", "0s", "--config", trusting)
        programs[up, False] = processes.serve(backend.url, arguments=arguments)
        programs[up, True] = processes.serve(backend.url, arguments=(*arguments, "--tls-cert", certificate[0], "--tls-key", certificate[1]))
    yield House(plans, {key: program.port for key, program in programs.items()}, certificate[0], programs)
    for program in programs.values():
        program.stop()
    for backend in backends.values():
        backend.stop()
    assert [backends[up].errors for up in HTTP1] == [[], []]


# Sending and comparing -----------------------------------------------------------------------------------------------


def send(client, down, method, path, body=b"", fields=(), declared=True, trailers=()):
    """Sends a whole request and returns what `receive` wants."""
    if isinstance(client, HTTP2Client):
        if declared and body is not None and not down.startswith("grpc"):
            fields = (*fields, (b"content-length", b"%d" % len(body)))
        fields = [(name.lower(), value) for name, value in fields]
        return client.request(body or b"", path, method, fields, trailers=trailers if body else ())
    head = [f"{method} {path} HTTP/1.1".encode(), b"Host: test", *(b"%s: %s" % pair for pair in fields)]
    if body is None:
        client.send(b"\r\n".join(head) + b"\r\n\r\n")
    elif declared:
        client.send(b"\r\n".join(head) + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    else:
        client.send(b"\r\n".join(head) + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(body), 20_000):
            client.send(b"%x\r\n%s\r\n" % (len(body[at : at + 20_000]), body[at : at + 20_000]))
        client.send(b"0\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in trailers) + b"\r\n")
    return method


def receive(client, sent):
    return client.response(sent)


def receive_head(client, sent):
    """What has come when the head is here."""
    if not isinstance(client, HTTP2Client):
        return client.read_head()
    while not client.responses[sent].status:
        client.pump()
    return client.responses[sent]


def same_names(down, up, fields):
    """Fields as they arrive: HTTP/2 knows lower-case names only."""
    if down in HTTP1 and up in HTTP1:
        return [tuple(pair) for pair in fields]
    return [(name.lower(), value) for name, value in fields]


def without(fields, *names):
    return [(name, value) for name, value in fields if name.lower() not in names]


def digest(data):
    """Compared instead of megabytes, so that a failure can be read."""
    return len(data), hashlib.sha256(data).hexdigest()


REQUEST_FIELDS = (
    (b"X-Zebra", b"1"), (b"x-case-Kept", b"a"), (b"X-Twice", b"first"), (b"Accept", b"*/*"), (b"X-Twice", b"second, third"),
    (b"X-Empty", b""), (b"X-Latin", b"caf\xe9 \t  inside"), (b"Authorization", b"Bearer a.b.c"), (b"X-Request-Id", b"cell"),
    (b"User-Agent", b"matrix/1.0 (a; b)"),
)  # fmt: skip
RESPONSE_FIELDS = (
    (b"Server", b"cell"), (b"X-Twice", b"1"), (b"Set-Cookie", b"a=1; Path=/"), (b"x-Odd", b'"\\ \xe9"'), (b"Set-Cookie", b"b=2"),
    (b"X-Twice", b"0"), (b"X-Empty", b""),
)  # fmt: skip
TRAILERS = ((b"x-checksum", b"abc"), (b"x-checksum", b"def"))
GRPC_TRAILERS = ((b"grpc-status", b"0"), (b"grpc-message", b"fine%20"), (b"x-checksum", b"abc"))


def check_request(row, plan, body, fields):
    """What the backend got against what the client sent."""
    request, down, up = plan.request, row["down"], row["up"]
    assert request.method == row["method"].encode()
    assert request.values(b"host") == [b"test"]
    assert digest(request.body) == digest(body or b"")
    # A field that the client may have sent in the place of HTTP/2's own, and what frames the message on this hop.
    ours = (b"host", b"content-length", b"transfer-encoding", b"te", b"cookie", b"connection")
    assert without(request.fields, *ours) == same_names(down, up, without(fields, *ours))
    assert request.values(b"te") == ([b"trailers"] if down.startswith("grpc") else [])
    lengths = request.values(b"content-length")
    if row["declared"] and body and not down.startswith("grpc"):
        assert lengths == [b"%d" % len(body)]
    elif lengths:
        assert lengths == [b"%d" % len(body or b"")]
    # `send` has none behind a body that is empty.
    assert request.trailers == (list(row["trailers"]) if body else [])


def check_response(row, plan, response):
    down, up = row["down"], row["up"]
    is_head = row["method"] == "HEAD"
    # An HTTP/1.1 answer of declared length has no place for them (RFC 9112, 7.1.2).
    has_trailers = not is_head and not (plan.declared and down in HTTP1)
    assert (response.status, response.complete) == (200, True)
    assert digest(response.body) == digest(b"" if is_head else plan.body)
    assert response.values(b"x-request-id") == [b"cell"]
    fields = without(response.fields, b"content-length", b"transfer-encoding", b"x-request-id")
    assert fields == same_names(down, up, plan.fields)
    lengths = response.values(b"content-length")
    assert lengths == ([b"%d" % len(plan.body)] if plan.declared else [])
    assert response.trailers == (list(plan.trailers) if has_trailers else [])


# The cover -----------------------------------------------------------------------------------------------------------


def is_possible(row):
    if row["up"] in ("https1", "h2") and not {row["size"], row["answer size"]} <= set(SECURED_SIZES):
        return False
    if row["down"].startswith("grpc"):
        if row["up"] in HTTP1 or row["method"] != "POST" or row["size"] is None or row["type"] != b"application/grpc":
            return False
        return not row["answer declared"] and bool(row["answer trailers"])
    if row["type"] == b"application/grpc" or (row["answer declared"] and row["answer trailers"] and row["up"] in HTTP1):
        return False
    return not (row["trailers"] and (row["declared"] or not row["size"]))


CELLS = rows(
    {
        "down": DOWNSTREAMS,
        "up": UPSTREAMS,
        "method": ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"],
        "type": [b"application/json", b"text/plain", b"application/grpc"],
        "size": SIZES,
        "declared": [True, False],
        "trailers": [(), TRAILERS],
        "answer size": SIZES[1:],
        "answer declared": [True, False],
        "pieces": [1, 7],
        "answer trailers": [(), TRAILERS],
    },
    is_possible,
)


def name_of(row):
    return "-".join(str(value.decode() if isinstance(value, bytes) else len(value) if isinstance(value, tuple) else value)
                    for value in row.values())  # fmt: skip


@pytest.mark.parametrize("row", CELLS, ids=name_of)
def test_any_to_any(house, row):
    is_grpc = row["down"].startswith("grpc")
    body = None if row["size"] is None else content(row["size"], 3)
    answer = content(row["answer size"], 5)
    trailers = GRPC_TRAILERS if is_grpc else row["answer trailers"]
    fields = (*REQUEST_FIELDS, (b"Content-Type", row["type"]))
    path, plan = house.plans.add(
        body=answer, fields=(*RESPONSE_FIELDS, (b"Content-Type", row["type"])), declared=row["answer declared"], pieces=row["pieces"],
        trailers=trailers,
    )  # fmt: skip
    with house.client(row["down"], row["up"]) as client:
        # Twice: the second request finds both connections in use already.
        for _ in range(2):
            with_te = (*fields, (b"te", b"trailers")) if is_grpc else fields
            sent = send(client, row["down"], row["method"], path, body, with_te, row["declared"], row["trailers"])
            response = receive(client, sent)
            wait_until(lambda: plan.request is not None, 5, "the whole request at the backend")
            check_request(row, plan, body, fields)
            check_response(row, plan, response)
            plan.request = None


# Ends ----------------------------------------------------------------------------------------------------------------


def answer_fields(down, kind=b"text/plain"):
    return ((b"content-type", b"application/grpc" if down.startswith("grpc") else kind),)


def grpc_fields(down):
    return ((b"content-type", b"application/grpc"), (b"te", b"trailers")) if down.startswith("grpc") else (
        (b"content-type", b"text/plain"),
    )  # fmt: skip


@pytest.mark.parametrize(("down", "up"), PAIRS)
def test_answer_before_the_request_is_read(house, down, up):
    """The answer is whole though the request is not; a connection on which a half request stands is not used again."""
    body, answer = content(300_000), content(70_000, 1)
    path, plan = house.plans.add(body=answer, declared=not down.startswith("grpc"), way="early",
                                 fields=answer_fields(down), trailers=GRPC_TRAILERS if down.startswith("grpc") else ())  # fmt: skip
    with house.client(down, up) as client:
        if isinstance(client, HTTP2Client):
            stream = client.request(body[:100_000], path, fields=grpc_fields(down), end=False)
            response = client.response(stream)
        else:
            client.send(f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 300000\r\n\r\n".encode())
            client.send(body[:100_000])
            response = client.response()
            client.send_unless_refused(body[100_000:])
    assert (response.status, response.complete, response.body) == (200, True, answer)
    path, _ = house.plans.add(body=b"next")
    with house.client("http1", up) as client:
        assert client.request("POST", path, b"x").response().body == b"next"


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("down", "up"), PAIRS)
def test_late_cancel_reaches_the_backend(house, down, up, declared, streamed):
    path, plan = house.plans.add(body=content(200_000), declared=declared, pieces=4, way="stall",
                                 fields=answer_fields(down, b"text/event-stream" if streamed else b"text/plain"))  # fmt: skip
    with house.client(down, up) as client:
        sent = send(client, down, "POST", path, b"x" * 20_000, grpc_fields(down))
        if isinstance(client, HTTP2Client):
            while len(client.responses[sent].body) < 1_000 and not streamed:
                client.pump()
            assert plan.begun.wait(5)
            client.reset(sent)
            assert plan.gone.wait(5)
        else:
            assert streamed or client.read_head().status == 200
            assert plan.begun.wait(5)
    assert plan.gone.wait(5)


@pytest.mark.parametrize(("down", "up"), [pair for pair in PAIRS if not pair[0].startswith("grpc")])
def test_event_stream_any_to_any(house, down, up):
    """Forty events of every length, cut where no event ends, and `[DONE]`: byte for byte, and never with a length."""
    events = b"".join(b"data: %s\n\n" % content(number * 97, number).hex().encode() for number in range(40)) + b"data: [DONE]\n\n"
    body = b": waiting\n\n" + events
    path, plan = house.plans.add(body=body, declared=False, pieces=23, fields=answer_fields(down, b"text/event-stream"))
    request = b'{"model":"any","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    with house.client(down, up) as client:
        for _ in range(2):
            response = receive(client, send(client, down, "POST", path, request, ((b"Content-Type", b"application/json"),)))
            assert (response.status, response.complete, digest(bytes(response.body))) == (200, True, digest(body))
            assert response.value(b"content-type") == b"text/event-stream" and not response.values(b"content-length")
    assert plan.request.body == request


@pytest.mark.parametrize(("down", "up"), PAIRS)
def test_64_mib_each_way(house, down, up):
    size = (16 if processes.IS_SANITIZED else 64) * MIB
    path, plan = house.plans.add(body=content(size, 1), declared=False, pieces=16, fields=answer_fields(down),
                                 trailers=GRPC_TRAILERS if down.startswith("grpc") else ())  # fmt: skip
    with house.client(down, up) as client:
        response = receive(client, send(client, down, "POST", path, content(size, 2), grpc_fields(down)))
    assert (response.status, response.complete) == (200, True)
    assert digest(bytes(response.body)) == digest(plan.body) and digest(bytes(plan.request.body)) == digest(content(size, 2))


@pytest.mark.parametrize(("down", "up"), PAIRS)
@pytest.mark.parametrize("when", ["in the head", "in the body", "before the answer", "in the answer"])
def test_half_closed_client_is_gone(house, down, up, when):
    """As for the engines behind: what a half-closed client asked for is given up, in every state."""
    path, plan = house.plans.add(body=content(200_000), way="stall", declared=not down.startswith("grpc"), fields=answer_fields(down))
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 10000\r\n\r\n".encode()
    body = b"x" * (4_000 if when == "in the body" else 10_000)
    with house.client(down, up) as client:
        if not isinstance(client, HTTP2Client):
            client.send(head[:30] if when == "in the head" else head + body)
        elif when == "in the head":
            client.socket.sendall(b"\0\0\x40\x01\x04\0\0\0\x01\x83\x86")  # the beginning of a HEADERS frame
        else:
            stream = client.request(body, path, fields=grpc_fields(down), end=when != "in the body")
        if when == "in the answer":
            if isinstance(client, HTTP2Client):
                while not client.responses[stream].body:
                    client.pump(acknowledge=False)
            else:
                assert client.read_head().status == 200
        if when.endswith("answer"):
            assert plan.begun.wait(5)
        client.socket.shutdown(socket.SHUT_WR)
        if when.endswith("answer"):
            assert plan.gone.wait(5)
        with contextlib.suppress(ConnectionError):
            while client.socket.recv(1 << 18):
                pass
    path, _ = house.plans.add(body=b"next")
    with house.client("http1", up) as client:
        assert client.request("POST", path, b"x").response().body == b"next"


@pytest.mark.parametrize("up", UPSTREAMS)
@pytest.mark.parametrize("head", [b"GET %s HTTP/1.0\r\n\r\n", b"GET %s HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"])
def test_request_that_names_no_host(house, up, head):
    path, plan = house.plans.add(body=b"ok")
    with house.client("http1", up) as client:
        client.send(head % path.encode())
        response = client.response("GET")
    assert (response.status, bytes(response.body)) == (200, b"ok")
    assert plan.request.values(b"host")[0].startswith(b"127.0.0.1:"), "the backend's own"


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("up", UPSTREAMS)
def test_half_closed_client_gets_the_answer_that_is_written(house, up, declared):
    """One that has been written arrives whole; of one that has not, what comes ends so that it cannot be taken for the whole."""
    for size in (20_000, 12_000_000):
        path, _ = house.plans.add(body=content(size, 2), declared=declared)
        with house.client("http1", up, receive_buffer=4_096) as client:
            client.request("POST", path, b"x")
            response = client.read_head()
            assert response.status == 200
            if size == 20_000:
                wait_until(lambda path=path: path in house.answered(up), what="the end of the answer")
            client.socket.shutdown(socket.SHUT_WR)
            client.read_body(response)
        assert content(size, 2).startswith(response.body)
        assert response.complete == (size == 20_000)
        # The kernel's buffers hold less than twelve megabytes.
        assert (len(response.body) == size) == response.complete


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("down", "up"), PAIRS)
def test_backend_that_resets_in_its_body(house, down, up, declared):
    """What the client has cannot be taken for the whole."""
    answer = content(90_000)
    path, plan = house.plans.add(body=answer, declared=declared, way="reset", fields=answer_fields(down))
    with house.client(down, up) as client:
        sent = send(client, down, "POST", path, b"x", grpc_fields(down))
        if up in HTTP1:
            response = receive_head(client, sent)
            plan.told.set()
            response = receive(client, sent) if isinstance(client, HTTP2Client) else client.read_body(response)
            assert response.status == 200
        else:
            response = receive(client, sent)
    assert answer.startswith(bytes(response.body))
    if response.reset_code is not None:
        return  # RST_STREAM overtakes what was queued for its stream, the head with it
    if response.status != 200:
        assert_openai_error(response, 502, "upstream_reset")
    elif down.startswith("grpc") and not declared:
        # With a length declared the stream cannot end well in trailers either: it is reset. The backend has said INTERNAL_ERROR.
        assert (b"grpc-status", b"13") in response.trailers
    else:
        assert not response.complete or (b"grpc-status", b"13") in response.trailers


@pytest.mark.parametrize("down", ["grpc", "grpcs"])
def test_grpc_needs_a_backend_that_speaks_it(house, down):
    with house.client(down, "http1") as client:
        response = client.response(send(client, down, "POST", "/s/m", b"x", grpc_fields(down)))
    assert (response.status, response.complete, response.body) == (200, True, b"")
    assert (b"grpc-status", b"14") in response.fields


# The limit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("down", "up", "kind", "declared"), [
    ("http1", "http1", b"application/json", True),
    ("http1", "http1", b"text/plain", False),
    ("https1", "h2c", b"application/json", False),
    ("h2c", "http1", b"text/plain", True),
])  # fmt: skip
def test_64_mib_pass_and_one_byte_more_does_not(house, down, up, kind, declared):
    body = content(LIMIT)
    for size in (LIMIT, LIMIT + 1):
        path, plan = house.plans.add(body=b"ok")
        with house.client(down, up) as client:
            try:
                sent = send(client, down, "POST", path, body + b"x" * (size - LIMIT), ((b"content-type", kind),), declared)
            except (ConnectionError, ConnectionEnded, h2.exceptions.ProtocolError):
                assert size > LIMIT
                sent = max(client.responses) if isinstance(client, HTTP2Client) else "POST"
            try:
                response = receive(client, sent)
            except ConnectionEnded as ended:
                assert size > LIMIT and ended.received == b""
                continue
        if size == LIMIT:
            assert (response.status, bytes(response.body)) == (200, b"ok")
            assert digest(plan.request.body) == digest(body)
        else:
            assert_openai_error(response, 413, "request_too_large")
            assert plan.request is None


@pytest.mark.parametrize(("down", "up"), [("http1", "http1"), ("https1", "http1"), ("h2", "h2c"), ("h2c", "h2")])
def test_answer_of_64_mib(house, down, up):
    path, plan = house.plans.add(body=content(LIMIT), declared=up in HTTP1, pieces=64)
    with house.client(down, up) as client:
        response = receive(client, send(client, down, "POST", path, b"x", grpc_fields(down)))
    assert response.complete and digest(bytes(response.body)) == digest(plan.body)
