"""Events of one host run that need no more than what they tell."""

from __future__ import annotations

from esper.leyline import Decision, DecisionMade, RolledBack, Verdict


def describe_decision(decision: Decision, refusal: str | None, epoch: int) -> DecisionMade:
    """Return what was decided after `epoch` intervals, and why it was refused, if it was."""
    action, evidence = decision.action, decision.evidence
    return DecisionMade(
        epoch=epoch,
        op=action.op.value,
        slot=action.slot,
        blueprint=action.blueprint,
        reason=decision.reason,
        confidence=decision.confidence,
        refusal=refusal,
        value=None if evidence is None else evidence.value,
        probabilities={} if evidence is None else evidence.probabilities,
        blend=action.blend.value,
        curve=action.curve.value,
        tempo_epochs=action.tempo_epochs,
        alpha_target=action.alpha_target,
        observation={} if evidence is None else evidence.observation,
        legal={} if evidence is None else evidence.masks,
    )


def describe_rollback(verdict: Verdict, epoch: int, *, count: int, is_terminal: bool) -> RolledBack:
    """Return that a run went back to `epoch`, for the `count`-th time."""
    return RolledBack(
        epoch=epoch,
        verdict=verdict.kind,
        reason=verdict.reason,
        restored_epoch=epoch,
        blamed_slot=verdict.blamed_slot,
        rollback_count=count,
        is_terminal=is_terminal,
    )
