"""Claims about measuring, charging and recording as free functions."""

from __future__ import annotations

from esper.leyline import Estimate, SeedStage, SlotMeasured, SlotOutcome
from esper.tolaria import FlopsLedger, train_flops
from esper.tolaria.measuring import Setting
from esper.tolaria.steps import (
    build_slot_events,
    charge_training,
    join_outcomes,
    measure_slots,
    plan_settings,
    record_outcome,
)

from .small_run import decide, drive, make_config, make_run

GAIN = Estimate(mean=0.02, standard_error=0.01, num_items=64)


def test_incubating_seeds_are_measured_at_full_alpha_and_live_ones_without() -> None:
    run = make_run()
    assert plan_settings(run.bench.model) == []
    drive(run, 3)
    assert plan_settings(run.bench.model) == [
        Setting(slot="block1", alpha=0.0),
        Setting(slot="block2", alpha=1.0),
    ]


def test_fossils_and_seeds_on_their_way_out_are_not_measured() -> None:
    run = make_run()
    drive(run, 5)
    assert plan_settings(run.bench.model) == [Setting(slot="block2", alpha=0.0)]
    run.apply(decide(5))
    assert run.bench.model.slot("block2").state.is_cull_pending
    assert plan_settings(run.bench.model) == []


def test_nothing_to_measure_costs_nothing() -> None:
    bench = make_run().bench
    outcomes, bill = measure_slots(
        bench.model, bench.evaluator, bench.pool, bench.calibration, bench.gate_items
    )
    assert outcomes == {}
    assert (bill.calibration, bill.counterfactual) == (0, 0)


def test_a_measured_interval_fills_contribution_or_shadow_gain() -> None:
    run = make_run()
    drive(run, 3)
    bench = run.bench
    outcomes, bill = measure_slots(
        bench.model, bench.evaluator, bench.pool, bench.calibration, bench.gate_items
    )
    assert outcomes["block1"].contribution is not None
    assert outcomes["block1"].shadow_gain is None
    assert outcomes["block2"].contribution is None
    assert outcomes["block2"].shadow_gain is not None
    assert bill.counterfactual > 0


def test_joined_outcomes_keep_both_halves() -> None:
    trained = {"a": SlotOutcome(gradient_ratio=0.5), "b": SlotOutcome(gradient_ratio=0.1)}
    joined = join_outcomes({"a": SlotOutcome(shadow_gain=GAIN), "c": SlotOutcome(contribution=GAIN)}, trained)
    assert joined["a"] == SlotOutcome(gradient_ratio=0.5, shadow_gain=GAIN)
    assert joined["b"] == trained["b"]
    assert joined["c"].contribution == GAIN


def test_what_is_not_measured_grows_older() -> None:
    run = make_run()
    drive(run, 3)
    probation, incubating = (run.bench.model.slot(name) for name in ("block1", "block2"))
    probation.state.record_contribution(GAIN)
    for slot in (probation, incubating):
        record_outcome(slot, None, metric=0.5, gate_metric=-0.7)
    assert probation.state.contribution_age_epochs == 1
    assert incubating.state.shadow_gain_age_epochs == 1
    assert (probation.state.metric_now, probation.state.gate_metric_now) == (0.5, -0.7)
    record_outcome(probation, SlotOutcome(contribution=GAIN), metric=0.5, gate_metric=-0.7)
    record_outcome(
        incubating, SlotOutcome(shadow_gain=GAIN, num_skipped_batches=2), metric=0.5, gate_metric=-0.7
    )
    assert probation.state.contribution_age_epochs == 0
    assert incubating.state.shadow_gain == GAIN
    assert not incubating.state.is_healthy


def test_an_empty_slot_records_the_metric_alone() -> None:
    slot = make_run().bench.model.slot("block1")
    record_outcome(slot, SlotOutcome(contribution=GAIN), metric=0.5, gate_metric=0.5)
    assert slot.state.metric_now == 0.5
    assert slot.state.contribution is None


def test_shadow_training_is_charged_with_its_tail_and_residual_is_not() -> None:
    for incubation, has_tail in (("shadow", True), ("residual", False)):
        run = make_run(make_config(incubation=incubation))
        drive(run, 1)
        model, ledger = run.bench.model, FlopsLedger()
        assert model.slot("block1").state.stage is SeedStage.TRAINING
        charge_training(ledger, model, 10)
        totals = ledger.totals()
        assert totals["host_train"] == 30 * model.host_flops
        seed = model.slot("block1").state.flops_per_item
        assert totals["seed_train"] == 10 * train_flops(seed, input_needs_grad=False, weights_frozen=False)
        assert (totals["incubation"] > 0) is has_tail


def test_one_event_per_living_seed() -> None:
    run = make_run()
    drive(run, 3)
    outcomes = {"block1": SlotOutcome(contribution=GAIN)}
    first, second = build_slot_events(run.bench.model, outcomes, 3)
    assert isinstance(first, SlotMeasured)
    assert isinstance(second, SlotMeasured)
    assert (first.slot, first.contribution, first.contribution_error) == ("block1", 0.02, 0.01)
    assert (second.slot, second.contribution, second.shadow_gain, second.credit) == (
        "block2",
        None,
        None,
        None,
    )
