"""A slot as everything outside the plant sees it, made from its record and its gates.

Only this file knows which score belongs to an empty slot and which to a seed.
"""

from __future__ import annotations

from dataclasses import replace

from esper.kasmina.gates import QualityGates
from esper.kasmina.seed_state import SeedState
from esper.kasmina.slot import SeedSlot
from esper.leyline import SlotReport


def build_report(slot: SeedSlot, gates: QualityGates, family: str | None) -> SlotReport:
    """Return the report of one slot.

    Args:
        slot: The slot.
        gates: Asked why its seed could not move on now.
        family: Of the seed's blueprint; None without one.
    """
    state = slot.state
    report = SlotReport(
        slot=state.slot,
        layout=slot.spec.layout.value,
        num_channels=slot.spec.num_channels,
        stage=state.stage,
        previous_stage=state.previous_stage,
        epochs_in_stage=state.epochs_in_stage,
        epochs_in_previous_stage=state.epochs_in_previous_stage,
        seed_age_epochs=state.seed_age_epochs,
        seed_id=state.seed_id,
        blueprint=state.blueprint,
        family=family,
        blend=state.blend.value if state.stage.has_seed else None,
        num_params=state.num_params,
        flops_per_item=state.flops_per_item,
        alpha=state.alpha,
        alpha_target=state.alpha_target,
        tempo_epochs=state.tempo_epochs if state.stage.has_seed else 0,
        is_ramping=state.ramp is not None,
        is_cull_pending=state.is_cull_pending,
        contribution=state.contribution,
        contribution_age_epochs=state.contribution_age_epochs,
        contribution_velocity=state.contribution_velocity,
        credit=state.credit,
        shadow_gain=state.shadow_gain,
        shadow_gain_age_epochs=state.shadow_gain_age_epochs,
        gradient_ratio=state.gradient_ratio,
        gradient_norm=state.gradient_norm,
        is_healthy=state.is_healthy,
        advance_refusal=gates.refuse_advance(state),
        fossilize_refusal=gates.refuse_fossilize(state),
        cull_reason=state.cull_reason,
    )
    return _with_scores(report, state)


def _with_scores(report: SlotReport, state: SeedState) -> SlotReport:
    scores = state.scores
    if scores is None:
        return report
    is_live, is_empty = state.stage.is_live, not state.stage.has_seed
    return replace(
        report,
        gradient_energy=scores.gradient_energy,
        linear_share=scores.linear_share,
        saturation=scores.saturation,
        blueprint_gains=scores.blueprint_gains if is_empty else None,
        alpha_slope=scores.alpha_slope if is_live else None,
        alpha_best=scores.alpha_best if is_live else None,
        alpha_gain=scores.alpha_gain if is_live else None,
        scores_age_epochs=state.scores_age_epochs,
    )
