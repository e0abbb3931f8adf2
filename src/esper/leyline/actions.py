"""One action language: the heuristic and a learned policy emit the same `Action`.

`OP_STAGES` is the one table that says in which stage an operation is legal; `leyline.legality` adds what
depends on the rest of the observation (gates, ages, budgets, horizon).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import final

from esper.leyline.blueprints import BlueprintDescriptor
from esper.leyline.stages import SeedStage


@final
class LifecycleOp(Enum):
    """What a policy may ask for in one step; the order is the action index, appended to, never reordered."""

    WAIT = "WAIT"
    GERMINATE = "GERMINATE"
    ADVANCE = "ADVANCE"
    FOSSILIZE = "FOSSILIZE"
    CULL = "CULL"
    SET_ALPHA = "SET_ALPHA"


@final
class BlendForm(Enum):
    """How a seed's residual enters the host feature h (a = alpha, d = delta(h)); fixed at germination."""

    ADD = "add"
    """h + a d."""
    GATE = "gate"
    """h + a g(h) d with a learned per-sample gate g in (0, 1)."""
    VALVE = "valve"
    """h + a h tanh(d): multiplicative."""


@final
class AlphaCurve(Enum):
    """Shape of the alpha ramp over its tempo; every curve starts at 0 and ends at 1."""

    LINEAR = "linear"
    COSINE = "cosine"
    SIGMOID = "sigmoid"


OP_STAGES: Mapping[LifecycleOp, frozenset[SeedStage]] = MappingProxyType(
    {
        LifecycleOp.WAIT: frozenset(SeedStage),
        LifecycleOp.GERMINATE: frozenset({SeedStage.DORMANT}),
        LifecycleOp.ADVANCE: frozenset({SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING}),
        LifecycleOp.FOSSILIZE: frozenset({SeedStage.PROBATIONARY}),
        LifecycleOp.CULL: frozenset(
            {SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY}
        ),
        LifecycleOp.SET_ALPHA: frozenset({SeedStage.BLENDING, SeedStage.PROBATIONARY}),
    }
)
"""Operation -> stages of the addressed slot in which it is legal. A retarget (SET_ALPHA) keeps the stage;
PROBATIONARY never goes back to BLENDING."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One decision in full; fields that an operation does not use are ignored.

    Example:
        Action(op=LifecycleOp.GERMINATE, slot="block2", blueprint="conv_light", tempo_epochs=3)
    """

    op: LifecycleOp = LifecycleOp.WAIT
    slot: str | None = None
    """Slot id; required for every operation but WAIT."""
    blueprint: str | None = None
    """Blueprint id; GERMINATE only."""
    blend: BlendForm = BlendForm.ADD
    """GERMINATE only."""
    curve: AlphaCurve = AlphaCurve.LINEAR
    """GERMINATE (the later ramp), SET_ALPHA and CULL (the ramp it starts)."""
    tempo_epochs: int = 3
    """Length of the ramp in decision intervals, >= 1; at GERMINATE that of the later blend."""
    alpha_target: float = 1.0
    """Where the ramp ends, in (0, 1]: GERMINATE and SET_ALPHA."""


WAIT = Action()
"""The action that changes nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpace:
    """Sizes and id tables of one host's actions; built per task and topology, never global.

    The index of an id in its tuple is its action index. Files store ids, never indices.
    """

    slot_ids: tuple[str, ...]
    """SLOT_IDS of this host, in forward order."""
    blueprint_ids: tuple[str, ...]
    """BLUEPRINT_IDS: every blueprint that fits at least one slot."""
    descriptors: Mapping[str, Mapping[str, BlueprintDescriptor]]
    """slot id -> blueprint id -> descriptor, for the pairs that fit."""
    blend_ids: tuple[BlendForm, ...] = tuple(BlendForm)
    """BLEND_IDS."""
    curve_ids: tuple[AlphaCurve, ...] = tuple(AlphaCurve)
    tempo_ids: tuple[int, ...] = (1, 3, 5, 8)
    """Ramp lengths on offer, in decision intervals."""
    alpha_target_ids: tuple[float, ...] = (0.5, 0.7, 1.0)
    op_ids: tuple[LifecycleOp, ...] = field(default=tuple(LifecycleOp))

    def __post_init__(self) -> None:
        """Check that the tables have no duplicate.

        Raises:
            ValueError: If an id occurs twice or a descriptor names an unknown slot.
        """
        for name, ids in (("slot_ids", self.slot_ids), ("blueprint_ids", self.blueprint_ids)):
            if len(set(ids)) != len(ids):
                raise ValueError(f"ActionSpace.{name} holds a duplicate: {ids}")
        unknown = set(self.descriptors) - set(self.slot_ids)
        if unknown:
            raise ValueError(f"ActionSpace.descriptors names unknown slots: {sorted(unknown)}")

    def fits(self, slot: str, blueprint: str) -> bool:
        """Whether `blueprint` may be germinated in `slot`."""
        return blueprint in self.descriptors.get(slot, {})

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int, int]:
        """(ops, slots, blueprints, blends, curves, tempos, alpha targets)."""
        return (
            len(self.op_ids),
            len(self.slot_ids),
            len(self.blueprint_ids),
            len(self.blend_ids),
            len(self.curve_ids),
            len(self.tempo_ids),
            len(self.alpha_target_ids),
        )
