"""kasmina/stacking/norms.py: statistics of the batch, running ones, and data that needs no gradient."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from esper.kasmina.stacking import StackArrangement, StackContext, build_stacked, to_arrangement
from kasmina.stacking.oracle import (
    NUM_ROWS,
    TOLERANCES,
    assert_close,
    assert_stack_equals_rows,
    build_rows,
    draw,
    gather_statistics,
    rows_first,
    stack_weights,
)

Build = Callable[[], nn.Module]

NORMS: dict[str, tuple[Build, StackArrangement, tuple[int, ...]]] = {
    "batch of maps": (partial(nn.BatchNorm2d, 6), StackArrangement.MAPS, (6, 3, 3)),
    "batch of maps, plain": (partial(nn.BatchNorm2d, 6, affine=False), StackArrangement.MAPS, (6, 3, 3)),
    "batch of maps, untracked": (
        partial(nn.BatchNorm2d, 6, track_running_stats=False),
        StackArrangement.MAPS,
        (6, 3, 3),
    ),
    "batch of rows": (partial(nn.BatchNorm1d, 6, eps=1e-3), StackArrangement.ROWS, (6,)),
    "group": (partial(nn.GroupNorm, 3, 6), StackArrangement.MAPS, (6, 3, 3)),
    "group, plain": (partial(nn.GroupNorm, 2, 6, affine=False), StackArrangement.MAPS, (6, 3, 3)),
    "layer of features": (partial(nn.LayerNorm, 6), StackArrangement.ROWS, (6,)),
    "layer of sequences": (partial(nn.LayerNorm, 6), StackArrangement.ROWS, (4, 6)),
    "layer without shift": (partial(nn.LayerNorm, 6, bias=False), StackArrangement.ROWS, (4, 6)),
    "layer, plain": (partial(nn.LayerNorm, 6, elementwise_affine=False), StackArrangement.ROWS, (4, 6)),
}
TRACKING: dict[str, tuple[Build, StackArrangement, tuple[int, ...]]] = {
    "maps": (lambda: nn.Sequential(nn.BatchNorm2d(6, momentum=0.3)), StackArrangement.MAPS, (6, 3, 3)),
    "rows": (lambda: nn.Sequential(nn.BatchNorm1d(6, momentum=0.3)), StackArrangement.ROWS, (6,)),
}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_equals_its_rows(name: str, num_rows: int, dtype: torch.dtype) -> None:
    build, arrangement, shape = NORMS[name]
    inputs = draw(num_rows, 5, *shape, dtype=dtype)
    has_statistics = isinstance(build(), nn.BatchNorm1d | nn.BatchNorm2d) and "untracked" not in name
    for is_training in (True, False) if has_statistics else (True,):
        assert_stack_equals_rows(build, arrangement, inputs, is_training=is_training, prefix="block.norm")


def test_an_untracked_norm_uses_the_batch_when_not_training() -> None:
    build, arrangement, shape = NORMS["batch of maps, untracked"]
    modules = [module.eval() for module in build_rows(build, 3, torch.float64)]
    inputs = draw(3, 5, *shape)
    out = build_stacked(modules[0], arrangement)(
        to_arrangement(inputs, arrangement),
        stack_weights(modules),
        StackContext(num_rows=3, is_training=False),
    )
    wanted = torch.stack([module(row) for module, row in zip(modules, inputs, strict=True)])
    assert_close("output", rows_first(out, arrangement, 3).detach(), wanted.detach(), 1e-10)


@pytest.mark.parametrize("momentum", [None, 1.0, 0.05])
@pytest.mark.parametrize("kind", TRACKING)
def test_running_statistics_equal_those_of_the_rows_after_three_passes(
    kind: str, momentum: float | None
) -> None:
    build, arrangement, shape = TRACKING[kind]
    modules = build_rows(build, 3, torch.float64)
    running = gather_statistics(modules, "block")
    for module in modules:
        norm = next(module.children())
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        norm.momentum = norm.momentum if momentum is None else momentum
    stacked = build_stacked(build(), arrangement, "block")
    context = StackContext(num_rows=3, running=running, momentum=momentum)
    weights = stack_weights(modules, "block")
    for number in range(3):
        inputs = 2.0 + draw(3, 5, *shape, seed=number)
        stacked(to_arrangement(inputs, arrangement), weights, context)
        for module, row in zip(modules, inputs, strict=True):
            module(row)
    assert set(running) == {"block.0"}
    for (mean, variance), wanted in zip(
        running.values(), gather_statistics(modules, "block").values(), strict=True
    ):
        assert_close("mean", mean, wanted[0], 1e-10)
        assert_close("variance", variance, wanted[1], 1e-10)


@pytest.mark.parametrize("kind", TRACKING)
def test_a_norm_without_given_statistics_trains_on_the_batch_and_refuses_otherwise(kind: str) -> None:
    build, arrangement, shape = TRACKING[kind]
    modules = build_rows(build, 3, torch.float64)
    stacked, weights = build_stacked(modules[0], arrangement), stack_weights(modules)
    x = to_arrangement(draw(3, 5, *shape), arrangement)
    running = gather_statistics(modules)
    bare = stacked(x, weights, StackContext(num_rows=3))
    assert torch.equal(bare, stacked(x, weights, StackContext(num_rows=3, running=running)))
    with pytest.raises(KeyError, match="no running statistics of '0'"):
        stacked(x, weights, StackContext(num_rows=3, is_training=False))


def test_one_value_per_channel_is_refused_as_torch_refuses_it() -> None:
    stacked = build_stacked(nn.BatchNorm2d(2), StackArrangement.MAPS)
    weights = {"weight": torch.ones(3, 2), "bias": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        stacked(torch.zeros(1, 6, 1, 1), weights, StackContext(num_rows=3))


def test_a_batch_norm_of_rows_refuses_sequences() -> None:
    stacked = build_stacked(nn.BatchNorm1d(2), StackArrangement.ROWS, "norm")
    weights = {"norm.weight": torch.ones(3, 2), "norm.bias": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match=r"'norm'.*\[R, B, C\]"):
        stacked(torch.zeros(3, 4, 5, 2), weights, StackContext(num_rows=3))


DETACHED_INTO_A_GROUP_NORM = """
import torch
from torch import nn
from esper.kasmina.stacking import StackArrangement, StackContext, build_stacked, to_arrangement

module = nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 1))
stacked = build_stacked(module, StackArrangement.MAPS)
weights = {name: torch.randn(4, *each.shape).requires_grad_() for name, each in module.named_parameters()}
x = to_arrangement(torch.randn(4, 6, 8, 5, 5), StackArrangement.MAPS)
assert x.is_contiguous(memory_format=torch.channels_last) and not x.requires_grad
out = stacked(x, weights, StackContext(num_rows=4))
assert out.is_contiguous(memory_format=torch.channels_last)
out.square().sum().backward()
print(all(each.grad.isfinite().all() for each in weights.values()))
"""


@pytest.mark.slow
def test_a_detached_map_into_a_group_norm_does_not_crash_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DETACHED_INTO_A_GROUP_NORM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_weights_of_a_group_norm_learn_from_detached_maps_as_their_rows_do(num_rows: int) -> None:
    modules = build_rows(partial(nn.GroupNorm, 3, 6), num_rows, torch.float64)
    inputs = draw(num_rows, 5, 6, 3, 3)
    weights = stack_weights(modules)
    stacked = build_stacked(modules[0], StackArrangement.MAPS)
    out = stacked(to_arrangement(inputs, StackArrangement.MAPS), weights, StackContext(num_rows=num_rows))
    factor = draw(num_rows, 5, 6, 3, 3, seed=1)
    loss = (rows_first(out, StackArrangement.MAPS, num_rows) * factor).sum()
    grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    for row, module in enumerate(modules):
        loss = (module(inputs[row]) * factor[row]).sum()
        wanted = torch.autograd.grad(loss, list(module.parameters()))
        for (name, _), grad in zip(module.named_parameters(), wanted, strict=True):
            assert_close(name, grads[name][row], grad, 1e-10)
