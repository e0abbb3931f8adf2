"""Values on the growth toy: the published table, and plans that really earn what they promise."""

from __future__ import annotations

import pytest

from esper.simic.toys.growth_optimum import GrowToySolver, eager_move, split_belief
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
)

CONTEXTS = range(4)


def test_the_graph_has_8172_reachable_states(solver: GrowToySolver) -> None:
    assert solver.num_states == 8172


@pytest.mark.parametrize(
    ("context", "optimum", "discounted", "eager", "random"),
    [
        (0, 0.109, 0.093208, 0.090, -0.011832),
        (1, 0.119, 0.101809, 0.100, -0.020157),
        (2, 0.0, 0.0, 0.0, -0.047272),
        (3, 0.149, 0.127611, 0.101, 0.002058),
    ],
)
def test_values_are_those_of_the_table(
    solver: GrowToySolver, context: int, optimum: float, discounted: float, eager: float, random: float
) -> None:
    assert solver.solve(context).value == pytest.approx(optimum, abs=1e-12)
    assert solver.solve(context, gamma=0.99).value == pytest.approx(discounted, abs=5e-7)
    assert solver.evaluate_eager(context) == pytest.approx(eager, abs=1e-12)
    assert solver.evaluate_random(context) == pytest.approx(random, abs=5e-7)


def test_mean_values_are_those_of_the_table(solver: GrowToySolver) -> None:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    assert mean([solver.solve(c).value for c in CONTEXTS]) == pytest.approx(0.09425, abs=1e-12)
    assert mean([solver.solve(c, 0.99).value for c in CONTEXTS]) == pytest.approx(0.080657, abs=5e-7)
    assert mean([solver.evaluate_eager(c) for c in CONTEXTS]) == pytest.approx(0.07275, abs=1e-12)
    assert mean([solver.evaluate_random(c) for c in CONTEXTS]) == pytest.approx(-0.019301, abs=5e-7)


def test_a_hidden_context_costs_little_and_never_learning_it_much(solver: GrowToySolver) -> None:
    assert solver.solve_hidden() == pytest.approx(0.09275, abs=1e-12)
    assert solver.solve_blind().value == pytest.approx(0.034, abs=1e-12)
    assert solver.solve_hidden(0.99) < sum(solver.solve(c, 0.99).value for c in CONTEXTS) / 4


def follow(moves: dict[GrowState, Move], context: int, gamma: float) -> tuple[float, list[int]]:
    """Play a plan; return its discounted return and the decisions at which it germinates."""
    state, total, births = GrowState(), 0.0, []
    for t in range(HORIZON):
        move = moves[state]
        if move[0] == ToyOp.GERMINATE:
            births.append(t)
        state, rent = advance(state, move)
        total += gamma**t * ((final_gain(state, context) if state.t == HORIZON else 0.0) - rent)
    return total, births


@pytest.mark.parametrize("gamma", [1.0, 0.99])
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_plan_earns_its_value(solver: GrowToySolver, context: int, gamma: float) -> None:
    plan = solver.solve(context, gamma)
    assert follow(dict(plan.moves), context, gamma)[0] == pytest.approx(plan.value, abs=1e-12)


@pytest.mark.parametrize("context", [0, 1, 3])
def test_the_optimum_germinates_just_in_time(solver: GrowToySolver, context: int) -> None:
    assert follow(dict(solver.solve(context).moves), context, 1.0)[1] == [9, 11]


def test_never_growing_is_the_optimum_of_the_third_context(solver: GrowToySolver) -> None:
    assert follow(dict(solver.solve(2).moves), 2, 1.0) == (0.0, [])


def test_the_eager_rule_takes_the_lowest_slot_and_its_best_blueprint() -> None:
    first = GrowState()
    assert eager_move(first, context=1) == (ToyOp.GERMINATE, 0, 0)
    assert eager_move(first, context=2) == WAIT_MOVE
    ready = GrowState(8, (ToySlot(SlotStage.LIVE, 0, 1), ToySlot(SlotStage.LIVE, 1, 6)))
    assert eager_move(ready, context=1) == (ToyOp.FOSSILIZE, 1, 0)
    assert eager_move(ready._replace(t=HORIZON), context=1) == WAIT_MOVE


def test_one_look_at_a_live_seed_tells_the_context() -> None:
    everything = frozenset(CONTEXTS)
    assert split_belief(GrowState(), everything) == (everything,)
    for slot in (0, 1):
        for blueprint in (0, 1):
            state, _ = advance(GrowState(), (ToyOp.GERMINATE, slot, blueprint))
            assert sorted(map(sorted, split_belief(state, everything))) == [[0], [1], [2], [3]]
