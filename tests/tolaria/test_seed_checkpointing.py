"""Claims about `host.seed_checkpointing`: a whole life gives the same bits, and its bill is honest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.kasmina import BlueprintRegistry, SlotSpec, builtin_registry
from esper.leyline import Action, ConfigError, EpochCompleted, Layout, LifecycleOp, SeedStage
from esper.tolaria import HostRun, HostRunConfig

from .small_run import (
    ListSink,
    as_text,
    assert_same,
    drive,
    germinate,
    make_config,
    make_parts,
    make_run,
    tensors_of,
)

LIFE: tuple[tuple[int, Action], ...] = (
    (0, germinate("block1", "moody")),
    (1, germinate("block2", "conv_heavy")),
    (2, Action(op=LifecycleOp.ADVANCE, slot="block1")),
    (3, Action(op=LifecycleOp.ADVANCE, slot="block2")),
    (4, Action(op=LifecycleOp.FOSSILIZE, slot="block1")),
)
"""At the end one seed is a fossil and one on probation; every stage was passed."""


def make_registry() -> BlueprintRegistry:
    """Return the built-ins and a blueprint with batch norm and dropout."""
    registry = builtin_registry().extended()

    @registry.register(
        "moody", family="moody", layouts=[Layout.MAP_2D], count_params=lambda s: 10 * s.num_channels**2
    )
    def build(spec: SlotSpec) -> nn.Module:
        c = spec.num_channels
        last = nn.Conv2d(c, c, 1, bias=False)
        nn.init.zeros_(last.weight)
        inner = nn.Conv2d(c, c, 3, padding=1, bias=False)
        return nn.Sequential(inner, nn.BatchNorm2d(c), nn.ReLU(), nn.Dropout(0.3), last)

    return registry


def live(mode: str, *, incubation: str = "shadow", amp: str = "off") -> tuple[HostRun, ListSink]:
    sink = ListSink()
    config = replace(make_config(incubation=incubation, amp=amp), seed_checkpointing=mode)
    run = make_run(config, make_parts(sink=sink, registry=make_registry(), dropout=0.2))
    drive(run, 6, LIFE)
    return run, sink


def without_bill(sink: ListSink) -> str:
    """The log without the FLOPs, which a second pass adds to."""
    return as_text([replace(e, flops={}) if isinstance(e, EpochCompleted) else e for e in sink.events])


@pytest.mark.parametrize(
    ("incubation", "amp"),
    [
        ("shadow", "off"),
        ("residual", "off"),
        ("straight_through", "off"),
        ("shadow", "bf16"),
        ("shadow", "fp16"),
    ],
)
def test_a_life_with_recomputed_seeds_is_the_same_bit_for_bit(incubation: str, amp: str) -> None:
    plain, log = live("off", incubation=incubation, amp=amp)
    again, log_again = live("on", incubation=incubation, amp=amp)
    stages = [slot.state.stage for slot in again.bench.model.each_slot()]
    assert stages == [SeedStage.FOSSILIZED, SeedStage.PROBATIONARY, SeedStage.DORMANT]
    assert_same(tensors_of(plain), tensors_of(again))
    assert without_bill(log) == without_bill(log_again)
    assert torch.equal(plain.bench.rng.state()["cpu"], again.bench.rng.state()["cpu"])


def test_a_second_forward_pass_is_on_the_bill() -> None:
    (plain, _), (again, _) = live("off"), live("on")
    cheap, dear = plain.bench.ledger.totals(), again.bench.ledger.totals()
    assert dear["host_train"] == cheap["host_train"]
    assert dear["seed_train"] > cheap["seed_train"]
    items = plain.bench.batches.num_items
    model = again.bench.model
    one = model.slot("block1").state.flops_per_item
    other = model.slot("block2").state.flops_per_item
    # block1 was trained in epochs 1 to 6, block2 in 2 to 6; the tail ran for block2 while block1 was open,
    # but block1 lies before it, so its second pass is not part of that tail.
    assert dear["seed_train"] - cheap["seed_train"] == items * (6 * one + 5 * other)
    assert dear["incubation"] == cheap["incubation"]


@pytest.mark.parametrize(("bound_mb", "is_recomputed"), [(64.0, False), (0.01, True)])
def test_auto_goes_by_the_size_of_a_seed(bound_mb: float, is_recomputed: bool) -> None:
    config = replace(make_config(), seed_checkpointing="auto", seed_checkpointing_mb=bound_mb)
    run = make_run(config)
    drive(run, 1)
    seed = run.bench.model.slot("block1").seed
    assert seed is not None
    assert seed.is_recomputed is is_recomputed


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_checkpointing_of_compiled_hosts_is_refused_with_the_reason(mode: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"seed_checkpointing='{mode}' with host.compile='default': a comp"
    ):
        HostRunConfig(seed_checkpointing=mode, compile="default")
    assert HostRunConfig(compile="default").seed_checkpointing == "off"


@pytest.mark.parametrize("bound", [-1.0, float("nan"), float("inf")])
def test_a_bound_out_of_range_is_refused(bound: float) -> None:
    with pytest.raises(ConfigError, match=r"host\.seed_checkpointing_mb"):
        HostRunConfig(seed_checkpointing_mb=bound)
