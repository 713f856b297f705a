"""What a routing decision costs in instructions and allocations, counted by valgrind, and by a library in front of the allocator, on
`swiftlet-benchmarks` (Tests/Benchmarks): counts do not depend on the machine's mood. `RECORDED` is what was counted; a change that lowers a figure by more than the tolerance should lower it
here, too.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import struct
import subprocess

import pytest

import processes
from test_allocations import counter  # noqa: F401

BINARY = pathlib.Path(processes.BINARY).parent / "swiftlet-benchmarks"

pytestmark = pytest.mark.skipif("release" not in processes.BINARY, reason="counts the release binary only")

#: Instructions of one: a decision with its booking, first token and settlement, among so many groups; a 32 KiB body read and
#: hashed, and one that the fast reader declines at its end, so that both read it. Reading took 8 % fewer when each escape waited for the one
#: before it, and half as long again. To fetch ahead what is missed takes 6 % more instructions of a new prompt (`cold`) and half of its time.
RECORDED = {"bare-8": 6_730, "turns-8": 14_390, "cold-8": 28_650, "bare-1000": 17_870, "turns-1000": 32_610, "cold-1000": 35_590,
            "turns-8-shared": 16_110, "turns-1000-shared": 34_520,
            "probe": 117_310, "declined": 236_920}  # fmt: skip
TOLERANCE = 0.10
ROUNDS = 500


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    # callgrind does not understand all of the compiler's debug information.
    stripped = tmp_path_factory.mktemp("benchmarks") / BINARY.name
    subprocess.run(["strip", "--strip-debug", "-o", stripped, BINARY], check=True)
    return stripped


def per_round(measure, what):
    """What another round costs: a start, an index that is filled and a fleet that is brought to work cost the same in both runs, which are
    counted beside one another."""
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        few, many = threads.map(lambda rounds: measure(what, rounds), (ROUNDS, 2 * ROUNDS))
    return (many - few) / ROUNDS


@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
@pytest.mark.parametrize("what", RECORDED)
def test_instructions(binary, what):
    def instructions(what, rounds):
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", binary, "count", what, str(rounds)],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return int(re.search(r"Collected : (\d+)", done.stderr)[1])

    counted = per_round(instructions, what)
    print(f"{what}: {counted:.0f} instructions, recorded {RECORDED[what]}")
    assert counted <= RECORDED[what] * (1 + TOLERANCE)


@pytest.mark.parametrize("what", RECORDED)
def test_a_decision_allocates_nothing(counter, tmp_path, what):  # noqa: F811
    def allocations(what, rounds):
        counts = tmp_path / str(rounds)
        environment = {**os.environ, "LD_PRELOAD": str(counter), "ALLOCATION_COUNTS": str(counts)}
        subprocess.run([BINARY, "count", what, str(rounds)], env=environment, capture_output=True, timeout=120, check=True)
        counted = sum(struct.unpack("QQ", counts.read_bytes()))
        assert counted > 0, "a start allocates"
        return counted

    assert per_round(allocations, what) == 0
