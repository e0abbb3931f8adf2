"""Claims about one epoch: sums are those of its batches, faults leave no trace, progress is data."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from esper.data import Batch
from esper.kasmina import MorphogeneticModel
from esper.leyline import Decision, EpochOutcome, JsonValue, SeedStage, UpdateSkipped
from esper.tolaria import EpochProgress
from esper.tolaria.epoch import SlotTotals

from .small_run import (
    BATCHES_PER_EPOCH,
    ListSink,
    StopAfter,
    assert_same,
    germinate,
    host_tensors_of,
    make_config,
    make_parts,
    make_run,
    tensors_of,
    through_json,
)


class BadGradient:
    """Makes the gradients of host or seeds infinite at one batch of the first epoch."""

    def __init__(self, prefix: str, batch: int = 1) -> None:
        self.prefix = prefix
        self.batch = batch

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Spoil the gradients."""
        del batch
        if batch_index != self.batch:
            return
        for name, parameter in model.named_parameters():
            if name.startswith(self.prefix) and parameter.grad is not None:
                parameter.grad.fill_(float("inf"))

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


@pytest.mark.battery("T29")
def test_a_batch_with_a_faulty_host_gradient_changes_neither_weights_nor_statistics() -> None:
    run = make_run(parts=make_parts(probe=BadGradient("host", batch=0)))
    before = tensors_of(run)
    run.train_epoch(StopAfter(1))
    assert_same(before, tensors_of(run))
    assert (run.progress.num_skipped, run.progress.num_items, run.progress.num_steps) == (1, 0, 0)


@pytest.mark.battery("T29")
def test_a_faulty_seed_is_skipped_alone() -> None:
    sink = ListSink()
    spoiled = make_run(parts=make_parts(sink=sink, probe=BadGradient("slots")))
    plain = make_run()
    for run in (spoiled, plain):
        run.apply(Decision(action=germinate("block1")))
    outcome = spoiled.train_epoch()
    plain.train_epoch()
    assert_same(host_tensors_of(plain), host_tensors_of(spoiled))
    assert outcome is not None
    seed = outcome.slots["block1"]
    assert (seed.num_skipped_batches, seed.has_finite_gradients) == (1, False)
    assert outcome.num_skipped_batches == 0
    skipped = [event for event in sink.events if isinstance(event, UpdateSkipped)]
    assert [(event.group, event.num_batches) for event in skipped] == [("block1", 1)]
    assert not spoiled.bench.model.slot("block1").state.is_healthy


def test_the_outcome_counts_every_training_item_once() -> None:
    outcome = make_run().train_epoch()
    assert outcome is not None
    assert outcome.num_train_items == 96
    assert outcome.num_batches == BATCHES_PER_EPOCH
    assert outcome.num_validation_items == 64
    assert 0.0 < outcome.train_loss < 3.0


def test_the_straight_through_seed_trains_in_the_hosts_own_backward_pass() -> None:
    run = make_run(make_config(incubation="straight_through"))
    run.apply(Decision(action=germinate("block1")))
    outcome = run.train_epoch()
    assert outcome is not None
    assert run.bench.model.slot("block1").state.stage is SeedStage.TRAINING
    assert (outcome.slots["block1"].gradient_ratio or 0.0) > 0.0


def test_no_batch_outlives_its_step() -> None:
    run = make_run(make_config(incubation="residual"))
    run.apply(Decision(action=germinate("block1")))
    run.train_epoch(StopAfter(1))
    slot = run.bench.model.slot("block1")
    assert slot.features is None
    assert slot.feature_gradient is None


def test_progress_survives_a_round_trip() -> None:
    progress = EpochProgress(batch=2, loss_sum=1.5, metric_sum=3.0, num_items=64, norm_sum=0.5, num_steps=2)
    progress.slots["block1"] = SlotTotals(ratio=0.5, norm=0.25, num_batches=2, num_skipped=1)
    assert EpochProgress.from_dict(progress.to_dict()) == progress


def test_totals_without_a_batch_have_no_ratio() -> None:
    outcome = SlotTotals(num_skipped=1).outcome()
    assert outcome.gradient_ratio is None
    assert outcome.gradient_norm is None
    assert not outcome.has_finite_gradients


def test_totals_are_means_over_batches() -> None:
    outcome = SlotTotals(ratio=3.0, norm=1.0, num_batches=2).outcome()
    assert (outcome.gradient_ratio, outcome.gradient_norm) == (1.5, 0.5)


@pytest.mark.parametrize("incubation", ["shadow", "residual"])
def test_fp16_scaling_saves_and_resumes_its_scale(incubation: str) -> None:
    config = make_config(incubation=incubation, amp="fp16")
    run, resumed = make_run(config), make_run(config)
    run.apply(Decision(action=germinate("block1")))
    run.train_epoch(StopAfter(1))
    resumed.restore(through_json(run.state()))
    assert run.train_epoch() is not None
    assert resumed.train_epoch() is not None
    assert_same(tensors_of(run), tensors_of(resumed))
    assert all(torch.isfinite(p).all() for p in run.bench.model.parameters())
