"""Runs of hosts: their bill by hand, what changes in them, and that they can be repeated."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from growth.own_arm import OwnRun

from esper.leyline import JsonValue

from .small_task import make_task

EPOCHS = 6


def make_run(arm: str, *, fossils: tuple[Mapping[str, JsonValue], ...] = (), width: int = 4) -> OwnRun:
    task = make_task(width=width, epochs=EPOCHS)
    return OwnRun(
        task=task,
        arm=arm,
        hidden=task.small,
        learning_rate=0.1,
        seed=1000,
        epochs=EPOCHS,
        fossils=fossils,
    )


def test_a_fixed_size_costs_three_forward_passes_per_item_and_never_changes() -> None:
    run = make_run("small")
    row = run.run()
    forward = 2 * (40 * 4 + 4 * 4 + 4 * 4 + 4 * 10)
    assert row["flops_total"] == 3 * forward * 640 * EPOCHS
    assert run.epoch_flops() * EPOCHS == row["flops_total"]
    assert row["loss_jump"] is None
    assert row["params_final"] == row["params_peak"] == run.task.params(run.hidden)
    assert row["test_accuracy"] is None


def test_a_network_that_was_grown_before_pays_for_its_seeds_from_the_first_epoch() -> None:
    fossil = {"slot": "hidden2", "blueprint": "mlp", "blend": "add"}
    run = make_run("static_final", fossils=(fossil,))
    row = run.run()
    seed = 2 * (4 * 16 + 16 * 4)
    forward = 2 * (40 * 4 + 4 * 4 + 4 * 4 + 4 * 10) + seed
    assert row["flops_total"] == 3 * forward * 640 * EPOCHS
    assert row["num_kept"] == 1
    assert row["num_grown"] == 0


def test_a_run_can_be_repeated() -> None:
    first, again = make_run("periodic_random").run(), make_run("periodic_random").run()
    assert int(str(first["num_grown"])) >= 1
    seconds = {"growth_seconds": 0}
    assert first | seconds == again | seconds


@pytest.mark.slow
def test_periodic_growth_over_a_whole_run_keeps_one_seed_per_slot() -> None:
    task = make_task(epochs=20)
    run = OwnRun(task=task, arm="round_robin", hidden=task.small, learning_rate=0.1, seed=1000, epochs=20)
    row = run.run()
    fossils = row["fossils"]
    assert isinstance(fossils, list)
    assert [(fossil["slot"], fossil["blueprint"]) for fossil in fossils] == [
        ("hidden1", "mlp"),
        ("hidden2", "mlp_small"),
        ("hidden3", "low_rank"),
    ]
    assert row["num_refused"] == 0
    assert row["loss_jump"] is not None
    # Measuring of an arm that reads nothing must not show in its bill.
    flops = row["flops"]
    assert isinstance(flops, dict)
    assert flops["counterfactual"] < 0.01 * int(str(row["flops_total"]))
