"""GrowToy as a task: its masks are its legal moves, its features show what they should and hide the rest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.simic.toys.grow_toy import GrowEpisode, GrowToy, build_grow_toy
from esper.simic.toys.growth_optimum import GrowToySolver
from esper.simic.toys.growth_rules import HORIZON, GrowState, Move, ToyOp, advance, legal_moves
from esper.simic.toys.task import ToyMasks

MOVES = st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 1))


def joint_actions(masks: ToyMasks) -> set[Move]:
    """Joint actions that masks allow."""
    assert masks.slot is not None
    assert masks.blueprint is not None
    found: set[Move] = {(0, 0, 0)} if masks.op[0] else set()
    for op in (ToyOp.GERMINATE, ToyOp.FOSSILIZE, ToyOp.CULL):
        for slot in (0, 1):
            if masks.op[op] and masks.slot[op][slot]:
                options = [b for b in (0, 1) if masks.blueprint[slot][b]] if op is ToyOp.GERMINATE else [0]
                found |= {(op, slot, blueprint) for blueprint in options}
    return found


@given(st.lists(MOVES, max_size=HORIZON))
def test_masks_allow_exactly_the_legal_moves(moves: list[Move]) -> None:
    state = GrowState()
    for move in moves:
        state, _ = advance(state, move)
    assert joint_actions(GrowToy().masks(GrowEpisode(0, state))) == set(legal_moves(state))


def test_the_context_is_observed_unless_hidden() -> None:
    episode = GrowEpisode(2, GrowState())
    assert GrowToy().features(episode)[:5] == (1.0, 0.0, 0.0, 1.0, 0.0)
    assert GrowToy(is_hidden=True).features(episode)[:5] == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert len(GrowToy().features(episode)) == 25


def test_a_hidden_context_shows_the_gains_of_live_seeds_only() -> None:
    toy = GrowToy(is_hidden=True)
    episode = toy.begin(3)
    for _ in range(3):
        episode = toy.step(episode, (ToyOp.GERMINATE, 1, 0)).state
    assert toy.features(episode)[-2:] == pytest.approx((1.0, 0.05 * 8.0))
    assert toy.features(episode)[-12:-10] == (0.0, 0.0)
    episode = toy.step(episode, (ToyOp.FOSSILIZE, 1, 0)).state
    assert toy.features(episode)[-2:] == (0.0, 0.0)


def test_different_contexts_look_alike_until_a_seed_lives() -> None:
    toy = GrowToy(is_hidden=True)
    assert len({toy.features(toy.begin(context)) for context in range(4)}) == 1
    lived = {
        toy.features(toy.step(toy.begin(context), (ToyOp.GERMINATE, 0, 1)).state) for context in range(4)
    }
    assert len(lived) == 4


def test_different_states_of_a_context_look_different(solver: GrowToySolver) -> None:
    toy = GrowToy()
    states = solver.solve(0).moves
    assert len({toy.features(GrowEpisode(0, state)) for state in states}) == len(states)


@given(st.lists(MOVES, max_size=HORIZON), st.integers(0, 3))
def test_a_state_survives_packing(moves: list[Move], context: int) -> None:
    toy = GrowToy()
    episode = toy.begin(context)
    for move in moves:
        episode = toy.step(episode, move).state
    assert toy.unpack(toy.pack(episode)) == episode


@pytest.mark.parametrize("context", range(4))
def test_the_best_plan_earns_its_value_in_the_environment(solver: GrowToySolver, context: int) -> None:
    plan = solver.solve(context)
    seed = next(s for s in range(100) if build_context(s) == context)
    env = build_grow_toy((seed,))
    env.reset(torch.ones(1, dtype=torch.bool))
    state, summary = GrowState(), None
    for _ in range(HORIZON):
        move = plan.moves[state]
        state, _ = advance(state, move)
        summary = env.step(torch.tensor([move])).summaries[0]
    assert summary is not None
    assert summary["context"] == context
    assert summary["return"] == pytest.approx(plan.value, abs=1e-12)


def build_context(seed: int) -> int:
    """Return the context of the first episode of a row."""
    env = build_grow_toy((seed,))
    env.reset(torch.ones(1, dtype=torch.bool))
    return int(env.observe()["features"][0, 1:5].argmax())
