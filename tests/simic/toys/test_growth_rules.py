"""The dynamics of the growth toy, step by step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.simic.toys.growth_rules import (
    HORIZON,
    WAIT_MOVE,
    GrowState,
    Move,
    SlotStage,
    ToyOp,
    ToySlot,
    advance,
    final_gain,
    legal_moves,
)

MOVES = st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 1))


def play(*moves: Move, state: GrowState | None = None) -> tuple[GrowState, list[float]]:
    """Carry out moves from the first state (or another); return the last state and the rents."""
    rents = []
    state = GrowState() if state is None else state
    for move in moves:
        state, rent = advance(state, move)
        rents.append(rent)
    return state, rents


def test_a_seed_is_one_step_old_at_the_next_decision_and_pays_rent_at_once() -> None:
    state, rents = play((ToyOp.GERMINATE, 1, 1))
    assert state == GrowState(1, (ToySlot(), ToySlot(SlotStage.LIVE, 1, 1)))
    assert rents == [0.002]


@pytest.mark.parametrize(("blueprint", "age"), [(0, 3), (1, 6)])
def test_a_seed_may_be_fossilised_from_its_ready_age_on(blueprint: int, age: int) -> None:
    state, _ = play((ToyOp.GERMINATE, 0, blueprint), *[WAIT_MOVE] * (age - 2))
    assert (ToyOp.FOSSILIZE, 0, 0) not in legal_moves(state)
    state, _ = play(WAIT_MOVE, state=state)
    assert (ToyOp.FOSSILIZE, 0, 0) in legal_moves(state)
    state, rents = play((ToyOp.FOSSILIZE, 0, 0), WAIT_MOVE, state=state)
    assert state.slots[0] == ToySlot(SlotStage.FOSSILISED, blueprint, 0)
    assert rents == [0.001, 0.001]
    assert (ToyOp.CULL, 0, 0) not in legal_moves(state)


def test_a_culled_slot_is_unusable_for_two_decisions_and_pays_no_rent() -> None:
    state, rents = play((ToyOp.GERMINATE, 0, 0), (ToyOp.CULL, 0, 0))
    assert rents == [0.002, 0.0]
    usable = []
    for _ in range(3):
        usable.append((ToyOp.GERMINATE, 0, 0) in legal_moves(state))
        state, _ = play(WAIT_MOVE, state=state)
    assert usable == [False, False, True]


@pytest.mark.parametrize(
    ("blueprints", "gain"), [((0, 0), 0.6 * 0.10), ((1, 1), 0.6 * 0.24), ((0, 1), 0.17), ((1, 0), 0.17)]
)
def test_two_seeds_of_one_blueprint_are_worth_six_tenths(blueprints: tuple[int, int], gain: float) -> None:
    slots = tuple(ToySlot(SlotStage.FOSSILISED, blueprint) for blueprint in blueprints)
    assert final_gain(GrowState(HORIZON, (slots[0], slots[1])), context=3) == pytest.approx(gain)


def test_live_seeds_are_worth_nothing_at_the_end() -> None:
    slots = (ToySlot(SlotStage.FOSSILISED, 1), ToySlot(SlotStage.LIVE, 1, 9))
    assert final_gain(GrowState(HORIZON, slots), context=0) == pytest.approx(0.10)
    assert final_gain(GrowState(HORIZON), context=0) == 0.0


def test_only_waiting_is_legal_at_the_end() -> None:
    assert legal_moves(GrowState(HORIZON)) == (WAIT_MOVE,)


@given(st.lists(MOVES, max_size=HORIZON))
def test_an_illegal_move_counts_as_waiting(moves: list[Move]) -> None:
    state = GrowState()
    for move in moves:
        op, slot, blueprint = move
        used = (op, slot if op else 0, blueprint if op == ToyOp.GERMINATE else 0)
        after = advance(state, move)
        assert after == advance(state, used if used in legal_moves(state) else WAIT_MOVE)
        state = after[0]
    assert state.t == len(moves)
