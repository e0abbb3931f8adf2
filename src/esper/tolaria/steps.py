"""The steps of a host's epoch as free functions, shared by every kind of fleet: measure, charge, record.

Each takes what it needs and returns what happened; none holds state or knows which fleet calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, final

from esper.kasmina import MorphogeneticModel, SeedSlot
from esper.leyline import (
    EpochCompleted,
    EpochOutcome,
    Event,
    SeedStage,
    SlotMeasured,
    SlotOutcome,
    UpdateSkipped,
    Verdict,
)
from esper.tolaria.epoch import EpochProgress
from esper.tolaria.fault_origin import FaultOrigin
from esper.tolaria.governor import find_blamed
from esper.tolaria.ledger import FlopsLedger, train_flops
from esper.tolaria.measuring import (
    ContributionPool,
    Evaluator,
    MeasuringBill,
    Setting,
    SplitResult,
    estimate_mean,
)
from esper.tolaria.parts import Workbench
from esper.tolaria.reducer import HOST
from esper.tolaria.scores import Scorer

if TYPE_CHECKING:
    from torch import Tensor


_NO_BILL = MeasuringBill(calibration=0, counterfactual=0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalMeasurement:
    """What was measured of one host after an interval."""

    validation: SplitResult
    slots: Mapping[str, SlotOutcome] = field(default_factory=dict)
    """Contribution or shadow gain by slot."""
    bill: MeasuringBill = _NO_BILL


def plan_settings(model: MorphogeneticModel) -> list[Setting]:
    """Return what is to be measured now.

    Alpha 0 for seeds that blend or are on probation, alpha 1 for seeds that incubate. Fossils and seeds on
    their way out are not measured.
    """
    settings = []
    for slot in model.each_slot():
        state = slot.state
        if state.is_cull_pending:
            continue
        if state.stage in (SeedStage.BLENDING, SeedStage.PROBATIONARY) and state.alpha > 0.0:
            settings.append(Setting(slot=slot.slot_id, alpha=0.0))
        elif state.stage is SeedStage.TRAINING:
            settings.append(Setting(slot=slot.slot_id, alpha=1.0))
    return settings


def measure_slots(
    model: MorphogeneticModel,
    evaluator: Evaluator,
    pool: ContributionPool,
    calibration: Tensor,
    items: tuple[Tensor, Tensor],
) -> tuple[dict[str, SlotOutcome], MeasuringBill]:
    """Measure every seed that can be measured; what comes out as not finite is no measurement.

    Returns:
        Outcomes by slot (contribution or shadow gain), and the FLOPs it took.
    """
    settings = plan_settings(model)
    if not settings:
        return {}, _NO_BILL
    differences, bill = evaluator.compute_differences(model, settings, calibration, items)
    return record_differences(model, pool, settings, differences), bill


def record_differences(
    model: MorphogeneticModel,
    pool: ContributionPool,
    settings: Sequence[Setting],
    differences: Sequence[Tensor],
) -> dict[str, SlotOutcome]:
    """Pool what was measured of each seed; what is not finite is no measurement.

    Args:
        model: Whose seeds they are.
        pool: Keeps the sums of each seed's present stage.
        settings: From `plan_settings`.
        differences: Per setting [N]: gate metric as it is minus gate metric under the setting.
    """
    outcomes = {}
    for setting, difference in zip(settings, differences, strict=True):
        state = model.slot(setting.slot).state
        if not bool(difference.isfinite().all()):
            outcomes[setting.slot] = SlotOutcome()  # A broken pass measures nothing, and could not be saved.
        elif setting.alpha > 0.0:
            outcomes[setting.slot] = SlotOutcome(shadow_gain=estimate_mean(-difference))
        else:
            pooled = pool.add(setting.slot, str(state.seed_id), state.stage, difference)
            outcomes[setting.slot] = SlotOutcome(contribution=pooled)
    return outcomes


def update_scores(
    model: MorphogeneticModel, scorer: Scorer | None, ledger: FlopsLedger, *, epoch: int
) -> None:
    """Score every slot when it is due after `epoch` intervals; scores that stay grow one interval older."""
    if scorer is None:
        return
    for slot in model.each_slot():
        if slot.state.scores_age_epochs is not None:
            slot.state.scores_age_epochs += 1
    if not scorer.is_due(epoch):
        return
    sheet = scorer.score(model, epoch)
    for slot_id, scores in sheet.slots.items():
        state = model.slot(slot_id).state
        state.scores, state.scores_age_epochs = scores, 0
    ledger.charge("probe", None, sheet.flops)


def join_outcomes(
    measured: Mapping[str, SlotOutcome], trained: Mapping[str, SlotOutcome]
) -> dict[str, SlotOutcome]:
    """Join what measuring and training found out about each slot."""
    joined = dict(trained)
    for slot_id, outcome in measured.items():
        base = joined.get(slot_id, SlotOutcome())
        joined[slot_id] = replace(base, contribution=outcome.contribution, shadow_gain=outcome.shadow_gain)
    return joined


def build_outcome(
    bench: Workbench,
    progress: EpochProgress,
    measured: IntervalMeasurement,
    lasting: Mapping[str, FaultOrigin],
    *,
    epoch: int,
    seconds: float,
) -> EpochOutcome:
    """Charge an interval that was trained and measured, and return what it came to.

    Args:
        bench: The run's parts.
        progress: The interval's sums.
        measured: Validation and counterfactuals after it.
        lasting: Group -> what is bad now and would be in every batch to come.
        epoch: Intervals finished, this one included.
        seconds: What training took.
    """
    validation, metric = measured.validation, bench.metric
    charge_training(bench.ledger, bench.model, bench.batches.num_items)
    bench.ledger.charge("validation", None, bench.model.forward_flops * validation.num_items)
    bench.ledger.charge("calibration", None, measured.bill.calibration)
    bench.ledger.charge("counterfactual", None, measured.bill.counterfactual)
    trained = {
        slot_id: totals.outcome(is_sound=slot_id not in lasting) for slot_id, totals in progress.slots.items()
    }
    items, steps = max(1, progress.num_items), max(1, progress.num_steps)
    return EpochOutcome(
        epoch=epoch,
        train_loss=progress.loss_sum / items if progress.num_items else float("nan"),
        train_metric=progress.metric_sum / items,
        validation_loss=validation.loss,
        metric=validation.metric,
        raw_metrics={
            metric.name: metric.shown(validation.metric),
            f"train_{metric.name}": metric.shown(progress.metric_sum / items),
        },
        host_gradient_norm=progress.norm_sum / steps,
        learning_rate=bench.optimizer.host_learning_rate,
        num_train_items=progress.num_items,
        num_validation_items=validation.num_items,
        num_batches=progress.batch,
        num_skipped_batches=progress.num_skipped,
        slots=join_outcomes(measured.slots, trained),
        flops=bench.ledger.close_interval(),
        seconds=seconds,
    )


def record_outcome(slot: SeedSlot, outcome: SlotOutcome | None, *, metric: float, gate_metric: float) -> None:
    """Write one interval's facts into a slot's record; ages of what was not measured grow by one."""
    state = slot.state
    state.metric_now, state.gate_metric_now = metric, gate_metric
    if not state.stage.has_seed:
        return
    if state.contribution_age_epochs is not None:
        state.contribution_age_epochs += 1
    if state.shadow_gain_age_epochs is not None:
        state.shadow_gain_age_epochs += 1
    if outcome is None:
        return
    if outcome.contribution is not None:
        state.record_contribution(outcome.contribution)
    if outcome.shadow_gain is not None:
        state.shadow_gain, state.shadow_gain_age_epochs = outcome.shadow_gain, 0
    if outcome.gradient_ratio is not None:
        state.gradient_ratio, state.gradient_norm = outcome.gradient_ratio, outcome.gradient_norm
    state.has_finite_gradients = outcome.has_finite_gradients
    state.num_skipped_batches = outcome.num_skipped_batches


def charge_training(ledger: FlopsLedger, model: MorphogeneticModel, num_items: int) -> None:
    """Charge one epoch of training: 3 forwards for host and seeds, the tail's passes for shadow.

    A seed that recomputes its activations costs one forward more, in every pass that goes back through it.
    """
    host = train_flops(model.host_flops, input_needs_grad=True, weights_frozen=False)
    ledger.charge("host_train", None, host * num_items)
    slots = list(model.each_slot())
    for index, slot in enumerate(slots):
        state = slot.state
        if not state.stage.is_trained:
            continue
        is_isolated = state.stage.is_isolated
        seed = train_flops(state.flops_per_item, input_needs_grad=not is_isolated, weights_frozen=False)
        ledger.charge("seed_train", slot.slot_id, (seed + _second_forward(slot)) * num_items)
        if is_isolated and model.incubation.needs_tail:
            tail = model.tail_flops(slot.slot_id) if model.has_segments else model.host_flops
            frozen = train_flops(tail, input_needs_grad=True, weights_frozen=True)
            frozen += sum(_second_forward(s) for s in slots[index:] if s.state.stage.affects_output)
            ledger.charge("incubation", slot.slot_id, frozen * num_items)


def _second_forward(slot: SeedSlot) -> int:
    return slot.state.flops_per_item if slot.seed is not None and slot.seed.is_recomputed else 0


def build_slot_events(
    model: MorphogeneticModel, outcomes: Mapping[str, SlotOutcome], epoch: int
) -> list[Event]:
    """Return one `SlotMeasured` per seed that lives now."""
    events: list[Event] = []
    for slot in model.each_slot():
        state, outcome = slot.state, outcomes.get(slot.slot_id)
        if not state.stage.has_seed:
            continue
        estimate = None if outcome is None else outcome.contribution
        gain = None if outcome is None else outcome.shadow_gain
        events.append(
            SlotMeasured(
                epoch=epoch,
                slot=state.slot,
                seed_id=str(state.seed_id),
                stage=state.stage.value,
                alpha=state.alpha,
                contribution=None if estimate is None else estimate.mean,
                contribution_error=None if estimate is None else estimate.standard_error,
                shadow_gain=None if gain is None else gain.mean,
                credit=state.credit if estimate is not None else None,
                gradient_ratio=state.gradient_ratio,
            )
        )
    return events


def build_epoch_event(
    model: MorphogeneticModel, ledger: FlopsLedger, outcome: EpochOutcome
) -> EpochCompleted:
    """Return the event of an interval that ended well."""
    return EpochCompleted(
        epoch=outcome.epoch,
        train_loss=outcome.train_loss,
        validation_loss=outcome.validation_loss,
        metric=outcome.metric,
        raw_metrics=outcome.raw_metrics,
        learning_rate=outcome.learning_rate,
        host_gradient_norm=outcome.host_gradient_norm,
        total_params=model.num_params,
        flops=ledger.totals(),
        num_skipped_batches=outcome.num_skipped_batches,
        seconds=outcome.seconds,
    )


def build_skip_events(progress: EpochProgress, outcome: EpochOutcome) -> list[Event]:
    """Return one `UpdateSkipped` per group that was skipped, or in which a bad number was found."""
    skipped = {HOST: outcome.num_skipped_batches} | {
        slot_id: slot.num_skipped_batches for slot_id, slot in outcome.slots.items()
    }
    events: list[Event] = []
    for group, count in skipped.items():
        origin = progress.faults.get(group)
        if origin is not None:
            events.append(
                UpdateSkipped(
                    epoch=outcome.epoch,
                    group=group,
                    num_batches=count,
                    batch=origin.batch,
                    place=origin.place,
                    name=origin.name,
                    slot=origin.slot,
                )
            )
        elif count:
            events.append(UpdateSkipped(epoch=outcome.epoch, group=group, num_batches=count))
    return events


def judge_interval(
    bench: Workbench, progress: EpochProgress, outcome: EpochOutcome, lasting: Mapping[str, FaultOrigin]
) -> Verdict:
    """Ask the governor, tell it what was found bad, and let its reason name that.

    Args:
        bench: The run's parts.
        progress: The interval's; what is bad after it is added to its faults.
        outcome: The interval's numbers.
        lasting: Group -> what is bad now and would be in every batch to come.
    """
    for group, origin in lasting.items():
        progress.faults.setdefault(group, origin)
    reports = bench.model.reports()
    harmful = {HOST, *(report.slot for report in reports if report.stage.affects_output)}
    harm = next((origin for group, origin in lasting.items() if group in harmful), None)
    # Gradients are counted per batch, and so weighed, by `find_blamed` itself.
    found = {o.slot for o in progress.faults.values() if o.slot is not None and o.place != "gradient"}
    verdict = bench.governor.judge(
        outcome,
        blamed_slot=find_blamed(reports, outcome, bench.scaler.blamed, found),
        lasting=None if harm is None else f"not finite: {harm.describe()}",
    )
    first = progress.faults.get(HOST)
    if not verdict.is_failure or first is None or first.describe() in verdict.reason:
        return verdict
    return replace(verdict, reason=f"{verdict.reason}; bad first: {first.describe()}")
