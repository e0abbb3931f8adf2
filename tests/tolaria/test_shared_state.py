"""What ranks have in common: every difference that matters shows, and nothing that may differ does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from esper.leyline import SeedStage
from esper.tolaria import HostRun
from esper.tolaria.shared_state import describe_shared

from .small_run import drive, make_run


def grown() -> HostRun:
    """Return a run with a seed in TRAINING and one that blends."""
    run = make_run()
    drive(run, 3)
    return run


def alter_stage(run: HostRun) -> None:
    run.bench.model.slot("block2").state.stage = SeedStage.BLENDING


def alter_alpha(run: HostRun) -> None:
    run.bench.model.slot("block1").set_alpha(0.25)


def alter_requires_grad(run: HostRun) -> None:
    next(iter(run.bench.model.parameters())).requires_grad_(False)


def alter_group_order(run: HostRun) -> None:
    run.bench.optimizer._optimizer.param_groups.reverse()


def alter_buffer(run: HostRun) -> None:
    run.bench.model.host.register_buffer("extra", torch.zeros(2))


def alter_scale(run: HostRun) -> None:
    run.bench.scaler._scale = 2.0


@pytest.mark.parametrize(
    ("alter", "part"),
    [
        (alter_stage, "slots"),
        (alter_alpha, "slots"),
        (alter_requires_grad, "parameters"),
        (alter_group_order, "optimizer"),
        (alter_buffer, "buffers"),
        (alter_scale, "scaler"),
    ],
)
def test_each_part_shows_its_change(alter: Callable[[HostRun], None], part: str) -> None:
    run = grown()
    before = dict(describe_shared(run).facts)
    alter(run)
    after = describe_shared(run).facts
    assert part in {name for name in before if before[name] != after[name]}


def test_tensors_are_those_of_network_and_optimiser_and_buffers_among_them() -> None:
    state = describe_shared(grown())
    assert any(name.startswith("optimizer.") for name in state.tensors)
    assert all(f"model.{name}" in state.tensors for name in state.buffers)
    assert set(state.parameters) == {name for name, _ in grown().bench.model.named_parameters()}


def test_random_streams_may_differ() -> None:
    run = grown()
    before = describe_shared(run).facts
    run.bench.rng.reseed(9)
    assert describe_shared(run).facts == before
