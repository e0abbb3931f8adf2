"""Every fault of the table makes a test of its own file fail, and without a fault all of them pass.

In `kasmina/gates.py`, `kasmina/lifecycle.py`, all terms of `simic/rewards`, `simic/advantages.py` and
`simic/ppo_loss.py`. A fault that no test notices is a hole in the tests: write the test that is missing.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from properties.fault_planter import Sighting
from properties.planted_faults import GROUPS, TESTS_OF, PlantedFault, read_faults, read_source
from source_tree import REPO

FAULTS = read_faults()
FEWEST = 150


def plant_group(group: str) -> list[Sighting]:
    """Plant every fault of a group in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "properties.fault_planter", group],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Sighting(**json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("group", GROUPS)
def test_every_planted_fault_makes_a_test_of_its_file_fail(group: str) -> None:
    seen = plant_group(group)
    planted = {(fault.file, fault.what) for fault in FAULTS if fault.file in GROUPS[group]}
    assert {(one.file, one.what) for one in seen if one.what} == planted
    assert {one.file: one.code for one in seen if not one.what} == dict.fromkeys(GROUPS[group], 0)
    # Exit code 1 and the name of a test: a fault that breaks the import or hangs would tell nothing.
    is_noticed = {one: one.code == 1 and "::" in one.test for one in seen if one.what}
    assert [one for one, is_seen in is_noticed.items() if not is_seen] == []


@pytest.mark.parametrize("file", TESTS_OF)
def test_every_fault_has_its_place_and_changes_what_the_code_says(file: str) -> None:
    trees = {fault.what: ast.dump(ast.parse(fault.plant())) for fault in FAULTS if fault.file == file}
    trees[""] = ast.dump(ast.parse(read_source(file)))
    assert len(set(trees.values())) == len(trees)


def test_every_file_of_gates_rewards_and_learning_has_faults() -> None:
    counts = Counter(fault.file for fault in FAULTS)
    assert counts.keys() == TESTS_OF.keys()
    assert sorted(file for files in GROUPS.values() for file in files) == sorted(TESTS_OF)
    assert len(FAULTS) >= FEWEST


@pytest.mark.parametrize(
    ("old", "times"), [("steps.valid", r"[2-9] times"), ("there is no such text", "0 times")]
)
def test_a_fault_whose_place_is_not_there_once_is_refused(old: str, times: str) -> None:
    with pytest.raises(ValueError, match=times):
        PlantedFault("simic/advantages.py", "test", old, "").plant()
