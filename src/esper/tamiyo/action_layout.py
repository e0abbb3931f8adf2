"""The joint action as indices: which heads there are, which operation uses which, and back to an `Action`.

```
op > slot given op > blueprint given slot (GERMINATE only) > arguments given op and slot
```
A column that an operation does not use is 0 and counts for nothing: not in a log-probability, an entropy or a
hash. Sizes of slots and blueprints are not part of a layout: they come with each observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar, final

from esper.leyline import (
    Action,
    ActionSpace,
    AlphaCurve,
    BlendForm,
    LifecycleOp,
)

_T = TypeVar("_T")

OP_HEAD, SLOT_HEAD, BLUEPRINT_HEAD = "op", "slot", "blueprint"
ALPHA_TARGET_HEAD = "alpha_target"
STRUCTURE_HEADS = (OP_HEAD, SLOT_HEAD, BLUEPRINT_HEAD)
"""Heads whose sizes and masks come with the observation; any of the last two may be absent."""

_ADDRESSED = frozenset(LifecycleOp) - {LifecycleOp.WAIT}
_RAMPED = frozenset({LifecycleOp.GERMINATE, LifecycleOp.SET_ALPHA, LifecycleOp.CULL})
HEAD_OPS: Mapping[str, frozenset[LifecycleOp]] = MappingProxyType(
    {
        OP_HEAD: frozenset(LifecycleOp),
        SLOT_HEAD: _ADDRESSED,
        BLUEPRINT_HEAD: frozenset({LifecycleOp.GERMINATE}),
        "blend": frozenset({LifecycleOp.GERMINATE}),
        "curve": _RAMPED,
        "tempo": _RAMPED,
        ALPHA_TARGET_HEAD: frozenset({LifecycleOp.GERMINATE, LifecycleOp.SET_ALPHA}),
    }
)
"""Head -> operations that use it, in the order of the columns of a joint action."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLayout:
    """Columns of a joint action [..., H] of whole numbers.

    Example:
        ActionLayout(op_names=("LEFT", "RIGHT"), uses={"op": (True, True)})  # a plain discrete action
    """

    op_names: tuple[str, ...]
    """Name of each operation; O of them."""
    uses: Mapping[str, tuple[bool, ...]]
    """Head -> for each operation whether it uses the head. Order of the columns: "op" first, then "slot" and
    "blueprint" where they exist, then the arguments."""
    argument_sizes: Mapping[str, int] = field(default_factory=dict)
    """Head -> number of choices, for every head after the first three."""
    argument_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Head -> what each of its choices stands for; heads that are left out do not tell. Two layouts whose
    choices mean different things are different, though their sizes agree."""

    def __post_init__(self) -> None:
        """Check that the tables fit each other.

        Raises:
            ValueError: If a head lacks its size, has a wrong number of entries, stands in a wrong place, or
                is used by an operation that does not use what it depends on.
        """
        if not self.op_names:
            raise ValueError("op_names is empty: a layout needs at least one operation")
        structure = tuple(head for head in STRUCTURE_HEADS if head in self.uses)
        arguments = tuple(self.argument_sizes)
        if tuple(self.uses) != (*structure, *arguments) or OP_HEAD not in self.uses:
            raise ValueError(f"heads {tuple(self.uses)}: expected op, slot, blueprint, then {arguments}")
        if BLUEPRINT_HEAD in self.uses and SLOT_HEAD not in self.uses:
            raise ValueError("a blueprint head needs a slot head: blueprints are chosen for a slot")
        self._check_entries()

    def _check_entries(self) -> None:
        for head, used in self.uses.items():
            if len(used) != len(self.op_names):
                raise ValueError(f"uses[{head!r}] has {len(used)} entries, not {len(self.op_names)}")
        if not all(self.uses[OP_HEAD]):
            raise ValueError("every operation uses the head 'op'")
        for head, size in self.argument_sizes.items():
            if size < 1:
                raise ValueError(f"argument_sizes[{head!r}]={size}: must be >= 1; leave the head out instead")
        for head, names in self.argument_names.items():
            size = self.argument_sizes.get(head, 0)
            if len(names) != size:
                raise ValueError(f"argument_names[{head!r}]={names}: the head has {size} choices")
        for place, needs_blueprint in enumerate(self.uses.get(BLUEPRINT_HEAD, ())):
            if needs_blueprint and not self.uses[SLOT_HEAD][place]:
                raise ValueError(
                    f"operation {self.op_names[place]!r} uses a blueprint but no slot to put it in"
                )

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the columns, in order; H of them."""
        return tuple(self.uses)


def build_growth_layout(space: ActionSpace) -> ActionLayout:
    """Return the layout of a host's actions; hosts that offer the same arguments share it.

    Example:
        >>> build_growth_layout(observation.space).op_names
        ('WAIT', 'GERMINATE', 'ADVANCE', 'FOSSILIZE', 'CULL', 'SET_ALPHA')
    """
    names = {
        "blend": tuple(blend.value for blend in space.blend_ids),
        "curve": tuple(curve.value for curve in space.curve_ids),
        "tempo": tuple(map(str, space.tempo_ids)),
        ALPHA_TARGET_HEAD: tuple(f"{target:g}" for target in space.alpha_target_ids),
    }
    uses = {head: tuple(op in ops for op in space.op_ids) for head, ops in HEAD_OPS.items()}
    return ActionLayout(
        op_names=tuple(op.value for op in space.op_ids),
        uses=uses,  # a plain dict: a mapping proxy could be neither copied nor sent to a worker
        argument_sizes={head: len(choices) for head, choices in names.items()},
        argument_names=names,
    )


def build_action(indices: tuple[int, ...], space: ActionSpace) -> Action:
    """Return the action that a row of indices stands for; what its operation does not use is ignored.

    Args:
        indices: [H] in the order of `HEAD_OPS`.
        space: Id tables of the host that the action is for.

    Raises:
        ValueError: If a column that the operation uses is outside its table.

    Example:
        >>> from esper.leyline import WAIT
        >>> build_action(build_indices(WAIT, observation.space), observation.space) == WAIT
        True
    """
    chosen = dict(zip(HEAD_OPS, indices, strict=True))
    op = _look_up(OP_HEAD, space.op_ids, chosen)
    used = {head for head, ops in HEAD_OPS.items() if op in ops}
    defaults = Action()
    blend: BlendForm = _look_up("blend", space.blend_ids, chosen) if "blend" in used else defaults.blend
    curve: AlphaCurve = _look_up("curve", space.curve_ids, chosen) if "curve" in used else defaults.curve
    return Action(
        op=op,
        slot=_look_up(SLOT_HEAD, space.slot_ids, chosen) if SLOT_HEAD in used else None,
        blueprint=_look_up(BLUEPRINT_HEAD, space.blueprint_ids, chosen) if BLUEPRINT_HEAD in used else None,
        blend=blend,
        curve=curve,
        tempo_epochs=_look_up("tempo", space.tempo_ids, chosen) if "tempo" in used else defaults.tempo_epochs,
        alpha_target=_look_up("alpha_target", space.alpha_target_ids, chosen)
        if "alpha_target" in used
        else defaults.alpha_target,
    )


def build_indices(action: Action, space: ActionSpace) -> tuple[int, ...]:
    """Return the row of indices of an action: the inverse of `build_action`, 0 where a head is not used.

    Raises:
        ValueError: If the action names something that the space lacks.

    Example:
        >>> from esper.leyline import WAIT
        >>> build_indices(WAIT, observation.space)
        (0, 0, 0, 0, 0, 0, 0)
    """
    tables: Mapping[str, tuple[tuple[object, ...], object]] = {
        OP_HEAD: (space.op_ids, action.op),
        SLOT_HEAD: (space.slot_ids, action.slot),
        BLUEPRINT_HEAD: (space.blueprint_ids, action.blueprint),
        "blend": (space.blend_ids, action.blend),
        "curve": (space.curve_ids, action.curve),
        "tempo": (space.tempo_ids, action.tempo_epochs),
        "alpha_target": (space.alpha_target_ids, action.alpha_target),
    }
    row = []
    for head, ops in HEAD_OPS.items():
        table, value = tables[head]
        if action.op not in ops:
            row.append(0)
        elif value in table:
            row.append(table.index(value))
        else:
            raise ValueError(f"{head}={value!r}: the action space offers {table}")
    return tuple(row)


def _look_up(head: str, table: tuple[_T, ...], chosen: Mapping[str, int]) -> _T:
    place = chosen[head]
    if not 0 <= place < len(table):
        raise ValueError(f"{head} index {place}: must be in [0, {len(table)})")
    return table[place]
