"""Tables of learned policies: hosts are paired, trainings averaged first, and every training stands alone."""

from __future__ import annotations

import pytest

from policy_tables import curve_table, policy_table
from study_rows import Row


def make_row(arm: str, seed: int, metric: float, *, training_seed: int | None = None) -> Row:
    return {
        "arm": arm,
        "training_seed": training_seed,
        "seed": seed,
        "protocol_hash": "p",
        "test_metric": metric,
        "objective": metric - 0.1,
        "flops_spent": 300,
        "never_grow_flops": 100,
        "added_params": 50,
        "host_params": 100,
        "num_fossils": seed % 2,
        "base_channels": 3,
        "num_blocks": 2,
        "failure": None,
    }


def read_cells(table: str, policy: str) -> dict[str, str]:
    """The cells of one line by their heads."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    heads, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    (found,) = [row for row in rows if row[0] == policy]
    return dict(zip(heads, found, strict=True))


ROWS = [
    *(make_row("random", seed, 0.80 + 0.01 * seed) for seed in range(4)),
    *(make_row("ppo", seed, 0.90 + 0.01 * seed, training_seed=0) for seed in range(4)),
    *(make_row("ppo", seed, 0.94 + 0.01 * seed, training_seed=7) for seed in range(4)),
]


def test_trainings_are_averaged_on_each_host_before_the_interval() -> None:
    cells = read_cells(policy_table("digits", ROWS), "ppo")
    assert cells["test accuracy"] == "0.9350"
    # 0.12 on every host: the hosts' own levels cancel out, and the two trainings do not widen it.
    assert cells["test accuracy against random"] == "+0.1200 [+0.1200, +0.1200]"
    assert (cells["FLOPs"], cells["parameters"], cells["kept per host"]) == ("3.00x", "1.50x", "0.50")


def test_every_training_has_a_line_of_its_own() -> None:
    table = policy_table("digits", ROWS)
    assert read_cells(table, "- training seed 0")["test accuracy"] == "0.9150"
    assert read_cells(table, "- training seed 7")["test accuracy against random"].startswith("+0.1400")
    assert "(smoke)" in table


def test_trained_policies_are_compared_over_the_trainings_that_both_have() -> None:
    """ppo of training seeds 0 and 7 is .9 and .94 above the hosts' levels, its start of seed 0 alone .87."""
    start = [make_row("alone", seed, 0.87 + 0.01 * seed, training_seed=0) for seed in range(4)]
    other = [make_row("elsewhere", seed, 0.5, training_seed=3) for seed in range(4)]
    table = policy_table("digits", [*ROWS, *start, *other])
    _, _, between = table.split("\n\n")
    cells = read_cells(between, "ppo")
    assert (cells["less"], cells["training seeds"]) == ("alone", "0")
    assert cells["objective J"] == "+0.0300 [+0.0300, +0.0300]"
    assert "elsewhere" not in between
    assert policy_table("digits", ROWS).count("\n\n") == 1


def test_a_policy_is_not_compared_with_itself_nor_with_what_is_missing() -> None:
    cells = read_cells(policy_table("digits", ROWS), "random")
    assert cells["test accuracy against random"] == cells["test accuracy against heuristic"] == "-"


def test_how_a_training_began_and_ended_is_told_from_five_rounds_each() -> None:
    rounds = [
        {"round": n, "num_env_steps": 320 * n, "return": float(n), "gain": None, "op_entropy": 0.5}
        for n in range(1, 13)
    ]
    cells = read_cells(curve_table("digits", [{"arm": "ppo", "seed": 3, "rounds": rounds}]), "3")
    assert cells["return"] == "3.000 > 10.000"
    assert cells["gain in accuracy"] == "- > -"
    assert (cells["rounds"], cells["env steps"]) == ("12", "3,840")


@pytest.mark.parametrize("measure", ["test_metric", "objective"])
def test_a_row_without_a_number_is_refused(measure: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        policy_table("digits", [*ROWS, {**make_row("ppo", 0, 0.9, training_seed=9), measure: None}])
