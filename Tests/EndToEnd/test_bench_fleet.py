"""What `swiftlet bench` starts by itself, routers before simulated groups, and its pages in a browser."""

import json
import os
import pathlib
import signal

import pytest
from chromium import Chromium
from processes import IS_SANITIZED, Program, bench, stub
from waiting import wait_until

#: Groups that answer at once.
INSTANT = ["--stub-flags", "--prefill-us-per-token 0 --decode-ms-per-token 0"]


@pytest.mark.skipif(IS_SANITIZED, reason="the peers' time is not under test")
def test_overhead_of_several_routers_is_one_table(tmp_path):
    out = bench(
        "overhead",
        "--peers",
        "swiftlet,nghttpx",
        "--prompt-bytes",
        "1024,65536",
        "--rate",
        "150,60",
        "--duration",
        0.1,
        "--repeats",
        2,
        *INSTANT,
        "--json",
        tmp_path / "json",
        timeout=90,
    )
    report = json.loads((tmp_path / "json").read_text())
    rows = report["rows"]
    for workload, size in zip(report["workloads"], (1_024, 65_536), strict=True):
        assert workload["contentHash"] in out and workload["scheduleHash"] in out and str(size) in workload["name"]
        assert workload["parameters"]["seed"] == report["parameters"]["seed"] == "1"
    assert not report["isPartial"] and "run 24 of 24: direct, 65536 bytes" in out
    assert [(row["promptBytes"], row["router"]) for row in rows] == [
        (size, name) for size in (1_024, 65_536) for name in ("null test", "swiftlet", "nghttpx")
    ]
    assert all(row["failed"] == 0 and row["runs"] == 2 and row["requests"] > 0 for row in rows)
    assert "nghttpx" in rows[2]["version"]
    assert "Prompts of 1024 bytes" in out and "Prompts of 65536 bytes" in out


def test_an_interrupted_table_shows_what_came_so_far(tmp_path):
    program = Program(
        "bench", "overhead", "--peers", "swiftlet", "--prompt-bytes", "1024,2048", "--arrival", "constant", "--rate", 200,
        "--duration", 0.1, "--repeats", 90, *INSTANT, "--json", tmp_path / "json",
    )  # fmt: skip
    wait_until(lambda: any(line.startswith("run 14 of 546") for line in program.stderr_lines), 60, "the fifth turn")
    program.signal(signal.SIGINT)
    assert program.wait_exit(20) == 130
    program.join_readers()
    report = json.loads((tmp_path / "json").read_text())
    assert report["isPartial"] and any("PARTIAL" in line for line in program.stdout_lines)
    assert [(row["router"], row["promptBytes"]) for row in report["rows"]] == [("null test", 1_024), ("swiftlet", 1_024)]
    assert all(3 <= row["runs"] < 90 and row["added"] for row in report["rows"])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Two routers before three groups at two rates: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("fleet")
    out = bench(
        "fleet",
        "--peers",
        "swiftlet,round-robin,nghttpx",
        "--groups",
        3,
        "--workload",
        "shared-prefix",
        "--system-tokens",
        200,
        "--input-tokens",
        20,
        "--output-tokens",
        4,
        "--rates",
        "40,80",
        "--duration",
        0.3,
        "--repeats",
        1,
        "--goodput",
        "ttft:1000",
        "--stub-flags",
        "--prefill-us-per-token 20 --decode-ms-per-token 1",
        "--json",
        folder / "json",
        "--html",
        folder / "fleet.html",
        "--plot",
        folder / "plot.svg",
        timeout=120,
    )
    return folder, out


def test_a_fleet_run_compares_routers(fleet):
    folder, out = fleet
    report = json.loads((folder / "json").read_text())
    assert [(cell["rate"], cell["router"]) for cell in report["cells"]] == [
        (rate, name) for rate in (40, 80) for name in ("swiftlet", "round-robin", "nghttpx")
    ]
    for cell in report["cells"]:
        assert cell["failed"] == 0 and cell["requests"] > 5 and cell["cachedTokens"] <= cell["promptTokens"]
        assert len(cell["groups"]) <= 3 and sum(map(sum, cell["requestsByGroup"])) == cell["requests"]
    # One schedule for all routers of a rate.
    assert len(report["workloads"]) == 2 and len({one["scheduleHash"] for one in report["workloads"]}) == 2
    assert "run 1 of 6: swiftlet at 40/s" in out and "run 6 of 6: nghttpx at 80/s" in out
    assert "nghttpx" in out and (folder / "plot.svg").read_text().startswith("<svg")


def test_what_a_fleet_run_started_ends_with_it(tmp_path):
    program = Program(
        "bench",
        "fleet",
        "--peers",
        "swiftlet",
        "--groups",
        2,
        "--rate",
        20,
        "--duration",
        60,
        "--input-tokens",
        8,
        "--output-tokens",
        2,
        "--repeats",
        1,
        "--json",
        tmp_path / "json",
    )

    def children():
        return pathlib.Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()

    started = wait_until(lambda: len(found := children()) == 2 and found, 30, "the groups and the router")
    wait_until(lambda: any("under way" in line for line in program.stderr_lines), 30, "a line of progress")
    program.signal(signal.SIGTERM)
    assert program.wait_exit(20) == 130
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in started)
    assert json.loads((tmp_path / "json").read_text())["isPartial"]


def test_a_router_that_does_not_start_costs_only_its_own_row(tmp_path):
    broken = tmp_path / "smg"
    broken.write_text("#!/bin/sh\necho cannot bind >&2\nexit 3\n")
    broken.chmod(0o755)
    out = bench(
        "fleet", "--peers", "smg,swiftlet", "--peers-folder", tmp_path, "--groups", 1, "--rate", 20, "--duration", 0.3,
        "--system-tokens", 16, "--input-tokens", 8, "--output-tokens", 2, "--repeats", 2, *INSTANT, "--json", tmp_path / "json",
        expect=1,
    )  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert [(cell["router"], len(cell["runs"]), cell["failed"]) for cell in report["cells"]] == [("swiftlet", 2, 0)]
    # Where none was named, prompts share their beginnings.
    assert report["workloads"][0]["name"] == "b2b-saas"
    assert "cannot bind" in report["failures"]["smg"] and "NO ANSWER: smg did not start" in out
    # Who runs ahead of whom is the same for every router, and said.
    assert f"generator {report['environment']['generatorSchedule']}, groups {report['environment']['groupSchedule']}" in out


def test_a_router_that_is_missing_is_said_and_left_out(tmp_path, monkeypatch):
    """Nothing of its name is in the folder, nor in PATH."""
    monkeypatch.setenv("PATH", "/nonexistent")
    out = bench(
        "fleet", "--peers", "vllm-router,swiftlet", "--peers-folder", tmp_path, "--groups", 1, "--rate", 20, "--duration", 0.3,
        "--system-tokens", 16, "--input-tokens", 8, "--output-tokens", 2, "--repeats", 1, *INSTANT, "--json", tmp_path / "json",
        "--html", tmp_path / "html", expect=1,
    )  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert [(cell["router"], cell["failed"]) for cell in report["cells"]] == [("swiftlet", 0)]
    assert "make bench-peers" in report["failures"]["vllm-router"] and "run 1 of 1: swiftlet at 20/s" in out
    assert "NO ANSWER: vllm-router did not start" in out and "vllm-router did not start" in (tmp_path / "html").read_text()
    out = bench(
        "overhead", "--peers", "vllm-router,swiftlet", "--peers-folder", tmp_path, "--prompt-bytes", 1024, "--rate", 40, "--duration",
        0.2, "--repeats", 2, *INSTANT, "--json", tmp_path / "json", "--html", tmp_path / "html", expect=1,
    )  # fmt: skip
    report = json.loads((tmp_path / "json").read_text())
    assert [row["router"] for row in report["rows"]] == ["null test", "swiftlet"] and "run 9 of 9: direct, 1024 bytes" in out
    assert list(report["failures"]) == ["vllm-router"] and "vllm-router did not start" in (tmp_path / "html").read_text()
    out = bench("fleet", "--peers", "vllm-router", "--peers-folder", tmp_path, "--groups", 1, "--rate", 20, expect=1)
    assert "NO ANSWER: vllm-router did not start" in out


def test_mistakes_name_the_flag():
    for arguments, flag in [
        (["fleet", "--peers", "swiftlet,nonesuch"], "--peers"),
        (["fleet", "--peers", "swiftlet,swiftlet"], "--peers"),
        (["fleet", "--peers", "swiftlet", "--rate", "10-20"], "--rate"),
        (["fleet", "--peers", "swiftlet", "--groups", "0"], "--groups"),
        (["overhead", "--via", "http://127.0.0.1:1"], "--via"),
        (["overhead", "--peers", "swiftlet", "--prompt-bytes", "1k"], "--prompt-bytes"),
    ]:
        assert flag in bench(*arguments, expect=64)


@pytest.mark.skipif(IS_SANITIZED, reason="the browser is not under test")
def test_reports_are_drawn_whole_in_a_browser(start, fleet, tmp_path):
    engine = start(stub)
    bench(
        "run",
        engine.url,
        "--rate",
        "40,80",
        "--duration",
        0.5,
        "--input-tokens",
        20,
        "--output-tokens",
        3,
        "--html",
        tmp_path / "run.html",
    )
    wanted = {
        tmp_path / "run.html": [
            "Latency by percentile",
            "Time to first token over time",
            "Rate against latency",
            "Requests by group",
        ],
        fleet[0] / "fleet.html": [
            "TTFT mean by rate",
            "TTFT p99 by rate",
            "Hit rate by rate",
            "Goodput by rate",
            "Requests by group, swiftlet",
            "Requests by group, round-robin",
            "Requests by group, nghttpx",
        ],
    }
    small = ["--arrival", "constant", "--rate", 100, "--duration", 0.2, "--input-tokens", 8, "--output-tokens", 2]
    bench("overhead", "--via", engine.url, "--direct", engine.url, "--repeats", 2, *small, "--html", tmp_path / "overhead.html")
    wanted[tmp_path / "overhead.html"] = ["Added, and the null test"]
    bench("search", engine.url, *small, "--goodput", "e2e:60000", "--highest", 200, "--html", tmp_path / "search.html")
    wanted[tmp_path / "search.html"] = ["Goodput by rate", "Time to first token by rate"]
    pictures = pathlib.Path(os.environ.get("SCREENSHOTS", tmp_path))
    with Chromium(tmp_path / "profile") as browser:
        for page, titles in wanted.items():
            browser.open(page.as_uri())
            assert browser.evaluate("[...document.querySelectorAll('svg > title')].map(t => t.textContent)") == titles
            # Every picture has room, something in it, and nothing that stands beyond its edge.
            sizes = browser.evaluate(
                """[...document.querySelectorAll('svg')].map(svg => {
                    const box = svg.getBoundingClientRect(), drawn = svg.getBBox(), view = svg.viewBox.baseVal;
                    const inside = drawn.x >= -1 && drawn.y >= -1 && drawn.x + drawn.width <= view.width + 1
                        && drawn.y + drawn.height <= view.height + 1;
                    return [box.width, box.height, svg.querySelectorAll('polyline, rect, circle').length, inside];
                })"""
            )
            assert all(
                width > 300 and height > 50 and shapes > 0 and inside for width, height, shapes, inside in sizes
            ), sizes
            assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            assert browser.evaluate("document.querySelectorAll('script').length") == 0
            browser.screenshot(pictures / f"{page.stem}.png")
        assert browser.complaints() == []
        assert set(browser.requested()) <= {page.as_uri() for page in wanted} | {"data:,"}
