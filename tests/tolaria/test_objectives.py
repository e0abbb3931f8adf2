"""Losses and metrics against hand-computed numbers, float32 under every autocast."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.leyline import LossKind, MetricSpec, TaskSpec
from esper.tolaria.objectives import Objective, build_objective, input_dtype

SHAPES = {
    LossKind.CLASSIFICATION: ((6, 5), (6,)),
    LossKind.REGRESSION: ((6, 3), (6, 3)),
    LossKind.LANGUAGE_MODEL: ((6, 4, 5), (6, 4)),
}


def draw(kind: LossKind, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output_shape, target_shape = SHAPES[kind]
    outputs = torch.randn(output_shape, generator=generator) * scale
    if kind is LossKind.REGRESSION:
        return outputs, torch.randn(target_shape, generator=generator)
    return outputs, torch.randint(0, 5, target_shape, generator=generator)


def build_task(kind: LossKind) -> TaskSpec:
    return TaskSpec(
        name="toy",
        loss=kind,
        input_shape=(3,),
        num_outputs=5,
        metric=MetricSpec(name="m", is_higher_better=True, scale=0.1),
        horizon_epochs=1,
        keep_threshold=0.0,
    )


def test_classification_gives_cross_entropy_and_accuracy() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    losses, metrics = Objective(LossKind.CLASSIFICATION).per_item(logits, torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], abs=1e-6)
    assert metrics.tolist() == [1.0, 0.0]


def test_regression_gives_squared_error_per_item_and_its_negative() -> None:
    outputs, targets = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    losses, metrics = Objective(LossKind.REGRESSION).per_item(outputs, targets)
    assert losses.tolist() == [2.5, 2.0]
    assert metrics.tolist() == [-2.5, -2.0]


def test_language_model_gives_the_mean_token_loss_per_item_and_its_negative() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[1, :, 2] = math.log(5.0)
    losses, metrics = Objective(LossKind.LANGUAGE_MODEL).per_item(logits, torch.full((2, 3), 2))
    assert losses.tolist() == pytest.approx([math.log(4), math.log(8 / 5)], abs=1e-6)
    assert torch.equal(metrics, -losses)


@pytest.mark.parametrize("kind", LossKind)
def test_the_task_chooses_the_objective(kind: LossKind) -> None:
    assert build_objective(build_task(kind)).kind is kind


@pytest.mark.parametrize("kind", LossKind)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 30.0))
def test_the_loss_is_the_mean_of_the_losses_per_item(kind: LossKind, seed: int, scale: float) -> None:
    outputs, targets = draw(kind, seed, scale)
    objective = Objective(kind)
    losses, _ = objective.per_item(outputs, targets)
    torch.testing.assert_close(objective.loss(outputs, targets), losses.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LossKind)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_are_float32_whatever_the_outputs_and_the_autocast(
    kind: LossKind, dtype: torch.dtype
) -> None:
    outputs, targets = draw(kind, 3)
    low, objective = outputs.to(dtype), Objective(kind)
    with torch.autocast("cpu", dtype=dtype):
        loss, (losses, metrics) = objective.loss(low, targets), objective.per_item(low, targets)
    assert (loss.dtype, losses.dtype, metrics.dtype) == (torch.float32,) * 3
    assert torch.equal(loss, objective.loss(low.float(), targets))
    assert losses.shape == metrics.shape == (6,)


@pytest.mark.parametrize("kind", LossKind)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 30.0))
def test_metrics_alone_are_those_of_per_item_bit_for_bit(
    kind: LossKind, dtype: torch.dtype, seed: int, scale: float
) -> None:
    outputs, targets = draw(kind, seed, scale)
    low, objective = outputs.to(dtype).requires_grad_(), Objective(kind)
    metrics = objective.metrics(low, targets)
    assert metrics.dtype == torch.float32
    assert not metrics.requires_grad
    assert torch.equal(metrics, objective.per_item(low, targets)[1])


@pytest.mark.parametrize("kind", LossKind)
def test_only_the_loss_carries_a_gradient(kind: LossKind) -> None:
    outputs, targets = draw(kind, 4)
    outputs.requires_grad_()
    losses, metrics = Objective(kind).per_item(outputs, targets)
    assert not losses.requires_grad
    assert not metrics.requires_grad
    loss = Objective(kind).loss(outputs, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.shape == ()
    assert outputs.grad is not None
    assert bool(outputs.grad.isfinite().all())


@pytest.mark.parametrize(
    ("kind", "outputs", "targets"),
    [
        (LossKind.REGRESSION, (4, 1), (4,)),
        (LossKind.REGRESSION, (4,), (4,)),
        (LossKind.CLASSIFICATION, (4, 5), (4, 5)),
        (LossKind.CLASSIFICATION, (4, 5), (3,)),
        (LossKind.LANGUAGE_MODEL, (4, 5), (4,)),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(
    kind: LossKind, outputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    dtype = torch.float32 if kind is LossKind.REGRESSION else torch.int64
    pair = torch.zeros(outputs), torch.zeros(targets, dtype=dtype)
    with pytest.raises(ValueError, match=f"{kind.value} objective"):
        Objective(kind).loss(*pair)
    with pytest.raises(ValueError, match=f"{kind.value} objective"):
        Objective(kind).per_item(*pair)
    with pytest.raises(ValueError, match=f"{kind.value} objective"):
        Objective(kind).metrics(*pair)


@pytest.mark.parametrize("kind", list(LossKind))
def test_only_language_is_read_as_whole_numbers(kind: LossKind) -> None:
    expected = torch.int64 if kind is LossKind.LANGUAGE_MODEL else torch.float32
    assert input_dtype(build_task(kind)) is expected


def test_a_window_is_one_item_and_its_tokens_count_alike() -> None:
    outputs, targets = draw(LossKind.LANGUAGE_MODEL, 3)
    losses, metrics = Objective(LossKind.LANGUAGE_MODEL).per_item(outputs, targets)
    by_hand = [
        sum(float(-outputs[b, t].log_softmax(0)[targets[b, t]]) for t in range(4)) / 4 for b in range(6)
    ]
    assert losses.tolist() == pytest.approx(by_hand, rel=1e-5)
    assert torch.equal(metrics, -losses)
    loss = Objective(LossKind.LANGUAGE_MODEL).loss(outputs, targets)
    assert float(loss) == pytest.approx(sum(by_hand) / 6, rel=1e-5)
