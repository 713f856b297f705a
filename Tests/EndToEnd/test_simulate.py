"""`swiftlet simulate` as its users call it: equal seeds, equal figures; every format readable by others' readers."""

import csv
import html.parser
import json
import os
import pathlib
import subprocess
from math import exp, log

import pytest

from chromium import Chromium
from processes import IS_SANITIZED

SWIFTLET = os.environ.get("SWIFTLET", ".build/release/swiftlet")
SMALL = ["simulate", "--workload", "shared-prefix", "--rate", "3,6", "--groups", "2", "--seeds", "2"]

# The figures in the order of the table: column in the CSV, names in the JSON; then what the table makes of its unit.
FIGURES = [
    ("mean_ttft_s", "meanTTFT", "mean"),
    ("mean_ttft_ci95_s", "meanTTFT", "halfWidth"),
    ("p50_ttft_s", "p50TTFT", "mean"),
    ("p90_ttft_s", "p90TTFT", "mean"),
    ("p99_ttft_s", "p99TTFT", "mean"),
    ("p99_ttft_ci95_s", "p99TTFT", "halfWidth"),
    ("mean_tpot_s", "meanTPOT", "mean"),
    ("p99_tpot_s", "p99TPOT", "mean"),
    ("mean_e2e_s", "meanEndToEnd", "mean"),
    ("output_tokens_per_s", "outputTokensPerSecond", "mean"),
    ("hit_share", "hitShare", "mean"),
]
UNITS = [1, 1, 1, 1, 1, 1, 1e3, 1e3, 1, 1, 100]

LONGEST_NAME = "smg-cache-aware:match=0.3:absolute=32:relative=1.5"


def simulate(*arguments):
    return subprocess.run([SWIFTLET, *arguments], capture_output=True, text=True, timeout=300)


def test_every_format_says_the_same_and_equal_seeds_are_equal(tmp_path):
    files = [tmp_path / name for name in ("a.json", "b.json", "a.csv", "a.html")]
    rules = ["--policy", "least-cost,round-robin"]
    first = simulate(*SMALL, *rules, "--json", files[0], "--csv", files[2], "--html", files[3])
    assert first.returncode == 0, first.stderr
    second = simulate(*SMALL, *rules, "--threads", "1", "--json", files[1])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert first.stdout == second.stdout

    report = json.loads(files[0].read_text())
    with open(files[2], newline="") as file:
        lines = list(csv.DictReader(file))
    told = [(row["name"], rule["rule"], rule["meanTTFT"]["mean"]) for row in report["rows"] for rule in row["rules"]]
    assert [(line["row"], line["rule"]) for line in lines] == [(row, rule) for row, rule, _ in told]
    for line, (_, _, mean) in zip(lines, told):
        assert abs(float(line["mean_ttft_s"]) - mean) < 1e-5
    summaries = [rule for row in report["rows"] for rule in row["rules"]]
    lines_of_rules = [line.split() for line in first.stdout.splitlines() if line.startswith(("least-cost ", "round-"))]
    printed = [cells for cells in lines_of_rules if len(cells) == 14]
    assert len(printed) == len(summaries) == 4
    for cells, line, rule in zip(printed, lines, summaries):
        assert cells[0] == line["rule"] == rule["rule"]
        assert int(line["requests"]) == rule["requests"]
        for (column, name, part), cell, unit in zip(FIGURES, cells[1:12], UNITS):
            value = rule[name][part]
            assert abs(float(line[column]) - value) <= 0.51e-6 * max(1, abs(value))
            digits = len(cell.partition(".")[2])
            assert abs(float(cell) - value * unit) <= 0.51 * 10.0**-digits, (name, part)
        assert cells[12:] == [line["failed"], line["preemptions"]] == [str(rule["failed"]), str(rule["preemptions"])]
    # Who keeps prefixes together finds them.
    for row in report["rows"]:
        own, other = row["rules"]
        assert own["hitShare"]["mean"] > other["hitShare"]["mean"]

    tags = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, _: tags.append(tag)
    parser.feed(files[3].read_text())
    assert "svg" in tags and "table" in tags and "script" not in tags
    page = files[3].read_text()
    for figure in ("TTFT mean", "TTFT p50", "TTFT p90", "TTFT p99", "hit share"):
        assert f"<figcaption>{figure} by load, requests/s</figcaption>" in page
    for rate in (3, 6):
        for rule in ("least-cost", "round-robin"):
            assert f"<figcaption>shared-prefix @{rate}, {rule}: sequences in flight by group over time" in page
    assert " src=" not in page and 'href="http' not in page and "url(" not in page, "it needs nothing from elsewhere"


@pytest.mark.skipif(IS_SANITIZED, reason="the browser is not under test")
def test_the_page_is_drawn_whole_in_a_browser(tmp_path):
    page = tmp_path / "simulate.html"
    result = simulate(*SMALL, "--policy", f"least-cost,{LONGEST_NAME},round-robin", "--html", page)
    assert result.returncode == 0, result.stderr
    figures = ("TTFT mean", "TTFT p50", "TTFT p90", "TTFT p99", "hit share")
    with Chromium(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        pictures = browser.evaluate(
            """[...document.querySelectorAll('svg')].map(svg => {
                const view = svg.viewBox.baseVal;
                return {
                    title: svg.querySelector('title').textContent,
                    lines: svg.querySelectorAll('polyline').length,
                    texts: [...svg.querySelectorAll('text')].map(text => text.textContent),
                    outside: [...svg.querySelectorAll('text')].filter(text => {
                        const box = text.getBBox();
                        return text.getAttribute('transform') === null
                            && (box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1 || box.y + box.height > view.height + 1);
                    }).map(text => text.textContent),
                };
            })"""
        )
        charts = pictures[: len(figures)]
        assert [chart["title"] for chart in charts] == [f"shared-prefix: {figure}" for figure in figures]
        for chart, figure in zip(charts, figures):
            unit = "" if figure == "hit share" else ", s"
            assert "load, requests/s" in chart["texts"] and f"{figure}{unit}" in chart["texts"], chart
            assert chart["lines"] == 2 * 3, "a line for each rule, and one in the legend"
        assert not any(picture["outside"] for picture in pictures), [p["outside"] for p in pictures]
        assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        browser.screenshot(pathlib.Path(os.environ.get("SCREENSHOTS", tmp_path)) / "simulate.png")
        assert browser.complaints() == []
        assert set(browser.requested()) <= {page.as_uri(), "data:,"}


def test_a_trace_is_played(tmp_path):
    trace = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 200 * index, "input_length": 1_536, "output_length": 8, "hash_ids": [1, 2, 3 + index % 3]} for index in range(100)
    ]
    trace.write_text("\n".join(json.dumps(row) for row in rows))
    out = tmp_path / "out.json"
    result = simulate("simulate", "--trace", trace, "--rate", "1", "--groups", "2", "--seeds", "2", "--json", out)
    assert result.returncode == 0, result.stderr
    rules = json.loads(out.read_text())["rows"][0]["rules"]
    assert [rule["rule"] for rule in rules] == ["least-cost", "round-robin"]
    assert all(rule["failed"] == 0 and rule["requests"] > 100 for rule in rules)


def test_terms_are_ablated_and_routers_are_judged_by_age(tmp_path):
    small = ["simulate", "--workload", "shared-prefix", "--rate", "2,4", "--groups", "2", "--seeds", "1"]
    ablation = simulate(*small, "--ablate", "--json", tmp_path / "ablation.json")
    assert ablation.returncode == 0, ablation.stderr
    rules = [rule["rule"] for rule in json.loads((tmp_path / "ablation.json").read_text())["rows"][0]["rules"]]
    assert rules[0] == "least-cost" and "least-cost:stall=0" in rules and len(set(rules)) == len(rules) > 5
    compared = ablation.stdout.partition("least-cost against each of the others over all rows")[2]
    assert all(rule in compared for rule in rules[1:])

    page = tmp_path / "grid.html"
    grid = simulate("simulate", "--grid", "--rows", "1 routers", "--policy", "least-cost", "--seeds", "1", "--html", page)
    assert grid.returncode == 0, grid.stderr
    heading, _, table = grid.stdout.partition("Routers by the age of reports")
    assert heading and [age in table for age in ("0 ms old", "10 ms old", "500 ms old")] == [True] * 3
    assert "Routers by the age of reports" in page.read_text()


def means(path, figure="meanTTFT"):
    """The mean of a figure by row and rule."""
    return {row["name"]: {rule["rule"]: rule[figure]["mean"] for rule in row["rules"]} for row in json.loads(path.read_text())["rows"]}


@pytest.mark.timeout(300)
def test_round_robin_collapses_where_it_was_seen_to(tmp_path):
    """llm-d's ladder as published: round robin serves 15 requests/s, and at 20 its users wait for half a minute."""
    out = tmp_path / "ladder.json"
    rules = ["--policy", "least-cost,llm-d-legacy,round-robin"]
    result = simulate("simulate", "--suite", "--rows", "b2b-saas @", *rules, "--seeds", "2", "--json", out)
    assert result.returncode == 0, result.stderr
    ladder = means(out)
    assert len(ladder) == 8
    assert ladder["b2b-saas @15"]["round-robin"] < 2
    assert all(ladder[f"b2b-saas @{rate}"]["round-robin"] > 10 for rate in (20, 22, 30, 40, 60))
    assert all(found["least-cost"] < 0.3 for found in ladder.values()), ladder


@pytest.mark.timeout(300)
def test_the_suite_is_won(tmp_path):
    """All that needs no trace, in the geometric mean, against the published rule that comes nearest in it."""
    out = tmp_path / "suite.json"
    nowhere = ["--traces", tmp_path / "nowhere"]
    result = simulate("simulate", "--suite", *nowhere, "--policy", "least-cost,llm-d-legacy", "--seed", "501", "--seeds", "2", "--json", out)
    assert result.returncode == 0, result.stderr
    for name in ("mooncake_synthetic_trace.jsonl", "AzureLLMInferenceTrace_conv.csv", "agentic_coding_200_sessions.jsonl"):
        assert name in result.stderr
    rows = means(out)
    assert len(rows) == 45

    def ratio(figure):
        """Ours by the other's, in the geometric mean."""
        rows = means(out, figure)
        return exp(sum(log(found["least-cost"] / found["llm-d-legacy"]) for found in rows.values()) / len(rows))

    assert ratio("meanTTFT") < 0.97
    assert ratio("p99TTFT") < 1
    assert ratio("outputTokensPerSecond") > 0.98, "not at the expense of output"
    failed = {row["name"] for row in json.loads(out.read_text())["rows"] if any(rule["failed"] for rule in row["rules"])}
    assert failed == {"engine restart @6", "engine restart @9", "engine restart @12"}, "only what an engine dies with is lost"


@pytest.mark.timeout(300)
def test_routers_that_tell_one_another_are_as_good_as_one(tmp_path):
    """Sixteen with reports 100 ms old against one with fresh ones, in the mean and at the 99th percentile, and without loss of output."""
    out = tmp_path / "routers.json"
    found = {}
    for row in ("1 routers, reports 0 ms", "16 routers, sync 20 ms, reports 100 ms"):
        result = simulate("simulate", "--grid", "--rows", row, "--policy", "least-cost", "--seed", "501", "--seeds", "3", "--json", out)
        assert result.returncode == 0, result.stderr
        for name in json.loads(out.read_text())["rows"]:
            found[name["name"]] = {
                figure: name["rules"][0][figure]["mean"] for figure in ("meanTTFT", "p99TTFT", "outputTokensPerSecond")
            }
    loads = sorted({name.partition(",")[0] for name in found if "@" in name}) + [""]
    assert len(loads) == 7, found
    for load in loads:
        begin = f"{load}, " if load else ""
        one, many = found[f"{begin}1 routers, reports 0 ms old"], found[f"{begin}16 routers, sync 20 ms, reports 100 ms old"]
        # Where there are few requests each router has yet to learn how fast the groups are.
        assert many["meanTTFT"] < (1.15 if load else 1.1) * one["meanTTFT"], (load, one, many)
        assert many["outputTokensPerSecond"] > 0.93 * one["outputTokensPerSecond"], (load, one, many)
        if not load:
            assert many["p99TTFT"] < 1.1 * one["p99TTFT"], (one, many)


def test_rivals_are_chosen_by_an_earlier_run(tmp_path):
    earlier, judged = tmp_path / "earlier.json", tmp_path / "judged.json"
    suite = ("simulate", "--suite", "--traces", "nowhere", "--rows", "sibling-bursts @0.1")
    assert simulate(*suite, "--policy", "least-cost,random,power-of-two", "--seeds", "2", "--json", earlier).returncode == 0
    result = simulate(*suite, "--rivals", earlier, "--seed", "11", "--seeds", "2", "--json", judged)
    assert result.returncode == 0, result.stderr
    others = {rule["rule"]: rule for rule in json.loads(earlier.read_text())["rows"][0]["rules"][1:]}
    best = {min(others, key=lambda name: others[name][figure]["mean"]) for figure in ("meanTTFT", "p99TTFT")}
    best.add(max(others, key=lambda name: others[name]["outputTokensPerSecond"]["mean"]))
    rules = [rule["rule"] for rule in json.loads(judged.read_text())["rows"][0]["rules"]]
    assert rules[0] == "least-cost" and set(rules[1:]) == best, (rules, best)

    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    for arguments, text in [
        ((*suite, "--rivals", earlier, "--seed", "2"), "--rivals: expected other seeds than those that chose, found 2 in both"),
        (("simulate", "--suite", "--traces", "nowhere", "--rivals", earlier, "--seed", "11"), "--rivals: expected other rules on all rows, found none on 'b2b-saas @3'"),
        ((*suite, "--rivals", broken), "--rivals: expected what --json has written"),
        ((*suite, "--rivals", tmp_path / "none.json"), "--rivals: expected what --json has written"),
        ((*suite, "--rivals", earlier, "--ablate"), "--rivals: expected --policy's rules"),
        (("simulate", "--rivals", earlier, "--seed", "11"), "--rivals: expected --suite or --grid"),
    ]:
        result = simulate(*arguments)
        assert result.returncode != 0 and text in result.stderr, result.stderr


def test_mistakes_are_named():
    for arguments, text in [
        (["--policy", "fastest"], "--policy: expected one of least-cost"),
        (["--rate", "0"], "--rate: expected numbers above 0"),
        (["--workload", "nothing"], "--workload: expected one of"),
        (["--preset", "llama-3-70b-a100-tp1"], "--preset: expected one of"),
        (["--report-age", "-1"], "--report-age"),
        (["--replica-sync", "0.5"], "--replica-sync: expected 1 to 1,000 ms"),
        (["--suite", "--rows", "no such row"], "--rows: expected a part of one of b2b-saas @3"),
    ]:
        result = simulate("simulate", *arguments)
        assert result.returncode != 0
        assert text in result.stderr, result.stderr
