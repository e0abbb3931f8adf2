"""Faults that growing systems were seen to have, one test each: data, telemetry, rollbacks, measuring, gates.

The numbers are those of a list of 22 faults; the others of that list are tested where the code is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.data import Batch
from esper.kasmina import CNNHost, CNNHostConfig, InjectionPoint, MorphogeneticModel, find_incubating
from esper.leyline import (
    Action,
    Decision,
    EpochOutcome,
    JsonValue,
    Layout,
    LifecycleOp,
    LossKind,
    SeedStage,
    VerdictKind,
)
from esper.tolaria import Autocast, Evaluator, HostRun, MeasuringConfig, Objective
from esper.tolaria.reducer import hash_layout
from esper.tolaria.steps import measure_slots

from .small_run import (
    BATCHES_PER_EPOCH,
    HORIZON,
    ListSink,
    assert_same,
    decide,
    drive,
    make_config,
    make_parts,
    make_run,
    make_task,
    norms_of,
    plant_at_full_alpha,
    tensors_of,
)

# ---------------------------------------------------------------------- 12: every validation item


@pytest.fixture(scope="module")
def fresh_run() -> HostRun:
    """A run that nobody trains."""
    return make_run()


@settings(max_examples=15)
@given(num_items=st.integers(2, 64), chunk=st.integers(1, 70))
def test_bug12_every_validation_item_is_measured_once(fresh_run: HostRun, num_items: int, chunk: int) -> None:
    bench = fresh_run.bench
    evaluator = Evaluator(
        Objective(LossKind.REGRESSION),
        MeasuringConfig(chunk_items=chunk),
        gates_use_loss=True,
        autocast=Autocast(torch.device("cpu"), "off"),
    )
    seen: list[Tensor] = []
    handle = bench.model.register_forward_hook(lambda model, args, outputs: seen.append(args[0]))
    inputs = bench.validation[0][:num_items]
    # Targets that make the mean of all items differ from the mean of any part, or of means of chunks.
    targets = torch.arange(float(num_items))[:, None].expand(-1, 4) ** 2
    result = evaluator.evaluate(bench.model, inputs, targets)
    handle.remove()
    assert torch.equal(torch.cat(seen), inputs)
    bench.model.eval()
    with torch.no_grad():
        expected = (bench.model(inputs).double() - targets.double()).square().mean()
    assert result.loss == pytest.approx(float(expected), rel=1e-5)
    assert result.num_items == num_items


@pytest.mark.parametrize("chunk", [1, 7, 40, 63, 64])
def test_bug12_every_item_has_its_counterfactual(chunk: int) -> None:
    config = make_config()
    run = make_run(replace(config, measuring=replace(config.measuring, chunk_items=chunk)))
    whole = make_run(replace(config, measuring=replace(config.measuring, chunk_items=64)))
    for each in (run, whole):
        plant_at_full_alpha(each, "block1", "conv_light")
        _stir(each)
    outcomes = [
        measure_slots(r.bench.model, r.bench.evaluator, r.bench.pool, r.bench.calibration, r.bench.gate_items)
        for r in (run, whole)
    ]
    found, expected = (outcome["block1"].contribution for outcome, _ in outcomes)
    assert found is not None
    assert expected is not None
    assert found.num_items == 64
    assert found.mean == pytest.approx(expected.mean, abs=1e-6)
    assert abs(expected.mean) > 1e-4


def _stir(run: HostRun) -> None:
    """Give every seed something to do."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for slot in run.bench.model.each_slot():
            for parameter in [] if slot.seed is None else slot.seed.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("batch_size", [31, 32, 36, 95])
def test_bug13_a_host_trains_on_as_many_items_as_the_split_has(batch_size: int) -> None:
    run = make_run(replace(make_config(), batch_size=batch_size))
    for _ in range(2):
        outcome = run.train_epoch()
        assert outcome is not None
        assert outcome.num_train_items == 96
        assert outcome.num_validation_items == 64


# ---------------------------------------------------------------------- 15: gradients in any layout


class GradientWatch:
    """Reads every gradient after every backward pass, as gradient telemetry does."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.num_incubating = 0
        self.layouts: set[bool] = set()

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Take the norm of each gradient that there is."""
        del batch, batch_index
        self.num_incubating += len(find_incubating(model))
        for parameter in model.parameters():
            if parameter.grad is not None:
                self.norms.append(float(parameter.grad.norm()))
        for parameter in model.host.parameters():
            if parameter.dim() == 4 and parameter.shape[1] > 1:
                self.layouts.add(parameter.is_contiguous(memory_format=torch.channels_last))

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("incubation", ["shadow", "residual", "straight_through"])
def test_bug15_gradients_are_told_of_every_stage_in_both_memory_formats(
    incubation: str, memory_format: torch.memory_format
) -> None:
    def build() -> nn.Module:
        host = CNNHost(CNNHostConfig(in_channels=1, num_classes=4, base_channels=4))
        for parameter in host.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)
        return host

    watch = GradientWatch()
    parts = replace(make_parts(probe=watch), build_host=build)
    run = HostRun(make_task(), make_config(incubation=incubation), parts, run_seed=5)
    told: set[SeedStage] = set()
    fossils = 0
    while run.epoch < HORIZON:
        assert not run.apply(decide(run.epoch)).is_refused
        outcome = run.train_epoch()
        assert outcome is not None
        assert 0.0 < outcome.host_gradient_norm < float("inf")
        for report in run.bench.model.reports():
            gradients = outcome.slots.get(report.slot)
            fossils += report.stage is SeedStage.FOSSILIZED
            if gradients is not None and gradients.gradient_ratio is not None:
                assert gradients.has_finite_gradients
                assert 0.0 < gradients.gradient_ratio < float("inf")
                told.add(report.stage)
    assert {SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY} <= told
    assert fossils > 0
    assert watch.num_incubating > 0
    assert all(norm < float("inf") for norm in watch.norms)
    assert watch.layouts == {memory_format is torch.channels_last}


# ---------------------------------------------------------------------- 16 to 18: rollbacks


class Ruin:
    """Multiplies the host's head in the last batch of an epoch: finite, and worse than guessing."""

    def __init__(self, *epochs: int) -> None:
        self.epochs = epochs
        self.epoch = 0

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Ruin the weights at the last batch."""
        del batch
        self.epoch += batch_index == 0
        if batch_index == BATCHES_PER_EPOCH - 1 and self.epoch in self.epochs:
            head = model.host.get_submodule("head")
            with torch.no_grad():
                for parameter in head.parameters():
                    parameter.mul_(-1e4)

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


def _run_to_ruin(*, on_failure: str = "restore", sink: ListSink | None = None) -> HostRun:
    """Return a run of which three epochs are over and the fourth will ruin it; snapshots every epoch."""
    config = replace(make_config(), snapshot_every=1, on_failure=on_failure)
    return make_run(config, make_parts(probe=Ruin(4), sink=sink))


@pytest.mark.parametrize("on_failure", ["restore", "terminate"])
def test_bug16_after_a_rollback_the_optimizer_stands_where_the_snapshot_stood(on_failure: str) -> None:
    run = _run_to_ruin(on_failure=on_failure)
    drive(run, 3, ())
    tensors, state = run.bench.optimizer.state()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    assert any("momentum" in name for name in before)
    assert any(bool(tensor.any()) for tensor in before.values())
    run.train_epoch()
    assert run.verdict.kind == VerdictKind.DIVERGED
    restored, state_after = run.bench.optimizer.state()
    assert_same(before, restored)
    assert state_after == state


def test_bug16_the_epoch_after_a_rollback_does_not_feel_the_lost_one() -> None:
    ruined, spared = _run_to_ruin(), make_run(replace(make_config(), snapshot_every=1))
    for run in (ruined, spared):
        drive(run, 3, ())
    ruined.train_epoch()
    # The same batch at the same weights gives the same step: nothing else of the lost epoch is left over.
    batch = spared.bench.batches.row(3, 0, 0)
    for run in (ruined, spared):
        run.bench.runner.begin()
        run.bench.runner.train_batch(batch, run.clock.batch, run.progress)
    assert_same(tensors_of(spared), tensors_of(ruined))


def test_bug17_a_decision_from_before_a_rollback_is_refused_and_told() -> None:
    sink = ListSink()
    run = _run_to_ruin(sink=sink)
    drive(run, 3)
    stale = Decision(action=Action(op=LifecycleOp.FOSSILIZE, slot="block1"), reason="decided before")
    assert run.bench.model.slot("block1").state.stage is SeedStage.PROBATIONARY
    run.train_epoch()
    assert run.verdict.is_failure
    before = tensors_of(run)
    result = run.apply(stale)
    assert result.is_refused
    assert result.effective.op is LifecycleOp.WAIT
    assert result.refusal is not None
    assert "block1" in result.refusal or "CULLED" in result.refusal
    assert run.bench.model.slot("block1").state.stage is SeedStage.CULLED
    assert_same(before, tensors_of(run))
    told = sink.of("DecisionMade")[-1]
    assert getattr(told, "refusal", None) == result.refusal
    assert run.train_epoch() is not None
    assert not run.verdict.is_failure


def test_bug17_an_ended_host_carries_out_nothing_more() -> None:
    run = _run_to_ruin(on_failure="terminate")
    drive(run, 3)
    run.train_epoch()
    assert run.is_terminated
    assert run.is_finished
    with pytest.raises(RuntimeError, match="is finished"):
        run.train_epoch()


def test_bug18_weights_that_the_governor_rejects_are_never_snapshotted() -> None:
    run = _run_to_ruin()
    drive(run, 3, ())
    before = tensors_of(run)
    seen: list[float] = []
    judge = run.bench.governor.judge

    def look(outcome: EpochOutcome, *, blamed_slot: str | None = None, lasting: str | None = None) -> object:
        # The ruined weights are in the host now; the snapshot must still be the one before them.
        seen.append(max(float(x.abs().max()) for x in tensors_of(run).values()))
        saved = {n.removeprefix("model."): x for n, x in run.last_good.tensors.items() if "model." in n[:6]}
        assert_same(before, saved)
        return judge(outcome, blamed_slot=blamed_slot, lasting=lasting)

    run.bench.governor.judge = look  # type: ignore[method-assign, assignment]
    run.train_epoch()
    run.bench.governor.judge = judge  # type: ignore[method-assign]
    assert seen[0] > 1e3
    assert_same(before, tensors_of(run))
    kept = {n.removeprefix("model."): x for n, x in run.last_good.tensors.items() if n.startswith("model.")}
    assert_same(before, kept)
    assert run.last_good.state["epoch"] == 3
    saved = {n: x for n, x in run.state().tensors.items() if "model." in n}
    assert len(saved) == 2 * len(kept)
    assert all(float(x.abs().max()) < 1e3 for x in saved.values() if x.is_floating_point())


# ---------------------------------------------------------------------- 21: the price of measuring


class ManyBlocks(nn.Module):
    """Images through equal blocks, a growth point after each."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.num_blocks = num_blocks
        for index in range(num_blocks):
            num_in = 4 if index else 1
            self.add_module(
                f"block{index}",
                nn.Sequential(nn.Conv2d(num_in, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
            )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))

    def segments(self) -> tuple[tuple[str, nn.Module], ...]:
        """Return blocks and head in forward order."""
        names = [*(f"block{index}" for index in range(self.num_blocks)), "head"]
        return tuple((name, self.get_submodule(name)) for name in names)

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        """Return one point after each block."""
        return tuple(
            InjectionPoint(slot_id=f"block{i}", path=f"block{i}", layout=Layout.MAP_2D, num_channels=4)
            for i in range(self.num_blocks)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [B, 4]."""
        for _, segment in self.segments():
            inputs = segment(inputs)
        return inputs


@pytest.mark.parametrize("num_slots", [1, 5, 10])
def test_bug21_the_number_of_evaluations_grows_by_one_with_each_seed(num_slots: int) -> None:
    parts = replace(make_parts(), build_host=lambda: ManyBlocks(10))
    config = make_config()
    config = replace(config, measuring=replace(config.measuring, chunk_items=32, calibration_items=64))
    run = HostRun(make_task(), config, parts, run_seed=5)
    for index in range(num_slots):
        plant_at_full_alpha(run, f"block{index}", "conv_light")
    bench = run.bench
    passes: list[int] = []
    head = bench.model.host.get_submodule("head")
    handle = head.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    outcomes, bill = measure_slots(
        bench.model, bench.evaluator, bench.pool, bench.calibration, bench.gate_items
    )
    handle.remove()
    assert len(outcomes) == num_slots
    assert norms_of(run)
    # One calibration and two chunks of 32, each once as it is and once per seed: linear in the seeds.
    assert len(passes) == 3 * (num_slots + 1)
    per_item = (bill.calibration + bill.counterfactual) / 128
    assert per_item <= (num_slots + 1) * (bench.model.host_flops + bench.model.added_flops)


# ---------------------------------------------------------------------- 22: gates of replicas


def _plan_hash(run: HostRun) -> int:
    model, optimizer = run.bench.model, run.bench.optimizer
    isolated = [slot.slot_id for slot in model.each_slot() if slot.state.stage.is_isolated]
    return hash_layout(optimizer.plan(isolated))


def test_bug22_a_gate_that_two_replicas_decide_differently_shows_in_both_hashes() -> None:
    one, other = (make_run(seed=5) for _ in range(2))
    for run in (one, other):
        drive(run, 2)
    assert one.bench.model.topology_hash() == other.bench.model.topology_hash()
    assert _plan_hash(one) == _plan_hash(other)
    # The same decision for both; on one replica a measurement is missing, so that its gate refuses.
    other.bench.model.slot("block1").state.gradient_ratio = None
    advance = Decision(action=Action(op=LifecycleOp.ADVANCE, slot="block1"))
    results = [run.apply(advance) for run in (one, other)]
    assert [result.is_refused for result in results] == [False, True]
    assert one.bench.model.topology_hash() != other.bench.model.topology_hash()
    assert _plan_hash(one) != _plan_hash(other)
