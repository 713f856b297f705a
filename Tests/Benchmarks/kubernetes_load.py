#!/usr/bin/env python3
"""What a Kubernetes cluster that changes all the time costs the router, and how soon a change takes effect.

    effect   from the write at the API to the last request routed to the endpoint that it takes away, while 1,000 endpoints change
             in the same burst
    scale    1,000 Services with 10,000 endpoints and 500 changes a second: CPU and memory, and the data path's latency with the
             changes and without them, in turn

    Tests/Benchmarks/kubernetes_load.py            (or `make kubernetes-load`)
"""

import argparse
import asyncio
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "EndToEnd"))

import admin
import kube_api
import processes
from kube_api import SLICE, endpoint, slice_of
from scripted_backend import Hub
from waiting import wait_until

BODY = b'{"model":"m","prompt":"x","max_tokens":1}'


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def router(folder, server, pool, loops=1):
    file, kubeconfig = folder / "swiftlet.yaml", server.kubeconfig(folder / "kubeconfig")
    file.write_text(
        f"access_log: false\nloops: {loops}\npolicy: least-request\n"
        f"discovery: {{kubernetes: {{pods: false, pools: [{{{pool}, groups: {{models: [m]}}}}]}}}}\n"
    )
    return processes.serve(admin=True, arguments=("--config", file, "--kubeconfig", kubeconfig))


def load(program, folder, rate, seconds, log=None):
    """h2load as an open loop of `rate` requests a second."""
    body = folder / "body.json"
    body.write_bytes(BODY)
    clients = 8
    return subprocess.Popen(
        ["h2load", "--h1", f"--clients={clients}", f"--rps={rate / clients:g}", f"--duration={seconds:g}", "--warm-up-time=0",
         f"--data={body}", "--header=content-type: application/json", *([f"--log-file={log}"] if log else []),
         f"{program.url}/v1/completions"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


# Effect


def recorder(pipe, seconds):
    """A process with two backends that remember when requests came; sends their ports, and at last the times."""
    arrivals = ([], [])
    answer = b'{"object":"text_completion","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer

    class Backend(asyncio.Protocol):
        def __init__(self, times):
            self.times = times
            self.received = b""

        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.received += data
            while (end := self.received.find(b"\r\n\r\n")) >= 0 and len(self.received) >= end + 4 + len(BODY):
                self.times.append(time.monotonic_ns())
                self.received = self.received[end + 4 + len(BODY) :]
                self.transport.write(answer)

    async def serve():
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(lambda t=times: Backend(t), "127.0.0.1", 0) for times in arrivals]
        pipe.send([server.sockets[0].getsockname()[1] for server in servers])
        await loop.run_in_executor(None, pipe.recv)

    asyncio.run(serve())
    pipe.send(arrivals)


def measure_effect(folder, rounds=100, changing=1000, rate=1500):
    """Milliseconds of each round; 0: no request came after the write."""
    hub = Hub()
    server = kube_api.KubeAPI(hub)
    ours, theirs = multiprocessing.Pipe()
    pause = 0.2
    backend = multiprocessing.Process(target=recorder, args=(theirs, rounds * pause + 60), daemon=True)
    backend.start()
    ports = ours.recv()

    def probe(which, ready):
        return slice_of("vllm", endpoint("127.0.0.1", f"probe-{which}", ready=ready), port=ports[which], name=f"vllm-probe-{which}")

    def crowd(turn):
        """Nobody of them serves, yet each is another than in the turn before."""
        for number in range(0, changing, 100):
            made = [
                endpoint(f"10.{number // 100}.0.{i}", f"p{number + i}", ready=False, terminating=(turn + i) % 2 == 0) for i in range(100)
            ]
            yield slice_of("vllm", *made, name=f"vllm-{number}")

    server.put(SLICE, *crowd(0), probe(0, True), probe(1, True))
    program = router(folder, server, "services: [vllm], namespace: llm")
    wait_until(lambda: len(admin.leaders(program)) == 2, what="the probes")
    traffic = load(program, folder, rate, 3600)
    writes = []
    try:
        time.sleep(0.5)
        for turn in range(1, rounds + 1):
            which = turn % 2
            server.put(SLICE, *crowd(turn), probe(which, False))
            writes.append((which, server.written_at))
            time.sleep(pause)
            writes.append((which, time.monotonic_ns()))
            server.put(SLICE, probe(which, True))
            time.sleep(pause / 2)
        groups = len(admin.groups(program))
        assert groups == changing + 2, groups
    finally:
        traffic.kill()
        traffic.wait()
        program.stop()
        server.stop()
    ours.send(None)
    arrivals = ours.recv()
    hub.stop()
    return lateness(writes, arrivals)


def lateness(writes, arrivals):
    found = []
    for (which, off), (_, on) in zip(writes[::2], writes[1::2], strict=True):
        late = [at for at in arrivals[which] if off < at < on]
        found.append((max(late) - off) / 1e6 if late else 0.0)
    return found


# Scale


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def address(number):
    return f"127.{10 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


def service(number, of_each, port, turn=0, replaces=False):
    """One endpoint in ten is not ready, another one in each turn. `replaces`: every fifth turn replaces a pod as well."""
    made = [
        endpoint(address(number * of_each + i), f"p{number}-{i}", ready=(i + turn) % of_each != 0) for i in range(of_each)
    ]
    if replaces:
        made[0]["targetRef"]["uid"] += f"-{turn // 5}"
    return slice_of(f"service-{number}", *made, port=port, name=f"service-{number}-a")


async def change(server, services, of_each, port, rate, seconds, replaces):
    """`rate` slices a second are another; returns how many."""
    begin, count = time.monotonic(), 0
    while (elapsed := time.monotonic() - begin) < seconds:
        due = int(elapsed * rate) - count
        for _ in range(due):
            count += 1
            await server._put(SLICE, [service(count * 7919 % services, of_each, port, count, replaces)])
        await asyncio.sleep(0.01)
    return count


def latencies(log):
    """Microseconds of the requests that were answered 200."""
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    assert rows and all(row[1] == "200" for row in rows), {row[1] for row in rows}
    return [int(row[2]) for row in rows]


def measure_scale(folder, services=1000, of_each=10, rate=500, turns=3, seconds=5, requests=300, replaces=False):
    hub = Hub()
    server = kube_api.KubeAPI(hub)
    # One process answers at every address of the loopback network.
    engine = processes.Program("stub", "--listen", "0.0.0.0:0", "--model", "m", "--prefill-us-per-token", 1, "--decode-ms-per-token", 0.1)
    engine.wait_ready()
    program = None
    result = {"groups": services * of_each, "calm": [], "changing": [], "cpu": [], "calm_cpu": []}
    try:
        server.put(SLICE, *(service(number, of_each, engine.port) for number in range(services)))
        begin = time.monotonic()
        program = router(folder, server, "selector: kubernetes.io/service-name, namespace: llm")
        wait_until(lambda: admin.sample(program, "swiftlet_kubernetes_watch_objects", resource=SLICE) == services, 30, what="all slices")
        result["start_s"] = time.monotonic() - begin
        for _ in range(turns):
            for kind in ("calm", "changing"):
                log = folder / "h2load.log"
                log.unlink(missing_ok=True)
                traffic = load(program, folder, requests, seconds, log)
                before, at = cpu_seconds(program.pid), time.monotonic()
                if kind == "changing":
                    count = hub.run(change(server, services, of_each, engine.port, rate, seconds, replaces), timeout=seconds + 30)
                    result["changes"] = result.get("changes", 0) + count
                traffic.wait()
                used = (cpu_seconds(program.pid) - before) / (time.monotonic() - at)
                result["cpu" if kind == "changing" else "calm_cpu"].append(used)
                result[kind].append(latencies(log))
        result["resident_mb"] = program.resident_bytes() / 1e6
        result["seconds"] = turns * seconds
        expected = {
            f"{found['addresses'][0]}:{engine.port}"
            for made in server.objects.values()
            for found in made["endpoints"]
            if found["conditions"]["serving"]
        }
        wait_until(lambda: admin.leaders(program) == expected, 20, what="the last state")
    finally:
        if program:
            program.stop()
        engine.stop()
        server.stop()
        hub.stop()
    return result


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("what", nargs="*", default=["effect", "scale"])
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--replace-pods", action="store_true", help="pods are replaced, too, not only ready or not")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if "effect" in chosen.what:
            found = measure_effect(folder, rounds=chosen.rounds)
            print(
                f"effect, 1,000 endpoints changing, {len(found)} rounds: p50 {quantile(found, 0.5):.1f} ms, "
                f"p99 {quantile(found, 0.99):.1f} ms, largest {max(found):.1f} ms"
            )
        if "scale" in chosen.what:
            found = measure_scale(folder, replaces=chosen.replace_pods)
            print(
                f"scale, {found['groups']} endpoints of 1,000 Services, {found['changes'] / found['seconds']:.0f} changes a second: "
                f"in sync {found['start_s']:.2f} s after the start, {found['resident_mb']:.0f} MB resident, "
                f"{100 * statistics.mean(found['cpu']):.1f} % of a core with the changes, "
                f"{100 * statistics.mean(found['calm_cpu']):.1f} % without"
            )
            for kind in ("calm", "changing"):
                values = [value for turn in found[kind] for value in turn]
                p99s = ", ".join(f"{quantile(turn, 0.99)}" for turn in found[kind])
                print(f"  {kind}: {len(values)} requests, p50 {quantile(values, 0.5)} us, p99 {quantile(values, 0.99)} us (turns: {p99s})")


if __name__ == "__main__":
    main()
