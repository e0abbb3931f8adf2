"""R separate modules as the oracle of a stacked one: values and gradients, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import build_seeded
from esper.kasmina.stacking import StackArrangement, StackContext, Stacked, build_stacked, to_arrangement

NUM_ROWS = (pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(8, marks=pytest.mark.slow))
"""Rows of a stack in tests, the usual number in the fast ones."""
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest difference over the largest value, by dtype."""

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward and backward pass of all rows."""

    out: Tensor
    """[R, B, ...]."""
    inputs: Tensor | None
    """Gradient of the inputs [R, B, ...]; None where they are tokens."""
    weights: Weights
    """Gradient of each parameter, [R, *shape]."""


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return normal numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def draw_tokens(*shape: int, vocabulary: int, seed: int = 0) -> Tensor:
    """Return tokens of a seed."""
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def build_rows(build: Callable[[], nn.Module], num_rows: int, dtype: torch.dtype) -> list[nn.Module]:
    """Return separate modules, every parameter of each at random values of its own, none of them 0."""
    modules = [build_seeded(build, row).to(dtype) for row in range(num_rows)]
    with torch.no_grad():
        for row, module in enumerate(modules):
            for place, parameter in enumerate(module.parameters()):
                parameter.add_(0.3 * draw(*parameter.shape, seed=1000 * row + place, dtype=dtype))
    return modules


def stack_weights(modules: Sequence[nn.Module], prefix: str = "") -> Weights:
    """Return the parameters of separate modules as leaves [R, *shape], by path."""
    start = f"{prefix}." if prefix else ""
    rows = [dict(module.named_parameters()) for module in modules]
    return {
        f"{start}{name}": torch.stack([row[name].detach() for row in rows]).requires_grad_()
        for name in rows[0]
    }


def rows_first(x: Tensor, arrangement: StackArrangement, num_rows: int) -> Tensor:
    """Return an activation as [R, B, ...]."""
    if arrangement is StackArrangement.ROWS:
        return x
    num_items, wide, height, width = x.shape
    return x.reshape(num_items, num_rows, wide // num_rows, height, width).transpose(0, 1)


def run_separate(modules: Sequence[nn.Module], inputs: Tensor, *, is_data: bool = False) -> Pass:
    """Run every module on its own row of inputs [R, B, ...]; the loss is a fixed random weighting."""
    leaves = [_leaf(row, is_data=is_data) for row in inputs]
    outs = [module(leaf) for module, leaf in zip(modules, leaves, strict=True)]
    out = torch.stack(outs)
    found = _differentiate(out, leaves, [p for module in modules for p in module.parameters()])
    names = [name for name, _ in modules[0].named_parameters()]
    grads = found[len(leaves) :]
    per_row = [dict(zip(names, grads[i * len(names) :], strict=False)) for i in range(len(modules))]
    return Pass(
        out=out.detach(),
        inputs=torch.stack(found[: len(leaves)]) if leaves[0].requires_grad else None,
        weights={name: torch.stack([row[name] for row in per_row]) for name in names},
    )


def run_stacked(
    stacked: Stacked,
    inputs: Tensor,
    weights: Weights,
    context: StackContext,
    prefix: str = "",
    *,
    is_data: bool = False,
) -> Pass:
    """Run all rows of inputs [R, B, ...] as one, with the loss of `run_separate`."""
    leaf = _leaf(inputs, is_data=is_data)
    out = stacked(to_arrangement(leaf, stacked.arrangement_in), weights, context)
    if stacked.arrangement_out is StackArrangement.MAPS:
        assert out.is_contiguous(memory_format=torch.channels_last)
    rows = rows_first(out, stacked.arrangement_out, context.num_rows)
    found = _differentiate(rows, [leaf], list(weights.values()))
    start = f"{prefix}." if prefix else ""
    return Pass(
        out=rows.detach(),
        inputs=found[0] if leaf.requires_grad else None,
        weights={name.removeprefix(start): grad for name, grad in zip(weights, found[1:], strict=True)},
    )


def assert_stack_equals_rows(
    build: Callable[[], nn.Module],
    arrangement: StackArrangement,
    inputs: Tensor,
    *,
    is_training: bool = True,
    is_data: bool = False,
    prefix: str = "",
) -> None:
    """Assert that outputs and all gradients equal those of separate modules, for inputs [R, B, ...].

    Inputs that are data need no gradient.
    """
    dtype = inputs.dtype if inputs.is_floating_point() else torch.float64
    modules = build_rows(build, inputs.shape[0], dtype)
    for module in modules:
        module.train(is_training)
    stacked = build_stacked(modules[0], arrangement, prefix)
    context = StackContext(
        num_rows=len(modules),
        is_training=is_training,
        running={} if is_training else gather_statistics(modules, prefix),
    )
    got = run_stacked(stacked, inputs, stack_weights(modules, prefix), context, prefix, is_data=is_data)
    assert_passes_agree(got, run_separate(modules, inputs, is_data=is_data), TOLERANCES[dtype])


def assert_passes_agree(got: Pass, wanted: Pass, tolerance: float) -> None:
    """Assert that two passes agree in everything."""
    assert_close("output", got.out, wanted.out, tolerance)
    if wanted.inputs is not None:
        assert got.inputs is not None
        assert_close("gradient of the inputs", got.inputs, wanted.inputs, tolerance)
    assert set(got.weights) == set(wanted.weights)
    # Over all parameters: one whose gradient cancels out (a bias in front of a norm) is rounding alone.
    scale = max((float(each.abs().max()) for each in wanted.weights.values()), default=1.0)
    for name, grad in wanted.weights.items():
        assert_close(f"gradient of {name}", got.weights[name], grad, tolerance, scale)


def assert_close(what: str, got: Tensor, wanted: Tensor, tolerance: float, scale: float = 0.0) -> None:
    """Assert that two tensors differ by at most `tolerance` times the largest value there is."""
    assert got.shape == wanted.shape, what
    assert got.dtype == wanted.dtype, what
    largest = max(scale, float(wanted.abs().max()), 1e-30)
    assert float((got - wanted).abs().max()) <= tolerance * largest, what


def gather_statistics(modules: Sequence[nn.Module], prefix: str = "") -> Mapping[str, tuple[Tensor, Tensor]]:
    """Return copies of the running statistics of separate modules, [R, C] each, by path."""
    start = f"{prefix}." if prefix else ""
    norms = [
        {
            name: part
            for name, part in module.named_modules()
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
        }
        for module in modules
    ]
    return {
        (f"{start}{name}" if name else prefix): (
            torch.stack([_present(row[name].running_mean) for row in norms]),
            torch.stack([_present(row[name].running_var) for row in norms]),
        )
        for name in norms[0]
    }


def _present(buffer: Tensor | None) -> Tensor:
    assert buffer is not None
    return buffer.clone()


def _leaf(x: Tensor, *, is_data: bool) -> Tensor:
    return x.detach().clone().requires_grad_(x.is_floating_point() and not is_data)


def _differentiate(out: Tensor, inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients, zeros where there is none; tokens get an empty tensor."""
    loss = (out * draw(*out.shape, seed=99, dtype=out.dtype)).sum()
    wanted = [each for each in (*inputs, *weights) if each.requires_grad]
    if not loss.requires_grad:
        return [torch.zeros_like(each) for each in (*inputs, *weights)]
    found = iter(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))
    return [next(found) if each.requires_grad else torch.empty(0) for each in (*inputs, *weights)]
