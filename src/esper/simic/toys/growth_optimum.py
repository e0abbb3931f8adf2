"""Exact values on the growth toy, by backward induction over everything that can be reached.

All values are returns discounted from t = 0 in the state before the first decision. Knows the rules and no
learner: what a learner reaches is compared with these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, final

from esper.simic.toys.growth_rules import (
    GAINS,
    HORIZON,
    NUM_CONTEXTS,
    WAIT_MOVE,
    GrowState,
    Move,
    SlotStage,
    ToyOp,
    carry_out,
    final_gain,
    legal_moves,
)

Belief = frozenset[int]
"""Contexts that are still possible, all equally likely."""
_Options = Mapping[Move, float]
_Choose = Callable[[GrowState, _Options], float]
_Final = Callable[[GrowState], float]


class Plan(NamedTuple):
    """A value and the moves that reach it."""

    value: float
    """Expected return from the first state."""
    moves: Mapping[GrowState, Move]
    """State -> best move, for every state that can be reached; ties go to the first legal one."""


class Outcome(NamedTuple):
    """Where a move leads."""

    state: GrowState
    rent: float


def eager_move(state: GrowState, context: int) -> Move:
    """Return the move of the eager rule: take what is there.

    Fossilise the lowest ready slot; else germinate the best positive blueprint in the lowest dormant slot.
    """
    for place, slot in enumerate(state.slots):
        if slot.is_ready and state.t < HORIZON:
            return (ToyOp.FOSSILIZE, place, 0)
    for place, slot in enumerate(state.slots):
        gains = GAINS[context][place]
        if slot.stage is SlotStage.DORMANT and max(gains) > 0.0 and state.t < HORIZON:
            return (ToyOp.GERMINATE, place, gains.index(max(gains)))
    return WAIT_MOVE


@final
class GrowToySolver:
    """The graph of reachable states, built once, and the values of policies on it.

    Example:
        GrowToySolver().solve(context=3).value  # 0.149
    """

    def __init__(self) -> None:
        """Enumerate every state that can be reached, with all its moves."""
        self._layers: list[dict[GrowState, dict[Move, Outcome]]] = []
        states = {GrowState(): None}
        for _ in range(HORIZON):
            layer = {
                state: {move: Outcome(*carry_out(state, move)) for move in legal_moves(state)}
                for state in states
            }
            self._layers.append(layer)
            states = {outcome.state: None for edges in layer.values() for outcome in edges.values()}
        self._last = tuple(states)

    @property
    def num_states(self) -> int:
        """Reachable pairs of (t, slots), t = 0 .. HORIZON."""
        return sum(len(layer) for layer in self._layers) + len(self._last)

    def solve(self, context: int, gamma: float = 1.0) -> Plan:
        """Return the best plan of a policy that sees the context, discounted by `gamma` in (0, 1]."""
        return self._plan(_gain_of(context), gamma)

    def solve_blind(self, gamma: float = 1.0) -> Plan:
        """Return the best plan of a policy that never learns the context: the same moves in all of them."""

        def mean_gain(state: GrowState) -> float:
            return sum(final_gain(state, context) for context in range(NUM_CONTEXTS)) / NUM_CONTEXTS

        return self._plan(mean_gain, gamma)

    def solve_hidden(self, gamma: float = 1.0) -> float:
        """Return the best expected return where the context is hidden and the gains of live seeds are seen.

        Dynamic programming over (state, contexts that are still possible): what is seen splits them. Once a
        single context is left, its own optimum follows.
        """
        known = [self._induce(_gain_of(context), _best, gamma) for context in range(NUM_CONTEXTS)]
        values: dict[tuple[GrowState, Belief], float] = {}

        def value(state: GrowState, belief: Belief) -> float:
            if len(belief) == 1 or state.t == HORIZON:
                return sum(known[context][state] for context in belief) / len(belief)
            if (state, belief) not in values:
                values[state, belief] = max(
                    gamma * expected(outcome.state, belief) - outcome.rent
                    for outcome in self._layers[state.t][state].values()
                )
            return values[state, belief]

        def expected(state: GrowState, belief: Belief) -> float:
            groups = split_belief(state, belief)
            return sum(len(group) * value(state, group) for group in groups) / len(belief)

        return value(GrowState(), frozenset(range(NUM_CONTEXTS)))

    def evaluate_eager(self, context: int, gamma: float = 1.0) -> float:
        """Return the value of the eager rule, `eager_move`."""

        def follow(state: GrowState, options: _Options) -> float:
            return options[eager_move(state, context)]

        return self._induce(_gain_of(context), follow, gamma)[GrowState()]

    def evaluate_random(self, context: int, gamma: float = 1.0) -> float:
        """Return the value of a policy that draws uniformly from the legal joint actions."""

        def mean(state: GrowState, options: _Options) -> float:
            return sum(options.values()) / len(options)

        return self._induce(_gain_of(context), mean, gamma)[GrowState()]

    def _plan(self, final: _Final, gamma: float) -> Plan:
        moves: dict[GrowState, Move] = {}

        def choose(state: GrowState, options: _Options) -> float:
            moves[state] = max(options, key=lambda move: options[move])
            return options[moves[state]]

        return Plan(self._induce(final, choose, gamma)[GrowState()], moves)

    def _induce(self, final: _Final, choose: _Choose, gamma: float) -> dict[GrowState, float]:
        """Return the value of every reachable state; the gain comes with the reward of the last step."""
        after = {state: final(state) / gamma for state in self._last}
        values = dict(after)
        for layer in reversed(self._layers):
            after = {
                state: choose(
                    state, {move: gamma * after[out.state] - out.rent for move, out in edges.items()}
                )
                for state, edges in layer.items()
            }
            values |= after
        return values


def split_belief(state: GrowState, belief: Belief) -> tuple[Belief, ...]:
    """Return the groups of contexts that look alike: equal gains of all live seeds."""
    groups: dict[tuple[float, ...], set[int]] = {}
    for context in sorted(belief):
        seen = tuple(
            GAINS[context][place][slot.blueprint]
            for place, slot in enumerate(state.slots)
            if slot.stage is SlotStage.LIVE
        )
        groups.setdefault(seen, set()).add(context)
    return tuple(frozenset(group) for group in groups.values())


def _gain_of(context: int) -> _Final:
    return lambda state: final_gain(state, context)


def _best(_: GrowState, options: _Options) -> float:
    return max(options.values())
