"""The alpha ramp as a closed form and the three ways a residual enters the host."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.kasmina import AlphaRamp, apply_blend, build_seeded, compute_curve
from esper.kasmina.blending import SampleGate, build_seed
from esper.leyline import AlphaCurve, BlendForm
from kasmina.growing import draw

curves = st.sampled_from(AlphaCurve)
levels = st.floats(0.0, 1.0)
ramps = st.builds(
    AlphaRamp,
    start_value=levels,
    target=levels,
    start_batch=st.integers(0, 10**6),
    num_batches=st.integers(1, 500),
    curve=curves,
)


@given(curves)
def test_curve_meets_both_ends_exactly(curve: AlphaCurve) -> None:
    assert (compute_curve(curve, 0.0), compute_curve(curve, 1.0)) == (0.0, 1.0)
    assert compute_curve(curve, 0.5) == pytest.approx(0.5, abs=1e-12)


@given(curves, st.floats(-5.0, 5.0), st.floats(-5.0, 5.0))
def test_curve_is_monotone_and_bounded(curve: AlphaCurve, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0.0 <= compute_curve(curve, low) <= compute_curve(curve, high) <= 1.0


@given(curves, levels)
def test_curve_is_symmetric_about_its_middle(curve: AlphaCurve, progress: float) -> None:
    total = compute_curve(curve, progress) + compute_curve(curve, 1.0 - progress)
    assert total == pytest.approx(1.0, abs=1e-9)


@given(levels)
def test_curve_has_its_closed_form(t: float) -> None:
    assert compute_curve(AlphaCurve.LINEAR, t) == t
    assert compute_curve(AlphaCurve.COSINE, t) == pytest.approx((1 - math.cos(math.pi * t)) / 2, abs=1e-12)
    wave = (math.tanh(6 * (t - 0.5)) / math.tanh(3.0) + 1) / 2  # the rescaled logistic, written as tanh
    assert compute_curve(AlphaCurve.SIGMOID, t) == pytest.approx(wave, abs=1e-12)


@given(ramps)
def test_ramp_meets_both_ends_exactly(ramp: AlphaRamp) -> None:
    assert ramp.alpha_at(ramp.start_batch) == ramp.start_value
    for later in (0, 1, 1000):
        batch = ramp.start_batch + ramp.num_batches + later
        assert ramp.alpha_at(batch) == ramp.target
        assert ramp.is_finished_at(batch)
    assert not ramp.is_finished_at(ramp.start_batch + ramp.num_batches - 1)


@given(ramps)
def test_ramp_is_monotone_and_in_range(ramp: AlphaRamp) -> None:
    values = [ramp.alpha_at(ramp.start_batch + step) for step in range(ramp.num_batches + 1)]
    is_falling = ramp.target < ramp.start_value
    for before, after in pairwise(values):
        assert (before - after if is_falling else after - before) >= -1e-12
    assert all(0.0 <= value <= 1.0 for value in values)


@given(ramps, st.integers(-5, 600))
def test_ramp_is_its_closed_form(ramp: AlphaRamp, step: int) -> None:
    height = compute_curve(ramp.curve, step / ramp.num_batches)
    expected = (1 - height) * ramp.start_value + height * ramp.target
    assert ramp.alpha_at(ramp.start_batch + step) == pytest.approx(expected, abs=1e-12)


@given(ramps)
def test_ramp_survives_its_record(ramp: AlphaRamp) -> None:
    assert AlphaRamp.from_dict(ramp.to_dict()) == ramp


@pytest.mark.parametrize(("shape", "channel_dim"), [((3, 8, 4, 4), 1), ((3, 5, 8), -1), ((3, 8), 1)])
def test_gate_is_per_sample_and_between_zero_and_one(shape: tuple[int, ...], channel_dim: int) -> None:
    gate = build_seeded(lambda: SampleGate(8, channel_dim, len(shape) - 2), 0)
    values = gate(draw(*shape))
    assert values.shape == (shape[0], *[1] * (len(shape) - 1))
    assert bool(((values > 0) & (values < 1)).all())


@pytest.mark.parametrize("form", list(BlendForm))
def test_zero_branch_gives_zero_residual_in_every_form(form: BlendForm) -> None:
    branch = nn.Conv2d(8, 8, 1, bias=False)
    nn.init.zeros_(branch.weight)
    seed = build_seeded(lambda: build_seed(branch, form, 8, 1, 2), 0)
    assert not seed(draw(2, 8, 3, 3)).count_nonzero()


def test_residual_has_the_formula_of_its_form() -> None:
    h, branch = draw(2, 8, 3, 3), build_seeded(lambda: nn.Conv2d(8, 8, 1), 0)
    delta = branch(h)
    seeds = {form: build_seeded(lambda form=form: build_seed(branch, form, 8, 1, 2), 0) for form in BlendForm}  # type: ignore[misc]
    assert torch.equal(seeds[BlendForm.ADD](h), delta)
    assert torch.equal(seeds[BlendForm.VALVE](h), h * torch.tanh(delta))
    gate = seeds[BlendForm.GATE].gate
    assert gate is not None
    assert torch.equal(seeds[BlendForm.GATE](h), gate(h) * delta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blend_adds_in_float32_and_keeps_the_type(dtype: torch.dtype) -> None:
    h, residual, alpha = draw(2, 4).to(dtype), draw(2, 4, seed=1).to(dtype), torch.tensor(0.25)
    out = apply_blend(h, residual, alpha)
    assert out.dtype == dtype
    assert torch.equal(out, torch.addcmul(h.float(), residual.float(), alpha).to(dtype))


def test_identity_path_always_carries_the_gradient() -> None:
    h = draw(2, 4).requires_grad_()
    apply_blend(h, torch.zeros(2, 4), torch.tensor(1.0)).sum().backward()  # type: ignore[no-untyped-call]
    assert h.grad is not None
    assert torch.equal(h.grad, torch.ones(2, 4))
