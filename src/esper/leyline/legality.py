"""Which actions are legal now: one pure derivation that masks and the plant both use, so they agree.

A policy's illegal joint action is not an error: it is answered with the reason and counts as WAIT.
"""

from __future__ import annotations

from esper.leyline.actions import OP_STAGES, Action, LifecycleOp
from esper.leyline.errors import suggest
from esper.leyline.observation import Observation
from esper.leyline.reports import SlotReport
from esper.leyline.stages import SeedStage

MEMORY_REFUSAL = "memory"
"""First word of every refusal for want of memory."""


def refuse_op(op: LifecycleOp, report: SlotReport, observation: Observation) -> str | None:
    """Return why `op` on this slot would be refused now, or None if it is legal.

    Args:
        op: The operation.
        report: The addressed slot (one of `observation.slots`).
        observation: The whole decision point.

    Example:
        >>> refuse_op(LifecycleOp.CULL, report, observation)
        "CULL on 'hidden1': stage is DORMANT, needs GERMINATED, TRAINING, BLENDING, PROBATIONARY"
    """
    if op is LifecycleOp.WAIT:
        return None
    if report.stage not in OP_STAGES[op]:
        legal = ", ".join(stage.value for stage in SeedStage if stage in OP_STAGES[op])
        return f"{op.value} on {report.slot!r}: stage is {report.stage.value}, needs {legal}"
    if report.is_cull_pending:
        return f"{op.value} on {report.slot!r}: its seed is already being culled"
    if op is LifecycleOp.GERMINATE:
        return _refuse_germination(report, observation)
    if op is LifecycleOp.ADVANCE:
        return report.advance_refusal
    if op is LifecycleOp.FOSSILIZE:
        return report.fossilize_refusal
    if op is LifecycleOp.CULL and report.seed_age_epochs < observation.budgets.min_cull_age_epochs:
        return (
            f"CULL on {report.slot!r}: the seed is {report.seed_age_epochs} epochs old, "
            f"needs {observation.budgets.min_cull_age_epochs}"
        )
    return None


def refuse_blueprint(blueprint: str | None, report: SlotReport, observation: Observation) -> str | None:
    """Return why `blueprint` cannot be germinated in this slot (fit, parameters, memory), or None.

    Example:
        >>> refuse_blueprint("mpl", report, observation)
        "unknown blueprint 'mpl': did you mean 'mlp'? (known: low_rank, mlp, mlp_small, noop, norm)"
    """
    space, budgets = observation.space, observation.budgets
    if blueprint is None:
        return "GERMINATE needs a blueprint"
    if blueprint not in space.blueprint_ids:
        return f"unknown blueprint {blueprint!r}: {suggest(blueprint, space.blueprint_ids)}"
    if not space.fits(report.slot, blueprint):
        fitting = ", ".join(space.descriptors.get(report.slot, {})) or "none"
        return f"blueprint {blueprint!r} does not fit {report.slot!r} ({report.layout}); fitting: {fitting}"
    cost = space.descriptors[report.slot][blueprint].num_params
    if budgets.max_added_params is not None and budgets.added_params + cost > budgets.max_added_params:
        left = budgets.max_added_params - budgets.added_params
        return f"blueprint {blueprint!r} adds {cost} parameters to {report.slot!r}, {left} are left"
    needed, available = space.descriptors[report.slot][blueprint].memory_bytes, budgets.memory_bytes_left
    if available is not None and needed > available:
        what = f"{blueprint!r} in {report.slot!r}"
        return f"{MEMORY_REFUSAL}: {what} needs {needed} bytes, {max(0, available)} are left"
    return None


def refuse_action(action: Action, observation: Observation) -> str | None:
    """Return why the joint action would be refused now, or None if it is legal.

    Example:
        >>> refuse_action(Action(op=LifecycleOp.FOSSILIZE, slot="hidden1"), observation)
        "FOSSILIZE on 'hidden1': stage is DORMANT, needs PROBATIONARY"
    """
    if action.op is LifecycleOp.WAIT:
        return None
    space = observation.space
    if action.slot is None or action.slot not in space.slot_ids:
        return f"unknown slot {action.slot!r}: {suggest(str(action.slot), space.slot_ids)}"
    report = observation.slot(action.slot)
    reason = refuse_op(action.op, report, observation)
    if reason is None and action.op is LifecycleOp.GERMINATE:
        reason = refuse_blueprint(action.blueprint, report, observation)
    if reason is None and action.op is not LifecycleOp.CULL and not 0.0 < action.alpha_target <= 1.0:
        reason = f"alpha_target={action.alpha_target}: must be in (0, 1]"
    if reason is None and action.tempo_epochs < 1:
        reason = f"tempo_epochs={action.tempo_epochs}: must be >= 1"
    return reason


def legal_ops(report: SlotReport, observation: Observation) -> tuple[LifecycleOp, ...]:
    """Return the operations that are legal on this slot now, WAIT first.

    Example:
        >>> [op.value for op in legal_ops(report, observation)]
        ['WAIT', 'GERMINATE']
    """
    legal = [op for op in LifecycleOp if refuse_op(op, report, observation) is None]
    if LifecycleOp.GERMINATE in legal and not legal_blueprints(report, observation):
        legal.remove(LifecycleOp.GERMINATE)
    return tuple(legal)


def legal_blueprints(report: SlotReport, observation: Observation) -> tuple[str, ...]:
    """Return the blueprint ids that could be germinated in this slot within the budget.

    Example:
        >>> legal_blueprints(report, observation)
        ('noop', 'norm', 'mlp', 'mlp_small', 'low_rank')
    """
    ids = observation.space.blueprint_ids
    return tuple(b for b in ids if refuse_blueprint(b, report, observation) is None)


def _refuse_germination(report: SlotReport, observation: Observation) -> str | None:
    budgets = observation.budgets
    if budgets.epochs_left < budgets.shortest_lifecycle_epochs:
        return (
            f"GERMINATE on {report.slot!r}: {budgets.epochs_left} epochs left, "
            f"the shortest lifecycle needs {budgets.shortest_lifecycle_epochs}"
        )
    live = sum(slot.stage.is_live for slot in observation.slots)
    if budgets.max_live_seeds is not None and live >= budgets.max_live_seeds:
        return f"GERMINATE on {report.slot!r}: {live} live seeds, the limit is {budgets.max_live_seeds}"
    if budgets.is_sequential and any(slot.stage.is_isolated for slot in observation.slots):
        return f"GERMINATE on {report.slot!r}: a seed is still incubating and development is sequential"
    return None
