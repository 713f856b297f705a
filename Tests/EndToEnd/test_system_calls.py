"""System calls that the router makes for a request, counted by strace."""

import re
import shutil
import signal
import subprocess

import pytest

import processes
from scripted_backend import Gate, ScriptedBackend
from test_allocations import BODY
from waiting import wait_until
from wire_clients import HTTP1Client

pytestmark = [
    pytest.mark.skipif(not shutil.which("strace"), reason="needs strace"),
    pytest.mark.skipif(processes.IS_SANITIZED, reason="a sanitizer makes calls of its own"),
]


SUM = re.compile(r"^\s*100\.00\s+\S+\s+(?:\S+\s+)?(\d+)\s+(?:\d+\s+)?total$", re.MULTILINE)


class Traced(processes.Program):
    """A router whose system calls are counted, or written down, from its first to its last."""

    def __init__(self, counts, *arguments, how=("-c",)):
        self.counts = counts
        self.how = how
        super().__init__(*arguments)

    def command(self):
        # -D: the router stays our child, with the pid that we know.
        return ["strace", "-D", "-f", "-qq", *self.how, "-o", str(self.counts), processes.BINARY]

    def total(self):
        """System calls of the whole life, once it is over."""
        self.stop()

        def find():
            return self.counts.exists() and SUM.search(self.counts.read_text())

        return int(wait_until(find, 10, "strace's sum")[1])


def test_a_request_takes_no_more_than_five(tmp_path, fleet):
    """Two reads and two writes, and a share of a wait: what 4,000 requests of 32 clients take beyond what 1,000 do."""
    body = tmp_path / "body"
    body.write_bytes(BODY % (1, b""))

    def calls(requests):
        arguments = ["serve", "--loops", "1", "--log-level", "error", "--listen", "127.0.0.1:0", "--scrape-interval", "0s"]
        router = Traced(tmp_path / f"counts-{requests}", *arguments, "--backend", f"http://127.0.0.1:{fleet.port}")
        try:
            router.wait_ready(timeout=30)
            result = subprocess.run(
                ["h2load", "--h1", "-t1", "-c", "32", "-n", str(requests), "-d", body, "-H", "content-type: application/json",
                 f"{router.url}/v1/chat/completions"],
                check=True, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert f"{requests} 2xx" in result.stdout
            return router.total()
        finally:
            router.stop()

    taken = (calls(4_000) - calls(1_000)) / 3_000
    print(f"{taken:.2f} system calls of a request")
    # Fewer than the reads and writes that it cannot do without: then nothing was counted.
    assert 4 <= taken <= 5


def test_tokens_do_not_wait_for_those_of_other_streams(tmp_path, hub):
    """Events of eight answers come in one wake: each leaves before the next is read."""
    streams = 8
    resumed, sent = Gate(hub), []

    async def script(exchange):
        await exchange.event_stream_head()
        await exchange.event("begun")
        await resumed.wait()
        await exchange.event("told")
        sent.append(exchange)
        await exchange.peer_gone()

    backend = ScriptedBackend(hub, script)
    arguments = ["serve", "--loops", "1", "--listen", "127.0.0.1:0", "--scrape-interval", "0s", "--backend", backend.url]
    calls = tmp_path / "calls"
    router = Traced(calls, *arguments, how=("-e", "trace=recvfrom,sendto"))
    clients = []
    try:
        router.wait_ready(timeout=30)
        for _ in range(streams):
            clients.append(HTTP1Client(router.port))
            clients[-1].request("POST", "/v1/chat/completions", BODY % (1, b""))
            clients[-1].read_until(b"begun")
        router.process.send_signal(signal.SIGSTOP)
        resumed.open()
        wait_until(lambda: len(sent) == streams, what="all events")
        router.process.send_signal(signal.SIGCONT)
        for client in clients:
            client.read_until(b"told")
    finally:
        for client in clients:
            client.close()
        router.stop()
        backend.stop()
    # One that another thread's call came between stands on two lines, what it has read on the second.
    told = re.findall(r'(recvfrom|sendto)(?:\(\d+, | resumed>)"[^"]*data: told', calls.read_text())
    assert told == ["recvfrom", "sendto"] * streams
