"""What seeds are worth is measured in the stack as on each host alone, item by item."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.leyline import Decision, LifecycleOp
from esper.tolaria import HostRunParts
from esper.tolaria.fleet.fused.grouping import HostGroups
from esper.tolaria.fleet.fused.measuring import measure_group
from esper.tolaria.fleet.fused.training import GroupTraining
from tolaria.fleet.fused.double_hosts import Kind, cnn, do, grow, make_host_parts, mlp, quick_config
from tolaria.fleet.fused.twins import Script, Twins, expect_same
from tolaria.small_run import make_task

pytestmark = pytest.mark.usefixtures("in_double")

EPISODE: Script = {
    (0, 0): grow("block1", "conv_small", tempo=3),
    (0, 2): grow("block2", "norm", target=0.5),
    (1, 0): do(LifecycleOp.ADVANCE, "block1"),
    (1, 2): do(LifecycleOp.ADVANCE, "block2"),
    (2, 0): grow("block3", "norm"),  # incubates behind a seed that blends
    (2, 2): grow("block1", "conv_small"),  # incubates in front of one
    (3, 0): do(LifecycleOp.ADVANCE, "block3"),
    (4, 0): do(LifecycleOp.CULL, "block1", tempo=3),  # on its way out it is not measured
}
CONFIG = quick_config()


def image_parts() -> HostRunParts:
    return make_host_parts(cnn(), blueprints=("conv_small", "norm"))


@pytest.mark.parametrize("uses_loss", [True, False])
def test_losses_and_metrics_of_gates_are_those_of_each_host(uses_loss: bool) -> None:
    twins = Twins(Kind(parts=image_parts, task=make_task(gates_use_loss=uses_loss)), range(3))
    measured = 0
    for _ in range(6):
        measured += sum(
            slot.contribution is not None or slot.shadow_gain is not None
            for outcome in twins.step(EPISODE)
            for slot in outcome.slots.values()
        )
    assert measured >= 10


def test_what_is_not_due_is_not_measured() -> None:
    config = replace(CONFIG, measuring=replace(CONFIG.measuring, counterfactual_every=2))
    twins = Twins(Kind(parts=image_parts, config=config), range(3))
    for epoch in range(4):
        outcomes = twins.step(EPISODE)
        slots = [slot for outcome in outcomes for slot in outcome.slots.values()]
        has_estimate = any(slot.shadow_gain or slot.contribution for slot in slots)
        assert has_estimate is (epoch % 2 == 1)


def test_hosts_are_measured_when_each_of_them_is_due() -> None:
    config = replace(CONFIG, measuring=replace(CONFIG.measuring, counterfactual_every=2))
    kind = Kind(parts=image_parts, config=config)
    twins = Twins(kind, range(3))
    twins.step(EPISODE)
    for fleet in (twins.serial, twins.fused):
        fleet.reset([False, True, False], [0, 7, 2])  # one epoch behind the others from here on
    script = {**EPISODE, (1, 1): grow("block1", "norm")}
    for _ in range(3):
        twins.step(script)


def test_chunks_of_any_size_measure_the_same() -> None:
    found = []
    for chunk in (3, 1000):
        config = replace(CONFIG, measuring=replace(CONFIG.measuring, chunk_items=chunk))
        kind = Kind(parts=lambda: make_host_parts(mlp("batch"), blueprints=("norm",)), config=config)
        build, _ = kind.builder()
        runs = [build(instance) for instance in range(3)]
        for run in runs[:2]:
            run.apply(Decision(action=grow("hidden1", "norm")))
            run.begin_interval()
        (group,) = HostGroups(2).sort(runs).fused
        found.append(measure_group(GroupTraining(runs, group.stack)))
    expect_same("measurement", found[0], found[1])


def test_measuring_changes_no_host() -> None:
    twins = Twins(Kind(parts=image_parts), range(3))
    for _ in range(3):
        twins.step(EPISODE)
    runs = list(twins.fused.runs)
    before = [run.bench.model.state()[0] for run in runs]
    kept = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in before]
    (group,) = HostGroups(2).sort(runs).fused
    training = GroupTraining(runs, group.stack)
    statistics = training.norms.copy()
    measured = measure_group(training)
    assert [set(one.slots) for one in measured] == [{"block1", "block3"}, set(), {"block1", "block2"}]
    assert all(map(torch.equal, statistics, training.norms.copy()))
    for run, tensors in zip(runs, kept, strict=True):
        assert all(torch.equal(now, tensors[name]) for name, now in run.bench.model.state()[0].items())
