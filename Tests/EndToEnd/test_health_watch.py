"""Many who watch the router's health over gRPC: they are told of changes, and cost next to nothing while there are none."""

import contextlib
import time

import httpx

import processes
from test_attacks_http2 import DATA, END_HEADERS, END_STREAM, HEADERS, Attacker, Neighbour, cpu_seconds, frame, stream_of
from waiting import wait_until

GROUPS, CONNECTIONS, STREAMS = 500, 4, 256
SERVING, NOT_SERVING = bytes((0, 0, 0, 0, 2, 8, 1)), bytes((0, 0, 0, 0, 2, 8, 2))


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = b"\x83\x86\x01\x01a" + b"".join(
    literal(*field)
    for field in ((b":path", b"/grpc.health.v1.Health/Watch"), (b"content-type", b"application/grpc"), (b"te", b"trailers"))
)


def watch(stream, service):
    message = b"\x0a" + bytes([len(service)]) + service
    return frame(HEADERS, END_HEADERS, stream, HEAD) + frame(DATA, END_STREAM, stream, bytes((0, 0, 0, 0, len(message))) + message)


def test_a_thousand_watches(configured, scripted):
    """Half of them watch a model of many groups, half that of one, which is taken out."""
    many = (("many", f"http://127.1.{number // 200}.{number % 200 + 1}:9") for number in range(GROUPS - 1))
    groups = "".join(
        f"  - {{name: g{number}, leader: '{leader}', models: [{model}]}}\n"
        for number, (model, leader) in enumerate([("one", scripted().url), *many])
    )
    lines = f"load_signals: {{interval: 0s}}\nprobes: {{interval: 0s}}\ngroups:\n{groups}"
    program = configured(lines, admin=True, arguments_after=("--loops", "1"))
    with contextlib.ExitStack() as stack:
        watchers = [stack.enter_context(Attacker(program.port)) for _ in range(CONNECTIONS)]
        for watcher in watchers:
            watcher.send(b"".join(watch(stream_of(number), (b"one", b"many")[number % 2]) for number in range(STREAMS)))

        def told():
            return [payload for watcher in watchers for _, _, payload in watcher.frames(DATA) if payload]

        wait_until(lambda: len(told()) == CONNECTIONS * STREAMS, what="the first answers")
        assert set(told()) == {SERVING}
        neighbour = Neighbour(program.port, body=b'{"model":"one"}')
        before, began = cpu_seconds(program.pid), time.monotonic()
        wait_until(lambda: len(neighbour.answers) >= 100 and time.monotonic() - began >= 1, 20, "a hundred answers to another client")
        used, passed = cpu_seconds(program.pid) - before, time.monotonic() - began
        neighbour.stop()
        print(f"CPU {used:.2f} s in {passed:.2f} s")
        # Had each watch looked at all groups ten times a second, it would be all of it.
        assert used < passed * (0.3 if processes.IS_OPTIMISED else 0.5) or processes.IS_SANITIZED
        for verb, state in (("drain", NOT_SERVING), ("resume", SERVING)):
            count = len(told())
            assert httpx.post(f"{program.admin_url}/groups/g0/{verb}").status_code == 200
            wait_until(lambda: len(told()) == count + CONNECTIONS * STREAMS // 2, what=f"word of {verb}")
            # The last word on each stream; the other model's watches heard nothing.
            last = [{stream: payload for stream, _, payload in watcher.frames(DATA) if payload} for watcher in watchers]
            assert {(stream // 2 % 2, payload) for words in last for stream, payload in words.items()} == {(0, state), (1, SERVING)}
