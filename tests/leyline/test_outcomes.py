from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_estimate
from esper.leyline import LossKind, MetricSpec, TaskSpec, Verdict, VerdictKind

FINITE = st.floats(-1e6, 1e6)


@given(FINITE)
def test_a_metric_is_shown_as_a_reader_expects_it(inside: float) -> None:
    assert MetricSpec(name="m", is_higher_better=True, scale=1.0).shown(inside) == inside
    assert MetricSpec(name="loss", is_higher_better=False, scale=1.0).shown(inside) == -inside


def test_perplexity_is_shown_as_the_exponential_of_the_loss() -> None:
    spec = MetricSpec(name="perplexity", is_higher_better=False, scale=0.1, is_exponential=True)
    assert spec.shown(0.0) == 1.0
    assert spec.shown(-math.log(256.0)) == pytest.approx(256.0)
    assert spec.shown(-1.7) < spec.shown(-1.8)
    assert spec.shown(-1e9) == math.exp(700.0)
    assert math.isnan(spec.shown(math.nan))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_metric_scale_must_be_finite_and_positive(scale: float) -> None:
    with pytest.raises(ValueError, match=r"MetricSpec\.scale="):
        MetricSpec(name="m", is_higher_better=True, scale=scale)


@given(FINITE, st.floats(0, 1e6), st.floats(0, 5))
def test_bounds_enclose_the_mean(mean: float, error: float, count: float) -> None:
    estimate = make_estimate(mean, error)
    assert estimate.lower(count) <= mean <= estimate.upper(count)


def test_bounds_are_whole_standard_errors_by_default() -> None:
    estimate = make_estimate(0.5, 0.125)
    assert (estimate.lower(), estimate.upper()) == (0.375, 0.625)
    assert (estimate.lower(2.0), estimate.upper(2.0)) == (0.25, 0.75)


def test_only_health_is_no_failure() -> None:
    assert not Verdict().is_failure
    for kind in (VerdictKind.NON_FINITE, VerdictKind.DIVERGED, VerdictKind.COLLAPSED):
        assert Verdict(kind=kind).is_failure


def make_task(
    loss: LossKind = LossKind.CLASSIFICATION,
    num_outputs: int = 10,
    horizon_epochs: int = 40,
    keep_threshold: float = 0.0,
) -> TaskSpec:
    return TaskSpec(
        name="t",
        loss=loss,
        input_shape=(1, 8, 8),
        num_outputs=num_outputs,
        metric=MetricSpec(name="m", is_higher_better=True, scale=1.0),
        horizon_epochs=horizon_epochs,
        keep_threshold=keep_threshold,
    )


def test_chance_is_a_uniform_guess() -> None:
    assert make_task().chance_loss == pytest.approx(math.log(10))
    assert make_task(LossKind.LANGUAGE_MODEL, 256).chance_loss == pytest.approx(math.log(256))
    assert make_task(LossKind.REGRESSION).chance_loss == 1.0
    assert make_task(num_outputs=1).chance_loss == 1.0


def test_impossible_tasks_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="TaskSpec 't'"):
        make_task(num_outputs=0)
    with pytest.raises(ValueError, match="TaskSpec 't'"):
        make_task(horizon_epochs=0)
    for threshold in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="keep_threshold"):
            make_task(keep_threshold=threshold)
