"""GrowToy: the rules of `growth_rules` as a toy task with features and masks.

Features (D = 25, each in [-1, 1]): remaining share of the horizon, the context one-hot (zeros where hidden),
then per slot: dormant, live, fossilised, blocked share, quick, slow, age share, ready, gain seen, gain x 8
(the last two only where the context is hidden, and only of live seeds).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

from esper.leyline import JsonValue
from esper.simic.toys.growth_rules import (
    BLOCKED_DECISIONS,
    GAINS,
    HORIZON,
    NUM_BLUEPRINTS,
    NUM_CONTEXTS,
    NUM_SLOTS,
    READY_AGE,
    RENT_FOSSILISED,
    RENT_LIVE,
    SAME_BLUEPRINT_FACTOR,
    GrowState,
    SlotStage,
    ToyOp,
    ToySlot,
    advance,
    final_gain,
)
from esper.simic.toys.rollout import ToyRolloutEnv
from esper.simic.toys.task import ToyMasks, ToyStep
from esper.tamiyo import ActionLayout

GAIN_SCALE = 8.0
"""Feature units per unit of gain: the largest gain, .12, becomes .96."""


class GrowEpisode(NamedTuple):
    """One episode of the growth toy."""

    context: int
    """Row of `GAINS`; drawn when the episode begins."""
    inner: GrowState


@final
class GrowToy:
    """Growth with a known optimum; see `GrowToySolver` for the values of policies.

    Example:
        GrowToy(is_hidden=True)  # the context is not observed, the gains of live seeds are
    """

    name = "grow_toy"
    term_names = ("rent", "gain")

    def __init__(self, *, is_hidden: bool = False) -> None:
        """Choose what is seen.

        Args:
            is_hidden: The context is not observed, but the gain of every live seed is.
        """
        self._is_hidden = is_hidden
        self._layout = ActionLayout(
            op_names=tuple(op.name for op in ToyOp),
            uses={
                "op": (True, True, True, True),
                "slot": (False, True, True, True),
                "blueprint": (False, True, False, False),
            },
        )

    @property
    def layout(self) -> ActionLayout:
        """Operation, slot, blueprint: sizes 4, 2, 2."""
        return self._layout

    def begin(self, seed: int) -> GrowEpisode:
        """Draw a context, each with probability 1/4."""
        return GrowEpisode(seed % NUM_CONTEXTS, GrowState())

    def features(self, state: GrowEpisode) -> tuple[float, ...]:
        """Return the 25 features that the module lists."""
        context = tuple(float(not self._is_hidden and state.context == c) for c in range(NUM_CONTEXTS))
        columns = [(HORIZON - state.inner.t) / HORIZON, *context]
        for place, slot in enumerate(state.inner.slots):
            columns += self._slot_features(slot, GAINS[state.context][place])
        return tuple(columns)

    def masks(self, state: GrowEpisode) -> ToyMasks:
        """Return the masks whose joint actions are exactly the legal moves."""
        is_over = state.inner.t >= HORIZON
        slots = state.inner.slots
        may_germinate = tuple(slot.stage is SlotStage.DORMANT and not is_over for slot in slots)
        may_fossilise = tuple(slot.is_ready and not is_over for slot in slots)
        may_cull = tuple(slot.stage is SlotStage.LIVE and not is_over for slot in slots)
        return ToyMasks(
            op=(True, any(may_germinate), any(may_fossilise), any(may_cull)),
            slot=((False,) * NUM_SLOTS, may_germinate, may_fossilise, may_cull),
            blueprint=tuple((is_dormant,) * NUM_BLUEPRINTS for is_dormant in may_germinate),
        )

    def step(self, state: GrowEpisode, action: tuple[int, ...]) -> ToyStep[GrowEpisode]:
        """Carry out operation, slot, blueprint; an illegal one counts as WAIT."""
        op, slot, blueprint = action
        inner, rent = advance(state.inner, (op, slot, blueprint))
        is_last = inner.t == HORIZON
        gain = final_gain(inner, state.context) if is_last else 0.0
        return ToyStep(state._replace(inner=inner), {"rent": -rent, "gain": gain}, is_last)

    def describe(self, state: GrowEpisode) -> dict[str, JsonValue]:
        """Return the context and how many seeds were fossilised."""
        kept = sum(slot.stage is SlotStage.FOSSILISED for slot in state.inner.slots)
        return {"context": state.context, "num_fossilised": kept}

    def pack(self, state: GrowEpisode) -> list[int]:
        """Return context, t, then stage, blueprint and clock of each slot."""
        return [state.context, state.inner.t, *(int(part) for slot in state.inner.slots for part in slot)]

    def unpack(self, numbers: Sequence[int]) -> GrowEpisode:
        """Return the state that `pack` was given."""
        context, t, *parts = numbers
        first, second = (ToySlot(SlotStage(parts[at]), parts[at + 1], parts[at + 2]) for at in (0, 3))
        return GrowEpisode(context, GrowState(t, (first, second)))

    def rules(self) -> dict[str, JsonValue]:
        """Return every constant of reward and dynamics."""
        return {
            "is_hidden": self._is_hidden,
            "horizon": HORIZON,
            "ready_age": READY_AGE,
            "rent_live": RENT_LIVE,
            "rent_fossilised": RENT_FOSSILISED,
            "blocked_decisions": BLOCKED_DECISIONS,
            "same_blueprint_factor": SAME_BLUEPRINT_FACTOR,
            "gains": GAINS,
        }

    def _slot_features(self, slot: ToySlot, gains: tuple[float, float]) -> tuple[float, ...]:
        is_live = slot.stage is SlotStage.LIVE
        has_seed = is_live or slot.stage is SlotStage.FOSSILISED
        is_seen = self._is_hidden and is_live
        return (
            float(slot.stage is SlotStage.DORMANT),
            float(is_live),
            float(slot.stage is SlotStage.FOSSILISED),
            slot.clock / BLOCKED_DECISIONS if slot.stage is SlotStage.BLOCKED else 0.0,
            float(has_seed and slot.blueprint == 0),
            float(has_seed and slot.blueprint == 1),
            slot.clock / HORIZON if is_live else 0.0,
            float(slot.is_ready),
            float(is_seen),
            gains[slot.blueprint] * GAIN_SCALE if is_seen else 0.0,
        )


def build_grow_toy(seeds: Sequence[int], *, is_hidden: bool = False) -> ToyRolloutEnv[GrowEpisode]:
    """Return rows of GrowToy, one per seed."""
    return ToyRolloutEnv(GrowToy(is_hidden=is_hidden), seeds)
