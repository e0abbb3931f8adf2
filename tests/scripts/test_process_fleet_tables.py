"""What the tables say of fleets in workers and of a training's shares, worked out by hand.

Covers scripts/process_fleet_tables.py, scripts/share_tables.py and scripts/fleet_tables.py.
"""

from __future__ import annotations

import pytest

from fleet_tables import build_fleets
from performance_rows import Row
from process_fleet_tables import build_process_targets, build_process_times
from share_tables import BOOKKEEPING, build_amdahl, build_shares


def way(*wall: float) -> dict[str, object]:
    return {"wall": list(wall), "cpu": [second / 2 for second in wall], "peak_mib": 400.0, "processes": 1}


def case(task: str, *, policy: str = "never", gain: float = 2.0) -> Row:
    serial = [2.0, 4.0, 6.0]
    ways = {"serial": way(*serial), "process": way(*(second / gain for second in serial))}
    if policy == "never":
        ways = {"bare_many": way(1.0, 2.0, 3.0), "bare_one": way(4.0, 4.0, 4.0)} | ways
        ways["fused_process"] = way(0.5, 1.0, 1.5)
    return {"task": task, "policy": policy, "num_hosts": 4, "bare_threads": 2, "ways": ways}


def shares(fleet: str, *, training: list[float], other: float, seed: int = 0) -> Row:
    parts = {"training hosts": training, "never-grown lives": [8.0 if fleet == "serial" else 2.0, 0.0]}
    parts |= {name: [other / len(BOOKKEEPING)] * 2 for name in BOOKKEEPING}
    parts |= {"PPO update": [0.8, 0.8], "rest": [0.2, 0.2]}
    return {"fleet": fleet, "seed": seed, "wall": parts, "cpu": parts}


SHARES = [
    shares("serial", training=[8.0, 8.0], other=1.0),
    shares("fused", training=[2.0, 2.0], other=1.0),
]


def test_targets_are_held_against_the_median_of_epochs_side_by_side() -> None:
    table = build_process_targets([case("cifar")])
    assert "| serial fleet / process fleet | 2.00 [2.00, 2.00] | 3 | >= 1.70 | met |" in table
    assert "| process fleet / bare loops, 2 threads | 1.00 [1.00, 1.00] | 3 | <= 0.63 | **missed** |" in table
    assert "| fused process fleet / bare loops, 2 threads | 0.50 [0.50, 0.50] | 3 | <= 0.63 | met |" in table
    assert "| >= 1.70 | **missed** |" in build_process_targets([case("digits", gain=1.6)])


def test_bare_loops_are_a_target_for_dormant_slots_of_cifar_alone() -> None:
    rows = [case("digits"), case("cifar", policy="heuristic")]
    assert "bare" not in build_process_targets(rows)


def test_every_way_is_shown_per_host_and_beside_both_bare_loops() -> None:
    table = build_process_times([case("cifar")])
    assert (
        "| cifar | 4 | never | serial fleet | 4.000 | 1,000.0 | 2.00 [2.00, 2.00] | 1.00 [0.75, 1.25] "
        "| 1.00 [1.00, 1.00] | 0.50 | 1 | 400 | 100.0 |" in table
    )
    assert "| process fleet | 2.000 | 500.0 | 1.00 [1.00, 1.00] |" in table
    assert "| 2.00 [2.00, 2.00] | - | 1 | 400 | 100.0 |" in table
    alone = build_process_times([case("cifar", policy="heuristic")])
    assert "| cifar | 4 | heuristic | serial fleet | 4.000 | 1,000.0 | - | - |" in alone


def test_one_measured_epoch_is_enough() -> None:
    row = {**case("digits"), "ways": {"serial": way(2.0), "process": way(1.0)}}
    assert "| 2.00 [2.00, 2.00] | 1 |" in build_process_targets([row])
    assert "| process fleet | 1.000 |" in build_process_times([row])


def test_amdahl_is_worked_out_of_the_serial_shares() -> None:
    # p = 8 / 10, s = 4: 1 / (0.2 + 0.8 / 4) = 2.5; measured 10 / 4; bookkeeping 1 of 4.
    line = build_amdahl(SHARES).splitlines()[2]
    assert line == (
        "| wall time | 2 | 0.80 [0.80, 0.80] | 4.00 [4.00, 4.00] | 2.50 [2.50, 2.50] | 2.50 [2.50, 2.50] "
        "| 1.00 [1.00, 1.00] | 0.25 [0.25, 0.25] | <= 0.10 | **missed** | 0.20 [0.20, 0.20] |"
    )
    light = [SHARES[0], shares("fused", training=[2.0, 2.0], other=0.1)]
    assert "| <= 0.10 | met |" in build_amdahl(light)


def test_shares_leave_the_lives_apart() -> None:
    table = build_shares(SHARES)
    assert "| training hosts | 8.000 | 8.000 | 0.80 | 2.000 | 2.000 | 0.50 | 4.00 [4.00, 4.00] |" in table
    assert "| whole round | 10.000 | 10.000 | 1.00 | 4.000 | 4.000 | 1.00 | 2.50 [2.50, 2.50] |" in table
    assert "| never-grown lives, once | 8.000 | 8.000 | - | 2.000 | 2.000 | - | 4.00 [4.00, 4.00] |" in table


def test_rounds_of_several_seeds_are_pooled_and_a_seed_needs_both_fleets() -> None:
    more = [shares(kind, training=[8.0, 8.0], other=1.0, seed=1) for kind in ("serial", "fused")]
    assert "| wall time | 4 |" in build_amdahl([*SHARES, *more])
    with pytest.raises(ValueError, match="seed 1: expected one row of fleet fused, found 0"):
        build_amdahl([*SHARES, more[0]])


def test_fleets_stand_by_task_and_number_of_hosts() -> None:
    names = ("bare", "bare_stack", "gain_bare", "serial", "fused", "gain_fused", "kept", "fused_share")
    row = dict.fromkeys((*names, "dormant", "flops", "acting_share", "rss_per_host_mib"), 1.0)
    rows: list[Row] = [{**row, "task": task, "num_hosts": n} for task, n in (("b", 1), ("a", 8), ("a", 2))]
    lines = build_fleets(rows).splitlines()[2:]
    assert [line.split(" | ")[:2] for line in lines] == [["| a", "2"], ["| a", "8"], ["| b", "1"]]
