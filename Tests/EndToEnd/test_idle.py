"""Clients that are connected and say nothing: next to no memory each, and no processor time at all."""

import contextlib
import pathlib
import socket
import time

import pytest

from wire_clients import HTTP2Client

FEW, MANY = 200, 5_000
#: What an idle connection may cost more than none.
BYTES_EACH = 2_048


def crowd(program, stack, count, asks):
    """That many connections more, each answered once if it `asks`."""
    connections = [stack.enter_context(socket.create_connection(("127.0.0.1", program.port), 20)) for _ in range(count)]
    for at in range(0, count, 100) if asks else ():
        some = connections[at : at + 100]
        for connection in some:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for connection in some:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    if not asks and connections:
        # The last one is answered only after all before it were accepted.
        connections[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connections[-1].recv(1 << 16).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("asks", [True, False], ids=["answered", "silent"])
def test_memory_of_idle_connections(serve, scripted, asks):
    """Between 200 and 5,000 of them."""
    program = serve(scripted(), arguments=("--loops", "1"))
    with contextlib.ExitStack() as stack:
        crowd(program, stack, FEW, asks)
        few = program.resident_bytes()
        crowd(program, stack, MANY - FEW, asks)
        each = (program.resident_bytes() - few) / (MANY - FEW)
        print(f"{each:.0f} bytes each")
        assert each <= BYTES_EACH


def wakes(program):
    """Times that any thread of the program has gone to sleep so far: each took it a wake."""
    total = 0
    for status in pathlib.Path(f"/proc/{program.pid}/task").glob("*/status"):
        with contextlib.suppress(FileNotFoundError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            total += int(fields["voluntary_ctxt_switches"])
    return total


def test_no_work_while_idle(configured, fleet):
    """With clients connected over both protocols, and engines not asked for their load meanwhile: no thread wakes."""
    engines = [f"http://127.0.0.1:{port}" for port in fleet.ports]
    program = configured("loops: 2\nprobes: {interval: 0s}\nload_signals: {interval: 0s, load_interval: 0s}\n", *engines)
    with contextlib.ExitStack() as stack:
        crowd(program, stack, 100, True)
        for _ in range(10):
            client = stack.enter_context(HTTP2Client(program.port))
            assert client.response(client.request(target="/health", method="GET")).status == 200
        quiet, deadline = 0.0, time.monotonic() + 15
        last, since = wakes(program), time.monotonic()
        while quiet < 1.5:
            assert time.monotonic() < deadline, "it never rests"
            time.sleep(0.1)
            now = wakes(program)
            if now != last:
                last, since = now, time.monotonic()
            quiet = time.monotonic() - since
