#!/usr/bin/env python3
"""What routers of one fleet gain from telling one another what they do, and what that costs, with real processes.

    conversations   60 conversations of 5 turns that begin with one of 10 system prompts, each turn at one of the routers by chance,
                    before 8 simulated groups: one router, several, and several that tell one another
    wire            bytes that a router sends to each of the others for a request, and CPU time of a request

    Tests/Benchmarks/replica_sync.py [--routers 8] [--seeds 3] [--only wire]            (or `make replica-sync`)
"""

import argparse
import contextlib
import glob
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "EndToEnd"))

import httpx

import admin
import processes
from replica_wire import udp_ports
from waiting import wait_until

IP_AND_UDP = 28


@contextlib.contextmanager
def fleet(count, tells, **stub):
    """So many routers before 8 groups, that know one another if they are to tell anything."""
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "key").write_text("a key of the benchmark's own")
    stubs = processes.stub(replicas=8, **stub)
    routers = []
    addresses = [f"127.0.0.1:{port}" for port in udp_ports(count)]
    try:
        for number, address in enumerate(addresses):
            peers = json.dumps([other for other in addresses if other != address])
            lines = "log_level: warning\nloops: 1\n"
            if tells:
                lines += f"replicas: {{listen: {address}, peers: {peers}, key_file: {folder / 'key'}}}\n"
            file = folder / f"{number}.yaml"
            file.write_text(lines)
            urls = [f"http://127.0.0.1:{port}" for port in stubs.ports]
            routers.append(processes.serve(*urls, admin=True, arguments=("--config", file)))
        for router in routers if tells else []:
            wait_until(lambda r=router: admin.sample(r, "swiftlet_replicas") == count - 1, what="the others")
        yield routers
    finally:
        for program in [*routers, stubs]:
            program.stop()


# Conversations --------------------------------------------------------------------------------------------------------


def planned(seed, routers):
    """By conversation: when it begins, its system prompt, and its turns as (text, pause behind it, router)."""
    chance = random.Random(seed)
    systems = [f"{i} {chance.random()} " + "rules of the house " * 150 for i in range(10)]

    def turn(conversation, number):
        text = f"{conversation} {number} {chance.random()} " + "a question of some length " * 40
        return text, chance.uniform(0.3, 1.5), chance.randrange(routers)

    return [(chance.uniform(0, 8), systems[c % 10], [turn(c, t) for t in range(5)]) for c in range(60)]


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.first_tokens, self.prompt, self.cached = [], 0, 0


def ask(client, url, messages):
    """The answer's text, its usage and its seconds to the first token."""
    begin, first, text, usage = time.monotonic(), None, "", {}
    options = {"stream": True, "max_tokens": 60, "stream_options": {"include_usage": True}}
    with client.stream("POST", f"{url}/v1/chat/completions", json={"model": "stub-model", "messages": messages} | options) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                first = first or time.monotonic() - begin
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    return text, usage, first


def converse(routers, begin, conversation, tally):
    start, system, turns = conversation
    messages = [{"role": "system", "content": system}]
    with httpx.Client(timeout=60) as client:
        time.sleep(max(0, begin + start - time.monotonic()))
        for text, pause, place in turns:
            messages.append({"role": "user", "content": text})
            answer, usage, first = ask(client, routers[place % len(routers)].url, messages)
            messages.append({"role": "assistant", "content": answer})
            with tally.lock:
                tally.first_tokens.append(first)
                tally.prompt += usage["prompt_tokens"]
                tally.cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            time.sleep(pause)


def conversations(count, tells, seed, planned_for):
    with fleet(count, tells, prefill_us=400, decode_ms=4) as routers:
        tally, begin = Tally(), time.monotonic()
        threads = [threading.Thread(target=converse, args=(routers, begin, c, tally)) for c in planned(seed, planned_for)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ordered = sorted(tally.first_tokens)
    return [tally.cached / tally.prompt, statistics.mean(ordered), *(ordered[int(share * len(ordered))] for share in (0.5, 0.9, 0.99))]


def compare(count, seeds):
    rows = {"one router": (1, False), f"{count} routers": (count, False), f"{count} that tell one another": (count, True)}
    results = {name: [] for name in rows}
    for seed in range(1, seeds + 1):
        for name, (routers, tells) in rows.items():
            results[name].append(conversations(routers, tells, seed, count))
    print(f"{'conversations':28} {'hits':>6} {'TTFT mean':>10} {'p50':>8} {'p90':>8} {'p99':>8}   means of {seeds} seeds")
    for name, runs in results.items():
        hits, *seconds = (statistics.mean(values) for values in zip(*runs, strict=True))
        print(f"{name:28} {100 * hits:5.1f}% " + " ".join(f"{1e3 * value:6.0f}ms" for value in seconds), flush=True)


# The wire -------------------------------------------------------------------------------------------------------------


def cpu_seconds(program):
    return sum(int(pathlib.Path(file).read_text().split()[0]) for file in glob.glob(f"/proc/{program.pid}/task/*/schedstat")) / 1e9


def wire(count, tells, rate, options, seconds=6):
    with fleet(count, tells, prefill_us=5, decode_ms=1) as routers:
        before = sum(map(cpu_seconds, routers))
        command = [processes.BINARY, "bench", "--rate", str(rate), "--duration", str(seconds), *options]
        runs = [
            subprocess.Popen([*command, "--seed", str(seed), router.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for seed, router in enumerate(routers)
        ]
        for run in runs:
            run.wait()

        def total(name, **labels):
            return sum(admin.sample(router, name, **labels) or 0 for router in routers)

        started = sum(admin.total(admin.metrics(router)["swiftlet_requests_started"]) for router in routers)
        cpu = (sum(map(cpu_seconds, routers)) - before) / started
        if not tells:
            return cpu, 0, 0
        datagrams = total("swiftlet_replica_datagrams_total", direction="sent", outcome="sent")
        size = total("swiftlet_replica_bytes_total", direction="sent") + IP_AND_UDP * datagrams
        return cpu, datagrams / started / (count - 1), size / started / (count - 1)


def costs(count):
    short, long = ["--workload", "chatbot", "--output-tokens", "4"], ["--workload", "shared-prefix", "--system-tokens", "6000"]
    print(f"{'wire':44} {'datagrams':>10} {'bytes':>7}   for a request, to each other; {'CPU':>6} without {'with':>6}")
    for name, routers, rate, options in (
        ("2 routers, 400/s each, prompts of 1 KiB", 2, 400, short),
        ("2 routers, 50/s each, prompts of 1 KiB", 2, 50, short),
        ("2 routers, 50/s each, prompts of 32 KiB", 2, 50, [*long, "--input-tokens", "2000", "--output-tokens", "16"]),
        (f"{count} routers, 50/s each, prompts of 1 KiB", count, 50, short),
    ):
        without, (cpu, datagrams, size) = wire(routers, False, rate, options)[0], wire(routers, True, rate, options)
        print(f"{name:44} {datagrams:10.2f} {size:7.0f} {'':30} {1e6 * without:6.0f} µs {'':4} {1e6 * cpu:6.0f} µs", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routers", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("conversations", "wire"))
    arguments = parser.parse_args()
    os.environ.setdefault("SWIFTLET", processes.BINARY)
    if arguments.only != "wire":
        compare(arguments.routers, arguments.seeds)
    if arguments.only != "conversations":
        costs(arguments.routers)
