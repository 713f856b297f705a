"""`make kubernetes-load` in short. Its figures are not judged here, but that every change arrives, and the last state is the server's."""

import sys

import processes

sys.path.insert(0, str(processes.REPOSITORY / "Tests" / "Benchmarks"))

import kubernetes_load


def test_changes_of_a_thousand_endpoints_at_once(tmp_path):
    found = kubernetes_load.measure_effect(tmp_path, rounds=6)
    print(f"milliseconds from the write to the last request: {found}")
    assert len(found) == 6


def test_ten_thousand_endpoints_of_a_thousand_services(tmp_path):
    found = kubernetes_load.measure_scale(tmp_path, turns=1, seconds=2, requests=100, replaces=True)
    print({key: value for key, value in found.items() if key not in ("calm", "changing")})
    assert found["groups"] == 10_000
    assert found["changes"] > 0 and found["calm"] and found["changing"]
