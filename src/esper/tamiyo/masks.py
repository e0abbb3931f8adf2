"""Which actions a policy may pick, as tensors and as lists; built from `esper.leyline` legality alone.

The order of choice is op > slot given op > blueprint given slot. The blueprint "noop" exists for tests and
controls and is legal, but a policy never picks it: it is always masked, and a slot where nothing else fits
has no GERMINATE. This file adds no rule of its own beyond that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from esper.leyline import LifecycleOp, Observation, SlotReport, legal_blueprints, legal_ops

NOOP_FAMILY = "noop"
"""Family of the blueprint that adds nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActionMasks:
    """Legality of each index; True = may be picked."""

    ops: Tensor
    """[ops] bool: the op is legal on at least one slot; WAIT always."""
    slots: Tensor
    """[ops, S] bool: the op is legal on that slot."""
    blueprints: Tensor
    """[S, B] bool: the blueprint may be germinated in that slot now."""


def growable_blueprints(report: SlotReport, observation: Observation) -> tuple[str, ...]:
    """Return the blueprints that could be germinated in this slot within the budget, "noop" left out."""
    costs = observation.space.descriptors.get(report.slot, {})
    legal = legal_blueprints(report, observation)
    return tuple(name for name in legal if costs[name].family != NOOP_FAMILY)


def choosable_ops(report: SlotReport, observation: Observation) -> tuple[LifecycleOp, ...]:
    """Return the operations that a policy may pick on this slot now, WAIT first."""
    ops = legal_ops(report, observation)
    if LifecycleOp.GERMINATE in ops and not growable_blueprints(report, observation):
        return tuple(op for op in ops if op is not LifecycleOp.GERMINATE)
    return ops


def compute_masks(observation: Observation) -> ActionMasks:
    """Return the masks of one observation, on the CPU; an operation that the space lacks is never legal.

    No row that can be reached is empty: WAIT is legal whatever happens, every legal op has a slot, and every
    slot with GERMINATE has a blueprint.
    """
    space = observation.space
    slots = torch.zeros(len(space.op_ids), len(observation.slots), dtype=torch.bool)
    blueprints = torch.zeros(len(observation.slots), len(space.blueprint_ids), dtype=torch.bool)
    for place, report in enumerate(observation.slots):
        ops = [op for op in choosable_ops(report, observation) if op in space.op_ids]
        for op in ops:
            slots[space.op_ids.index(op), place] = True
        if LifecycleOp.GERMINATE in ops:
            for name in growable_blueprints(report, observation):
                blueprints[place, space.blueprint_ids.index(name)] = True
            assert bool(blueprints[place].any()), f"GERMINATE on {report.slot!r} has no blueprint"
    ops_mask = slots.any(dim=1)
    ops_mask[space.op_ids.index(LifecycleOp.WAIT)] = True
    assert bool(ops_mask.any()), "WAIT is always legal"
    return ActionMasks(ops=ops_mask, slots=slots, blueprints=blueprints)
