"""Which blueprints are on offer in which slot, at which cost, and which of them a budget still pays for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from esper.kasmina import BlueprintRegistry, MorphogeneticModel, describe
from esper.leyline import Action, ActionSpace, BlueprintDescriptor, ConfigError, LifecycleOp

Descriptors = Mapping[str, Mapping[str, BlueprintDescriptor]]
"""Slot -> blueprint -> what it costs there, for the pairs that fit."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How far a model may grow; None = without limit.

    Example:
        Budget(params=1.3, seeds=4)   # at most 1.3 times the parameters, in at most four seeds
    """

    params: float | None = None
    """Trainable parameters over the host's own, >= 1."""
    flops: float | None = None
    """Forward FLOPs per item over the host's own, >= 1."""
    seeds: int | None = None
    """Seeds that live in the model at once, kept ones included, >= 0."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name in ("params", "flops"):
            value = getattr(self, name)
            if value is not None and not 1.0 <= value < math.inf:
                raise ConfigError(
                    f"budget.{name}={value}: is a factor on the host's own, finite and >= 1, e.g. 1.3"
                )
        if self.seeds is not None and self.seeds < 0:
            raise ConfigError(f"budget.seeds={self.seeds}: must be >= 0")


def list_offers(model: MorphogeneticModel, registry: BlueprintRegistry, names: Sequence[str]) -> Descriptors:
    """Return what is on offer.

    Args:
        model: Its slots.
        registry: Where blueprints are registered.
        names: Ids or families; empty = every one that fits.

    Raises:
        UnknownNameError: If a name is not registered.
    """
    wanted = [member for name in names for member in registry.members(name)]
    return {
        spec.slot_id: dict(
            describe(registry, spec, [b for b in registry.fitting(spec) if not wanted or b in wanted])
        )
        for spec in model.specs
    }


def refuse_blend(model: MorphogeneticModel, action: Action) -> str | None:
    """Return why the slot of a birth takes no seed in the form asked for; None for every other action."""
    if action.op is not LifecycleOp.GERMINATE or action.slot is None:
        return None
    return model.slot(action.slot).spec.refuse_blend(action.blend)


def build_action_space(model: MorphogeneticModel, offers: Descriptors) -> ActionSpace:
    """Return the action space of a model's slots with what is on offer."""
    offered = dict.fromkeys(blueprint for of_slot in offers.values() for blueprint in of_slot)
    return ActionSpace(slot_ids=model.slot_ids, blueprint_ids=tuple(offered), descriptors=offers)


def keep_affordable(space: ActionSpace, model: MorphogeneticModel, budget: Budget) -> ActionSpace:
    """Return a space in which only what the budget still pays for fits a slot; parameters are not looked at.

    The budget of parameters is a policy's to see (`Budgets.max_added_params`); of FLOPs and seeds it sees
    what is left of the offers.
    """
    if budget.flops is None and budget.seeds is None:
        return space
    num_seeds = sum(slot.state.stage.has_seed for slot in model.each_slot())
    is_full = budget.seeds is not None and num_seeds >= budget.seeds
    living = sum(slot.state.flops_per_item for slot in model.each_slot() if slot.state.stage.has_seed)
    left = math.inf if budget.flops is None else (budget.flops - 1.0) * model.host_flops - living
    affordable = {
        slot_id: {
            blueprint: cost
            for blueprint, cost in of_slot.items()
            if not is_full and cost.flops_per_item <= left
        }
        for slot_id, of_slot in space.descriptors.items()
    }
    return ActionSpace(slot_ids=space.slot_ids, blueprint_ids=space.blueprint_ids, descriptors=affordable)
