"""The loop of the arms that widen: beside a host run as an oracle, its bill by hand, its momentum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from growth import peer_arm
from growth.bill import Shape, count_plan_flops
from growth.own_arm import OwnRun
from growth.peer_arm import WidthRun, pad_to

from esper.leyline import ConfigError

from .small_task import make_task

EPOCHS = 6


def make_run(*, is_tiny: bool = False, is_momentum_kept: bool = False, seed: int = 1000) -> WidthRun:
    return WidthRun(
        task=make_task(epochs=EPOCHS),
        is_tiny=is_tiny,
        is_momentum_kept=is_momentum_kept,
        learning_rate=0.1,
        seed=seed,
        epochs=EPOCHS,
    )


def test_without_a_growth_it_is_the_same_training_as_a_host_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_arm, "plan_growths", lambda start, end, epochs: ())
    run = make_run()
    host = OwnRun(
        task=run.task, arm="small", hidden=run.task.small, learning_rate=0.1, seed=1000, epochs=EPOCHS
    )
    ours, theirs = host.run(), run.run()
    # Same start, same order, same optimiser, same schedule, same bill: two loops, one curve.
    assert theirs["curve"] == ours["curve"]
    assert theirs["validation_loss"] == pytest.approx(ours["validation_loss"], rel=1e-5)
    assert theirs["flops_total"] == ours["flops_total"]


@pytest.mark.parametrize("is_momentum_kept", [False, True])
def test_random_growth_reaches_the_big_size_at_the_planned_bill(is_momentum_kept: bool) -> None:
    run = make_run(is_momentum_kept=is_momentum_kept)
    row = run.run()
    start = Shape(num_inputs=40, hidden=run.task.small, num_outputs=10)
    assert row["widths"] == list(run.task.big)
    assert row["flops_total"] == count_plan_flops(start, run.task.big, EPOCHS, num_items=640)
    assert row["params_final"] == run.task.params(run.task.big)
    assert row["change_jump"] == pytest.approx(0.0, abs=1e-5)
    assert row["num_refused"] == 0


def test_kept_momentum_makes_another_training_than_a_new_optimiser() -> None:
    assert make_run(is_momentum_kept=True).run()["curve"] != make_run().run()["curve"]


def test_tiny_pays_for_statistics_algebra_and_search() -> None:
    row = make_run(is_tiny=True).run()
    flops = row["flops"]
    assert isinstance(flops, dict)
    assert all(flops[kind] > 0 for kind in ("train", "statistics", "linear_algebra", "line_search"))
    assert row["flops_total"] == sum(flops.values())
    assert row["num_kept"] == int(str(row["num_grown"])) - int(str(row["num_refused"]))


def test_a_published_run_reads_the_test_split_and_a_tuning_run_does_not() -> None:
    assert make_run(seed=1000).run()["test_accuracy"] is None
    assert make_run(seed=0).run()["test_accuracy"] is not None


def test_momentum_is_padded_with_zeros_for_new_rows_and_columns() -> None:
    padded = pad_to(torch.ones(2, 3), torch.Size([3, 5]))
    assert padded[:2, :3].eq(1).all()
    assert padded.sum() == 6


def test_a_run_can_be_repeated() -> None:
    first, again = make_run(is_tiny=True).run(), make_run(is_tiny=True).run()
    assert first | {"growth_seconds": 0} == again | {"growth_seconds": 0}
    other = replace(make_run(is_tiny=True), seed=1001).run()
    assert other["curve"] != first["curve"]


def test_a_library_that_cannot_be_imported_is_no_failure_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("growth.peer_arm.importlib.import_module", fail)
    with pytest.raises(ConfigError, match=r"gromo.*nms.*extra `peers`"):
        peer_arm.require_library()
