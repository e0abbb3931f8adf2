"""The fall of the loss, symmetric and bounded."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from esper.leyline import Observation
from esper.simic.rewards.levels import ChangeOf, Side
from esper.simic.rewards.loss import LossFall
from esper.simic.rewards.rubric import TermMemory
from simic.rewards.fact_strategies import make_facts
from simic.rewards.scripted_host import CHANCE_LOSS, grow, pay, play, sum_shares


def at_loss(loss: float) -> Observation:
    observation = play(grow())[0].after
    return replace(observation, signals=replace(observation.signals, validation_loss=loss))


def test_loss_fall_counts_chance_losses_from_a_uniform_guess_on() -> None:
    episode = play(grow("good"))
    expected = 1.0 - episode[-1].after.signals.validation_loss / CHANCE_LOSS
    assert sum_shares(pay(episode, "loss"), "loss_fall") == pytest.approx(0.05 * 5.0 * expected)


def test_a_rise_costs_what_a_fall_of_the_same_size_earns() -> None:
    term, memory = ChangeOf(LossFall(2.0)), TermMemory()
    states = [at_loss(loss) for loss in (1.0, 0.4, 1.0, 0.4, 1.0)]
    paid = [term.compute(make_facts(before, after), memory) for before, after in pairwise(states)]
    step = 0.6 / CHANCE_LOSS
    assert paid == pytest.approx([step, -step, step, -step])


@pytest.mark.parametrize(
    ("loss", "level"),
    [(0.0, 0.0), (-3.0, 0.0), (CHANCE_LOSS, -1.0), (1e9, -2.0), (math.nan, -2.0), (math.inf, -2.0)],
)
def test_losses_beyond_the_bound_are_not_told_apart(loss: float, level: float) -> None:
    assert LossFall(2.0).compute_level(Side(at_loss(loss), 0.0, False)) == level
