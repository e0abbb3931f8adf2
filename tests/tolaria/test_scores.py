"""Claims about scores: right numbers, a network left bit-equal, a bill, other runs unchanged."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import CNNHost, CNNHostConfig, ForwardPlan, MLPHost, MLPHostConfig, SlotScores
from esper.leyline import Action, ConfigError, Decision, EpochCompleted, LifecycleOp, SeedStage
from esper.tolaria import HostRun, HostRunConfig, MeasuringConfig
from esper.tolaria.measuring import eval_mode
from esper.tolaria.objectives import build_objective
from esper.tolaria.parts import build_scorer
from esper.tolaria.precision import Autocast
from esper.tolaria.scores import ProbePoint, Scorer, compute_energy, compute_share, run_probe
from esper.tolaria.scoring_ridge import Regression
from esper.tolaria.steps import update_scores

from .small_run import (
    ListSink,
    assert_same,
    drive,
    germinate,
    make_config,
    make_digits_run,
    make_parts,
    make_run,
    make_task,
    plant_at_full_alpha,
    tensors_of,
    through_json,
)

CPU = Autocast(torch.device("cpu"), "off")
SCORED_2D = {"attention", "depthwise", "conv_small", "conv_light", "conv_heavy", "bottleneck"}


def scoring_config(every: int = 1) -> HostRunConfig:
    config = make_config()
    return replace(config, measuring=replace(config.measuring, score_every=every, score_items=64))


def scorer_of(run: HostRun) -> Scorer:
    return build_scorer(run.task, scoring_config(), run._parts, run.bench.space, 7)


def probe(run: HostRun) -> dict[str, ProbePoint]:
    inputs, targets = run.bench.gate_items
    return run_probe(run.bench.model, build_objective(run.task), inputs, targets, autocast=CPU)


def loss_of(run: HostRun, plan: ForwardPlan) -> Tensor:
    model, (inputs, targets) = run.bench.model, run.bench.gate_items
    with eval_mode(model), model.planned(plan):
        return nn.functional.cross_entropy(model.host(inputs), targets)


def scores_of(run: HostRun, slot: str) -> SlotScores:
    scores = run.bench.model.slot(slot).state.scores
    assert scores is not None
    return scores


# ---------------------------------------------------------------------- the network is left alone


def test_scoring_leaves_parameters_gradients_buffers_modes_and_streams_bit_equal() -> None:
    run = make_run(parts=make_parts(dropout=0.3))
    drive(run, 3)
    model = run.bench.model
    parameters = list(model.parameters())
    for place, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, place) if place % 2 else None
    gradients = [(p.grad, None if p.grad is None else p.grad.clone()) for p in parameters]
    model.train()
    before, modes = tensors_of(run), [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in parameters]
    stream, plans = torch.get_rng_state(), [slot.plan for slot in model.each_slot()]
    scorer_of(run).score(model, 3)
    assert_same(before, tensors_of(run))
    assert modes == [module.training for module in model.modules()]
    assert flags == [parameter.requires_grad for parameter in parameters]
    for parameter, (gradient, value) in zip(parameters, gradients, strict=True):
        assert parameter.grad is gradient
        assert value is None or torch.equal(value, gradient)  # type: ignore[arg-type]
    assert torch.equal(stream, torch.get_rng_state())
    for slot, plan in zip(model.each_slot(), plans, strict=True):
        assert slot.plan is plan
        assert slot.watched is None
        assert slot.captured is None


def test_a_run_that_does_not_ask_has_no_scorer_and_one_that_does_trains_the_same_host() -> None:
    sinks = ListSink(), ListSink()
    plain = make_run(parts=make_parts(sink=sinks[0]))
    scored = make_run(scoring_config(), make_parts(sink=sinks[1]))
    for run in (plain, scored):
        drive(run, 7)
    assert plain.bench.scorer is None
    assert all(slot.state.scores is None for slot in plain.bench.model.each_slot())
    assert_same(tensors_of(plain), tensors_of(scored))

    def without_bill(sink: ListSink) -> list[object]:
        return [replace(e, flops={}) if isinstance(e, EpochCompleted) else e for e in sink.events]

    assert without_bill(sinks[0]) == without_bill(sinks[1])
    assert plain.bench.ledger.totals()["probe"] == 0
    others = [name for name in plain.bench.ledger.totals() if name != "probe"]
    for name in others:
        assert plain.bench.ledger.totals()[name] == scored.bench.ledger.totals()[name]


# ---------------------------------------------------------------------- the numbers


def test_the_probe_gives_the_gradient_of_each_samples_own_loss() -> None:
    run = make_run()
    drive(run, 3)
    point = probe(run)["block2"]
    model, (inputs, targets) = run.bench.model, run.bench.gate_items
    features = point.leaving[:3].clone().requires_grad_()
    with eval_mode(model):
        outputs = model.run_tail("block2", features, inputs[:3])
    losses = nn.functional.cross_entropy(outputs, targets[:3], reduction="sum")
    (expected,) = torch.autograd.grad(losses, features)
    torch.testing.assert_close(point.gradient[:3], expected, atol=1e-6, rtol=1e-4)


def test_a_seed_that_takes_part_stands_between_arriving_and_leaving() -> None:
    run = make_run()
    drive(run, 4)
    points = probe(run)
    slot = run.bench.model.slot("block1")
    assert slot.state.stage.affects_output
    assert slot.seed is not None
    with eval_mode(run.bench.model), torch.no_grad():
        residual = slot.seed(points["block1"].arriving)
    expected = points["block1"].arriving + slot.state.alpha * residual
    torch.testing.assert_close(points["block1"].leaving, expected)
    assert torch.equal(points["block3"].arriving, points["block3"].leaving)


@pytest.mark.parametrize("slot", ["block1", "block2"])
def test_the_slope_is_the_derivative_of_the_held_out_loss_by_alpha(slot: str) -> None:
    run = make_run(scoring_config())
    drive(run, 3)
    update_scores(run.bench.model, run.bench.scorer, run.bench.ledger, epoch=3)
    state, step = run.bench.model.slot(slot).state, 1e-3
    # An override of exactly 0 skips the seed, which is the loss at alpha 0.
    low, high = state.alpha, state.alpha + step
    with torch.no_grad():
        rise = loss_of(run, ForwardPlan(overrides={slot: high})) - loss_of(
            run, ForwardPlan(overrides={slot: low})
        )
    slope = scores_of(run, slot).alpha_slope
    assert slope is not None
    assert slope == pytest.approx(float(rise) / step, rel=0.1, abs=2e-3)


def test_a_slot_of_every_kind_gets_what_is_defined_for_it() -> None:
    run = make_run(scoring_config())
    drive(run, 4)
    reports = {report.slot: report for report in run.observe().slots}
    empty, live = reports["block3"], reports["block1"]
    assert empty.stage is SeedStage.DORMANT
    assert empty.blueprint_gains is not None
    assert set(empty.blueprint_gains) == SCORED_2D
    assert (empty.alpha_slope, empty.alpha_best, empty.alpha_gain) == (None, None, None)
    assert live.stage.is_live
    assert live.blueprint_gains is None
    assert live.alpha_slope is not None
    assert live.alpha_best is not None
    assert 0.0 <= live.alpha_best <= 1.0
    for report in reports.values():
        assert report.scores_age_epochs == 0
        assert report.gradient_energy is not None
        assert report.gradient_energy > 0.0
        assert report.saturation is not None
        assert 0.0 < report.saturation <= 1.0
        assert report.linear_share is not None
        assert report.linear_share < 1.0


def test_a_fossil_has_no_slope_and_a_seed_on_its_way_out_is_not_probed() -> None:
    run = make_run(scoring_config())
    drive(run, 5)
    reports = {report.slot: report for report in run.observe().slots}
    assert reports["block1"].stage is SeedStage.FOSSILIZED
    assert reports["block1"].alpha_slope is None
    assert reports["block1"].gradient_energy is not None
    run.apply(Decision(action=Action(op=LifecycleOp.CULL, slot="block2", tempo_epochs=5)))
    state = run.bench.model.slot("block2").state
    assert state.is_cull_pending
    update_scores(run.bench.model, run.bench.scorer, run.bench.ledger, epoch=5)
    assert scores_of(run, "block2").alpha_slope is None


def test_equal_seeds_and_epochs_give_equal_scores_and_others_differ() -> None:
    run = make_run()
    drive(run, 1)
    scorer, model = scorer_of(run), run.bench.model
    first = scorer.score(model, 4)
    assert scorer.score(model, 4) == first
    assert scorer.score(model, 5).slots["block3"] != first.slots["block3"]


def test_a_narrow_width_mixes_features_and_stays_near_the_exact_score() -> None:
    run = make_digits_run(epochs=4)
    drive(run, 3, ())
    gains = []
    for width in (2, 4096):
        measuring = MeasuringConfig(score_every=1, score_width=width)
        config = replace(run.config, measuring=measuring)
        scorer = build_scorer(run.task, config, run._parts, run.bench.space, 7)
        sheet = scorer.score(run.bench.model, 3)
        found = sheet.slots["block3"].blueprint_gains
        assert found is not None
        gains.append((found["conv_light"], sheet.flops))
    assert 0.0 < gains[0][0] < gains[1][0]
    assert gains[0][1] < gains[1][1]


def test_on_a_trained_host_gradients_of_other_items_are_worth_nothing() -> None:
    run = make_digits_run(epochs=4)
    drive(run, 3, ())
    inputs, targets = run.bench.validation
    points = run_probe(run.bench.model, build_objective(run.task), inputs, targets, autocast=CPU)
    point = points["block3"]
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    centred = point.gradient - point.gradient.mean(dim=0)
    rows = point.leaving.flatten(2).transpose(1, 2)
    shuffled = centred[order].flatten(2).transpose(1, 2)
    true = Regression(rows=rows, targets=point.gradient.flatten(2).transpose(1, 2))
    false = Regression(rows=rows, targets=shuffled)
    assert compute_share(true, compute_energy(point.gradient)) > 0.03
    assert abs(compute_share(false, compute_energy(centred))) < 0.02  # 360 items


def test_a_flat_host_is_scored_with_its_own_blueprints() -> None:
    host = MLPHostConfig(num_inputs=64, num_classes=4, hidden=(8, 8))
    run = make_run(scoring_config(), replace(make_parts(), build_host=lambda: MLPHost(host)))
    run.apply(Decision())
    run.train_epoch()
    for report in run.observe().slots:
        assert set(report.blueprint_gains or {}) == {"mlp", "mlp_small", "low_rank"}
        assert all(-1.0 < share < 1.0 for share in (report.blueprint_gains or {}).values())


def test_a_frozen_host_is_scored_and_stays_frozen() -> None:
    run = make_run()
    model = run.bench.model
    for parameter in model.host.parameters():
        parameter.requires_grad_(False)
    sheet = scorer_of(run).score(model, 0)
    assert all(scores.gradient_energy > 0.0 for scores in sheet.slots.values())
    assert not any(parameter.requires_grad for parameter in model.host.parameters())


def test_work_in_place_behind_a_slot_changes_no_score() -> None:
    host = CNNHostConfig(in_channels=1, num_classes=4, base_channels=4)

    def build(in_place: bool) -> nn.Module:
        model = CNNHost(host)
        model.block2 = nn.Sequential(nn.ReLU(inplace=in_place), *model.block2)  # type: ignore[misc]
        return model

    sheets = []
    for in_place in (False, True):
        run = make_run(parts=replace(make_parts(), build_host=partial(build, in_place)))
        sheets.append(scorer_of(run).score(run.bench.model, 0))
    assert sheets[0] == sheets[1]


def test_a_network_that_is_not_finite_gets_no_scores() -> None:
    run = make_run()
    next(iter(run.bench.model.host.parameters())).data.fill_(math.nan)
    assert scorer_of(run).score(run.bench.model, 0).slots == {}


def test_no_gradient_is_a_share_of_nothing() -> None:
    rows = torch.ones(4, 1, 2)
    assert compute_share(Regression(rows=rows, targets=torch.zeros(4, 1, 2)), 0.0) == 0.0


# ---------------------------------------------------------------------- on its way


def test_scores_are_taken_when_due_grow_older_and_go_with_the_seed() -> None:
    run = make_run(scoring_config(every=2))
    ages: list[int | None] = []
    for epoch in range(5):
        drive(run, epoch + 1)
        ages.append(run.observe().slot("block3").scores_age_epochs)
    assert ages == [None, 0, 1, 0, 1]
    assert scores_of(run, "block2").alpha_slope is not None
    drive(run, 6)
    culled = run.bench.model.slot("block2").state
    assert culled.stage.is_cooldown
    assert culled.scores is None
    assert culled.scores_age_epochs is None


def test_a_slot_in_its_cooldown_is_scored_so_that_it_can_grow_when_it_is_free() -> None:
    run = make_run(scoring_config())
    plant_at_full_alpha(run, "block1", "conv_light")
    run.bench.model.cull_live(run.clock, "test")
    update_scores(run.bench.model, run.bench.scorer, run.bench.ledger, epoch=1)
    assert set(scores_of(run, "block1").blueprint_gains or {}) == SCORED_2D


def test_a_resumed_run_goes_on_with_the_same_scores() -> None:
    run, other = make_run(scoring_config(every=3)), make_run(scoring_config(every=3))
    drive(run, 4)
    other.restore(through_json(run.state()))
    assert other.observe() == run.observe()
    for each in (run, other):
        drive(each, 7)
    assert other.observe() == run.observe()
    assert other.bench.ledger.totals() == run.bench.ledger.totals()


def test_the_bill_counts_passes_branches_and_regressions() -> None:
    task, parts = make_task(), replace(make_parts(), blueprints=("conv_small",), slots=("block3",))
    run = HostRun(task, scoring_config(), parts, run_seed=1)
    scorer, model = run.bench.scorer, run.bench.model
    assert scorer is not None
    sheet = scorer.score(model, 1)
    passes = 2 * model.host_flops * 64
    branch = run.bench.space.descriptors["block3"]["conv_small"].flops_per_item * 64
    # block3 leaves 16 channels on a 1 x 1 map: p = d = C = 16.
    regression = 2 * 64 * 16 * 32 + 2 * (2 * 16**3 // 3 + 2 * 16**3)
    rank = 2 * 64 * 16**2 + 4 * 16**3 // 3
    assert sheet.flops == passes + branch + 2 * regression + rank
    run.apply(Decision())
    run.train_epoch()
    assert run.bench.ledger.totals()["probe"] == sheet.flops


@pytest.mark.parametrize(("name", "value"), [("score_every", -1), ("score_items", 3), ("score_width", 0)])
def test_a_setting_below_its_range_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"measuring\.{name}={value}: must be >= {value + 1}"):
        MeasuringConfig(**{name: value})


def test_germination_forgets_no_energy_but_hides_gains() -> None:
    run = make_run(scoring_config())
    drive(run, 1)
    assert run.observe().slot("block2").blueprint_gains is not None
    run.apply(Decision(action=germinate("block2")))
    report = run.observe().slot("block2")
    assert report.blueprint_gains is None
