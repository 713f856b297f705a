"""Is the bench exact? Measured against servers whose times and rates are known: a table, and exit 1 on a missed bound.

Wants a quiet machine with two cores, since wall time is what it asks for: `make test` asserts nothing of this.
`make bench-accuracy` runs it."""

import json
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "EndToEnd"))

from processes import BINARY, stub, unused_port
from waiting import wait_until


def bench(url, *arguments, core=None):
    """A run's report and its requests."""
    with tempfile.TemporaryDirectory() as folder:
        report, lines = pathlib.Path(folder) / "report", pathlib.Path(folder) / "lines"
        pin = ["taskset", "-c", str(core)] if core is not None else []
        subprocess.run(
            [*pin, BINARY, "bench", "run", url, "--json", report, "--requests", lines, *map(str, arguments)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
        return json.loads(report.read_text()), [json.loads(line) for line in lines.read_text().splitlines()]


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def cpu_seconds_of_ended_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Findings:
    def __init__(self):
        self.missed = False

    def add(self, what, value, bound, holds):
        self.missed |= not holds
        print(f"{what:<58} {value:>16}   {bound:<12} {'holds' if holds else 'MISSED'}", flush=True)


def constant_latency(findings):
    """A prompt token costs 100 µs, a token of the answer 2 ms and a hundredth of that for its one sequence. Neither side sleeps: a thread's
    wake-up is no part of what the bench measures, and takes 50 µs and more on a virtual machine, several times a request."""
    engine = stub(prefill_us=100, decode_ms=2, arguments=["--busy-poll"])
    try:
        # 20 ms a request, 50 ms apart: they never meet, so the engine's steps are those of one request.
        _, requests = bench(
            engine.url,
            "--arrival",
            "constant",
            "--rate",
            20,
            "--duration",
            20,
            "--warm-up",
            1,
            "--input-tokens",
            40,
            "--output-tokens",
            6,
            "--busy-poll",
        )
    finally:
        engine.stop()
    first = [r["first_token_ns"] - r["due_ns"] - 100_000 * (r["prompt_tokens"] - r["cached_tokens"]) for r in requests]
    gaps = [(r["last_token_ns"] - r["first_token_ns"]) / 5 - 2_020_000 for r in requests]
    for name, errors in (("TTFT", first), ("gap", gaps)):
        for label, share, bound in (("p50", 0.5, 0.2), ("p99", 0.99, 2)):
            value = percentile([abs(error) for error in errors], share) / 1e6
            findings.add(
                f"{name}: off the configured one, {label}", f"{value:.3f} ms", f"<= {bound} ms", value <= bound
            )


def a_stall(findings):
    """100 requests a second, 10 ms apart, at most one under way, before a server that stands still from 0.5 s to 1.5 s after it saw the first.
    What was due in the stall waits for its end; of 300 the p99 is the fourth that came into it."""
    server = subprocess.Popen(
        [sys.executable, str(pathlib.Path(__file__).resolve().parents[1] / "EndToEnd" / "stalling_server.py"), "0.5", "1"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/"
        report, requests = bench(url, "--api", "plain", "--arrival", "constant", "--rate", 100, "--duration", 3, "--max-concurrency", 1)
        stall_ended_after = int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    # The server's clock began between these two ends of the first request, nearer to the second: it had a connection to accept before.
    end_of_stall = requests[0]["end_ns"] + stall_ended_after
    stalled = [r for r in requests if end_of_stall - 1_000e6 <= r["due_ns"] < end_of_stall]
    expected = (end_of_stall - stalled[3]["due_ns"]) / 1e6
    exact = sorted(r["end_ns"] - r["due_ns"] for r in requests)[-4] / 1e6
    off = abs(exact - expected)
    findings.add(f"stall of 1 s: p99 from the schedule, off {expected:.1f} ms", f"{off:.3f} ms", "<= 1 ms", off <= 1)
    coarser = report["metrics"]["e2e"]["p99"] / 1e6 / exact
    findings.add("stall of 1 s: that p99 in the report's histogram", f"{coarser:.4f}", "1 +- 0.001", abs(coarser - 1) <= 0.001)
    hidden = report["metrics"]["e2e_from_send"]["p99"] / 1e6
    findings.add("stall of 1 s: p99 from the send, which hides it", f"{hidden:.3f} ms", "<= 2 ms", hidden <= 2)


def same_throughput(findings):
    """One server, asked for /health by 32 connections, by us and by h2load in turns."""
    engine = stub()
    ratios = []
    try:
        for turn in range(4):

            def ours():
                report, _ = bench(
                    f"{engine.url}/health", "--api", "plain", "--closed-loop", 32, "--rate", 40_000, "--duration", 3
                )
                assert report["failed"] == 0
                return report["requestRate"]

            def theirs():
                out = subprocess.run(
                    ["h2load", "--h1", "-c32", "-t1", "-n120000", f"{engine.url}/health"],
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=120,
                ).stdout
                assert "120000 succeeded" in out
                return float(re.search(r"finished in .*?, ([\d.]+) req/s", out)[1])

            first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
            pair = (first(), second())
            mine, other = pair if turn % 2 == 0 else pair[::-1]
            ratios.append(mine / other)
    finally:
        engine.stop()
    ratio = sum(ratios) / len(ratios)
    findings.add("plain HTTP: requests/s, ours to h2load's", f"{ratio:.3f}", "0.95 to 1.05", abs(ratio - 1) <= 0.05)


def small_requests(findings):
    """A server in C on one core, the bench on the other: what the bench sends in a second of its own CPU time, start and report included, so
    that a server which is slower does not hide it. In brackets what the two came to."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "small").write_text("ok")
        port = unused_port()
        server = subprocess.Popen(
            ["taskset", "-c", "1", "nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", folder, str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"h2c://127.0.0.1:{port}/small"
            wait_until(
                lambda: (
                    subprocess.run(
                        [BINARY, "bench", "run", url, "--api", "plain", "--rate", "10", "--duration", "0.1"],
                        capture_output=True,
                    ).returncode
                    == 0
                ),
                10,
                "nghttpd",
            )
            before = cpu_seconds_of_ended_children()
            report, _ = bench(
                url,
                "--api",
                "plain",
                "--closed-loop",
                128,
                "--connections",
                4,
                "--rate",
                60_000,
                "--duration",
                5,
                core=0,
            )
            seconds = cpu_seconds_of_ended_children() - before
        finally:
            server.kill()
            server.wait()
    rate = report["completed"] / seconds if report["failed"] == 0 else 0
    together = f"{rate:.0f} ({report['requestRate']:.0f})"
    findings.add("small requests per second of one core (HTTP/2)", together, "> 50000", rate > 50_000)


def many_streams(findings):
    """A step takes a second when ten thousand sequences take part, so that all of them are under way at once."""
    engine = stub(prefill_us=0, decode_ms=10, arguments=["--max-num-seqs", 20_000, "--kv-blocks", 200_000])
    try:
        report, _ = bench(
            engine.url,
            "--arrival",
            "constant",
            "--rate",
            2_500,
            "--duration",
            5,
            "--input-tokens",
            8,
            "--output-tokens",
            20,
        )
    finally:
        engine.stop()
    under_way = report["highestInFlight"] if report["failed"] == 0 else 0
    findings.add("streams under way at once, none failed", f"{under_way}", ">= 10000", under_way >= 10_000)


def main():
    findings = Findings()
    for check in (constant_latency, a_stall, same_throughput, small_requests, many_streams):
        check(findings)
    return 1 if findings.missed else 0


if __name__ == "__main__":
    sys.exit(main())
