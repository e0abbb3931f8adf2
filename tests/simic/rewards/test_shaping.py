"""Shaping by potential: it telescopes on every path, and it changes no policy."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esper.leyline import TRANSITIONS, ConfigError, Observation, SeedStage
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.shaping import (
    STAGE_POTENTIALS,
    StagePotential,
    compute_potential,
    compute_shaping,
)
from simic.rewards.fact_strategies import make_facts, make_stages, scripted_episodes, stage_paths

DISCOUNTS = st.sampled_from((1.0, 0.995, 0.9, 0.5, 0.0))
FULL_CYCLE = [
    make_stages(["a"], [stage])
    for stage in (
        SeedStage.DORMANT,
        SeedStage.GERMINATED,
        SeedStage.TRAINING,
        SeedStage.BLENDING,
        SeedStage.PROBATIONARY,
        SeedStage.CULLED,
        SeedStage.EMBARGOED,
        SeedStage.RESETTING,
        SeedStage.DORMANT,
        SeedStage.GERMINATED,
    )
]


def sum_shaping(path: list[Observation], discount: float, *, ends: bool) -> float:
    term = StagePotential(discount)
    return math.fsum(
        discount**t * term.compute(make_facts(before, after, is_last=ends and t == len(path) - 2), {})
        for t, (before, after) in enumerate(pairwise(path))
    )


@settings(max_examples=30)
@given(path=stage_paths(), discount=DISCOUNTS)
@example(path=FULL_CYCLE, discount=0.995)
def test_a34_stage_potential_telescopes_over_any_legal_path(path: list[Observation], discount: float) -> None:
    expected = discount ** (len(path) - 1) * compute_potential(path[-1]) - compute_potential(path[0])
    assert sum_shaping(path, discount, ends=False) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30)
@given(episode=scripted_episodes(), discount=DISCOUNTS)
def test_a34_it_telescopes_over_whole_lives_of_a_host(episode: list[StepFacts], discount: float) -> None:
    term = StagePotential(discount)
    total = math.fsum(discount**t * term.compute(facts, {}) for t, facts in enumerate(episode))
    assert total == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=30)
@given(path=stage_paths(), discount=DISCOUNTS)
def test_a35_at_termination_the_sum_is_minus_the_first_potential(
    path: list[Observation], discount: float
) -> None:
    expected = -compute_potential(path[0])
    assert sum_shaping(path, discount, ends=True) == pytest.approx(expected, abs=1e-12)


def test_a35_a_cut_from_outside_keeps_the_potential_of_the_last_state() -> None:
    path = [make_stages(["a"], [SeedStage.BLENDING]), make_stages(["a"], [SeedStage.PROBATIONARY])]
    assert sum_shaping(path, 0.9, ends=False) == pytest.approx(0.9 * 0.7 - 0.4)
    assert sum_shaping(path, 0.9, ends=True) == pytest.approx(-0.4)


Matrix = npt.NDArray[np.float64]


def iterate_values(moves: Matrix, rewards: Matrix, discount: float) -> Matrix:
    """Return the action values [state, action]; moves and rewards are [state, action, next state]."""
    values = np.zeros(moves.shape[0])
    for _ in range(10_000):
        actions = (moves * (rewards + discount * values)).sum(axis=2)
        better = actions.max(axis=1)
        if np.abs(better - values).max() < 1e-13:
            break
        values = better
    return np.asarray(actions, dtype=np.float64)


@pytest.mark.parametrize("seed", range(40))
def test_a36_shaping_leaves_the_greedy_policy_and_moves_values_by_the_potential(seed: int) -> None:
    generator = np.random.default_rng(seed)
    discount = float(generator.uniform(0.5, 0.95))
    moves = generator.dirichlet(np.full(5, 0.5), size=(5, 3))
    rewards = generator.normal(size=(5, 3, 5))
    potentials = generator.uniform(0.0, 1.0, size=5)
    if seed % 2:  # the last state ends the episode: nothing is paid there, and its potential is 0
        moves[4] = np.eye(5)[4]
        rewards[4] = 0.0
        potentials[4] = 0.0
    shaping = np.array(
        [[compute_shaping(discount, before, after) for after in potentials] for before in potentials]
    )
    plain = iterate_values(moves, rewards, discount)
    shaped = iterate_values(moves, rewards + shaping[:, None, :], discount)
    np.testing.assert_allclose(shaped, plain - potentials[:, None], rtol=0.0, atol=1e-8)
    ranked = np.sort(plain, axis=1)
    is_clear = ranked[:, -1] - ranked[:, -2] > 1e-8
    assert is_clear[:4].all()
    assert (plain.argmax(axis=1) == shaped.argmax(axis=1))[is_clear].all()


def test_potentials_rise_along_the_path_that_keeps_a_seed_and_are_nothing_off_it() -> None:
    path = [SeedStage.DORMANT]
    while ahead := [stage for stage in TRANSITIONS[path[-1]] if stage.has_seed]:
        path += ahead
    values = [STAGE_POTENTIALS[stage] for stage in path]
    assert path[-1] is SeedStage.FOSSILIZED
    assert values == sorted(set(values))
    assert (values[0], values[-1]) == (0.0, 1.0)
    assert all(STAGE_POTENTIALS[stage] == 0.0 for stage in SeedStage if stage not in path)


def test_the_potential_is_the_mean_over_slots_and_nothing_without_slots() -> None:
    stages = [SeedStage.FOSSILIZED, SeedStage.BLENDING, SeedStage.DORMANT]
    assert compute_potential(make_stages(["a", "b", "c"], stages)) == pytest.approx(1.4 / 3)
    assert compute_potential(replace(make_stages(["a"], [SeedStage.BLENDING]), slots=())) == 0.0


@pytest.mark.parametrize("stage", [stage for stage in SeedStage if stage.is_live])
def test_stage_potential_is_forfeited_by_a_cull_and_by_its_mere_acceptance(stage: SeedStage) -> None:
    before = make_stages(["a"], [stage])
    paid = -STAGE_POTENTIALS[stage]
    for after in (make_stages(["a"], [SeedStage.CULLED]), make_stages(["a"], [stage], [True])):
        assert StagePotential(0.995).compute(make_facts(before, after), {}) == paid


@pytest.mark.parametrize("discount", [-0.1, 1.1, math.nan])
def test_a_discount_out_of_range_is_refused(discount: float) -> None:
    with pytest.raises(ConfigError, match="discount="):
        StagePotential(discount)
