"""Subsets of fossils: measured like contributions, shared out without a rest, and leaving no trace."""

from __future__ import annotations

import math

import pytest
import torch

from esper.leyline import Action, ConfigError, LifecycleOp
from esper.tolaria import CoalitionReport, HostRun, coalitions, estimate_mean, measure_coalitions
from esper.tolaria.measuring import Setting

from .small_run import assert_same, drive, germinate, make_run, tensors_of


def _act(op: LifecycleOp, slot: str) -> Action:
    return Action(op=op, slot=slot)


LIVES = (
    (0, germinate("block1")),
    (1, germinate("block2", "depthwise")),
    (2, _act(LifecycleOp.ADVANCE, "block1")),
    (3, germinate("block3", "conv_small")),
    (4, _act(LifecycleOp.ADVANCE, "block2")),
    (5, _act(LifecycleOp.FOSSILIZE, "block1")),
    (6, _act(LifecycleOp.ADVANCE, "block3")),
    (7, _act(LifecycleOp.FOSSILIZE, "block2")),
    (8, _act(LifecycleOp.FOSSILIZE, "block3")),
)


def _grown(until: int = 9) -> HostRun:
    run = make_run()
    drive(run, until, LIVES)
    return run


def _value(report: CoalitionReport, *slots: str) -> float:
    return next(value.metric for value in report.values if value.slots == slots)


def test_every_subset_is_measured_and_the_shares_add_up() -> None:
    report = measure_coalitions(_grown().bench)
    assert [share.slot for share in report.shares] == ["block1", "block2", "block3"]
    assert [len(value.slots) for value in report.values] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert report.num_orders is None
    whole = _value(report, "block1", "block2", "block3") - _value(report)
    assert math.fsum(share.shapley.mean for share in report.shares) == pytest.approx(whole, abs=1e-12)
    assert abs(whole) > 1e-6
    first = report.shares[0]
    assert first.alone == pytest.approx(_value(report, "block1") - _value(report), abs=1e-12)
    assert all(share.sampling_error == 0 and share.shapley.standard_error > 0 for share in report.shares)


def test_what_the_last_one_adds_is_its_contribution() -> None:
    bench = _grown().bench
    report = measure_coalitions(bench)
    for share in report.shares:
        differences, _ = bench.evaluator.compute_differences(
            bench.model, [Setting(slot=share.slot, alpha=0.0)], bench.calibration, bench.gate_items
        )
        assert share.last == pytest.approx(estimate_mean(differences[0]).mean, abs=1e-6)


def test_orders_give_the_same_within_their_error_and_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _grown().bench
    exact = measure_coalitions(bench)
    monkeypatch.setattr(coalitions, "MAX_EXACT", 2)
    sampled = measure_coalitions(bench, num_orders=40, seed=1)
    assert sampled.num_orders == 40
    for known, drawn in zip(exact.shares, sampled.shares, strict=True):
        assert drawn.sampling_error > 0
        assert abs(drawn.shapley.mean - known.shapley.mean) <= 4 * drawn.sampling_error
        assert (drawn.alone, drawn.last) == pytest.approx((known.alone, known.last))
    total = math.fsum(share.shapley.mean for share in sampled.shares)
    assert total == pytest.approx(math.fsum(share.shapley.mean for share in exact.shares), abs=1e-12)


def test_measuring_leaves_no_trace_but_on_the_bill() -> None:
    run = _grown()
    bench, before, stream = run.bench, tensors_of(run), torch.get_rng_state()
    bill = bench.ledger.totals()
    report = measure_coalitions(bench, num_items=50)
    assert_same(before, tensors_of(run))
    assert torch.equal(stream, torch.get_rng_state())
    model = bench.model
    seeds = sum(slot.state.flops_per_item for slot in model.each_slot())
    per_item = 8 * model.host_flops + 4 * seeds  # each fossil is on in half of the 8 subsets
    assert report.bill.counterfactual == per_item * 50
    assert report.bill.calibration == per_item * report.num_calibration_items > 0
    assert bench.ledger.totals()["counterfactual"] - bill["counterfactual"] == report.bill.counterfactual


def test_a_seed_in_flight_stays_in_every_setting() -> None:
    report = measure_coalitions(_grown(until=7).bench)
    assert [share.slot for share in report.shares] == ["block1"]
    assert [value.slots for value in report.values] == [(), ("block1",)]


def test_nothing_kept_is_nothing_to_share() -> None:
    report = measure_coalitions(make_run().bench)
    assert (report.shares, [value.slots for value in report.values]) == ((), [()])


@pytest.mark.parametrize(("num_items", "num_orders"), [(1, 64), (None, 1)])
def test_too_few_are_refused(num_items: int | None, num_orders: int) -> None:
    with pytest.raises(ConfigError, match="must be >= 2"):
        measure_coalitions(make_run().bench, num_items=num_items, num_orders=num_orders)
