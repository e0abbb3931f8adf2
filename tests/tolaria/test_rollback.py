"""Going back: every part of the state is that of the last good one, whatever was born or died since."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from esper.data import Batch
from esper.kasmina import INCUBATION_NAMES, MorphogeneticModel
from esper.leyline import (
    Action,
    Decision,
    EpochOutcome,
    Event,
    HostError,
    JsonValue,
    LifecycleOp,
    RolledBack,
    SeedStage,
    VerdictKind,
)
from esper.tolaria import GovernorConfig, HostRun, HostRunConfig, StateRecord
from esper.tolaria.snapshot import capture_state, is_finite

from .small_run import (
    BATCHES_PER_EPOCH,
    EPISODE,
    ListSink,
    assert_same,
    drive,
    germinate,
    host_tensors_of,
    make_config,
    make_parts,
    make_run,
    through_json,
)

Harm = Callable[[MorphogeneticModel, int], None]
NEVER_BACK = ("ledger", "event_count", "is_terminated")
"""Counters of a state that a rollback leaves as they are; `governor.rollback_count` is another."""


def spoil_gradients(model: MorphogeneticModel, batch_index: int) -> None:
    """Two of the three batches of the interval have NaN in the host's gradient."""
    if batch_index > 0:
        gradient = next(model.host.parameters()).grad
        assert gradient is not None
        gradient.view(-1)[0] = math.nan


def blow_up(model: MorphogeneticModel, batch_index: int) -> None:
    """The last batch of the interval ends with a head that is sure of nonsense."""
    if batch_index == BATCHES_PER_EPOCH - 1:
        with torch.no_grad():
            for parameter in model.host.get_submodule("head").parameters():
                parameter.mul_(-100.0)


def forget_all(model: MorphogeneticModel, batch_index: int) -> None:
    """The last batch of the interval ends with a head that answers the same to everything."""
    if batch_index == BATCHES_PER_EPOCH - 1:
        with torch.no_grad():
            for parameter in model.host.get_submodule("head").parameters():
                parameter.zero_()


@dataclass(slots=True)
class Harmful:
    """Does harm in one epoch, counted by its batches."""

    harm: Harm
    epoch: int
    seen: int = 0

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Do harm, if it is time."""
        del batch
        self.seen += batch_index == 0
        if self.seen == self.epoch:
            self.harm(model, batch_index)

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


@dataclass(slots=True)
class StateAtRollback(ListSink):
    """Keeps the state as it is when a rollback is told: put back, nothing culled yet."""

    run: HostRun | None = None
    states: list[StateRecord] = field(default_factory=list)
    topologies: list[str] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        """Take one event."""
        ListSink.emit(self, event)
        if isinstance(event, RolledBack):
            assert self.run is not None
            self.states.append(capture_state(self.run, with_last_good=False))
            self.topologies.append(self.run.bench.model.topology_hash())


def start(harm: Harm, epoch: int, config: HostRunConfig) -> tuple[HostRun, StateAtRollback]:
    """Return a run that comes to harm."""
    sink = StateAtRollback()
    run = make_run(config, make_parts(sink=sink, probe=Harmful(harm, epoch), dropout=0.2))
    sink.run = run
    return run, sink


def comparable(state: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Leave out what must never run backwards."""
    governor = state["governor"]
    assert isinstance(governor, dict)
    kept = {name: value for name, value in state.items() if name not in NEVER_BACK}
    return {**kept, "governor": {**governor, "rollback_count": 0}}


def expect_exact(good: StateRecord, back: StateRecord) -> None:
    """Topology, parameters, moments, statistics, scaler, ramps, timers, random streams are the good ones."""
    assert_same(good.tensors, back.tensors)
    assert comparable(good.state) == comparable(back.state)


@pytest.mark.battery("T31")
@pytest.mark.parametrize("amp", ["off", "fp16"])
@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (spoil_gradients, VerdictKind.NON_FINITE),
        (blow_up, VerdictKind.DIVERGED),
        (forget_all, VerdictKind.COLLAPSED),
    ],
)
def test_the_last_good_state_comes_back_exactly(
    harm: Harm, kind: str, amp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    governor = GovernorConfig(
        window=4, min_history=1, learned_fraction=0.999, collapse_margin=0.1, max_loss_ratio=1.5
    )
    config = replace(make_config(amp=amp), snapshot_every=1, governor=governor)
    run, sink = start(harm, 5, config)
    # The retry draws from a stream of its own; without that the stream itself must be the good one, too.
    monkeypatch.setattr("esper.tolaria.rng.OwnRng.reseed", lambda self, seed: None)
    drive(run, 4)
    good, topology = run.last_good, run.bench.model.topology_hash()
    assert {"block1", "block2"} <= {r.slot for r in run.observe().slots if r.stage.has_seed}
    run.train_epoch()
    assert run.verdict.kind == kind
    (back,) = sink.states
    expect_exact(good, back)
    assert sink.topologies == [topology]
    assert run.epoch == 4
    run.bench.optimizer.check_consistency(trainable(run.bench.model))


def trainable(model: MorphogeneticModel) -> list[str]:
    """Return the names of all parameters that are trained."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


ACROSS: dict[str, tuple[tuple[int, Action], ...]] = {
    "a birth": (*EPISODE[:2], (3, germinate("block3", "conv_small"))),
    "the end of a seed": (
        *EPISODE[:2],
        (3, Action(op=LifecycleOp.CULL, slot="block2")),
        (4, Action()),
    ),
    "the end of one and the birth of another": (
        *EPISODE[:2],
        (3, Action(op=LifecycleOp.CULL, slot="block2")),
        (4, germinate("block3", "norm")),
    ),
}


@pytest.mark.battery("T33")
@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("across", ACROSS)
def test_a_rollback_across_a_change_of_topology_leaves_no_trace_in_the_optimiser(
    across: str, name: str
) -> None:
    config = replace(make_config(), snapshot_every=3)
    config = replace(config, optimizer=replace(config.optimizer, name=name))
    run, sink = start(spoil_gradients, 6, config)
    drive(run, 5, ACROSS[across])
    good = run.last_good
    assert good.state["epoch"] == 3
    alive = {r.slot for r in run.observe().slots if r.stage.has_seed}
    assert alive != {"block1", "block2"}
    run.train_epoch()
    (back,) = sink.states
    random = {name: x for name, x in back.tensors.items() if name.startswith("rng.")}
    expect_exact(StateRecord(tensors={**good.tensors, **random}, state=good.state), back)
    assert run.verdict.is_failure
    model, optimizer = run.bench.model, run.bench.optimizer
    optimizer.check_consistency(trainable(model))
    held = optimizer._optimizer
    assert len(held.state) <= len(trainable(model))
    assert {id(p) for p in held.state} <= {id(p) for p in model.parameters()}
    assert sorted(id(p) for group in held.param_groups for p in group["params"]) == sorted(
        id(p) for p in model.parameters()
    )
    run.train_epoch()
    assert not run.verdict.is_failure


@pytest.mark.battery("T30")
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("incubation", INCUBATION_NAMES)
def test_a_seed_of_nan_that_incubates_leaves_the_host_as_without_it(incubation: str, poison: float) -> None:
    config = make_config(incubation=incubation)
    alone, grown = make_run(config, make_parts(dropout=0.2)), make_run(config, make_parts(dropout=0.2))
    grown.apply(Decision(action=germinate("block2")))
    with torch.no_grad():
        for parameter in grown.bench.model.slot("block2").parameters():
            parameter.fill_(poison)
    for run in (alone, grown):
        run.train_epoch()
        run.train_epoch()
    assert grown.bench.model.slot("block2").state.stage is SeedStage.TRAINING
    assert_same(host_tensors_of(alone), host_tensors_of(grown))
    assert_same(moments_of(alone), moments_of(grown))
    assert alone.signals.validation_loss == grown.signals.validation_loss
    state = grown.bench.model.slot("block2").state
    assert state.shadow_gain is None
    assert not state.is_healthy
    resumed = make_run(config, make_parts(dropout=0.2))
    resumed.restore(through_json(grown.state()))  # a sick seed does not keep a run from being saved


def moments_of(run: HostRun) -> dict[str, Tensor]:
    """Return the host's moments: equal ones mean that every gradient was equal."""
    return {k: x for k, x in run.bench.optimizer.state()[0].items() if k.startswith("host.")}


@pytest.mark.battery("T32")
def test_a_host_that_is_born_with_nan_is_refused_by_name() -> None:
    parts = make_parts()

    def build() -> torch.nn.Module:
        host = parts.build_host()
        with torch.no_grad():
            host.get_parameter("block2.0.weight").view(-1)[3] = math.nan
        return host

    with pytest.raises(HostError, match=r"not finite: weight host\.block2\.0\.weight"):
        make_run(parts=replace(parts, build_host=build))


@pytest.mark.battery("T32")
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_no_state_that_is_kept_as_good_is_ever_bad(epoch: int) -> None:
    config = replace(make_config(), snapshot_every=1)
    run, _ = start(blow_up if epoch == 2 else poison_everything, epoch, config)
    for _ in range(4):
        run.train_epoch()
        assert is_finite(run.last_good)


def poison_everything(model: MorphogeneticModel, batch_index: int) -> None:
    """The last batch of the interval ends with NaN in every weight and statistic."""
    if batch_index == BATCHES_PER_EPOCH - 1:
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor.fill_(math.nan)
