"""Out of descriptors, and backends whose listen queue is full: the router waits for better times without spinning."""

import contextlib
import os
import pathlib
import resource
import socket

import pytest

from scripted_backend import answer_ok
from test_attacks_http2 import cpu_seconds
from waiting import wait_until
from wire_clients import HTTP1Client, ask

LIMIT = 64


def descriptors(program):
    return len(os.listdir(f"/proc/{program.pid}/fd"))


def limit_descriptors(program, count):
    _, hard = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (count, hard))


def connect(program):
    return socket.create_connection(("127.0.0.1", program.port), 5)


def answered(connection, timeout):
    connection.settimeout(timeout)
    with contextlib.suppress(TimeoutError):
        return connection.recv(4_096).startswith(b"HTTP/1.1 200")
    return False


def test_accepts_pause_and_resume(serve, scripted):
    """Clients beyond the limit wait in the kernel's queue; the CPU is idle meanwhile, and they are served once others go."""
    program = serve(scripted(answer_ok), arguments=("--loops", "1"))
    assert ask(program.port, b"{}").status == 200
    limit_descriptors(program, LIMIT)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(program)) for _ in range(LIMIT + 16)]
        wait_until(lambda: descriptors(program) >= LIMIT, what="all descriptors to be taken")
        for client in clients:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        served = [client for client in clients if answered(client, 0.5 if client is clients[0] else 0.05)]
        assert LIMIT // 2 < len(served) < len(clients)
        cpu, spins = cpu_seconds(program.pid), voluntary_switches(program)
        assert not answered(clients[-1], 1.0)
        # Ten looks a second, not thousands.
        assert cpu_seconds(program.pid) - cpu < 0.3
        assert voluntary_switches(program) - spins < 200
        for client in served:
            client.close()
        waiting = [client for client in clients if client not in served]
        assert all(answered(client, 5) for client in waiting)
    assert ask(program.port, b"{}").status == 200


def voluntary_switches(program):
    tasks = pathlib.Path(f"/proc/{program.pid}/task").glob("*/status")
    return sum(int(line.split()[1]) for task in tasks for line in task.read_text().splitlines() if line.startswith("voluntary"))


def test_no_descriptor_for_a_backend(serve, scripted, gate):
    """The request gets 503, no group is blamed, and the next one is served."""

    async def script(exchange):
        await gate.wait()
        await answer_ok(exchange)

    backend = scripted(script)
    program = serve(backend, arguments=("--loops", "1"))
    with HTTP1Client(program.port) as first, HTTP1Client(program.port) as second:
        assert second.request("GET", "/health").response().status == 200
        first.request(body={})
        wait_until(lambda: backend.in_flight == 1, what="the request that holds the only connection")
        limit_descriptors(program, descriptors(program))
        response = second.request(body={}).response()
        assert (response.status, response.json["error"]["code"]) == (503, "overloaded")
        limit_descriptors(program, 1_024)
        gate.open()
        assert first.response().status == 200
        assert second.request(body={}).response().status == 200


@pytest.fixture
def full():
    """A port whose listen queue is full: the kernel drops every further SYN."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_full_listen_queue_is_tried_elsewhere(configured, scripted, full):
    good = scripted(answer_ok)
    program = configured("timeouts: {connect: 200ms}\n", good, f"http://127.0.0.1:{full}")
    for _ in range(8):
        assert ask(program.port, b"{}").served_by == good.name


def test_full_listen_queue_alone(configured, full):
    program = configured("timeouts: {connect: 200ms}\n", f"http://127.0.0.1:{full}")
    response = ask(program.port, b"{}")
    assert (response.status, response.json["error"]["code"]) == (502, "upstream_connect_error")
