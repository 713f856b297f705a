"""Allocations of the running router, counted by a library preloaded in front of the allocator: what a warm one costs per request and event.

The bounds are what was measured, rounded up to the next whole number; a change that lowers them should lower them here, too. Only an
optimised binary is counted: without optimisation the compiler boxes what it need not.
"""

import os
import pathlib
import socket
import struct
import subprocess

import pytest

import processes

HERE = pathlib.Path(__file__).parent
BODY = (b'{"model":"stub-model","messages":[{"role":"user","content":"' + b"lorem ipsum " * 34 + b'"}],"max_tokens":%d%s}')

pytestmark = pytest.mark.skipif("release" not in processes.BINARY, reason="counts the release binary only")

OWN_PER_REQUEST = {"http1": 0, "h2c": 1}  # an HTTP/2 stream is an object
NGHTTP2_PER_REQUEST = 0.2


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


def test_a_request_allocates_no_more_than_is_known(counted, fleet):
    router, read = counted(f"http://127.0.0.1:{fleet.port}")
    with socket.create_connection(("127.0.0.1", router.port), 10) as connection:

        def act(requests):
            for _ in range(requests):
                post(connection, 1, stream=False)

        libraries, own = per_unit(read, act, 100, 400)
    assert libraries == 0
    # A timer or a table that grows now and then is no cost of a request.
    assert own <= OWN_PER_REQUEST["http1"] + 0.2


def test_an_event_allocates_nothing(counted, fleet):
    router, read = counted(f"http://127.0.0.1:{fleet.port}")
    with socket.create_connection(("127.0.0.1", router.port), 10) as connection:

        def act(streams):
            for _ in range(streams):
                post(connection, 200, stream=True)

        _, own = per_unit(read, act, 5, 10)
    # Two hundred events cost what the request around them does.
    assert own <= OWN_PER_REQUEST["http1"] + 1.2


def test_a_stream_of_http2_allocates_no_more_than_is_known(counted, tmp_path, start):
    body = tmp_path / "body"
    body.write_bytes(BODY % (1, b""))
    backend = start(processes.stub)
    router, read = counted(f"http://127.0.0.1:{backend.port}")

    def act(requests):
        result = subprocess.run(
            ["h2load", "-t1", "-c", "2", "-m", "4", "-n", str(requests), "-d", body, "-H", "content-type: application/json",
             f"{router.url}/v1/chat/completions"],
            check=True, capture_output=True, text=True, timeout=30, env={**os.environ, "LD_PRELOAD": ""},
        )  # fmt: skip
        assert f"{requests} 2xx" in result.stdout

    libraries, own = per_unit(read, act, 200, 2_000)
    assert own <= OWN_PER_REQUEST["h2c"] + 0.2
    assert libraries <= NGHTTP2_PER_REQUEST
