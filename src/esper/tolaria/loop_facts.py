"""What an interval of somebody else's loop came to: its outcome, its bill, and what is left to spend.

Reads a loop controller and charges its ledger; decides and changes nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from esper.kasmina import MorphogeneticModel, norms_with_statistics
from esper.leyline import Budgets, EpochOutcome, SlotOutcome
from esper.tolaria.steps import charge_training, join_outcomes, plan_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.tolaria.guest_measuring import Reading
    from esper.tolaria.input_recorder import InputRecorder
    from esper.tolaria.interval_totals import IntervalTotals
    from esper.tolaria.ledger import FlopsLedger
    from esper.tolaria.loop_config import LoopConfig

ENDLESS = 1_000_000
"""Intervals until the horizon where a loop does not say how long it runs."""

UNSEEN = (
    "steps were made, but no training pass went through the grown model: call what esper.grow returned "
    "itself, and compile it by grown.compile(); until then FLOPs are not counted, and seeds beside layers "
    "that keep statistics cannot be measured"
)
"""What an interval without a pass is told."""


class MeasuredLoop(Protocol):
    """What is read of a loop controller, and the ledger that is charged."""

    model: MorphogeneticModel
    config: LoopConfig
    ledger: FlopsLedger
    recorder: InputRecorder
    totals: IntervalTotals
    epoch: int
    interval_batches: int

    @property
    def learning_rate(self) -> float:
        """Of the optimiser's first group, now."""
        ...


def build_loop_outcome(
    loop: MeasuredLoop, reading: Reading, measured: Mapping[str, SlotOutcome]
) -> EpochOutcome:
    """Charge the interval's training and return what the interval came to.

    Args:
        loop: As the interval ends; its ledger's interval is closed by this.
        reading: The loop's own metrics, higher is better.
        measured: Contributions and shadow gains by slot.
    """
    metric, totals = loop.config.metric, loop.totals
    num_items = loop.recorder.take_trained()
    charge_training(loop.ledger, loop.model, num_items)
    told = totals.mean_loss()
    loss = reading.others.get("loss", -reading.mean if not metric.is_higher_better else told)
    return EpochOutcome(
        epoch=loop.epoch + 1,
        train_loss=0.0 if told is None else told,
        train_metric=0.0,
        validation_loss=-reading.mean if loss is None else loss,
        metric=reading.mean,
        raw_metrics={metric.name: metric.shown(reading.mean)} | dict(reading.others),
        host_gradient_norm=totals.host_gradient_norm,
        learning_rate=loop.learning_rate,
        num_train_items=num_items,
        num_validation_items=0 if reading.items is None else len(reading.items),
        num_batches=loop.interval_batches,
        num_skipped_batches=totals.num_faulty,
        slots=join_outcomes(measured, totals.outcomes()),
        flops=loop.ledger.close_interval(),
    )


def charge_evaluation(loop: MeasuredLoop) -> None:
    """Charge passes without gradients since the last call as plain validation, which no total counts."""
    items = loop.recorder.take_evaluated()
    loop.ledger.charge("validation", None, loop.model.forward_flops * items)


def charge_measuring(loop: MeasuredLoop) -> None:
    """Charge passes without gradients since the last call as those that measured the seeds.

    Every setting is a whole evaluation, and a whole pass over what statistics are re-estimated on: the loop's
    own evaluation cannot be cut at a slot.
    """
    model, settings = loop.model, plan_settings(loop.model)
    passes = 1 + len(settings)
    shadow = sum(model.slot(setting.slot).state.flops_per_item for setting in settings if setting.alpha > 0.0)
    items = loop.recorder.take_evaluated()
    per_item = passes * model.forward_flops + shadow
    loop.ledger.charge("counterfactual", None, per_item * items // passes)
    if norms_with_statistics(model):
        loop.ledger.charge("calibration", None, per_item * loop.recorder.num_items)


def build_budgets(loop: MeasuredLoop, tempo_ids: tuple[int, ...]) -> Budgets:
    """Return what is spent and what is left.

    Args:
        loop: Between two intervals.
        tempo_ids: Lengths of blends on offer, in intervals, at least one.
    """
    model, config = loop.model, loop.config
    life, gates = config.lifecycle, config.gates
    horizon = ENDLESS if config.horizon is None else config.horizon
    shortest = gates.min_incubation_epochs + min(tempo_ids) + gates.min_probation_epochs + 1
    factor = config.budget.params
    return Budgets(
        horizon_epochs=horizon,
        epochs_left=max(0, horizon - loop.epoch),
        host_params=max(1, model.host_params),
        added_params=model.added_params,
        max_added_params=None if factor is None else int((factor - 1.0) * model.host_params),
        host_flops_per_item=max(1, model.host_flops),
        added_flops_per_item=model.added_flops,
        flops_spent=loop.ledger.total,
        max_live_seeds=life.max_live_seeds,
        shortest_lifecycle_epochs=shortest,
        min_cull_age_epochs=life.min_cull_age_epochs,
        is_sequential=life.is_sequential,
    )
