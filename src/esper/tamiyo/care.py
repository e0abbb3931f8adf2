"""What the heuristic does for seeds that live: pure rules from observation and config.

```
fossilize > cull > advance > open fully          the first that answers with a Decision decides
```
Every rule looks at every slot in forward order, asks legality before it answers, and gives its numbers.
Nothing here remembers anything, and nothing here germinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from esper.leyline import (
    Action,
    Decision,
    Estimate,
    LifecycleOp,
    Observation,
    SeedStage,
    SlotReport,
    refuse_action,
)
from esper.tamiyo.heuristic_config import HeuristicConfig

CareRule = Callable[[Observation, HeuristicConfig], Decision | None]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What speaks against a seed."""

    reason: str
    confidence: float
    """In [0, 1]."""


def decide_fossilize(observation: Observation, config: HeuristicConfig) -> Decision | None:
    """Keep the first seed that passes the gates of keeping."""
    del config
    for report in observation.slots:
        action = Action(op=LifecycleOp.FOSSILIZE, slot=report.slot)
        if refuse_action(action, observation) is None:
            return Decision(
                action=action,
                reason=f"keep {_name(report)}: contribution {_show(report.contribution)}, "
                f"credit {_show_number(report.credit)}",
                confidence=_confidence(report.contribution, observation),
            )
    return None


def decide_cull(observation: Observation, config: HeuristicConfig) -> Decision | None:
    """Remove the first seed that something speaks against, if it may be removed."""
    for report in observation.slots:
        fault = find_fault(report, observation, config)
        if fault is None:
            continue
        action = Action(
            op=LifecycleOp.CULL, slot=report.slot, curve=config.curve, tempo_epochs=config.cull_tempo_epochs
        )
        if refuse_action(action, observation) is None:
            reason = f"cull {_name(report)}: {fault.reason}"
            return Decision(action=action, reason=reason, confidence=fault.confidence)
    return None


def decide_advance(observation: Observation, config: HeuristicConfig) -> Decision | None:
    """Move the first seed on whose gate passes; one in TRAINING only after the configured incubation."""
    for report in observation.slots:
        is_young = report.epochs_in_stage < config.min_incubation_epochs
        if report.stage is SeedStage.TRAINING and is_young:
            continue
        action = Action(op=LifecycleOp.ADVANCE, slot=report.slot)
        if refuse_action(action, observation) is None:
            return Decision(
                action=action,
                reason=f"advance {_name(report)} after {report.epochs_in_stage} epochs in "
                f"{report.stage.value}: shadow gain {_show(report.shadow_gain)}, "
                f"gradient ratio {_show_number(report.gradient_ratio)}",
            )
    return None


def decide_open_fully(observation: Observation, config: HeuristicConfig) -> Decision | None:
    """Give the first seed that rests at an alpha target below 1 a ramp to 1: only there can it be kept."""
    for report in observation.slots:
        action = Action(
            op=LifecycleOp.SET_ALPHA,
            slot=report.slot,
            alpha_target=1.0,
            curve=config.curve,
            tempo_epochs=config.tempo_epochs,
        )
        rests_below = report.alpha_target < 1.0 and not report.is_ramping
        if rests_below and refuse_action(action, observation) is None:
            return Decision(
                action=action,
                reason=f"open {_name(report)} fully: alpha rests at {report.alpha:.3f}, "
                f"its target is {report.alpha_target:.3f}",
            )
    return None


CARE_RULES: tuple[CareRule, ...] = (decide_fossilize, decide_cull, decide_advance, decide_open_fully)
"""In order of precedence."""


def find_fault(report: SlotReport, observation: Observation, config: HeuristicConfig) -> Fault | None:
    """Return what speaks against the seed of a slot, or None; whether it may be culled is not asked here."""
    if not report.stage.is_live:
        return None
    if not report.is_healthy:
        return Fault(reason="its gradients were faulty in the last epoch", confidence=1.0)
    if report.stage is SeedStage.TRAINING:
        return _find_incubation_fault(report, observation, config)
    if report.stage in (SeedStage.BLENDING, SeedStage.PROBATIONARY):
        return _find_blended_fault(report, observation, config)
    return None


def _find_incubation_fault(
    report: SlotReport, observation: Observation, config: HeuristicConfig
) -> Fault | None:
    gain, epochs = report.shadow_gain, report.epochs_in_stage
    is_current = _is_of_this_stage(report.shadow_gain_age_epochs, report)
    is_judged = is_current and epochs >= config.patience_epochs
    if gain is not None and is_judged and gain.upper(config.cull_errors) < 0.0:
        reason = f"after {epochs} epochs of incubation its shadow gain is {_show(gain)}"
        return Fault(reason=reason, confidence=_confidence(gain, observation))
    if epochs >= config.max_incubation_epochs and report.advance_refusal is not None:
        return Fault(
            reason=f"incubated for {epochs} epochs, at most {config.max_incubation_epochs}, and still "
            f"{report.advance_refusal}",
            confidence=1.0,
        )
    return None


def _find_blended_fault(
    report: SlotReport, observation: Observation, config: HeuristicConfig
) -> Fault | None:
    estimate, epochs = report.contribution, report.epochs_in_stage
    is_current = _is_of_this_stage(report.contribution_age_epochs, report)
    if estimate is not None and is_current and epochs >= config.min_judged_epochs:
        if estimate.upper(config.cull_errors) < 0.0:
            reason = f"contribution {_show(estimate)} is below 0 by more than {config.cull_errors:g} s.e."
            return Fault(reason=reason, confidence=_confidence(estimate, observation))
        is_needed = estimate.lower(1.0) > 0.0 and estimate.mean > config.ransomware_threshold
        if is_needed and report.credit is not None and report.credit <= 0.0:
            reason = f"removing it costs {_show(estimate)}, yet its credit is {report.credit:.4g}"
            return Fault(reason=reason, confidence=_confidence(estimate, observation))
    if report.stage is SeedStage.PROBATIONARY and epochs >= config.max_probation_epochs:
        return Fault(
            reason=f"on probation for {epochs} epochs, at most {config.max_probation_epochs}, "
            f"contribution {_show(estimate)}: {report.fossilize_refusal}",
            confidence=1.0,
        )
    return None


def _is_of_this_stage(age_epochs: int | None, report: SlotReport) -> bool:
    """Whether something measured `age_epochs` intervals ago was measured since the stage was entered."""
    return age_epochs is not None and age_epochs < report.epochs_in_stage


def _confidence(estimate: Estimate | None, observation: Observation) -> float:
    """Return |mean| over the metric's scale, at most 1; 0 without a usable measurement."""
    if estimate is None:
        return 0.0
    size = abs(estimate.mean) / observation.metric.scale
    return 0.0 if math.isnan(size) else min(1.0, size)


def _name(report: SlotReport) -> str:
    return f"{report.seed_id or report.slot} ({report.blueprint})"


def _show(estimate: Estimate | None) -> str:
    return "not measured" if estimate is None else f"{estimate.mean:.4g} +- {estimate.standard_error:.2g}"


def _show_number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
