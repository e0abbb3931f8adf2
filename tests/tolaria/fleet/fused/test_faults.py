"""A host that goes bad among others is found out, rolled back and told of as if it were alone.

Also esper/tolaria/fleet/fused/training.py, where a faulty row is skipped and put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.data import ArraySplit, TaskData
from esper.kasmina import BlueprintRegistry, SlotSpec, builtin_registry
from esper.leyline import (
    Action,
    Decision,
    GovernorGaveUpError,
    Layout,
    LifecycleOp,
    Observation,
    RolledBack,
    UpdateSkipped,
    VerdictKind,
)
from esper.tolaria import GovernorConfig, HostRun, HostRunParts, OptimizerConfig
from esper.tolaria.fleet.fused import FusedFleet
from tolaria.fleet.fused.double_hosts import (
    Kind,
    cnn,
    do,
    grow,
    image_data,
    make_host_parts,
    mlp,
    quick_config,
)
from tolaria.fleet.fused.twins import AnyFleet, Twins, expect_bit_equal, expect_same
from tolaria.small_run import make_task

pytestmark = [pytest.mark.usefixtures("in_double"), pytest.mark.fault]

SICK = 1
EPISODE = {
    (0, place): grow("block1", name) for place, name in enumerate(("conv_small", "attention", "norm"))
} | {(1, place): do(LifecycleOp.ADVANCE, "block1") for place in (0, SICK)}


def image_parts() -> HostRunParts:
    return make_host_parts(cnn(), blueprints=("conv_small", "attention", "norm"))


def spoil_head(run: HostRun) -> None:
    for parameter in run.bench.model.host.get_submodule("head").parameters():
        parameter.mul_(1e20)


def mislead_head(run: HostRun) -> None:
    for parameter in run.bench.model.host.get_submodule("head").parameters():
        parameter.mul_(-1e9)


def spoil_weight(run: HostRun) -> None:
    run.bench.model.host.get_parameter("block2.0.weight").view(-1)[3] = math.nan


def spoil_moment(run: HostRun) -> None:
    parameter = run.bench.model.host.get_parameter("head.2.weight")
    next(iter(run.bench.optimizer.moments(parameter).values())).view(-1)[0] = math.inf


def spoil_statistic(run: HostRun) -> None:
    run.bench.model.host.get_buffer("block2.1.running_var")[1] = math.inf


def spoil_seed(run: HostRun) -> None:
    next(run.bench.model.slot("block1").parameters()).view(-1)[0] = math.nan


def spoil_seed_moment(run: HostRun) -> None:
    parameter = next(run.bench.model.slot("block1").parameters())
    next(iter(run.bench.optimizer.moments(parameter).values())).view(-1)[0] = math.nan


HARMS: dict[str, tuple[Callable[[HostRun], None], str]] = {
    "head": (spoil_head, VerdictKind.NON_FINITE),
    "misled head": (mislead_head, VerdictKind.DIVERGED),
    "weight": (spoil_weight, VerdictKind.NON_FINITE),
    "moment": (spoil_moment, VerdictKind.NON_FINITE),
    "statistic": (spoil_statistic, VerdictKind.NON_FINITE),
    "blended seed": (spoil_seed, VerdictKind.NON_FINITE),
    "moment of a blended seed": (spoil_seed_moment, VerdictKind.NON_FINITE),
}
MODES = [
    pytest.param(harm, mode, marks=() if (harm, mode) in QUICK else pytest.mark.slow)
    for QUICK in [{("head", "restore"), ("blended seed", "terminate")}]
    for harm in HARMS
    for mode in ("restore", "terminate")
]


@pytest.mark.parametrize("is_watched", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("harm", "mode"), MODES)
def test_a_bad_row_is_rolled_back_as_if_alone_and_the_others_never_notice(
    harm: str, mode: str, *, is_watched: bool
) -> None:
    spoil, verdict = HARMS[harm]
    kind = Kind(parts=image_parts, config=quick_config(snapshot_every=1, on_failure=mode))
    twins = Twins(kind, range(3), is_watched=is_watched)
    healthy = FusedFleet(kind.builder()[0], range(3), encode=list)
    for epoch in range(4):
        if epoch == 2:
            twins.harm(SICK, spoil)
        twins.step(EPISODE)
        for run in healthy.runs:
            assert run.verdict.is_failure is False
        healthy.apply(decide(epoch))
        healthy.train_epoch()
        if epoch == 2:
            assert twins.fused.runs[SICK].verdict.kind == verdict
            assert twins.fused.is_finished == (False, mode == "terminate", False)
        if epoch == 2 or mode == "restore":
            expect_others_equal(twins, healthy)
    events = twins.fused_sink.of_host[SICK].events
    assert any(isinstance(event, RolledBack) for event in events)
    assert twins.fused.share.alone == 0


def decide(epoch: int) -> list[Decision]:
    """Return what the episode says."""
    return [Decision(action=EPISODE.get((epoch, place), Action())) for place in range(3)]


def expect_others_equal(twins: Twins, healthy: FusedFleet[list[Observation]]) -> None:
    """Assert that the hosts beside the sick one are the same to the bit."""
    for place in (0, 2):
        expect_bit_equal(twins.fused.runs[place], healthy.runs[place])


def sick_registry() -> BlueprintRegistry:
    """Return the built-in blueprints and one of known modules that is born with an infinite weight."""
    registry = builtin_registry().extended()

    def count(spec: SlotSpec) -> int:
        return 2 * spec.num_channels**2

    @registry.register("sick", family="sick", layouts=[Layout.FLAT], count_params=count)
    def build(spec: SlotSpec) -> nn.Module:
        first, last = (nn.Linear(spec.num_channels, spec.num_channels, bias=False) for _ in range(2))
        nn.init.constant_(first.weight, math.inf)
        nn.init.zeros_(last.weight)
        return nn.Sequential(first, nn.ReLU(), last)

    return registry


def test_a_sick_seed_in_isolation_is_skipped_alone_and_its_host_goes_on() -> None:
    names = ("sick", "mlp_small")

    def parts() -> HostRunParts:
        return replace(make_host_parts(mlp(), blueprints=names), registry=sick_registry())

    twins = Twins(Kind(parts=parts, config=quick_config(snapshot_every=1)), range(3))
    healthy = Twins(Kind(parts=parts, config=quick_config(snapshot_every=1)), range(3))
    episode = {(0, 0): grow("hidden1", "mlp_small"), (0, 1): grow("hidden1", "sick")}
    for _ in range(3):
        outcomes = twins.step(episode)
        assert outcomes[1].slots["hidden1"].num_skipped_batches == 3
        assert outcomes[1].num_skipped_batches == 0
        assert not twins.fused.runs[1].verdict.is_failure
        healthy.step({(0, 0): episode[0, 0]})
    assert twins.fused.share.alone == 0
    host, other = (dict(t.fused.runs[1].bench.model.host.named_parameters()) for t in (twins, healthy))
    assert all(torch.equal(parameter, other[name]) for name, parameter in host.items())
    expect_others_equal(twins, healthy.fused)


def flat_data_with_a_bad_item() -> TaskData:
    """Return the images as flat numbers; one training item holds a NaN."""
    data = image_data()

    def flat(split: ArraySplit) -> ArraySplit:
        values = split.inputs.flatten(1).to(torch.float32) / 255.0
        return ArraySplit(inputs=values, targets=split.targets, source=f"flat {split.source}")

    train = flat(data.train)
    train.inputs[40, 7] = math.nan
    return replace(
        data,
        train=train,
        validation=flat(data.validation),
        test=flat(data.test),
        mean=data.mean * 64,
        std=data.std * 64,
    )


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_bad_item_costs_each_host_the_batch_that_held_it(*, is_watched: bool) -> None:
    data = flat_data_with_a_bad_item()
    task = replace(make_task(), input_shape=(64,))
    kind = Kind(parts=lambda: make_host_parts(mlp("batch"), data, blueprints=("norm",)), task=task)
    twins = Twins(kind, range(4), is_watched=is_watched)
    episode = {(0, 1): grow("hidden1", "norm")}
    places = set()
    for _ in range(3):
        outcomes = twins.step(episode)
        assert [outcome.num_skipped_batches for outcome in outcomes] == [1] * 4
    for sink in twins.fused_sink.of_host.values():
        told = [event for event in sink.events if isinstance(event, UpdateSkipped)]
        assert {event.place for event in told if event.group == "host"} == {"input"}
        places |= {event.batch for event in told}
    assert len(places) > 1  # rows failed at different batches


def test_a_row_whose_rate_is_far_too_large_fails_alone() -> None:
    wild = quick_config(optimizer=OptimizerConfig(learning_rate=1e12, clip_norm=1e9))
    calm = replace(wild, optimizer=OptimizerConfig(clip_norm=1e9))
    kind = Kind(parts=image_parts, config=calm, others={SICK: replace(wild, on_failure="terminate")})
    twins, healthy = Twins(kind, range(3)), Twins(replace(kind, others={}), range(3))
    twins.step()
    healthy.step()
    assert twins.fused.share.alone == 0
    assert twins.fused.is_finished == (False, True, False)
    expect_others_equal(twins, healthy.fused)


@pytest.mark.parametrize("is_watched", [True, False])
def test_two_rows_may_fail_at_once_each_in_its_own_way(*, is_watched: bool) -> None:
    kind = Kind(parts=image_parts, config=quick_config(snapshot_every=1))
    twins = Twins(kind, range(3), is_watched=is_watched)
    twins.step(EPISODE)
    twins.step(EPISODE)
    twins.harm(0, spoil_statistic)
    twins.harm(SICK, spoil_seed)
    twins.step(EPISODE)
    assert [run.verdict.is_failure for run in twins.fused.runs] == [True, True, False]
    twins.step(EPISODE)
    assert not any(run.verdict.is_failure for run in twins.fused.runs)


def test_when_a_host_is_given_up_the_others_are_where_they_would_be() -> None:
    config = quick_config(governor=GovernorConfig(max_rollbacks=0))
    twins = Twins(Kind(parts=image_parts, config=config), range(3))
    twins.step(EPISODE)
    twins.harm(SICK, spoil_head)
    messages = []
    fleets: tuple[AnyFleet, ...] = (twins.serial, twins.fused)
    for fleet in fleets:
        fleet.apply(decide(1))
        with pytest.raises(GovernorGaveUpError) as caught:
            fleet.train_epoch()
        messages.append(str(caught.value))
    expect_same("message", messages[0], messages[1])
    for place in (0, 2):
        left, right = (fleet.runs[place] for fleet in (twins.serial, twins.fused))
        for run in (left, right):
            if run.epoch == 1:  # the error came before this host's interval was judged, or even begun
                run.train_epoch()
        expect_same("state", left.state(), right.state())
