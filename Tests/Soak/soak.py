#!/usr/bin/env python3
"""Mixed traffic for a while: does the router end as it began?

Stub engines that are killed and started again, clients of every kind that stay, leave early, read slowly or never, TLS certificates
that are renewed under load. At the end, with nobody there any more: no request in flight, no stream open, descriptors and memory back
where they were after the warm-up, and every request that had no reason to fail answered.

    Tests/Soak/soak.py --minutes 10        (or `make soak MINUTES=10`)
"""

import argparse
import asyncio
import collections
import json
import os
import pathlib
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "EndToEnd"))

import grpc
import httpx

import admin
import processes

GROUPS = 4


def certificate(folder):
    """A fresh self-signed certificate, written beside the old one and moved into its place."""
    fresh = folder / "fresh"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{fresh}.key",
         "-out", f"{fresh}.pem", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    os.replace(f"{fresh}.key", folder / "key.pem")
    os.replace(f"{fresh}.pem", folder / "certificate.pem")


class Engine:
    """One stub on a port that stays the same over its deaths."""

    def __init__(self):
        self.port = processes.unused_port()
        self.start()

    def start(self):
        arguments = ("stub", "--listen", f"127.0.0.1:{self.port}", "--prefill-us-per-token", 5, "--decode-ms-per-token", 2)
        self.program = processes.Program(*arguments).wait_ready()

    def kill(self):
        self.program.kill()


class Soak:
    def __init__(self, seconds, seed, folder):
        self.deadline = time.monotonic() + seconds
        self.random = random.Random(seed)
        self.folder = folder
        self.outcomes = collections.Counter()
        self.broken = []
        certificate(folder)
        self.engines = [Engine() for _ in range(GROUPS)]
        file = folder / "swiftlet.yaml"
        tls = f"{{certificate_file: {folder}/certificate.pem, key_file: {folder}/key.pem}}"
        listeners = f"listeners:\n  - address: 127.0.0.1:0\n  - {{address: 127.0.0.1:0, tls: {tls}}}\n"
        groups = "".join(f"  - {{name: g{i}, leader: 'http://127.0.0.1:{e.port}'}}\n" for i, e in enumerate(self.engines))
        file.write_text(f"{listeners}admin: 127.0.0.1:0\nlog_level: error\ngroups:\n{groups}")
        self.router = processes.Program("serve", "--config", file).wait_ready(listeners=2, admin=True)
        self.plain, self.secure = self.router.ports

    @property
    def over(self):
        return time.monotonic() >= self.deadline

    def prompt(self):
        session = self.random.randrange(50)
        return " ".join(f"s{session}w{i}" for i in range(self.random.randrange(10, 400)))

    def body(self, stream, tokens):
        messages = [{"role": "user", "content": self.prompt()}]
        return {"model": "stub-model", "messages": messages, "stream": stream, "max_tokens": tokens}

    def count(self, kind, outcome, detail=""):
        self.outcomes[kind, outcome] += 1
        if outcome == "LOST":
            self.broken.append(f"{kind}: {detail}")

    # Clients -----------------------------------------------------------------------------------------------------------

    def client(self, kind):
        verify = ssl.create_default_context()
        verify.check_hostname, verify.verify_mode = False, ssl.CERT_NONE
        is_tls = kind.endswith("tls")
        base = f"https://127.0.0.1:{self.secure}" if is_tls else f"http://127.0.0.1:{self.plain}"
        http2 = kind.startswith("http2")
        return httpx.AsyncClient(base_url=base, http1=not http2, http2=http2, verify=verify if is_tls else True, timeout=30)

    async def asks(self, kind):
        """Whole answers: with four groups of which one is dead at a time, none may fail."""
        async with self.client(kind) as client:
            while not self.over:
                try:
                    answer = await client.post("/v1/chat/completions", json=self.body(False, self.random.randrange(1, 20)))
                    good = answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 0
                    self.count(kind, "answered" if good else "LOST", f"{answer.status_code}")
                except httpx.RemoteProtocolError:
                    self.count(kind, "cut")
                except httpx.HTTPError as error:
                    self.count(kind, "LOST", repr(error))

    async def streams(self, kind):
        """Streams, of which some are left early and some are read slowly."""
        async with self.client(kind) as client:
            while not self.over:
                leave_after = self.random.choice([0, 3, 10_000, 10_000])
                slow = self.random.random() < 0.1
                events, done, error = 0, False, False
                try:
                    async with client.stream("POST", "/v1/chat/completions", json=self.body(True, 40)) as answer:
                        if answer.status_code != 200:
                            self.count(f"{kind} stream", "LOST", f"{answer.status_code}")
                            continue
                        async for line in answer.aiter_lines():
                            if line.startswith("data: "):
                                events += 1
                                done |= line == "data: [DONE]"
                                error |= '"error"' in line
                            if events >= leave_after:
                                break
                            if slow:
                                await asyncio.sleep(0.02)
                    outcome = "left" if events >= leave_after else "answered" if done else "told" if error else "LOST"
                    self.count(f"{kind} stream", outcome, f"{events} events without an end")
                except httpx.RemoteProtocolError:
                    self.count(f"{kind} stream", "cut")
                except httpx.HTTPError as error:
                    self.count(f"{kind} stream", "LOST", repr(error))

    async def calls(self):
        """gRPC over HTTP/1.1 backends is refused with a status; health checks are answered."""
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.plain}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not self.over:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
                self.count("grpc health", "answered" if answer.status else "LOST")
                await asyncio.sleep(0.01)

    async def rude(self):
        """Connections that say half a sentence and go, in order or not."""
        while not self.over:
            _, writer = await asyncio.open_connection("127.0.0.1", self.random.choice([self.plain, self.secure]))
            piece = self.random.choice([b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"\x16\x03\x01",
                                        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"GET / HTTP/1.1\r\n", b"\0" * 64])  # fmt: skip
            writer.write(piece)
            await asyncio.sleep(self.random.random() * 0.05)
            if self.random.random() < 0.5:
                writer.transport.abort()
            else:
                writer.close()
            self.outcomes["rude", "gone"] += 1

    # What goes wrong -----------------------------------------------------------------------------------------------------

    async def kills(self):
        """One engine after the other dies, stays dead for a while and comes back."""
        while not self.over:
            await asyncio.sleep(self.random.uniform(0.5, 1.5))
            engine = self.random.choice(self.engines)
            await asyncio.to_thread(engine.kill)
            await asyncio.sleep(self.random.uniform(0.2, 0.8))
            await asyncio.to_thread(engine.start)
            self.outcomes["engine", "killed"] += 1
            # The router must have seen it again before the next one dies, or two would be gone at once.
            await asyncio.sleep(2.5)

    async def reloads(self):
        while not self.over:
            await asyncio.sleep(1.7)
            await asyncio.to_thread(certificate, self.folder)
            self.router.signal(signal.SIGHUP)
            self.outcomes["certificate", "renewed"] += 1

    # The verdict -----------------------------------------------------------------------------------------------------------

    def measure(self):
        self.router_is_idle()
        descriptors = len(os.listdir(f"/proc/{self.router.pid}/fd"))
        return descriptors, self.router.resident_bytes()

    def router_is_idle(self, timeout=20.0):
        """Waits until nothing is in flight and idle connections have ended."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            metrics = httpx.get(f"{self.router.admin_url}/metrics", timeout=10).text
            open_ = sum(float(line.split()[-1]) for line in metrics.splitlines() if "connections_open" in line and line[0] != "#")
            if open_ == 0 and not any(admin.in_flight(self.router)):
                return
            time.sleep(0.1)
        raise AssertionError(f"still busy: {admin.in_flight(self.router)}")

    async def traffic(self):
        kinds = ["http1", "http2", "http1 tls", "http2 tls"]
        tasks = [self.asks(kind) for kind in kinds for _ in range(2)] + [self.streams(kind) for kind in kinds for _ in range(4)]
        tasks += [self.calls(), self.rude(), self.rude(), self.kills(), self.reloads()]
        await asyncio.gather(*tasks)

    def run(self):
        total = self.deadline - time.monotonic()
        # Pools, tables and allocator arenas grow to their size with the first traffic.
        self.deadline = time.monotonic() + max(total * 0.25, 4)
        asyncio.run(self.traffic())
        before = self.measure()
        self.deadline = time.monotonic() + total * 0.75
        asyncio.run(self.traffic())
        after = self.measure()
        return before, after

    def stop(self):
        self.router.stop()
        for engine in self.engines:
            engine.program.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth-mib", type=float, default=4, help="what allocators may keep beyond the warm-up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(options.minutes * 60, options.seed, pathlib.Path(folder))
        try:
            before, after = soak.run()
            log = soak.router.stderr
        finally:
            soak.stop()
    for (kind, outcome), count in sorted(soak.outcomes.items()):
        print(f"{kind:20} {outcome:10} {count:8}")
    print(f"descriptors {before[0]} -> {after[0]}, memory {before[1] / 2**20:.1f} -> {after[1] / 2**20:.1f} MiB")
    problems = list(soak.broken[:20])
    # The connection that asked for these figures may not have ended yet.
    if after[0] > before[0] + 4:
        problems.append(f"{after[0] - before[0]} descriptors leaked")
    if after[1] > before[1] + options.growth_mib * (1 << 20):
        problems.append("memory grew")
    if soak.router.process.returncode not in (0, -signal.SIGTERM):
        problems.append(f"the router ended with {soak.router.process.returncode}: {log[-2000:]}")
    if sum(count for (_, outcome), count in soak.outcomes.items() if outcome == "answered") < 100:
        problems.append("hardly anything was answered")
    print(json.dumps({"problems": problems}) if problems else "soak: ends as it began")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
