"""Dynamics of the growth toy: two slots, two blueprints, sixteen steps; a pure state machine.

```
GERMINATE a dormant slot; FOSSILIZE a live seed that is ready; CULL a live seed; anything else is WAIT
step = apply the action > every live seed ages by 1 > each slot pays its rent
after the last step: the gains of what was fossilised, times 0.6 if both slots hold the same blueprint
```
A slot that is culled at decision t cannot be used at t + 1 and t + 2. Gains depend on the context, which a
policy may or may not see; nothing here knows of policies.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, final

HORIZON = 16
"""Decisions of an episode."""
NUM_SLOTS = 2
NUM_BLUEPRINTS = 2
READY_AGE = (3, 6)
"""Age at which a seed may be fossilised, by blueprint: quick, slow."""
RENT_LIVE = 0.002
RENT_FOSSILISED = 0.001
BLOCKED_DECISIONS = 2
"""Decisions for which a slot is unusable after a cull."""
SAME_BLUEPRINT_FACTOR = 0.6
GAINS = (
    ((0.04, 0.10), (0.03, -0.05)),
    ((0.06, 0.02), (-0.04, 0.08)),
    ((-0.05, -0.08), (-0.02, -0.03)),
    ((0.05, 0.12), (0.05, 0.12)),
)
"""Gain of a fossilised seed by context, slot, blueprint."""
NUM_CONTEXTS = len(GAINS)

Move = tuple[int, int, int]
"""Operation, slot, blueprint; 0 where the operation does not use it."""


@final
class ToyOp(IntEnum):
    """Operations; the value is the action index."""

    WAIT = 0
    GERMINATE = 1
    FOSSILIZE = 2
    CULL = 3


WAIT_MOVE: Move = (ToyOp.WAIT, 0, 0)


@final
class SlotStage(IntEnum):
    """What a slot holds."""

    DORMANT = 0
    LIVE = 1
    FOSSILISED = 2
    BLOCKED = 3


class ToySlot(NamedTuple):
    """One slot."""

    stage: SlotStage = SlotStage.DORMANT
    blueprint: int = 0
    """Of the seed that is there; 0 where there is none."""
    clock: int = 0
    """Age of a live seed, decisions left of a block, else 0."""

    @property
    def is_ready(self) -> bool:
        """Whether the seed may be fossilised."""
        return self.stage is SlotStage.LIVE and self.clock >= READY_AGE[self.blueprint]


class GrowState(NamedTuple):
    """The toy at one decision."""

    t: int = 0
    """Decisions made, in [0, HORIZON]; nothing is legal but WAIT at the end."""
    slots: tuple[ToySlot, ToySlot] = (ToySlot(), ToySlot())


_RENTS = (0.0, RENT_LIVE, RENT_FOSSILISED, 0.0)
"""Rent of a slot for one step, by stage."""


def legal_moves(state: GrowState) -> tuple[Move, ...]:
    """Return the legal joint actions: WAIT, 2 GERMINATE per dormant slot, FOSSILIZE and CULL of seeds."""
    moves = [WAIT_MOVE]
    if state.t >= HORIZON:
        return tuple(moves)
    for place, slot in enumerate(state.slots):
        if slot.stage is SlotStage.DORMANT:
            moves += [(ToyOp.GERMINATE, place, blueprint) for blueprint in range(NUM_BLUEPRINTS)]
        if slot.is_ready:
            moves.append((ToyOp.FOSSILIZE, place, 0))
        if slot.stage is SlotStage.LIVE:
            moves.append((ToyOp.CULL, place, 0))
    return tuple(moves)


def advance(state: GrowState, move: Move) -> tuple[GrowState, float]:
    """Return the state after a step and the rent that was paid for it; an illegal move counts as WAIT.

    Args:
        state: Before the step, t < HORIZON.
        move: Operation, slot, blueprint.
    """
    op, place, blueprint = move
    is_legal = (op, place, blueprint if op == ToyOp.GERMINATE else 0) in legal_moves(state)
    return carry_out(state, move if is_legal else WAIT_MOVE)


def carry_out(state: GrowState, move: Move) -> tuple[GrowState, float]:
    """Return the same as `advance` for a move that is known to be legal."""
    op, place, blueprint = move
    before = state.slots
    first = _age(_act(before[0], op, blueprint) if op and place == 0 else before[0], before[0])
    second = _age(_act(before[1], op, blueprint) if op and place == 1 else before[1], before[1])
    return GrowState(state.t + 1, (first, second)), _RENTS[first.stage] + _RENTS[second.stage]


def final_gain(state: GrowState, context: int) -> float:
    """Return what the fossilised seeds are worth at the end."""
    kept = [
        (place, slot.blueprint)
        for place, slot in enumerate(state.slots)
        if slot.stage is SlotStage.FOSSILISED
    ]
    total = sum(GAINS[context][place][blueprint] for place, blueprint in kept)
    is_same = len(kept) == NUM_SLOTS and len({blueprint for _, blueprint in kept}) == 1
    return SAME_BLUEPRINT_FACTOR * total if is_same else total


def _act(slot: ToySlot, op: int, blueprint: int) -> ToySlot:
    if op == ToyOp.GERMINATE:
        return ToySlot(SlotStage.LIVE, blueprint, 0)
    if op == ToyOp.FOSSILIZE:
        return ToySlot(SlotStage.FOSSILISED, slot.blueprint, 0)
    return ToySlot(SlotStage.BLOCKED, 0, BLOCKED_DECISIONS)


def _age(slot: ToySlot, before: ToySlot) -> ToySlot:
    """Let a step pass; a block counts from the decision after the cull."""
    if slot.stage is SlotStage.LIVE:
        return ToySlot(slot.stage, slot.blueprint, slot.clock + 1)
    if slot.stage is SlotStage.BLOCKED and before.stage is SlotStage.BLOCKED:
        return ToySlot(slot.stage, 0, slot.clock - 1) if slot.clock > 1 else ToySlot()
    return slot
