"""A bad number in any place: the update is withheld, the place is named, statistics come back clean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from battery_rows import BatteryRecord
from esper.data import Batch
from esper.kasmina import MorphogeneticModel
from esper.leyline import Decision, EpochOutcome, JsonValue, RolledBack, UpdateSkipped
from esper.tolaria import HostRun, Objective
from esper.tolaria.fault_origin import FaultOrigin, find_in_pass, find_lasting, is_sound

from .small_run import (
    ListSink,
    StopAfter,
    assert_same,
    drive,
    germinate,
    host_tensors_of,
    make_config,
    make_parts,
    make_run,
    plant_at_full_alpha,
    tensors_of,
    through_json,
)

VALUES = pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
BAD_BATCH = 1
WEIGHT = "host.block2.0.weight"
STATISTIC = "host.block2.1.running_var"
SEED_WEIGHT = "slots.block1.seed.branch.0.weight"


class Planted:
    """Puts one bad number into a gradient, a statistic or a moment at the second batch of the first epoch."""

    def __init__(self, place: str, name: str, value: float, batch: int) -> None:
        self.place, self.name, self.value, self.batch = place, name, value, batch
        self.epoch = 0
        self.run: HostRun | None = None

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Spoil one number, between the backward pass and the step."""
        del batch
        self.epoch += batch_index == 0
        if self.place != "none" and (self.epoch, batch_index) == (1, self.batch):
            with torch.no_grad():
                self._find(model).view(-1)[0] = self.value

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""

    def _find(self, model: MorphogeneticModel) -> Tensor:
        if self.place == "gradient":
            gradient = dict(model.named_parameters())[self.name].grad
            assert gradient is not None
            return gradient
        if self.place == "statistic":
            return dict(model.named_buffers())[self.name]
        assert self.run is not None
        return self.run.bench.optimizer.state()[0][self.name]


def start(place: str, name: str, value: float, batch: int = BAD_BATCH) -> tuple[HostRun, ListSink]:
    """Return a run with an incubating seed and a planted fault."""
    sink, probe = ListSink(), Planted(place, name, value, batch)
    run = make_run(replace(make_config(), snapshot_every=1), make_parts(sink=sink, probe=probe))
    probe.run = run
    run.apply(Decision(action=germinate("block1")))
    return run, sink


def skips(sink: ListSink) -> list[UpdateSkipped]:
    """Return what was told about skipped updates."""
    return [event for event in sink.events if isinstance(event, UpdateSkipped)]


def train_into_the_fault(run: HostRun) -> dict[str, Tensor]:
    """Train up to the bad batch and through it; return the network as it was before."""
    run.train_epoch(StopAfter(BAD_BATCH))
    before = tensors_of(run)
    run.train_epoch(StopAfter(1))
    return before


def expect_withheld(run: HostRun, sink: ListSink, expected: UpdateSkipped) -> None:
    """The bad batch changes nothing in the network, and the event says where it came from."""
    before = train_into_the_fault(run)
    assert_same(before, tensors_of(run))
    run.train_epoch()
    assert skips(sink) == [expected]
    assert all(buffer.isfinite().all() for buffer in run.bench.model.buffers())


def told(place: str, name: str) -> UpdateSkipped:
    """Return the event about the host's bad batch."""
    return UpdateSkipped(epoch=1, group="host", num_batches=1, batch=BAD_BATCH, place=place, name=name)


@pytest.mark.battery("T29")
@VALUES
@pytest.mark.parametrize(("place", "name"), [("gradient", WEIGHT), ("statistic", STATISTIC)])
def test_a_bad_gradient_or_statistic_of_the_host_is_named_and_changes_nothing(
    place: str, name: str, value: float
) -> None:
    run, sink = start(place, name, value)
    expect_withheld(run, sink, told(place, name))


@pytest.mark.battery("T29")
@VALUES
def test_a_bad_gradient_of_a_seed_skips_that_seed_alone_and_is_named(value: float) -> None:
    run, sink = start("gradient", SEED_WEIGHT, value)
    plain, _ = start("gradient", SEED_WEIGHT, 0.0)
    before = train_into_the_fault(run)
    train_into_the_fault(plain)
    assert_same(host_tensors_of(plain), host_tensors_of(run))
    after = tensors_of(run)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("slots."))
    run.train_epoch()
    origin = {"place": "gradient", "name": SEED_WEIGHT, "slot": "block1", "batch": BAD_BATCH}
    assert skips(sink) == [UpdateSkipped(epoch=1, group="block1", num_batches=1, **origin)]  # type: ignore[arg-type]


@pytest.mark.battery("T29")
@VALUES
def test_a_bad_loss_is_named_and_changes_nothing(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    run, sink = start("none", "", 0.0)
    compute = Objective.loss

    def spoiled(objective: Objective, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = compute(objective, outputs, targets)
        is_due = run.bench.model.training and run.progress.batch == BAD_BATCH
        return loss * value if is_due and not run.epoch else loss

    run.bench.model.lifecycle.cull(run.bench.model.slot("block1"), run.clock, "test", tempo_epochs=0)
    run.bench.follow_topology()
    monkeypatch.setattr(Objective, "loss", spoiled)
    expect_withheld(run, sink, told("loss", ""))


@pytest.mark.battery("T29")
@VALUES
def test_a_bad_activation_is_named_and_changes_nothing(value: float) -> None:
    run, sink = start("none", "", 0.0)

    def spoil(module: nn.Module, args: object, output: Tensor) -> Tensor | None:
        del args
        if not (module.training and run.progress.batch == BAD_BATCH) or run.epoch:
            return None
        bad = output.clone()
        bad.view(-1)[0] = value
        return bad

    run.bench.model.host.get_submodule("block2.0").register_forward_hook(spoil)
    before = train_into_the_fault(run)
    assert_same(
        {name: x for name, x in before.items() if name.startswith("host.")},
        {name: x for name, x in tensors_of(run).items() if name.startswith("host.")},
    )
    run.train_epoch()
    assert skips(sink)[0] == told("activation", "host.block2.0")
    assert all(buffer.isfinite().all() for buffer in run.bench.model.buffers())


@pytest.mark.battery("T29")
@VALUES
@pytest.mark.parametrize("batch", [1, 2])
def test_a_bad_moment_is_named_and_what_it_did_is_taken_back(value: float, batch: int) -> None:
    moment = f"{WEIGHT}/momentum_buffer"
    run, sink = start("moment", moment, value, batch)
    before = host_tensors_of(run)
    run.train_epoch()
    assert run.verdict.is_failure
    assert_same(before, host_tensors_of(run))
    (event,) = [event for event in skips(sink) if event.group == "host"]
    assert (event.place, event.name, event.slot) == ("moment", moment, None)
    (back,) = [event for event in sink.events if isinstance(event, RolledBack)]
    assert f"moment {moment}" in back.reason
    run.train_epoch()
    assert not run.verdict.is_failure


@pytest.mark.battery("T29")
@VALUES
def test_a_bad_moment_of_an_isolated_seed_stays_with_that_seed(value: float) -> None:
    run, sink = start("moment", f"{SEED_WEIGHT}/momentum_buffer", value)
    plain, _ = start("none", "", 0.0)
    outcome = run.train_epoch()
    plain.train_epoch()
    assert_same(host_tensors_of(plain), host_tensors_of(run))
    assert outcome is not None
    assert not run.verdict.is_failure
    assert not outcome.slots["block1"].has_finite_gradients
    (event,) = skips(sink)
    assert (event.group, event.place, event.slot) == ("block1", "moment", "block1")


@pytest.mark.battery("T29")
def test_the_seed_that_holds_the_bad_number_is_blamed_for_the_hosts_fault(battery: BatteryRecord) -> None:
    sink = ListSink()
    run = make_run(make_config(), make_parts(sink=sink))
    plant_at_full_alpha(run, "block1", "conv_light")
    plant_at_full_alpha(run, "block3", "conv_light")
    run.bench.follow_topology()
    run.last_good = run.state()
    with torch.no_grad():
        next(iter(run.bench.model.slot("block1").parameters())).view(-1)[0] = math.nan
    run.train_epoch()
    battery.record()
    assert run.verdict.blamed_slot == "block1"
    assert (skips(sink)[0].slot, skips(sink)[0].place) == ("block1", "weight")


def test_origins_survive_a_stop_in_mid_epoch() -> None:
    run, _ = start("gradient", WEIGHT, math.inf)
    train_into_the_fault(run)
    sink = ListSink()
    resumed = make_run(replace(make_config(), snapshot_every=1), make_parts(sink=sink))
    resumed.restore(through_json(run.state()))
    assert resumed.progress.faults == run.progress.faults
    resumed.train_epoch()
    assert skips(sink) == [told("gradient", WEIGHT)]


def test_a_sound_network_holds_nothing_bad_and_shows_nothing_bad() -> None:
    run = make_run()
    drive(run, 4)
    model, inputs = run.bench.model, run.bench.validation[0]
    assert find_lasting(model, run.bench.optimizer) == {}
    assert find_in_pass(model, inputs, lambda: model(inputs)) is None
    assert find_in_pass(model, inputs * math.inf, lambda: None) == FaultOrigin(place="input", name="")
    assert not any(module._forward_hooks for name, module in model.named_modules() if name.endswith(".0"))


def test_origins_are_told_in_words_and_kept_as_plain_data() -> None:
    origin = FaultOrigin(place="weight", name=SEED_WEIGHT, slot="block1", batch=3)
    assert origin.describe() == f"weight {SEED_WEIGHT} at batch 3"
    assert replace(origin, batch=None).describe() == f"weight {SEED_WEIGHT}"
    assert FaultOrigin(place="loss", name="").describe() == "loss"
    for kept in (origin, FaultOrigin(place="loss", name="")):
        assert FaultOrigin.from_json(kept.to_json()) == kept


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, True), (-9e18, True), (1e19, False), (math.nan, False)]
)
def test_a_number_is_sound_if_its_square_fits(value: float, expected: bool) -> None:
    assert is_sound(value) is expected
    assert is_sound(-value) is expected
