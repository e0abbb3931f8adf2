"""Hand-built observations for tests: every argument has a plausible default, a test names what it is about.

Example:
    report = make_report("block2", SeedStage.PROBATIONARY, contribution=make_estimate(0.02, 0.005))
    observation = make_observation(report, epoch=12, plateau_epochs=4)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from esper.leyline import (
    ActionSpace,
    BlueprintDescriptor,
    Budgets,
    Estimate,
    MetricSpec,
    Observation,
    SeedStage,
    SlotReport,
    TrainingSignals,
)

ACCURACY = MetricSpec(name="accuracy", is_higher_better=True, scale=0.05)

IMAGE_BLUEPRINTS: tuple[tuple[str, str, int], ...] = (
    ("noop", "noop", 0),
    ("norm", "norm", 16),
    ("depthwise", "depthwise", 150),
    ("conv_light", "conv", 650),
    ("conv_heavy", "conv", 1300),
)
"""Id, family, parameters of a small 2d slot's blueprints."""

NOT_READY = "G?: not ready in this test"


def make_estimate(mean: float, error: float = 0.001, *, intervals: int = 2) -> Estimate:
    """Return a measurement over 360 items."""
    return Estimate(mean=mean, standard_error=error, num_items=360, num_intervals=intervals)


def make_descriptor(name: str, family: str = "conv", params: int = 650) -> BlueprintDescriptor:
    """Return a blueprint; its FLOPs are 128 per parameter."""
    return BlueprintDescriptor(id=name, family=family, num_params=params, flops_per_item=128 * params)


def make_space(
    slots: Sequence[str] = ("block1", "block2"),
    blueprints: Sequence[tuple[str, str, int]] = IMAGE_BLUEPRINTS,
    *,
    fits: Mapping[str, Sequence[str]] | None = None,
) -> ActionSpace:
    """Return an action space.

    Args:
        slots: Slot ids in forward order.
        blueprints: (id, family, parameters) each.
        fits: Slot -> ids that fit it; a slot that is not named takes all.
    """
    known = {name: make_descriptor(name, family, params) for name, family, params in blueprints}
    allowed = {slot: list((fits or {}).get(slot, known)) for slot in slots}
    return ActionSpace(
        slot_ids=tuple(slots),
        blueprint_ids=tuple(known),
        descriptors={slot: {name: known[name] for name in names} for slot, names in allowed.items()},
    )


def make_report(
    slot: str = "block1",
    stage: SeedStage = SeedStage.DORMANT,
    *,
    layout: str = "2d",
    blueprint: str = "conv_light",
    seed_id: str | None = None,
    epochs_in_stage: int = 4,
    seed_age_epochs: int = 8,
    alpha: float | None = None,
    alpha_target: float = 1.0,
    is_ramping: bool = False,
    is_cull_pending: bool = False,
    contribution: Estimate | None = None,
    contribution_age_epochs: int | None = 0,
    credit: float | None = None,
    shadow_gain: Estimate | None = None,
    shadow_gain_age_epochs: int | None = 0,
    is_healthy: bool = True,
    can_advance: bool = False,
    can_fossilize: bool = False,
) -> SlotReport:
    """Return a slot as a policy sees it; what belongs to a seed is left empty where the stage has none.

    Args:
        seed_id: None = "<slot>#1" where a seed lives.
        alpha: None = 1 where the stage affects the output, else 0.
        contribution_age_epochs: Counts only with a contribution; the same holds for the shadow gain.
        can_advance: Whether ADVANCE is refused by no gate; likewise `can_fossilize`.
    """
    bare = SlotReport(slot=slot, layout=layout, num_channels=8, stage=stage, epochs_in_stage=epochs_in_stage)
    if not stage.has_seed:
        return bare
    return replace(
        bare,
        previous_stage=SeedStage.DORMANT,
        epochs_in_previous_stage=1,
        seed_age_epochs=seed_age_epochs,
        seed_id=f"{slot}#1" if seed_id is None else seed_id,
        blueprint=blueprint,
        family="conv",
        blend="add",
        num_params=650,
        flops_per_item=83_200,
        alpha=(1.0 if stage.affects_output else 0.0) if alpha is None else alpha,
        alpha_target=alpha_target,
        tempo_epochs=3,
        is_ramping=is_ramping,
        is_cull_pending=is_cull_pending,
        contribution=contribution,
        contribution_age_epochs=None if contribution is None else contribution_age_epochs,
        credit=credit,
        shadow_gain=shadow_gain,
        shadow_gain_age_epochs=None if shadow_gain is None else shadow_gain_age_epochs,
        is_healthy=is_healthy,
        advance_refusal=None if can_advance else NOT_READY,
        fossilize_refusal=None if can_fossilize else NOT_READY,
    )


def make_budgets(
    epoch: int = 10,
    *,
    horizon_epochs: int = 40,
    added_params: int = 0,
    max_added_params: int | None = None,
    max_live_seeds: int | None = None,
    shortest_lifecycle_epochs: int = 6,
    min_cull_age_epochs: int = 2,
    is_sequential: bool = False,
) -> Budgets:
    """Return the budgets of a host of 1,000 parameters after `epoch` of its intervals."""
    return Budgets(
        horizon_epochs=horizon_epochs,
        epochs_left=horizon_epochs - epoch,
        host_params=1000,
        added_params=added_params,
        max_added_params=max_added_params,
        host_flops_per_item=100_000,
        flops_spent=epoch * 10**8,
        never_grow_flops=horizon_epochs * 10**8,
        max_live_seeds=max_live_seeds,
        shortest_lifecycle_epochs=shortest_lifecycle_epochs,
        min_cull_age_epochs=min_cull_age_epochs,
        is_sequential=is_sequential,
    )


def make_signals(epoch: int = 10, *, plateau_epochs: int = 0, is_host_stable: bool = True) -> TrainingSignals:
    """Return the signals of a host that learns normally."""
    return TrainingSignals(
        epoch=epoch,
        train_loss=0.6,
        validation_loss=0.7,
        train_metric=0.82,
        metric=0.8,
        loss_delta=0.02,
        metric_delta=0.01,
        best_loss=0.68,
        best_metric=0.81,
        plateau_epochs=plateau_epochs,
        is_host_stable=is_host_stable,
        host_gradient_norm=1.5,
        learning_rate_fraction=0.9,
        loss_history=(0.8, 0.72, 0.7),
        metric_history=(0.76, 0.79, 0.8),
        has_history=True,
    )


def make_observation(
    *reports: SlotReport,
    epoch: int = 10,
    plateau_epochs: int = 0,
    is_host_stable: bool = True,
    space: ActionSpace | None = None,
    budgets: Budgets | None = None,
) -> Observation:
    """Return an observation of these slots, in the order given; without any, of two empty ones.

    Args:
        reports: The slots.
        epoch: Intervals finished.
        plateau_epochs: Intervals without gain.
        is_host_stable: Whether the loss has settled.
        space: None = `make_space` of the reports' slots.
        budgets: None = `make_budgets(epoch)`.
    """
    slots = reports or (make_report("block1"), make_report("block2"))
    return Observation(
        signals=make_signals(epoch, plateau_epochs=plateau_epochs, is_host_stable=is_host_stable),
        slots=tuple(slots),
        budgets=make_budgets(epoch) if budgets is None else budgets,
        space=make_space([report.slot for report in slots]) if space is None else space,
        metric=ACCURACY,
        chance_loss=2.302585,
        num_validation_items=360,
    )
