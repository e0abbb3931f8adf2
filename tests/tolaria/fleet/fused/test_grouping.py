"""Who trains together and who alone; whoever trains alone does so exactly as in a serial fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from esper.data import AugmentConfig, Batch
from esper.kasmina import (
    BlueprintRegistry,
    InjectionPoint,
    MorphogeneticModel,
    SlotSpec,
    TransformerHost,
    TransformerHostConfig,
    builtin_registry,
)
from esper.leyline import Decision, EpochOutcome, JsonValue, Layout, LifecycleOp
from esper.tolaria import HostRun, HostRunConfig, HostRunParts
from esper.tolaria.fleet.fused import FusedShare
from esper.tolaria.fleet.fused.grouping import HostGroups
from tolaria.fleet.fused.double_hosts import (
    CONTEXT,
    RUN_SEED,
    VOCABULARY,
    Kind,
    cnn,
    do,
    grow,
    image_data,
    make_host_parts,
    mlp,
    quick_config,
    word_data,
    word_task,
)
from tolaria.fleet.fused.twins import Script, Twins, expect_bit_equal
from tolaria.small_run import StopAfter, make_task

ONE = ("mlp_small",)


class Watching:
    """A probe."""

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Do nothing."""

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


class Strange(nn.Module):
    """A module of a type that nobody stacks: scaled by a weight that is 0 at birth."""

    def __init__(self) -> None:
        """Start at 0."""
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor) -> Tensor:
        """Scale."""
        return self.scale * torch.sin(h)


class Unchained(nn.Module):
    """A host that says where it can grow, but not what follows on what."""

    def __init__(self) -> None:
        """Build one hidden layer."""
        super().__init__()
        self.hidden = nn.Linear(64, 8)
        self.head = nn.Linear(8, 4)

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        """Return the hidden layer."""
        return (InjectionPoint(slot_id="hidden", path="hidden", layout=Layout.FLAT, num_channels=8),)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        out: Tensor = self.head(self.hidden(inputs.flatten(1)).relu())
        return out


def strange_registry() -> BlueprintRegistry:
    registry = builtin_registry().extended()

    def count(spec: SlotSpec) -> int:
        del spec
        return 1

    @registry.register("strange", family="strange", layouts=[Layout.FLAT], count_params=count)
    def build(spec: SlotSpec) -> nn.Module:
        del spec
        return Strange()

    return registry


def flat_parts() -> HostRunParts:
    return make_host_parts(mlp("layer"), blueprints=ONE)


def incubating(name: str) -> HostRunConfig:
    config = quick_config()
    return replace(config, lifecycle=replace(config.lifecycle, incubation=name))


ALONE: dict[str, tuple[HostRunParts, HostRunConfig]] = {
    "dropout": (make_host_parts(cnn(dropout=0.2), blueprints=("norm",)), quick_config()),
    "fp16": (flat_parts(), quick_config(amp="fp16")),
    "compiled": (flat_parts(), quick_config(compile="default")),
    "recomputing": (flat_parts(), quick_config(seed_checkpointing="on")),
    "probed": (replace(flat_parts(), probe=Watching()), quick_config()),
    "residual": (flat_parts(), incubating("residual")),
    "straight_through": (flat_parts(), incubating("straight_through")),
    "no chain": (
        make_host_parts(Unchained, blueprints=ONE),
        quick_config(),
    ),
}


def build_runs(parts: HostRunParts, config: HostRunConfig, num_runs: int = 2) -> list[HostRun]:
    return [
        HostRun(make_task(), config, parts, run_seed=RUN_SEED, instance=instance)
        for instance in range(num_runs)
    ]


@pytest.mark.parametrize("name", ALONE)
def test_what_the_stack_does_not_do_trains_alone(name: str) -> None:
    groups = HostGroups(2).sort(build_runs(*ALONE[name]))
    assert (groups.fused, groups.alone) == ((), (0, 1))


def test_a_head_that_shares_its_weights_trains_alone() -> None:
    config = TransformerHostConfig(
        vocabulary=VOCABULARY, context=CONTEXT, width=8, num_blocks=1, num_heads=2, is_tied=True
    )
    parts = make_host_parts(lambda: TransformerHost(config), word_data(), blueprints=ONE)
    run = HostRun(word_task(), quick_config(), parts, run_seed=RUN_SEED)
    assert HostGroups(1).sort([run]).alone == (0,)


@pytest.mark.parametrize("other", ["width", "momentum", "batch size", "augmented", "data"])
def test_hosts_that_differ_in_what_a_program_fixes_form_groups_of_their_own(other: str) -> None:
    parts, config = make_host_parts(cnn(), blueprints=("norm",)), quick_config()
    others: dict[str, tuple[HostRunParts, HostRunConfig]] = {
        "width": (replace(parts, build_host=cnn(base=3)), config),
        "momentum": (parts, replace(config, optimizer=replace(config.optimizer, momentum=0.5))),
        "batch size": (parts, replace(config, batch_size=16)),
        "augmented": (replace(parts, augment=AugmentConfig()), config),
        "data": (replace(parts, data=image_data(60)), config),
    }
    mine, theirs = build_runs(parts, config), build_runs(*others[other])
    groups = HostGroups(2).sort([mine[0], theirs[0], mine[1], theirs[1]])
    assert [group.places for group in groups.fused] == [(0, 2), (1, 3)]
    assert groups.alone == ()


def test_rates_and_schedules_may_differ_within_a_group() -> None:
    config = quick_config()
    faster = replace(config.optimizer, learning_rate=0.3, warmup_fraction=0.2, final_fraction=0.5)
    runs = [
        *build_runs(flat_parts_shared := flat_parts(), config, 1),
        *build_runs(flat_parts_shared, replace(config, optimizer=faster, snapshot_every=7, epochs=4), 1),
    ]
    (group,) = HostGroups(2).sort(runs).fused
    assert group.places == (0, 1)


def test_a_frozen_weight_a_begun_interval_and_too_few_rows_train_alone() -> None:
    runs = build_runs(flat_parts(), quick_config(), 4)
    next(runs[0].bench.model.host.parameters()).requires_grad_(False)
    runs[1].train_epoch(StopAfter(1))
    groups = HostGroups(2).sort(runs)
    assert [group.places for group in groups.fused] == [(2, 3)]
    assert groups.alone == (0, 1)
    runs[2].is_terminated = True
    assert HostGroups(2).sort(runs).alone == (0, 1, 3)
    assert HostGroups(1).sort(runs).fused[0].places == (3,)


def test_hosts_of_one_kind_keep_their_stack_from_interval_to_interval() -> None:
    runs, groups = build_runs(flat_parts(), quick_config()), HostGroups(2)
    assert groups.sort(runs).fused[0].stack is groups.sort(runs).fused[0].stack


def test_a_host_with_a_strange_seed_trains_alone_until_the_seed_is_gone() -> None:
    def parts() -> HostRunParts:
        offer = ("strange", "mlp_small")
        return replace(make_host_parts(mlp(), blueprints=offer), registry=strange_registry())

    twins = Twins(Kind(parts=parts), range(3))
    episode: Script = {
        (0, 1): grow("hidden1", "strange"),
        (0, 2): grow("hidden1", "mlp_small"),
        (2, 1): do(LifecycleOp.CULL, "hidden1"),
    }
    places = []
    for _ in range(4):
        for fleet in (twins.serial, twins.fused):
            epoch = fleet.runs[0].epoch
            fleet.apply(
                [Decision(action=a) if (a := episode.get((epoch, p))) else Decision() for p in range(3)]
            )
            fleet.train_epoch()
        places.append(twins.fused.share.alone)
        if len(places) == 2:
            expect_bit_equal(twins.serial.runs[1], twins.fused.runs[1])
    assert places == [1, 2, 2, 2]
    assert twins.fused.share == FusedShare(fused=10, alone=2, fused_with_seeds=4, alone_with_seeds=2)
    assert twins.fused.share.with_seeds == pytest.approx(4 / 6)
    assert FusedShare(fused=3).with_seeds == 1.0


@pytest.mark.parametrize("name", ["residual", "probed", "fp16"])
def test_whoever_trains_alone_lives_bit_for_bit_as_in_a_serial_fleet(name: str) -> None:
    parts, config = ALONE[name]

    def fresh() -> HostRunParts:
        return replace(flat_parts(), probe=parts.probe)

    twins = Twins(Kind(parts=fresh, config=config), range(2))
    for _ in range(3):
        twins.step({(0, 0): grow("hidden1", "mlp_small"), (1, 0): do(LifecycleOp.ADVANCE, "hidden1")})
    assert twins.fused.share.fused == 0
    for left, right in zip(twins.serial.runs, twins.fused.runs, strict=True):
        expect_bit_equal(left, right)
