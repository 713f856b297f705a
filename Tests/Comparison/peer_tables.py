#!/usr/bin/env python3
"""The README's tables of what proxies cost, from the results that `make bench` has stored.

    Tests/Comparison/peer_tables.py                  prints them
    Tests/Comparison/peer_tables.py --write          puts them into README.md, between its two `measured` marks

Every figure is the median over the runs of a row, with minimum and maximum in brackets. Ratios are medians of ratios: each run of Swiftlet
by the run of the other proxy that has the same number, the two being neighbours in time. A row that was not run leaves its cells empty.

Runs while the hypervisor took more than 5 % of the processors' time are left out where two others remain; where not, all count, and the figure
is marked.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import sys

HOME = os.environ.get("BENCH_HOME") or pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "swiftlet-bench"
README = pathlib.Path(__file__).resolve().parents[2] / "README.md"
OPENING, CLOSING = "<!-- measured -->", "<!-- /measured -->"
PEERS = ["direct", "direct1", "nullproxy", "nginx", "haproxy", "haproxy-nodelay", "envoy", "nghttpx", "swiftlet", "smg", "sglang-router", "vllm-router"]


#: The share of the processors' time that the hypervisor may take before a run counts as disturbed, and how many others must remain.
STEAL, UNDISTURBED = 0.05, 2
MARK = "°"
LEGEND = f"{MARK} Disturbed: fewer than two of its runs had the hypervisor take at most 5 % of the processors' time, so all of them count."


def is_disturbed(run):
    return run.get("steal", 0) > STEAL


def kept(runs, disturbed=is_disturbed):
    """Those that count, and the mark of their figure: the undisturbed ones if there are enough, else all."""
    clean = [run for run in runs if not disturbed(run)]
    if len(clean) >= UNDISTURBED or len(clean) == len(runs):
        return clean, ""
    return list(runs), MARK


def figure(runs, read, digits=2):
    counted, mark = kept(runs)
    text = cell([read(run) for run in counted], digits)
    return text and text + mark


def results(row, condition=None):
    """The good runs of a row, by peer and by number of the run; a peer with any failed request is left out, and told.
    Some rows run in two conditions: `asis` and `warm`, processors kept awake."""
    path = pathlib.Path(HOME) / "results" / f"{row}.jsonl"
    runs, failed = {}, set()
    for line in path.read_text().splitlines() if path.exists() else ():
        result = json.loads(line)
        if "skip" in result or (condition and result.get("cond") != condition):
            continue
        if result.get("errors"):
            failed.add(result["peer"])
        runs.setdefault(result["peer"], {})[result["run"]] = result
    for peer in failed:
        print(f"{row}: {peer} had failed requests and is left out", file=sys.stderr)
    return {peer: by_run for peer, by_run in runs.items() if peer not in failed}


def order(peers):
    return sorted(peers, key=lambda peer: (PEERS.index(peer.partition(":")[0]), peer))


def cell(values, digits=2):
    values = [value for value in values if value is not None]
    if not values:
        return ""
    spread = f" ({min(values):,.{digits}f}–{max(values):,.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.median(values):,.{digits}f}{spread}"


def table(head, rows):
    """Markdown; rows without any figure are left out, Swiftlet's are bold."""
    lines = ["| " + " | ".join(["", *head]) + " |", "|---" * (len(head) + 1) + "|"]
    for name, cells in rows:
        if any(cells):
            lines.append(f"| {f'**{name}**' if name.startswith('swiftlet') else name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def columns(rows, read, digits=2, leave_out=()):
    """A table with a column for each row of the bench; `read` takes a figure out of one run."""
    found = {name: results(name) for name in rows}
    peers = order({peer for row in found.values() for peer in row} - set(leave_out))
    cells = [(peer, [figure(found[name].get(peer, {}).values(), read, digits) for name in rows]) for peer in peers]
    return table([heading for heading in rows.values()], cells)


def ratio(row, other, read=lambda run: run["cpu_us"]):
    runs = results(row)
    mine, theirs = runs.get("swiftlet", {}), runs.get(other, {})
    pairs, mark = kept([(mine[number], theirs[number]) for number in mine if number in theirs], lambda pair: any(map(is_disturbed, pair)))
    text = cell([read(ours) / read(other_run) for ours, other_run in pairs])
    return text and text + mark


def ratios():
    rows = [(other, [ratio(row, other) for row in ("R1", "R2", "R3", "R4", "R5")]) for other in PEERS if other not in ("direct", "swiftlet")]
    return table(["R1", "R2", "R3", "R4", "R5"], rows)


def latency(row, key, unit, condition=None):
    """p50 and p99, and what each adds to asking the backend directly."""
    runs = results(row, condition)
    if "direct" not in runs:
        return ""
    direct, direct_mark = kept(runs["direct"].values())
    rows = []
    for peer in order(runs):
        found = list(runs[peer].values())
        counted, mark = kept(found)
        cells = []
        for quantile in ("p50", "p99"):
            added = statistics.median(run[key][quantile] for run in counted) - statistics.median(run[key][quantile] for run in direct)
            cells.append(figure(found, lambda run, quantile=quantile: run[key][quantile], 0))
            cells.append("" if peer.startswith("direct") else f"{added:+,.0f}{mark or direct_mark}")
        rows.append((peer, [*cells, "" if peer.startswith("direct") else figure(found, lambda run: run["cpu_us"])]))
    return table(["p50 µs", "added", "p99 µs", "added", f"CPU µs per {unit}"], rows)


def idle():
    rows = []
    for peer, runs in ((peer, results("R9")[peer]) for peer in order(results("R9"))):
        found = list(runs.values())
        per_connection = [(run["rss10000"] - run["rss0"]) * 1024 / 10_000 for run in found if "rss10000" in run]
        rows.append((peer, [cell([run.get(f"rss{count}") for run in found], 1) for count in (0, 1_000, 10_000)]
                     + [cell(per_connection, 1), cell([run.get("idle_cpu_ms_s_10000") for run in found])]))  # fmt: skip
    return table(["MiB at start", "with 1,000", "with 10,000 idle connections", "KiB for each", "CPU ms/s while idle"], rows)


def everything():
    cpu = {"R1": "HTTP/1.1, 500 B (R1)", "R2": "HTTP/1.1, 32 KiB (R2)", "R3": "h2c → h2c (R3)", "R4": "h2c → HTTP/1.1 (R4)", "R5": "gRPC unary (R5)"}
    routers = {"R10-500": "500 B", "R10-1k": "1 KiB", "R10-32k": "32 KiB", "R10-256k": "256 KiB"}
    parts = [
        ("CPU microseconds of the proxy per request:", columns(cpu, lambda run: run["cpu_us"], leave_out=("direct",))),
        ("Swiftlet's CPU by that of the others, medians of ratios:", ratios()),
        ("HTTP/1.1 at 500 requests/s (R6h1):", latency("R6h1", "rtt", "request", "asis")),
        ("The same with processors kept awake:", latency("R6h1", "rtt", "request", "warm")),
        ("HTTP/2 at 500 requests/s (R6h2):", latency("R6h2", "rtt", "request", "asis")),
        ("The same with processors kept awake:", latency("R6h2", "rtt", "request", "warm")),
        ("gRPC at 500 requests/s (R6grpc):", latency("R6grpc", "rtt", "request", "asis")),
        ("The same with processors kept awake:", latency("R6grpc", "rtt", "request", "warm")),
        ("Each event of 64 streams, 5 ms apart, from the backend's stamp to the client (R7):", latency("R7", "event", "event")),
        ("The same 1 ms apart (R7fast):", latency("R7fast", "event", "event")),
        ("Events per second, flat out (R7max):", columns({"R7max": "events/s"}, lambda run: run["rate"], 0)),
        ("TLS, per second on one core (R8):",
         columns({"R8h1": "requests, HTTP/1.1", "R8h2": "requests, HTTP/2", "R8hs": "new handshakes"}, lambda run: run["rate"], 0)),
        ("Memory (R9):", idle()),
        ("Routers with 8 backends and distinct prompts of that size, CPU microseconds per request (R10):",
         columns(routers, lambda run: run["cpu_us"], 1)),
        ("Their memory after that load, MiB:", columns(routers, lambda run: run["rss"], 0)),
    ]  # fmt: skip
    page = "\n\n".join(f"{text}\n\n{rows}" for text, rows in parts if rows)
    return f"{page}\n\n{LEGEND}" if MARK in page else page


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="into README.md instead of standard output")
    if not parser.parse_args().write:
        return print(everything())
    text = README.read_text()
    assert OPENING in text and CLOSING in text, f"{README}: no marks"
    README.write_text(re.sub(f"{OPENING}.*{CLOSING}", lambda _: f"{OPENING}\n\n{everything()}\n\n{CLOSING}", text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
