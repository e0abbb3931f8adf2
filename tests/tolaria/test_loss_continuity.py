"""Growth does not jolt: germinating and exporting leave the loss, opening a blend raises it by less than 1 %.

On the digits, on hosts that have learned, with seeds that have incubated as in any run.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper.kasmina import ForwardPlan, export_model
from esper.leyline import Action, AlphaCurve, BlendForm, Decision, LifecycleOp, SeedStage
from esper.tolaria import HostRun, StateRecord

from .digit_hosts import build_digit_cnn, build_digit_mlp, train_on_digits
from .small_run import OPEN_GATES

pytestmark = pytest.mark.slow
HOST_EPOCHS = 3
INCUBATION_EPOCHS = 3
IMAGE_SEEDS = ("norm", "attention", "depthwise", "bottleneck", "conv_small", "conv_light", "conv_heavy")
FLAT_SEEDS = ("norm", "low_rank", "mlp_small", "mlp")
SLOTS = {"cnn": "block2", "mlp": "hidden1"}
CASES = [("cnn", name) for name in IMAGE_SEEDS] + [("mlp", name) for name in FLAT_SEEDS]
BUILDERS: dict[str, Callable[[], nn.Module]] = {"cnn": build_digit_cnn, "mlp": build_digit_mlp}


@pytest.fixture(scope="module")
def trained() -> dict[str, tuple[HostRun, StateRecord]]:
    """One trained run per host, and its state to start every case from."""
    runs = {name: train_on_digits(b, epochs=HOST_EPOCHS, gates=OPEN_GATES) for name, b in BUILDERS.items()}
    return {name: (run, run.state()) for name, run in runs.items()}


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(
    request: pytest.FixtureRequest, trained: dict[str, tuple[HostRun, StateRecord]]
) -> tuple[HostRun, str, str]:
    """A trained run without a seed, the slot to grow in, and the blueprint."""
    host, blueprint = request.param
    run, state = trained[host]
    run.restore(state)
    return run, SLOTS[host], blueprint


def _losses(run: HostRun) -> tuple[float, float]:
    """Mean loss over the validation split in eval mode, and over a training batch in train mode."""
    bench = run.bench
    in_eval = bench.evaluator.evaluate(bench.model, *bench.validation).loss
    before = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    bench.model.train()
    batch = bench.batches.row(0, 0, 0)
    with torch.no_grad():
        in_train = float(F.cross_entropy(bench.model(batch.inputs), batch.targets))
    bench.model.load_state_dict(before)
    return in_eval, in_train


def _germinate(
    run: HostRun, slot: str, blueprint: str, blend: BlendForm = BlendForm.ADD, tempo: int = 1
) -> None:
    action = Action(
        op=LifecycleOp.GERMINATE,
        slot=slot,
        blueprint=blueprint,
        blend=blend,
        curve=AlphaCurve.LINEAR,
        tempo_epochs=tempo,
    )
    result = run.apply(Decision(action=action))
    assert not result.is_refused, result.refusal


def _incubate(run: HostRun, slot: str) -> None:
    """Train the seed as in any run, then let its blend begin."""
    for _ in range(INCUBATION_EPOCHS):
        run.train_epoch()
    _act(run, LifecycleOp.ADVANCE, slot)
    assert run.bench.model.slot(slot).state.stage is SeedStage.BLENDING


def _act(run: HostRun, op: LifecycleOp, slot: str) -> None:
    result = run.apply(Decision(action=Action(op=op, slot=slot)))
    assert not result.is_refused, result.refusal


def test_germination_leaves_the_loss_exactly_as_it_was(case: tuple[HostRun, str, str]) -> None:
    run, slot, blueprint = case
    before = _losses(run)
    _germinate(run, slot, blueprint)
    assert run.bench.model.slot(slot).seed is not None
    assert _losses(run) == before


def test_the_seed_of_a_new_germination_changes_no_loss_even_at_full_alpha(
    case: tuple[HostRun, str, str],
) -> None:
    """Within 1e-5: a branch is 0 at birth, and adding it costs at most a rounding."""
    run, slot, blueprint = case
    before = _losses(run)
    _germinate(run, slot, blueprint)
    with run.bench.model.planned(ForwardPlan(overrides={slot: 1.0})):
        after = _losses(run)
    assert after == pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize("blend", list(BlendForm))
def test_the_first_alpha_above_zero_raises_the_loss_by_less_than_1_in_100(
    case: tuple[HostRun, str, str], blend: BlendForm
) -> None:
    run, slot_id, blueprint = case
    model, slot = run.bench.model, run.bench.model.slot(slot_id)
    _germinate(run, slot_id, blueprint, blend)
    _incubate(run, slot_id)
    start = run.clock.batch
    model.update_alphas(start)
    assert slot.state.alpha == 0.0
    before = _losses(run)
    model.update_alphas(start + 1)
    assert slot.state.alpha == pytest.approx(1 / run.bench.batches.num_batches)
    after = _losses(run)
    assert after != before
    for old, new in zip(before, after, strict=True):
        assert new - old < 0.01 * old, (before, after)


def test_export_leaves_the_loss_within_1e_5(case: tuple[HostRun, str, str]) -> None:
    run, slot_id, blueprint = case
    bench, model = run.bench, run.bench.model
    _germinate(run, slot_id, blueprint)
    _incubate(run, slot_id)
    for _ in range(2):  # a blend of one epoch, then probation
        run.train_epoch()
    _act(run, LifecycleOp.FOSSILIZE, slot_id)
    grown = bench.evaluator.evaluate(model, *bench.validation).loss
    plain = export_model(model.eval(), bench.validation[0][:8])
    with torch.no_grad():
        exported = float(F.cross_entropy(plain(bench.validation[0]), bench.validation[1]))
    assert abs(exported - grown) < 1e-5
    with model.planned(ForwardPlan(overrides={slot_id: 0.0})):
        without = bench.evaluator.evaluate(model, *bench.validation).loss
    assert abs(without - grown) > 1e-3, "an export that leaves out a seed without effect would pass, too"
