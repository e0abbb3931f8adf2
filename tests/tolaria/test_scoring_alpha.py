"""Claims about the alpha probe: the parabola is the least-squares one, and its best point is in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina import CNNHost, CNNHostConfig, ForwardPlan
from esper.tolaria import Evaluator, HostRun
from esper.tolaria.measuring import Setting, eval_mode
from esper.tolaria.objectives import build_objective
from esper.tolaria.precision import Autocast
from esper.tolaria.scoring_alpha import PROBED_ALPHAS, fit_alpha_probe, probe_alphas

from .small_run import (
    assert_same,
    drive,
    make_config,
    make_parts,
    make_run,
    make_task,
    tensors_of,
)


def losses_of(slope: float, bend: float) -> list[float]:
    return [0.7 + slope * alpha + bend * alpha**2 for alpha in PROBED_ALPHAS]


def loss_evaluator() -> Evaluator:
    cpu = Autocast(torch.device("cpu"), "off")
    return Evaluator(build_objective(make_task()), make_config().measuring, gates_use_loss=True, autocast=cpu)


@pytest.mark.parametrize(
    ("slope", "bend", "best", "gain"),
    [
        (-0.4, 0.4, 0.5, 0.1),
        (-2.0, 0.4, 1.0, 1.6),
        (0.3, 0.4, 0.0, 0.0),
        (-0.2, -0.1, 1.0, 0.3),
        (0.3, -0.1, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0),
    ],
)
def test_a_true_parabola_is_found(slope: float, bend: float, best: float, gain: float) -> None:
    probe = fit_alpha_probe(losses_of(slope, bend))
    assert probe is not None
    assert probe.best_alpha == pytest.approx(best, abs=1e-9)
    assert probe.predicted_gain == pytest.approx(gain, abs=1e-9)
    assert probe.curvature == pytest.approx(2 * bend, abs=1e-9)


@given(st.lists(st.floats(-50, 50), min_size=4, max_size=4))
def test_the_prediction_is_within_bounds_for_any_losses(losses: list[float]) -> None:
    probe = fit_alpha_probe(losses)
    assert probe is not None
    assert 0.0 <= probe.best_alpha <= 1.0
    assert probe.predicted_gain >= 0.0


def test_a_loss_that_is_not_finite_gives_no_probe() -> None:
    assert fit_alpha_probe([0.1, math.nan, 0.2, 0.3]) is None


def _losses_by_full_passes(run: HostRun, slot: str) -> list[float]:
    model, (inputs, targets) = run.bench.model, run.bench.gate_items
    losses = []
    for alpha in PROBED_ALPHAS:
        with eval_mode(model), torch.no_grad(), model.planned(ForwardPlan(overrides={slot: alpha})):
            losses.append(float(torch.nn.functional.cross_entropy(model(inputs), targets)))
    return losses


def test_losses_are_those_of_passes_with_each_alpha_and_nothing_is_left_behind() -> None:
    run = make_run()
    drive(run, 3)
    bench, model = run.bench, run.bench.model
    before = tensors_of(run)
    probes, flops = probe_alphas(
        model, loss_evaluator(), ["block1", "block2"], bench.calibration, bench.gate_items
    )
    assert set(probes) == {"block1", "block2"}
    assert_same(before, tensors_of(run))
    assert flops > 0
    settings = [Setting(slot="block2", alpha=alpha) for alpha in PROBED_ALPHAS]
    singly = [
        loss_evaluator().compute_differences(model, [setting], bench.calibration, bench.gate_items)[0][0]
        for setting in settings
    ]
    assert probes["block2"].losses == pytest.approx([float(one.mean()) for one in singly], abs=1e-6)
    # block2 incubates: alpha 0 is the network as it is.
    assert probes["block2"].losses[0] == 0.0


def test_without_norms_the_losses_equal_plain_passes() -> None:
    host = CNNHostConfig(in_channels=1, num_classes=4, base_channels=4, norm="none")
    run = make_run(parts=replace(make_parts(), build_host=lambda: CNNHost(host)))
    drive(run, 3)
    bench, model = run.bench, run.bench.model
    probes, _ = probe_alphas(model, loss_evaluator(), ["block1"], bench.calibration, bench.gate_items)
    plain = _losses_by_full_passes(run, "block1")
    now = loss_evaluator().evaluate(model, *bench.gate_items).loss
    assert probes["block1"].losses == pytest.approx([loss - now for loss in plain], abs=1e-5)
    assert len(set(plain)) == len(PROBED_ALPHAS)


def test_no_slot_costs_nothing() -> None:
    run = make_run()
    bench = run.bench
    assert probe_alphas(bench.model, loss_evaluator(), [], bench.calibration, bench.gate_items) == ({}, 0)
