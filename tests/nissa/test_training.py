"""The training of a policy in numbers: curves, ends, signs of trouble, at every moment of its life."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import Event, Notice
from esper.nissa import (
    TrainingSummary,
    average_known,
    compute_training_curves,
    compute_training_summary,
    curves_to_plain,
    drop_superseded,
    is_training,
    split_ends,
    training_to_plain,
)
from esper.nissa.analytics.training import CURVES
from nissa.sample_run import numbered, run_events
from nissa.sample_training import (
    blind_critic,
    ended_episode,
    resumed_training,
    started_training,
    training_events,
    updated,
)


def summary_of(events: list[Event]) -> TrainingSummary:
    return compute_training_summary(numbered(events))


def test_a_finished_training_in_numbers() -> None:
    summary = summary_of(list(training_events()))
    assert (summary.status, summary.task, summary.seed, summary.num_envs) == ("horizon", "digits", 7, 2)
    assert (summary.num_rounds, summary.planned_rounds, summary.num_env_steps) == (20, 20, 400)
    assert (summary.num_episodes, summary.failures) == (40, {"diverged": 1})
    assert summary.ops == {"WAIT": 280, "GERMINATE": 120}
    assert summary.num_quarantined == 1
    assert summary.last_return == pytest.approx(0.2)
    assert summary.seconds == len(list(training_events())) - 1


def test_curves_hold_one_value_per_round() -> None:
    curves = summary_of(list(training_events())).curves
    assert curves.rounds == tuple(range(1, 21))
    assert set(curves.metrics) == set(CURVES)
    assert {len(values) for values in (*curves.metrics.values(), *curves.op_shares.values())} == {20}
    assert curves.metrics["gain"] == tuple(pytest.approx(0.002 * number) for number in range(1, 21))
    assert curves.op_shares["GERMINATE"] == (0.25,) * 20
    assert curves.num_episodes == (2,) * 20
    assert curves.num_quarantined == (0, 0, 1, *[0] * 17)


def test_anomalies_are_told_once_with_their_rounds() -> None:
    (tally,) = summary_of(list(training_events())).anomalies
    assert (tally.name, tally.num_rounds, tally.first_round, tally.last_round) == ("blind_critic", 2, 2, 3)
    assert (tally.value, tally.threshold, tally.advice) == (0.003, 0.05, "check gamma")


def test_an_anomaly_told_twice_for_one_round_counts_once() -> None:
    (tally,) = summary_of([updated(2), blind_critic(2), blind_critic(2)]).anomalies
    assert tally.num_rounds == 1


def test_a_notice_that_a_resume_repeats_is_told_once() -> None:
    notice = Notice(epoch=0, text="no effect")
    assert len(summary_of([notice, started_training(), notice]).notices) == 1


def test_no_record_and_one_that_has_just_begun() -> None:
    assert summary_of([]) == TrainingSummary(curves=compute_training_curves(()))
    summary = summary_of([started_training()])
    assert (summary.status, summary.num_rounds, summary.last_return) == ("unfinished", 0, None)
    assert json.loads(json.dumps(training_to_plain(summary)))["last_return"] is None


def test_a_round_that_is_not_told_whole_counts_for_nothing() -> None:
    events = [*training_events(20, 2), ended_episode(3, 0)]
    summary = summary_of(events)
    assert (summary.num_rounds, summary.num_episodes, summary.status) == (2, 4, "unfinished")


def test_a_metric_that_was_not_known_is_none_there_and_left_out_of_means() -> None:
    short = updated(2)
    metrics = {name: value for name, value in short.metrics.items() if name != "rollout/gain_mean"}
    curves = compute_training_curves([updated(1), type(short)(epoch=2, num_env_steps=40, metrics=metrics)])
    assert curves.metrics["gain"] == (0.002, None)
    assert average_known(curves.metrics["gain"]) == 0.002
    assert average_known((None, math.nan)) is None


def test_a_resumed_training_equals_one_that_was_never_stopped() -> None:
    records = drop_superseded(resumed_training(num_rounds=6, saved_round=2, lost_round=4))
    resumed, whole = compute_training_summary(records), summary_of(list(training_events(6)))
    assert replace(resumed, seconds=0.0) == replace(whole, seconds=0.0)


def test_only_records_of_a_training_are_one() -> None:
    assert is_training(numbered(training_events(2)))
    assert not is_training(numbered(run_events()))


@given(st.integers(1, 300))
def test_the_ends_never_share_a_round(num_rounds: int) -> None:
    first, last = split_ends(num_rounds)
    head, tail = range(num_rounds)[first], range(num_rounds)[last]
    assert len(head) == len(tail) <= 5
    assert head[0] == 0
    assert tail[-1] == num_rounds - 1
    assert num_rounds == 1 or set(head).isdisjoint(tail)


def test_plain_data_holds_the_ends_of_every_curve_and_no_bare_nan() -> None:
    events = [*training_events(12, 11), updated(12, **{"train/approx_kl": math.nan})]
    plain = json.loads(json.dumps(training_to_plain(summary_of(events)), allow_nan=False))
    assert (plain["kind"], plain["schema_version"]) == ("training", 1)
    assert plain["averaged_rounds"] == {"first": [1, 2, 3, 4, 5], "last": [8, 9, 10, 11, 12]}
    assert plain["curves"]["return"] == {"first": pytest.approx(0.03), "last": pytest.approx(0.1)}
    assert plain["curves"]["approx_kl"]["last"] == pytest.approx(0.002)
    assert plain["anomalies"][0]["name"] == "blind_critic"
    assert "rounds" not in plain


def test_plain_curves_are_one_object_per_round_with_the_same_keys() -> None:
    rows = curves_to_plain(summary_of(list(training_events(3))).curves)
    assert [row["round"] for row in rows] == [1, 2, 3]
    assert {tuple(row) for row in rows} == {
        ("round", "num_env_steps", "num_episodes", "num_quarantined", *CURVES, "op_shares")
    }
    assert rows[2]["num_quarantined"] == 1


def test_a_number_that_is_not_finite_becomes_null_and_is_named() -> None:
    plain = training_to_plain(summary_of([updated(1), replace(blind_critic(1), value=math.inf)]))
    assert isinstance(plain, dict)
    assert json.loads(json.dumps(plain, allow_nan=False))["anomalies"][0]["value"] is None
    assert plain["nonfinite"] == (("anomalies", 0, "value", "inf"),)
