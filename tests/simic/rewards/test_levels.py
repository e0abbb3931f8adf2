"""Paying a level as its change or at the end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings

from esper.leyline import Verdict, VerdictKind
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.gain import MetricLead
from esper.simic.rewards.levels import AtTheEnd, ChangeOf, clip_level, compute_ratio
from esper.simic.rewards.rubric import RewardTerm, TermMemory
from simic.rewards.fact_strategies import scripted_episodes
from simic.rewards.scripted_host import grow, never, play


def run(term: RewardTerm, episode: list[StepFacts]) -> list[float]:
    memory: TermMemory = {}
    return [term.compute(facts, memory) for facts in episode]


def test_changes_and_the_end_name_and_bound_themselves_after_their_level() -> None:
    lead = MetricLead(7.0)
    change, end = ChangeOf(lead).spec, AtTheEnd(lead).spec
    assert (change.name, change.low, change.high) == ("metric_lead", -14.0, 14.0)
    assert (end.name, end.low, end.high) == ("final_metric_lead", -14.0, 14.0)


@settings(max_examples=40)
@given(episode=scripted_episodes())
def test_both_kinds_sum_up_to_the_same_in_every_episode(episode: list[StepFacts]) -> None:
    # The bound is tight on purpose: clipped levels telescope, clipped changes would not.
    for bound in (0.5, 7.0):
        paid = run(ChangeOf(MetricLead(bound)), episode)
        end = run(AtTheEnd(MetricLead(bound)), episode)
        assert math.fsum(paid) == pytest.approx(math.fsum(end), abs=1e-9)
        assert not any(end[:-1])


def test_the_end_pays_the_final_level_only_on_the_last_step() -> None:
    paid = run(AtTheEnd(MetricLead(7.0)), play(grow("good")))
    assert paid[:-1] == [0.0] * (len(paid) - 1)
    assert paid[-1] == pytest.approx(0.06 / 0.05)


def test_an_episode_that_begins_with_a_trained_host_is_paid_from_there() -> None:
    later = play(grow("good"))[12:]
    before = later[0].before.signals.metric - later[0].never_metric_before
    assert before == pytest.approx(0.06)
    assert math.fsum(run(ChangeOf(MetricLead(7.0)), later)) == pytest.approx(0.0, abs=1e-12)


def test_a_failure_takes_back_what_was_gained_and_leaves_what_was_lost() -> None:
    failed = Verdict(kind=VerdictKind.DIVERGED)
    for blueprint, expected in (("good", 0.0), ("ransom_harmful", -0.02 / 0.05)):
        ahead = play(grow(blueprint))[:15]
        ahead[-1] = replace(ahead[-1], verdict=failed, is_last=True)
        for term in (ChangeOf(MetricLead(7.0)), AtTheEnd(MetricLead(7.0))):
            assert math.fsum(run(term, ahead)) == pytest.approx(expected, abs=1e-12)


def test_a_host_that_never_grows_is_paid_exactly_nothing() -> None:
    assert run(ChangeOf(MetricLead(7.0)), play(never)) == [0.0] * 24


def test_a_level_that_is_no_number_counts_as_the_lowest() -> None:
    assert clip_level(math.nan, -2.0, 3.0) == -2.0
    assert clip_level(-math.inf, -2.0, 3.0) == -2.0
    assert clip_level(math.inf, -2.0, 3.0) == 3.0
    assert clip_level(1.5, -2.0, 3.0) == 1.5


@pytest.mark.parametrize(
    ("top", "bottom", "expected"),
    [
        (3, 4, 0.75),
        (10**400, 10**399, 10.0),
        (10**400, 1, math.inf),
        (-(10**400), 1, -math.inf),
        (-(10**400), -1, math.inf),
        (1.0, 0.0, math.inf),
        (-1, 0, -math.inf),
        (10**400, 0, math.inf),
        (-(10**400), 0, -math.inf),
    ],
    ids=(
        "plain",
        "both huge",
        "too large",
        "too small",
        "two signs",
        "over 0",
        "below 0",
        "huge over 0",
        "huge below 0",
    ),
)
def test_ratios_of_any_size_are_numbers_or_infinite(top: float, bottom: float, expected: float) -> None:
    assert compute_ratio(top, bottom) == expected


def test_nothing_over_nothing_is_no_number() -> None:
    assert math.isnan(compute_ratio(0, 0))
