"""How well the stub keeps its time: many concurrent streams over all engines of one process, and what each of their tokens was late.

    SWIFTLET=.build/release/swiftlet python Tests/EndToEnd/stub_streams.py --replicas 16 --streams 2000 --tokens 400

Two views: the stub's own (`stub:token_lateness_seconds`: from the end of a step on its clock until all of the step's tokens had been
written), and the clients' (`swiftlet bench`, one per engine: the gap between two tokens less the step time). The clients take CPU of
the same machine.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile

import httpx
from prometheus_client.parser import text_string_to_metric_families

import processes

STEP_MS = 20


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lateness(port):
    """Upper bounds in ms and cumulative counts of one engine."""
    for family in text_string_to_metric_families(httpx.get(f"http://127.0.0.1:{port}/metrics").text):
        if family.name == "stub:token_lateness_seconds":
            buckets = [s for s in family.samples if s.name.endswith("_bucket")]
            return [(float(s.labels["le"]) * 1e3, s.value) for s in buckets]
    raise AssertionError("no stub:token_lateness_seconds")


def percentile(points, share):
    """Of (value, count) in ascending order."""
    total, seen = sum(count for _, count in points), 0
    for value, count in points:
        seen += count
        if seen >= share * total:
            return value
    return 0.0


def measure(replicas, streams, tokens, seconds=1.0):
    """Starts `streams` within `seconds`, spread evenly over all engines, and waits for their ends. Returns what came of it."""
    program = processes.stub(
        replicas=replicas, prefill_us=1, decode_ms=STEP_MS,
        arguments=["--decode-us-per-sequence", 0, "--max-num-seqs", 1024],
    )  # fmt: skip
    each = streams // replicas
    try:
        before, idle_bytes = cpu_seconds(program.pid), program.resident_bytes()
        with tempfile.TemporaryDirectory() as folder:
            reports = [pathlib.Path(folder) / f"{port}.json" for port in program.ports]
            clients = [
                subprocess.Popen(
                    [processes.BINARY, "bench", "run", f"http://127.0.0.1:{port}", "--workload", "vllm-random", "--input-tokens", "16",
                     "--output-tokens", str(tokens), "--rate", str(each / seconds), "--duration", str(seconds), "--arrival", "poisson",
                     "--seed", str(port), "--json", report],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                )
                for port, report in zip(program.ports, reports, strict=True)
            ]  # fmt: skip
            busy_bytes = 0
            for client in clients:
                while client.poll() is None:
                    busy_bytes = max(busy_bytes, program.resident_bytes())
                    try:
                        client.wait(0.25)
                    except subprocess.TimeoutExpired:
                        continue
            answers = [json.loads(report.read_text()) for report in reports]
        cpu = cpu_seconds(program.pid) - before
        bounds = [lateness(port) for port in program.ports]
    finally:
        program.stop()
    cumulative = [(points[0][0], sum(count for _, count in points)) for points in zip(*bounds, strict=True)]
    steps = [(value, count - (cumulative[i - 1][1] if i else 0)) for i, (value, count) in enumerate(cumulative)]
    gaps = sorted(
        (abs(value / 1e6 - STEP_MS), count) for answer in answers for value, count in answer["metrics"]["itl"]["buckets"]
    )
    return {
        "replicas": replicas,
        "sent": sum(answer["sent"] for answer in answers),
        "completed": sum(answer["completed"] for answer in answers),
        "output_tokens": sum(answer["outputTokens"] for answer in answers),
        "highest_in_flight": sum(answer["highestInFlight"] for answer in answers),
        "written_tokens": sum(count for _, count in steps),
        "stub_late_ms": {share: percentile(steps, share) for share in (0.5, 0.99)},
        "client_gap_error_ms": {share: percentile(gaps, share) for share in (0.5, 0.9, 0.99)},
        "seconds": max(answer["durationSeconds"] for answer in answers),
        "cpu_seconds": cpu,
        "idle_bytes": idle_bytes,
        "busy_bytes": busy_bytes,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=400)
    arguments = parser.parse_args()
    result = measure(arguments.replicas, arguments.streams, arguments.tokens)
    print(f"{result['completed']} of {result['sent']} streams complete, {result['highest_in_flight']} at once, "
          f"{result['output_tokens']} tokens in {result['seconds']:.1f} s")  # fmt: skip
    late, gaps = result["stub_late_ms"], result["client_gap_error_ms"]
    print(f"late at the stub, per token: p50 under {late[0.5]:g} ms, p99 under {late[0.99]:g} ms")
    print(f"gap between tokens less {STEP_MS} ms, at the clients: p50 {gaps[0.5]:.2f} ms, p90 {gaps[0.9]:.2f} ms, p99 {gaps[0.99]:.2f} ms")
    cpu = 100 * result["cpu_seconds"] / result["seconds"] / result["replicas"]
    print(f"the stub: {cpu:.1f} % of a core and {result['busy_bytes'] / result['replicas'] / 1e6:.1f} MB per engine "
          f"({result['idle_bytes'] / result['replicas'] / 1e6:.1f} MB idle)")  # fmt: skip


if __name__ == "__main__":
    main()
