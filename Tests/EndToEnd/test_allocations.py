"""Allocations of the running router, counted by a library preloaded in front of the allocator: what a warm one costs per request and event.

Only an optimised binary is counted: without optimisation the compiler boxes what it need not.
"""

import contextlib
import os
import pathlib
import socket
import struct
import subprocess

import pytest

import engine_proto
import kserve
import processes
from test_http2_bounds import CALL
from wire_clients import HTTP1Client, HTTP2Client

HERE = pathlib.Path(__file__).parent
BODY = (b'{"model":"stub-model","messages":[{"role":"user","content":"' + b"lorem ipsum " * 34 + b'"}],"max_tokens":%d%s}')

pytestmark = pytest.mark.skipif("release" not in processes.BINARY, reason="counts the release binary only")

#: What a timer, a table or a buffer that grows now and then may come to, for each request and for each event.
SELDOM, SELDOM_OF_AN_EVENT = 0.2, 0.01
#: The same for 16 KiB of a body: 0.02 of it is what the router does each second besides.
SELDOM_OF_A_CHUNK = 0.1
WAYS = [(client, upstream) for client in ("http1", "http2") for upstream in ("http", "h2c")]


@pytest.fixture(scope="session")
def counter(tmp_path_factory):
    """The library that counts."""
    library = tmp_path_factory.mktemp("counter") / "allocation_counter.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "allocation_counter.c"], check=True)
    return library


@pytest.fixture
def counted(counter, tmp_path, monkeypatch, start):
    """Starts a router of one loop and returns it with a function that reads (by libraries, own)."""

    def make(backend):
        counts = tmp_path / "counts"
        with monkeypatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(counter))
            patch.setenv("ALLOCATION_COUNTS", str(counts))
            router = start(processes.serve, backend, arguments=["--loops", "1", "--scrape-interval", "0s"])
        return router, lambda: struct.unpack("QQ", counts.read_bytes()[:16])

    return make


def per_unit(read, act, warm_up, units):
    """Allocations (by libraries, own) per unit that `act(units)` adds once `act(warm_up)` is through."""
    act(warm_up)
    before = read()
    act(units)
    return tuple((after - earlier) / units for earlier, after in zip(before, read()))


def post(connection, max_tokens, stream):
    """One request over a kept connection; reads its whole answer."""
    body = BODY % (max_tokens, b',"stream":true' if stream else b"")
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    answer = b""
    while True:
        piece = connection.recv(1 << 16)
        assert piece, answer[-200:]
        answer = (answer if not stream else answer[-8:]) + piece
        if stream:
            if answer.endswith(b"0\r\n\r\n"):
                return
        elif b"\r\n\r\n" in answer:
            head, content = answer.split(b"\r\n\r\n", 1)
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            if len(content) >= int(length.split(b":")[1]):
                return


@contextlib.contextmanager
def asking(protocol, port):
    """A function that sends one request over a kept connection and reads its whole answer."""
    if protocol == "http1":
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            yield lambda max_tokens, stream: post(connection, max_tokens, stream)
        return
    with HTTP2Client(port) as client:

        def ask(max_tokens, stream):
            body = BODY % (max_tokens, b',"ignore_eos":true,"stream":true' if stream else b"")
            number = client.request(body=body, fields=[(b"content-type", b"application/json")])
            answer = client.response(number)
            assert answer.status == 200 and answer.complete
            assert not stream or answer.body.count(b"data: ") >= max_tokens
            del client.responses[number]

        yield ask


@pytest.mark.parametrize("client, upstream", WAYS)
def test_a_request_allocates_nothing(counted, fleet, client, upstream):
    router, read = counted(f"{upstream}://127.0.0.1:{fleet.port}")
    with asking(client, router.port) as ask:

        def act(requests):
            for _ in range(requests):
                ask(1, stream=False)

        libraries, own = per_unit(read, act, 100, 400)
    print(f"{client} to {upstream}: {own} of a request, {libraries} of libraries")
    assert own <= SELDOM and libraries <= SELDOM


@pytest.mark.parametrize("client, upstream", WAYS)
def test_an_event_allocates_nothing(counted, fleet, client, upstream):
    router, read = counted(f"{upstream}://127.0.0.1:{fleet.port}")
    with asking(client, router.port) as ask:

        def act(streams):
            for _ in range(streams):
                ask(200, stream=True)

        libraries, own = (count / 200 for count in per_unit(read, act, 10, 20))
    print(f"{client} to {upstream}: {own} of an event, {libraries} of libraries")
    assert own <= SELDOM_OF_AN_EVENT and libraries <= SELDOM_OF_AN_EVENT


#: A call's path and message.
CALLS = {
    "infer": ("/inference.GRPCInferenceService/ModelInfer", kserve.infer_request("hello there")),
    "text": (f"/{engine_proto.SERVICE}/Generate", engine_proto.generate_request(text="hello there " * 200, max_tokens=4)),
    "ids": (f"/{engine_proto.SERVICE}/Generate", engine_proto.generate_request(range(3_000), max_tokens=4)),
}


@pytest.mark.parametrize("deadline", [(), ((b"grpc-timeout", b"5S"),)], ids=["no deadline", "deadline"])
@pytest.mark.parametrize("kind", CALLS)
def test_a_call_allocates_nothing(counted, fleet, kind, deadline):
    router, read = counted(f"h2c://127.0.0.1:{fleet.port}")
    path, message = CALLS[kind][0], CALLS[kind][1].SerializeToString()
    with HTTP2Client(router.port) as client:

        def act(calls):
            for _ in range(calls):
                body = struct.pack(">BI", 0, len(message)) + message
                number = client.request(body, path, fields=(*CALL, *deadline))
                assert (b"grpc-status", b"0") in client.response(number).trailers
                del client.responses[number]

        # A backend that speaks only HTTP/2 is asked for its models again each second, which is not the calls' doing: one of three is without.
        for _ in range(3):
            libraries, own = per_unit(read, act, 100, 300)
            if max(libraries, own) <= SELDOM:
                break
    print(f"gRPC: {own} of a call, {libraries} of libraries")
    assert own <= SELDOM and libraries <= SELDOM


@pytest.mark.parametrize("way", ["upload", "answer"])
def test_a_chunk_allocates_nothing(counted, scripted, way):
    chunks, piece = 200, bytes(16_384)

    async def script(exchange):
        if way == "upload":
            assert len(exchange.request.body) == chunks * len(piece)
            return await exchange.answer(200)
        await exchange.head(200, [(b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked")])
        for _ in range(chunks):
            await exchange.chunk(piece)
        await exchange.last_chunk()

    router, read = counted(scripted(script).url)
    with HTTP1Client(router.port) as client:

        def act(bodies):
            for _ in range(bodies):
                client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(chunks if way == "upload" else 0):
                    client.send(b"4000\r\n" + piece + b"\r\n")
                client.send(b"0\r\n\r\n")
                response = client.response()
                assert response.status == 200 and (way == "upload" or len(response.body) == chunks * len(piece))

        libraries, own = (count / chunks for count in per_unit(read, act, 3, 5))
    print(f"{way}: {own} of a chunk, {libraries} of libraries")
    assert own <= SELDOM_OF_A_CHUNK and libraries == 0


@pytest.mark.parametrize("upstream", ["http", "h2c"])
def test_streams_beside_each_other_allocate_nothing(counted, tmp_path, fleet, upstream):
    """What two connections cost that stay no longer than their requests is part of it."""
    body = tmp_path / "body"
    body.write_bytes(BODY % (1, b""))
    router, read = counted(f"{upstream}://127.0.0.1:{fleet.port}")

    def act(requests):
        result = subprocess.run(
            ["h2load", "-t1", "-c", "2", "-m", "4", "-n", str(requests), "-d", body, "-H", "content-type: application/json",
             f"{router.url}/v1/chat/completions"],
            check=True, capture_output=True, text=True, timeout=30, env={**os.environ, "LD_PRELOAD": ""},
        )  # fmt: skip
        assert f"{requests} 2xx" in result.stdout

    libraries, own = per_unit(read, act, 200, 2_000)
    print(f"to {upstream}: {own} of a request, {libraries} of libraries")
    assert own <= SELDOM and libraries <= SELDOM
