"""Which runs the README's tables of other proxies count."""

import importlib.util
import pathlib

PATH = pathlib.Path(__file__).parents[1] / "Comparison" / "peer_tables.py"
SPEC = importlib.util.spec_from_file_location("peer_tables", PATH)
peer_tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(peer_tables)


def shown(*runs):
    return peer_tables.figure([{"cpu_us": cpu, "steal": steal} for cpu, steal in runs], lambda run: run["cpu_us"], 0)


def test_disturbed_runs_are_left_out_where_two_others_remain():
    assert shown((10, 0.05), (12, 0.01), (90, 0.051)) == "11 (10–12)"


def test_disturbed_runs_count_and_are_marked_where_fewer_remain():
    assert shown((10, 0.0), (90, 0.3)) == "50 (10–90)°"
    assert shown((90, 0.3)) == "90°"


def test_one_undisturbed_run_needs_no_mark():
    assert shown((10, 0.0)) == "10"
    assert shown() == ""
