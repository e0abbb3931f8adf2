"""kasmina/stacking/layers.py and kasmina/stacking/linear.py: each layer under settings of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.stacking import StackArrangement, StackContext, build_stacked, to_arrangement
from kasmina.stacking.oracle import (
    NUM_ROWS,
    TOLERANCES,
    assert_stack_equals_rows,
    build_rows,
    draw,
    draw_tokens,
    run_separate,
    run_stacked,
    stack_weights,
)

Build = Callable[[], nn.Module]

MAPS: dict[str, Build] = {
    "conv": partial(nn.Conv2d, 4, 6, 3, padding=1),
    "conv of groups, stride and dilation": partial(
        nn.Conv2d, 4, 8, (3, 1), stride=(2, 1), padding=(2, 0), dilation=(2, 1), groups=2, bias=False
    ),
    "depthwise": partial(nn.Conv2d, 4, 4, 3, padding="same", groups=4),
    "1x1": partial(nn.Conv2d, 4, 2, 1),
    "max-pool": partial(nn.MaxPool2d, 2),
    "max-pool that overlaps": partial(nn.MaxPool2d, 3, stride=2, padding=1),
    "average pool": partial(nn.AvgPool2d, 3, stride=2, padding=1, count_include_pad=False),
    "global pool": partial(nn.AdaptiveAvgPool2d, 1),
    "global pool by two sizes": partial(nn.AdaptiveAvgPool2d, (1, 1)),
    "ReLU before max-pool": lambda: nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(), nn.MaxPool2d(2)),
    "flatten and linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 6, 5)),
}
ROWS: dict[str, Build] = {
    "linear": partial(nn.Linear, 4, 7),
    "linear without bias": partial(nn.Linear, 4, 7, bias=False),
    "flatten": nn.Flatten,
}
ANY: dict[str, Build] = {
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "GELU by tanh": partial(nn.GELU, approximate="tanh"),
    "SiLU": nn.SiLU,
    "Tanh": nn.Tanh,
    "Sigmoid": nn.Sigmoid,
    "Identity": nn.Identity,
    "Dropout of nothing": partial(nn.Dropout, 0.0),
}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("name", [*MAPS, *ANY])
def test_a_layer_on_maps_equals_its_rows(name: str, num_rows: int, dtype: torch.dtype) -> None:
    assert_stack_equals_rows(
        {**MAPS, **ANY}[name], StackArrangement.MAPS, draw(num_rows, 5, 4, 6, 6, dtype=dtype), prefix="part"
    )


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_a_pointwise_convolution_of_large_maps_equals_its_rows(num_rows: int, *, has_bias: bool) -> None:
    """Small ones, which run as a product per row, are among the layers above and in the blueprints."""
    build = partial(nn.Conv2d, 4, 2, 1, bias=has_bias)
    assert_stack_equals_rows(build, StackArrangement.MAPS, draw(num_rows, 5, 4, 60, 60))


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("name", [*ROWS, *ANY])
def test_a_layer_on_rows_equals_its_rows(name: str, num_rows: int, shape: tuple[int, ...]) -> None:
    assert_stack_equals_rows({**ROWS, **ANY}[name], StackArrangement.ROWS, draw(num_rows, 5, *shape))


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_each_row_looks_up_in_its_own_table(num_rows: int) -> None:
    tokens = draw_tokens(num_rows, 4, 6, vocabulary=9)
    assert_stack_equals_rows(partial(nn.Embedding, 9, 5), StackArrangement.ROWS, tokens)


@pytest.mark.parametrize(
    ("build", "arrangement", "shape"),
    [
        (partial(nn.Linear, 4, 7), StackArrangement.ROWS, (5, 4)),
        (partial(nn.Conv2d, 4, 6, 3), StackArrangement.MAPS, (5, 4, 6, 6)),
        (partial(nn.BatchNorm2d, 4), StackArrangement.MAPS, (5, 4, 6, 6)),
    ],
)
def test_weights_may_lie_in_one_store_with_any_stride_between_rows(
    build: Build, arrangement: StackArrangement, shape: tuple[int, ...]
) -> None:
    modules = build_rows(build, 3, torch.float64)
    stacked = build_stacked(modules[0], arrangement)
    inputs = draw(3, *shape)
    strided = {name: _in_a_wider_store(each) for name, each in stack_weights(modules).items()}
    got = run_stacked(stacked, inputs, strided, StackContext(num_rows=3))
    wanted = run_separate(modules, inputs)
    assert torch.allclose(got.out, wanted.out, rtol=0.0, atol=1e-10)
    for name, grad in wanted.weights.items():
        assert torch.allclose(got.weights[name], grad, rtol=0.0, atol=1e-10), name


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize(
    "build",
    [
        partial(nn.Conv2d, 4, 8, 3, padding=1, groups=4),
        partial(nn.Conv2d, 4, 12, 3, stride=2, groups=4, bias=False),
        partial(nn.Conv2d, 4, 6, 3, padding=1),
    ],
)
def test_a_convolution_of_data_equals_its_rows(build: Build, num_rows: int, dtype: torch.dtype) -> None:
    inputs = draw(num_rows, 5, 4, 6, 6, dtype=dtype)
    assert_stack_equals_rows(build, StackArrangement.MAPS, inputs, is_data=True)


def _in_a_wider_store(weight: Tensor) -> Tensor:
    num_rows, size = weight.shape[0], weight[0].numel()
    store = torch.zeros(num_rows, size + 5, dtype=weight.dtype)
    store[:, 3 : size + 3] = weight.detach().flatten(1)
    return store[:, 3 : size + 3].view(weight.shape).requires_grad_()


def test_a_max_pool_in_front_of_its_relu_changes_no_bit() -> None:
    module = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    inputs = draw(3, 5, 4, 6, 6, dtype=torch.float32)
    inputs[0, 0, 0, :2, :2] = torch.tensor([[-1.0, -2.0], [0.0, -0.5]])
    inputs[0, 1, 0, :2, :2] = torch.tensor([[2.0, 2.0], [0.0, 2.0]])
    inputs[0, 2, 0, 0, 0] = torch.nan
    wanted = run_separate([module] * 3, inputs)
    got = run_stacked(build_stacked(module, StackArrangement.MAPS), inputs, {}, StackContext(num_rows=3))
    assert got.inputs is not None
    assert wanted.inputs is not None
    assert torch.equal(got.out.nan_to_num(7.0), wanted.out.nan_to_num(7.0))
    assert torch.equal(got.inputs, wanted.inputs)


@pytest.mark.parametrize("name", MAPS)
def test_maps_stay_in_channels_last_memory_in_both_directions(name: str) -> None:
    modules = build_rows(MAPS[name], 3, torch.float32)
    stacked = build_stacked(modules[0], StackArrangement.MAPS)
    x = to_arrangement(draw(3, 5, 4, 6, 6, dtype=torch.float32), StackArrangement.MAPS).requires_grad_()
    out = stacked(x, stack_weights(modules), StackContext(num_rows=3))
    if stacked.arrangement_out is StackArrangement.MAPS:
        assert out.is_contiguous(memory_format=torch.channels_last)
        (grad,) = torch.autograd.grad(out, x, torch.randn_like(out))
        assert grad.is_contiguous(memory_format=torch.channels_last)
