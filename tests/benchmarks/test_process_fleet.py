"""Fleets in workers and a training's shares: what is compared, what is refused, and that both scripts run.

Covers benchmarks/process_fleet.py, training_shares.py and turn_taking.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import process_fleet
import pytest
import training_shares
from process_fleet import Case, Turn, Way, keep, load_case, refuse_other_numbers
from training_shares import PartClock
from turn_taking import measure_peaks

from esper.leyline import WAIT, Action, LifecycleOp
from source_tree import REPO


def turn(*losses: float, wall: float = 1.0, effect: Action = WAIT) -> Turn:
    return Turn(wall, wall, list(losses), [effect], (), 0)


def run_script(name: str, out: Path, *arguments: str) -> list[dict[str, object]]:
    # A process of its own: ways are copies of one that has not computed, which cannot be said of this one.
    subprocess.run(
        [sys.executable, str(REPO / "benchmarks" / f"{name}.py"), str(out), *arguments],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_the_case_in_the_shape_of_cifar_has_the_host_and_the_rows_that_it_says() -> None:
    setup = load_case(Case("cifar", "never", 4, 1, 1))
    row = process_fleet.describe(setup, {}, 0.0)
    assert (row["host_params"], row["batch_size"]) == (6418, 512)
    assert (row["rows"], row["validation_rows"]) == (512, 1024)
    assert setup.config.task.is_augmented is False


def test_bare_loops_take_part_only_where_nothing_grows() -> None:
    assert Case("digits", "never", 2, 1, 1).ways[:2] == ("bare_many", "bare_one")
    assert Case("digits", "heuristic", 2, 1, 1).ways == process_fleet.FLEETS


def test_ways_that_do_not_train_the_same_networks_are_refused() -> None:
    turns = {"serial": turn(0.5), "process": turn(0.5), "bare_one": turn(0.5 + 2**-50)}
    refuse_other_numbers(turns, Case("digits", "heuristic", 1, 1, 1), 0)
    with pytest.raises(RuntimeError, match=r"bare_one .* do not train the same networks"):
        refuse_other_numbers(turns, Case("digits", "never", 1, 1, 1), 0)


def test_what_warms_up_is_not_timed_but_what_it_did_is_compared() -> None:
    ways = {"serial": Way(), "fused": Way()}
    other = Action(op=LifecycleOp.GERMINATE, slot="block1", blueprint="norm")
    keep({"serial": turn(0.5), "fused": turn(0.5, effect=other)}, ways, is_warm=False)
    keep({"serial": turn(0.5), "fused": turn(0.5, wall=3.0)}, ways, is_warm=True)
    assert (ways["fused"].wall, ways["fused"].apart, ways["serial"].apart) == ([3.0], 1, 0)


def test_the_largest_resident_set_of_this_process_is_among_its_own() -> None:
    peaks = measure_peaks(os.getpid())
    assert peaks
    assert min(peaks) > 0


def test_a_part_has_its_time_without_what_it_calls() -> None:
    now = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    class Work:
        def outer(self) -> int:
            pass_time(1.0)
            self.inner()
            return 7

        def inner(self) -> None:
            pass_time(2.0)

        def update(self) -> None:
            self.outer()

    clock, work = PartClock(read=lambda: (now, now / 2)), Work()
    clock.watch(work, "outer", training_shares.PAYING)
    clock.watch(work, "inner", training_shares.TRAINING)
    clock.watch(work, "update", training_shares.UPDATE)
    clock.start()
    pass_time(4.0)
    assert work.outer() == 7
    work.update()
    spent = {part: seconds for part, seconds in clock.stop().items() if seconds[0]}
    assert spent == {
        "rest": (4.0, 2.0),
        "rewards and buffer": (1.0, 0.5),
        "training hosts": (2.0, 1.0),
        "PPO update": (3.0, 1.5),
    }


@pytest.mark.slow
@pytest.mark.dist
def test_every_way_of_a_case_is_timed_in_a_process_of_its_own(tmp_path: Path) -> None:
    (row,) = run_script("process_fleet", tmp_path / "out.jsonl", "--cases", "digits:never:2:2")
    ways = row["ways"]
    assert isinstance(ways, dict)
    assert set(ways) == set(Case("digits", "never", 2, 2, 1).ways)
    assert all(len(way["wall"]) == 1 and way["apart"] == 0 for way in ways.values())
    assert ways["process"]["processes"] > ways["serial"]["processes"]
    assert ways["process"]["peak_mib"] > ways["serial"]["peak_mib"] > 0


@pytest.mark.slow
@pytest.mark.dist
def test_a_training_is_divided_into_parts_for_both_fleets(tmp_path: Path) -> None:
    sizes = ("--envs", "2", "--hosts", "2", "--epochs", "3", "--rounds", "2")
    rows = run_script("training_shares", tmp_path / "out.jsonl", *sizes)
    assert [row["fleet"] for row in rows] == ["serial", "fused"]
    for row in rows:
        wall = row["wall"]
        assert isinstance(wall, dict)
        assert set(wall) == set(training_shares.PARTS)
        assert all(len(seconds) == 2 and min(seconds) >= 0 for seconds in wall.values())
        assert min(wall["training hosts"]) > 0
        assert wall["never-grown lives"][0] > wall["never-grown lives"][1]
