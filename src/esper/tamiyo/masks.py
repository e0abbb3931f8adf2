"""Which actions a policy may pick, as tensors and as lists; built from `esper.leyline` legality alone.

The order of choice is op > slot given op > blueprint given slot. The blueprint "noop" exists for tests and
controls and is legal, but a policy never picks it: it is always masked, and a slot where nothing else fits
has no GERMINATE. This file adds no rule of its own beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from esper.leyline import (
    OP_STAGES,
    LifecycleOp,
    Observation,
    SlotReport,
    legal_blueprints,
    refuse_op,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOOP_FAMILY = "noop"
"""Family of the blueprint that adds nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActionMasks:
    """Legality of each index; True = may be picked. Of E hosts at once every shape begins with E."""

    ops: Tensor
    """[ops] bool: the op is legal on at least one slot; WAIT always."""
    slots: Tensor
    """[ops, S] bool: the op is legal on that slot."""
    blueprints: Tensor
    """[S, B] bool: the blueprint may be germinated in that slot now."""


def growable_blueprints(report: SlotReport, observation: Observation) -> tuple[str, ...]:
    """Return the blueprints that could be germinated in this slot within the budget, "noop" left out.

    Example:
        >>> growable_blueprints(report, observation)
        ('norm', 'mlp', 'mlp_small', 'low_rank')
    """
    costs = observation.space.descriptors.get(report.slot, {})
    legal = legal_blueprints(report, observation)
    return tuple(name for name in legal if costs[name].family != NOOP_FAMILY)


def choosable_ops(report: SlotReport, observation: Observation) -> tuple[LifecycleOp, ...]:
    """Return the operations that a policy may pick on this slot now, WAIT first.

    Example:
        >>> [op.value for op in choosable_ops(report, observation)]
        ['WAIT', 'GERMINATE']
    """
    return _find_choices(report, observation)[0]


def _find_choices(
    report: SlotReport, observation: Observation
) -> tuple[tuple[LifecycleOp, ...], tuple[str, ...]]:
    """Return the operations that a policy may pick on this slot, and the blueprints of GERMINATE."""
    # Only what the stage does not rule out is asked about: putting a refusal into words takes longest.
    asked = [op for op in LifecycleOp if report.stage in OP_STAGES[op]]
    ops = tuple(op for op in asked if refuse_op(op, report, observation) is None)
    if LifecycleOp.GERMINATE not in ops:
        return ops, ()
    names = growable_blueprints(report, observation)
    return (ops if names else tuple(op for op in ops if op is not LifecycleOp.GERMINATE)), names


def compute_masks(observation: Observation) -> ActionMasks:
    """Return the masks of one observation, on the CPU; an operation that the space lacks is never legal.

    No row that can be reached is empty: WAIT is legal whatever happens, every legal op has a slot, and every
    slot with GERMINATE has a blueprint.

    Example:
        >>> compute_masks(observation).ops.tolist()
        [True, True, False, False, False, False]
    """
    masks = compute_masks_many([observation])
    return ActionMasks(ops=masks.ops[0], slots=masks.slots[0], blueprints=masks.blueprints[0])


def compute_masks_many(
    observations: Sequence[Observation], *, num_slots: int = 0, num_blueprints: int = 0
) -> ActionMasks:
    """Return the masks of E observations that offer the same operations, [E, ...]; what is padded is illegal.

    Args:
        observations: E >= 1 of them.
        num_slots: Pad to at least so many slots.
        num_blueprints: Likewise for blueprints.
    """
    op_places = {op: place for place, op in enumerate(observations[0].space.op_ids)}
    num_slots = max(num_slots, *(len(observation.slots) for observation in observations))
    num_blueprints = max(num_blueprints, *(len(o.space.blueprint_ids) for o in observations))
    slots: NDArray[np.bool_] = np.zeros((len(observations), len(op_places), num_slots), dtype=np.bool_)
    blueprints: NDArray[np.bool_] = np.zeros((len(observations), num_slots, num_blueprints), dtype=np.bool_)
    legal: list[tuple[int, int, int]] = []
    growable: list[tuple[int, int, int]] = []
    for row, observation in enumerate(observations):
        for place, report in enumerate(observation.slots):
            ops, names = _find_choices(report, observation)
            legal += [(row, op_places[op], place) for op in ops if op in op_places]
            if names and LifecycleOp.GERMINATE in op_places:
                ids = observation.space.blueprint_ids
                growable += [(row, place, ids.index(name)) for name in names]
    slots[_as_index(legal)] = True
    blueprints[_as_index(growable)] = True
    ops_mask: NDArray[np.bool_] = np.logical_or.reduce(slots, axis=2)
    ops_mask[:, op_places[LifecycleOp.WAIT]] = True
    return ActionMasks(
        ops=torch.from_numpy(ops_mask),
        slots=torch.from_numpy(slots),
        blueprints=torch.from_numpy(blueprints),
    )


def _as_index(places: list[tuple[int, int, int]]) -> tuple[NDArray[np.int64], ...]:
    """Return what picks these entries of a mask at once."""
    return tuple(np.array(places, dtype=np.int64).reshape(-1, 3).T)
