"""Each detector of the governor on hand-made losses, and its neighbours just inside the bounds."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_report
from esper.leyline import (
    ConfigError,
    EpochOutcome,
    ForeignCheckpointError,
    JsonValue,
    SeedStage,
    SlotOutcome,
    SlotReport,
    Verdict,
    VerdictKind,
)
from esper.tolaria.governor import Governor, GovernorConfig, find_blamed

CHANCE = math.log(10)


def outcome(
    loss: float, *, train_loss: float = 1.0, metric: float = 0.5, skipped: int = 0, batches: int = 10
) -> EpochOutcome:
    return EpochOutcome(
        epoch=1,
        train_loss=train_loss,
        train_metric=0.5,
        validation_loss=loss,
        metric=metric,
        num_batches=batches,
        num_skipped_batches=skipped,
    )


def build(losses: list[float], **settings: float) -> Governor:
    """A governor that has taken these losses as healthy."""
    governor = Governor(GovernorConfig(**settings), chance_loss=CHANCE)  # type: ignore[arg-type]
    for loss in losses:
        assert governor.judge(outcome(loss)) == Verdict()
    return governor


def judge(governor: Governor, loss: float, times: int = 1) -> list[str]:
    return [governor.judge(outcome(loss)).kind for _ in range(times)]


# ---------------------------------------------------------------------- non-finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["validation_loss", "train_loss", "metric"])
def test_a_number_that_is_not_finite_is_a_verdict_at_once(place: str, value: float) -> None:
    verdict = build([]).judge(replace(outcome(1.0), **{place: value}), blamed_slot="s2")  # type: ignore[arg-type]
    assert (verdict.kind, verdict.blamed_slot) == (VerdictKind.NON_FINITE, "s2")
    assert str(value) in verdict.reason
    assert verdict.is_failure


def test_more_than_half_of_the_batches_skipped_is_a_verdict() -> None:
    assert build([]).judge(outcome(1.0, skipped=5)) == Verdict()
    verdict = build([]).judge(outcome(1.0, skipped=6))
    assert verdict.kind == VerdictKind.NON_FINITE
    assert verdict.reason == "6 of 10 batches were skipped"
    assert build([], max_skipped_fraction=1.0).judge(outcome(1.0, skipped=10)) == Verdict()


def test_a_bad_number_that_stays_is_a_verdict_although_the_losses_are_sound() -> None:
    governor = build([])
    verdict = governor.judge(outcome(1.0), blamed_slot="s1", lasting="not finite: moment host.w")
    assert verdict == Verdict(
        kind=VerdictKind.NON_FINITE, reason="not finite: moment host.w", blamed_slot="s1"
    )
    assert str(math.nan) in governor.judge(outcome(math.nan), lasting="not finite: moment host.w").reason


# ---------------------------------------------------------------------- divergence


def test_leaving_the_window_three_times_in_a_row_is_divergence() -> None:
    governor = build([2.0] * 10)
    kinds = judge(governor, 7.0, 3)
    assert kinds == [VerdictKind.HEALTHY, VerdictKind.HEALTHY, VerdictKind.DIVERGED]


def test_one_interval_inside_the_window_starts_the_count_again() -> None:
    governor = build([2.0] * 10)
    assert [*judge(governor, 7.0, 2), *judge(governor, 2.0), *judge(governor, 7.0, 2)] == (
        [VerdictKind.HEALTHY] * 5
    )


def test_anomalous_losses_do_not_enter_the_window() -> None:
    governor = build([2.0] * 10)
    before = governor.state()["losses"]
    governor.judge(outcome(7.0))
    assert governor.state()["losses"] == before
    governor.judge(outcome(2.5))
    assert governor.state()["losses"] == [*before, 2.5]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("losses", "loss"),
    [
        ([2.0] * 9, 7.0),  # one interval short of a window
        ([2.0] * 10, 5.9),  # below 3 x the mean
        ([1.0] * 10, 4.5),  # below 2 x chance (4.6), though 4.5 x the mean
        ([2.0, 6.0] * 5, 15.9),  # below mean + 6 deviations (16), though above 3 x the mean (12)
    ],
)
def test_each_bound_of_divergence_is_needed(losses: list[float], loss: float) -> None:
    lenient = build(losses, max_loss_ratio=100.0)
    assert judge(lenient, loss, 3) == [VerdictKind.HEALTHY] * 3


def test_above_all_bounds_a_spread_window_diverges() -> None:
    governor = build([2.0, 6.0] * 5, max_loss_ratio=100.0)
    assert judge(governor, 16.1, 3)[-1] == VerdictKind.DIVERGED


def test_a_multiple_of_the_best_that_is_worse_than_guessing_is_a_verdict_at_once() -> None:
    governor = build([1.0, 0.2])
    assert judge(governor, 2.2) == [VerdictKind.HEALTHY]
    verdict = governor.judge(outcome(2.4), blamed_slot="s1")
    assert (verdict.kind, verdict.blamed_slot) == (VerdictKind.DIVERGED, "s1")
    assert verdict.reason == "validation loss 2.4 is over 5 times the best 0.2"


def test_worse_than_guessing_within_the_ratio_is_tolerated() -> None:
    assert judge(build([2.0]), 9.9) == [VerdictKind.HEALTHY]


def test_only_the_last_losses_count() -> None:
    governor = build([40.0] * 10 + [20.0] * 20, max_loss_ratio=100.0)
    assert governor.state()["losses"] == [20.0] * 20
    assert judge(governor, 61.0, 3)[-1] == VerdictKind.DIVERGED


# ---------------------------------------------------------------------- collapse


@pytest.mark.parametrize("offset", [-0.06, 0.0, 0.06])
def test_a_host_that_had_learned_and_guesses_has_collapsed(offset: float) -> None:
    governor = build([0.5] * 10)
    assert judge(governor, CHANCE * (1 + offset)) == [VerdictKind.COLLAPSED]


def test_collapse_names_the_loss_of_guessing_and_the_slot() -> None:
    verdict = build([0.5] * 10).judge(outcome(2.25), blamed_slot="s3")
    assert (verdict.kind, verdict.blamed_slot) == (VerdictKind.COLLAPSED, "s3")
    assert verdict.reason == "validation loss 2.25 is that of guessing (2.303)"


@pytest.mark.parametrize(
    ("losses", "loss"),
    [
        ([0.5] * 9, CHANCE),  # one interval short of a window
        ([1.5] * 10, CHANCE),  # it had not learned: 0.65 of chance
        ([0.5] * 10, CHANCE * 0.93),  # outside the margin
        ([0.5] * 10, CHANCE * 1.07),
    ],
)
def test_each_condition_of_collapse_is_needed(losses: list[float], loss: float) -> None:
    assert judge(build(losses, max_loss_ratio=100.0), loss) == [VerdictKind.HEALTHY]


def test_chance_is_that_of_the_task() -> None:
    governor = Governor(GovernorConfig(), chance_loss=math.log(100))
    for _ in range(10):
        governor.judge(outcome(1.0))
    assert governor.judge(outcome(math.log(10))) == Verdict()
    assert governor.judge(outcome(math.log(100))).kind == VerdictKind.COLLAPSED


# ---------------------------------------------------------------------- healthy runs


@given(losses=st.lists(st.floats(0.3, 1.2), max_size=60))
def test_an_ordinary_run_is_never_rolled_back(losses: list[float]) -> None:
    build(losses)


@given(losses=st.lists(st.one_of(st.floats(0.0, 50.0), st.just(math.nan)), max_size=40))
def test_the_window_holds_finite_losses_only_and_never_too_many(losses: list[float]) -> None:
    governor = Governor(GovernorConfig(), chance_loss=CHANCE)
    for loss in losses:
        governor.judge(outcome(loss))
    window = governor.state()["losses"]
    assert isinstance(window, list)
    assert len(window) <= 20
    assert json.loads(json.dumps(governor.state(), allow_nan=False)) == governor.state()


def judge_in_full(config: GovernorConfig, losses: list[float]) -> list[str]:
    """Verdicts by the definition: every statistic computed every time."""
    window: list[float] = []
    best, strikes, kinds = math.inf, 0, []
    for loss in losses:
        is_ripe = len(window) >= config.min_history
        mean = statistics.fmean(window) if window else math.nan
        has_learned = is_ripe and mean < config.learned_fraction * CHANCE
        bounds = [config.max_chance_ratio * CHANCE]
        if window:
            spread = statistics.pstdev(window)
            bounds += [config.max_mean_ratio * mean, mean + config.max_deviations * spread]
        kind = VerdictKind.HEALTHY
        if math.isnan(loss):
            kind = VerdictKind.NON_FINITE
        elif has_learned and abs(loss - CHANCE) < config.collapse_margin * CHANCE:
            kind = VerdictKind.COLLAPSED
        elif loss > CHANCE and loss > config.max_loss_ratio * best:
            kind = VerdictKind.DIVERGED
        elif is_ripe and loss > max(bounds):
            strikes += 1
            kind = VerdictKind.DIVERGED if strikes >= config.patience else kind
        else:
            strikes, best, window = 0, min(best, loss), [*window, loss][-config.window :]
        kinds.append(kind)
    return kinds


@given(
    losses=st.lists(
        st.one_of(st.floats(0.3, 1.2), st.floats(0.0, 50.0), st.floats(2.1, 2.5), st.just(math.nan)),
        max_size=40,
    ),
    max_loss_ratio=st.sampled_from((5.0, 1e6)),
)
def test_verdicts_are_those_of_the_definition(losses: list[float], max_loss_ratio: float) -> None:
    config = GovernorConfig(min_history=3, window=6, max_loss_ratio=max_loss_ratio)
    governor = Governor(config, chance_loss=CHANCE)
    assert [governor.judge(outcome(loss)).kind for loss in losses] == judge_in_full(config, losses)


# ---------------------------------------------------------------------- blame


def seed_at(slot: str, stage: SeedStage, epochs_in_stage: int = 1) -> SlotReport:
    return make_report(slot, stage, epochs_in_stage=epochs_in_stage)


def skipped_in(**batches: int) -> EpochOutcome:
    slots = {slot: SlotOutcome(num_skipped_batches=count) for slot, count in batches.items()}
    return replace(outcome(1.0), slots=slots)


@pytest.mark.parametrize(
    "stage",
    [
        SeedStage.DORMANT,
        SeedStage.GERMINATED,
        SeedStage.TRAINING,
        SeedStage.FOSSILIZED,
        SeedStage.CULLED,
        SeedStage.EMBARGOED,
    ],
)
def test_only_a_seed_that_reaches_the_output_and_can_still_go_is_blamed(stage: SeedStage) -> None:
    assert find_blamed([seed_at("s1", stage)], skipped_in(s1=9), ("s1",)) is None
    both = [seed_at("s1", stage), seed_at("s2", SeedStage.PROBATIONARY)]
    assert find_blamed(both, skipped_in(s1=9), ("s1",)) == "s2"


def test_without_other_evidence_the_last_one_to_blend_is_blamed() -> None:
    probation, old = seed_at("s1", SeedStage.PROBATIONARY, 0), seed_at("s2", SeedStage.BLENDING, 4)
    young = seed_at("s3", SeedStage.BLENDING, 2)
    assert find_blamed([probation, old], skipped_in(), ()) == "s2"
    assert find_blamed([probation, old, young], skipped_in(s1=2, s2=2, s3=2), ()) == "s3"
    assert find_blamed([probation], skipped_in(), ()) == "s1"
    assert find_blamed([], skipped_in(), ()) is None


def test_faulty_gradients_are_stronger_evidence_and_the_loss_scalers_word_is_the_strongest() -> None:
    reports = [
        seed_at("s1", SeedStage.PROBATIONARY, 5),
        seed_at("s2", SeedStage.BLENDING, 4),
        seed_at("s3", SeedStage.BLENDING, 2),
    ]
    assert find_blamed(reports, skipped_in(s2=3, s3=2), ()) == "s2"
    assert find_blamed(reports, skipped_in(s2=3, s3=2), ("s1", "gone")) == "s1"


def test_batches_in_which_the_host_was_faulty_too_are_no_evidence_against_a_seed() -> None:
    reports = [seed_at("s1", SeedStage.PROBATIONARY, 5), seed_at("s2", SeedStage.BLENDING, 2)]
    for_all = replace(skipped_in(s1=4, s2=3), num_skipped_batches=4)
    assert find_blamed(reports, for_all, ()) == "s2"
    assert find_blamed(reports, replace(for_all, num_skipped_batches=3), ()) == "s1"


# ---------------------------------------------------------------------- rollbacks and state


def test_a_rollback_restores_the_window_but_never_the_count() -> None:
    governor = build([2.0] * 10)
    saved = json.loads(json.dumps(governor.state()))
    judge(governor, 7.0, 3)
    assert [governor.count_rollback(), governor.count_rollback()] == [1, 2]
    governor.restore(saved, keep_rollback_count=True)
    assert governor.rollback_count == 2
    assert governor.state() == saved | {"rollback_count": 2}
    assert judge(governor, 7.0, 2) == [VerdictKind.HEALTHY] * 2


def test_a_resume_restores_the_count() -> None:
    governor = build([2.0])
    governor.count_rollback()
    resumed = build([])
    resumed.restore(json.loads(json.dumps(governor.state())), keep_rollback_count=False)
    assert resumed.rollback_count == 1
    assert resumed.state() == governor.state()


@given(losses=st.lists(st.floats(0.1, 30.0), max_size=40), cut=st.integers(0, 39))
def test_a_resumed_governor_judges_as_the_uninterrupted_one(losses: list[float], cut: int) -> None:
    whole, second = build([]), build([])
    for index, loss in enumerate(losses):
        if index == cut:
            second = build([])
            second.restore(json.loads(json.dumps(whole.state())), keep_rollback_count=False)
        assert second.judge(outcome(loss)) == whole.judge(outcome(loss))


@pytest.mark.parametrize(
    ("field", "value"),
    [("losses", "12"), ("losses", [None]), ("best", "x"), ("strikes", 0.5), ("rollback_count", None)],
)
def test_a_malformed_state_is_refused_and_changes_nothing(field: str, value: JsonValue) -> None:
    governor = build([2.0])
    before = governor.state()
    for broken in (before | {field: value}, {k: v for k, v in before.items() if k != field}):
        with pytest.raises(ForeignCheckpointError, match="saved governor is malformed"):
            governor.restore(broken, keep_rollback_count=False)
    assert governor.state() == before


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"window": 1, "min_history": 1}, "governor.window=1: must be >= 2"),
        ({"window": 9}, "governor.window=9: must be >= min_history=10"),
        ({"min_history": 0}, "governor.min_history=0: must be >= 1"),
        ({"patience": 0}, "governor.patience=0: must be >= 1"),
        ({"max_rollbacks": -1}, "governor.max_rollbacks=-1: must be >= 0"),
        ({"max_deviations": 0.0}, "must be finite and > 0"),
        ({"max_mean_ratio": 1.0}, "must be finite and > 1"),
        ({"max_loss_ratio": math.inf}, "must be finite and > 1"),
        ({"max_chance_ratio": math.nan}, "must be finite and >= 1"),
        ({"collapse_margin": 1.0}, "must be in (0, 1)"),
        ({"learned_fraction": 0.0}, "must be in (0, 1)"),
        ({"max_skipped_fraction": 1.5}, "must be in [0, 1]"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_name(settings: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GovernorConfig(**settings)  # type: ignore[arg-type]
    assert text in str(caught.value)
    assert "governor." in str(caught.value)
