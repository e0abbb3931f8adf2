"""Signals against hand-made histories: signs, plateaus, the latch, best of the whole run."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import ConfigError, EpochOutcome, ForeignCheckpointError, JsonValue, TrainingSignals
from esper.tolaria.signals import SignalTracker, SignalTrackerConfig

histories = st.lists(st.tuples(st.floats(0.01, 10.0), st.floats(-5.0, 1.0)), min_size=1, max_size=15)


def outcome(epoch: int, loss: float, metric: float, rate: float = 0.1) -> EpochOutcome:
    return EpochOutcome(
        epoch=epoch,
        train_loss=loss / 2,
        train_metric=metric,
        validation_loss=loss,
        metric=metric,
        host_gradient_norm=0.5,
        learning_rate=rate,
    )


def track(
    losses: list[float], metrics: list[float] | None = None, config: SignalTrackerConfig | None = None
) -> list[TrainingSignals]:
    tracker = SignalTracker(config if config is not None else SignalTrackerConfig())
    values = metrics if metrics is not None else [0.0] * len(losses)
    return [
        tracker.update(outcome(epoch, loss, metric))
        for epoch, (loss, metric) in enumerate(zip(losses, values, strict=True), start=1)
    ]


def test_a_positive_delta_is_an_improvement() -> None:
    first, second, third = track([1.0, 0.75, 1.25], [0.5, 0.625, 0.25])
    assert (first.loss_delta, first.metric_delta, first.has_history) == (0.0, 0.0, True)
    assert (second.loss_delta, second.metric_delta) == (0.25, 0.125)
    assert (third.loss_delta, third.metric_delta) == (-0.5, -0.375)


def test_a_plateau_counts_intervals_with_too_small_a_gain_and_ends_with_a_gain() -> None:
    metrics = [0.5, 0.504, 0.5, 0.5, 0.505, 0.506]
    assert [signals.plateau_epochs for signals in track([1.0] * 6, metrics)] == [0, 1, 2, 3, 0, 1]


def test_the_host_is_stable_after_three_calm_intervals_and_stays_so() -> None:
    losses = [1.0, 0.5, 0.49, 0.485, 0.484, 0.2, 5.0]
    assert [s.is_host_stable for s in track(losses)] == [False, False, False, False, True, True, True]


@pytest.mark.parametrize("restless", [0.5, 2.0])
def test_a_steep_fall_or_a_jump_starts_the_count_of_calm_intervals_again(restless: float) -> None:
    losses = [1.0, 1.0, 1.0, restless, restless, restless]
    assert not any(s.is_host_stable for s in track(losses))
    assert track([*losses, restless])[-1].is_host_stable


def test_slight_worsening_is_calm() -> None:
    assert track([1.0, 1.1, 1.2, 1.3])[-1].is_host_stable


def test_a_loss_that_goes_up_and_down_without_a_new_best_is_calm_against_the_best_alone() -> None:
    zigzag = [1.0, *([0.5, 0.6] * 20)]
    assert not any(s.is_host_stable for s in track(zigzag))
    told = track(zigzag, config=SignalTrackerConfig(settles_against="best"))
    assert [s.is_host_stable for s in told[:6]] == [False, False, False, False, True, True]


def test_a_loss_that_only_falls_settles_alike_against_the_previous_and_the_best() -> None:
    losses = [1.0, 0.9, 0.88, 0.8, 0.79, 0.78, 0.775, 0.77]
    best = SignalTrackerConfig(settles_against="best")
    assert [s.is_host_stable for s in track(losses)] == [s.is_host_stable for s in track(losses, config=best)]


def test_what_a_fall_is_measured_from_is_one_of_two() -> None:
    with pytest.raises(ConfigError, match=r"tracker\.settles_against='bset': .*best"):
        SignalTrackerConfig(settles_against="bset")


def test_zero_stable_epochs_means_stable_at_once() -> None:
    config = SignalTrackerConfig(stable_epochs=0)
    assert track([1.0], config=config)[0].is_host_stable


@given(history=histories)
def test_best_values_are_of_the_whole_run_and_histories_of_the_last_five(
    history: list[tuple[float, float]],
) -> None:
    losses, metrics = [loss for loss, _ in history], [metric for _, metric in history]
    last = track(losses, metrics)[-1]
    assert (last.best_loss, last.best_metric) == (min(losses), max(metrics))
    assert last.loss_history == tuple(losses[-5:])
    assert last.metric_history == tuple(metrics[-5:])


def test_the_rate_is_shown_over_its_peak_so_far() -> None:
    tracker = SignalTracker(SignalTrackerConfig())
    rates = [0.1, 0.4, 0.1, 0.0]
    fractions = [tracker.update(outcome(1, 1.0, 0.0, rate)).learning_rate_fraction for rate in rates]
    assert fractions == [1.0, 1.0, 0.25, 0.0]
    assert (
        SignalTracker(SignalTrackerConfig()).update(outcome(1, 1.0, 0.0, 0.0)).learning_rate_fraction == 0.0
    )


def test_what_the_outcome_says_is_passed_on() -> None:
    signals = track([0.75], [0.25])[0]
    assert (signals.epoch, signals.train_loss, signals.validation_loss) == (1, 0.375, 0.75)
    assert (signals.train_metric, signals.metric, signals.host_gradient_norm) == (0.25, 0.25, 0.5)


@given(history=histories, cut=st.integers(0, 14))
def test_the_state_survives_json_and_goes_on_as_if_uninterrupted(
    history: list[tuple[float, float]], cut: int
) -> None:
    whole, second = SignalTracker(SignalTrackerConfig()), SignalTracker(SignalTrackerConfig())
    for epoch, (loss, metric) in enumerate(history):
        if epoch == cut:
            second = SignalTracker(SignalTrackerConfig())
            second.restore(json.loads(json.dumps(whole.state())))
        assert second.update(outcome(epoch, loss, metric)) == whole.update(outcome(epoch, loss, metric))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("losses", "12"),
        ("losses", ["x"]),
        ("metrics", []),
        ("best_loss", None),
        ("plateau", 0.5),
        ("is_stable", "False"),
        ("peak_rate", None),
    ],
)
def test_a_malformed_state_is_refused_and_changes_nothing(field: str, value: JsonValue) -> None:
    tracker = SignalTracker(SignalTrackerConfig())
    tracker.update(outcome(1, 1.0, 0.5))
    before = tracker.state()
    for broken in (before | {field: value}, {k: v for k, v in before.items() if k != field}):
        with pytest.raises(ForeignCheckpointError, match="saved signal tracker is malformed"):
            tracker.restore(broken)
    assert tracker.state() == before


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("plateau_threshold", -0.1, "finite and >= 0"),
        ("plateau_threshold", math.nan, "finite and >= 0"),
        ("stable_improvement", 0.0, r"must be in \(0, 1\)"),
        ("stable_epochs", -1, "must be >= 0"),
        ("max_loss_ratio", 1.0, "finite and > 1"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_name(field: str, value: float, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"tracker\.{field}=.*{text}"):
        SignalTrackerConfig(**{field: value})  # type: ignore[arg-type]
