"""Claims about counterfactuals: they measure the seed, leave no trace, are not fooled by normalisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.kasmina import BlueprintSpec, ForwardPlan, SlotSpec, builtin_registry
from esper.leyline import ConfigError, Estimate, Layout, SeedStage
from esper.tolaria import HostRun, MeasuringConfig, estimate_mean
from esper.tolaria.measuring import ContributionPool, Setting, eval_mode

from .null_seeds import ConstantOffset, FrozenNoise
from .small_run import (
    assert_same,
    drive,
    host_tensors_of,
    make_digits_run,
    make_run,
    norms_of,
    plant_at_full_alpha,
    tensors_of,
)

NULL_SIZE = 0.05
NUM_NULL_SEEDS = 200


def _build_offset(spec: SlotSpec) -> nn.Module:
    return ConstantOffset(spec.num_channels)


def _build_noise(spec: SlotSpec) -> nn.Module:
    return FrozenNoise(spec.num_channels, NULL_SIZE)


def _trained_host(seed: int, *, kernel_size: int, epochs: int) -> HostRun:
    registry = builtin_registry().extended()
    for name, build in (("offset", _build_offset), ("noise", _build_noise)):
        registry.add(
            BlueprintSpec(
                id=name,
                family="test",
                layouts=frozenset({Layout.MAP_2D}),
                build=build,
                count_params=lambda _: 0,
            )
        )
    run = make_digits_run(seed, registry=registry, kernel_size=kernel_size, epochs=epochs + 3)
    drive(run, epochs, ())
    return run


def _contribution(run: HostRun, slot: str) -> Estimate:
    bench = run.bench
    differences, _ = bench.evaluator.compute_differences(
        bench.model, [Setting(slot=slot, alpha=0.0)], bench.calibration, bench.gate_items
    )
    return estimate_mean(differences[0])


@pytest.mark.slow
def test_a_constant_offset_in_a_batch_norm_host_is_worth_nothing_on_5_of_5_seeds() -> None:
    for seed in range(5):
        run = _trained_host(seed, kernel_size=1, epochs=3)
        plant_at_full_alpha(run, "block1", "offset")
        estimate = _contribution(run, "block1")
        assert abs(estimate.mean) <= 2.0 * estimate.standard_error + 1e-5, (seed, estimate)


@pytest.mark.slow
def test_without_new_statistics_the_same_offset_seems_worth_a_lot() -> None:
    run = _trained_host(0, kernel_size=1, epochs=3)
    plant_at_full_alpha(run, "block1", "offset")
    bench, (inputs, targets) = run.bench, run.bench.gate_items
    bench.evaluator.refresh_statistics(bench.model, bench.calibration)
    losses = []
    for overrides in ({}, {"block1": 0.0}):
        with (
            torch.no_grad(),
            eval_mode(bench.model),
            bench.model.planned(ForwardPlan(overrides=overrides)),
        ):
            outputs = bench.model(inputs)
        losses.append(nn.functional.cross_entropy(outputs, targets, reduction="none"))
    naive = estimate_mean(losses[1] - losses[0])
    assert naive.mean > 0.1
    assert naive.lower(5.0) > 0.0


@pytest.mark.slow
def test_of_200_null_seeds_fewer_than_5_in_100_pass_g5() -> None:
    run = _trained_host(0, kernel_size=3, epochs=8)
    bench, model = run.bench, run.bench.model
    hosts = [host_tensors_of(run)]
    for _ in range(2):
        run.train_epoch()
        hosts.append(host_tensors_of(run))
    slot = plant_at_full_alpha(run, "block2", "noise")
    seed = slot.seed
    assert seed is not None
    buffer = seed.get_buffer("branch.weight")
    generator = torch.Generator().manual_seed(7)
    model.host.load_state_dict(hosts[0])
    with model.planned(ForwardPlan(overrides={"block2": 0.0})):
        before = -bench.evaluator.evaluate(model, *bench.validation).loss
    num_passed = 0
    for _ in range(NUM_NULL_SEEDS):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
        pool, state = ContributionPool(), slot.state
        state.clear_measurements()
        for host in hosts:
            model.host.load_state_dict(host)
            differences, _ = bench.evaluator.compute_differences(
                model, [Setting(slot="block2", alpha=0.0)], bench.calibration, bench.gate_items
            )
            state.record_contribution(pool.add("block2", "s", SeedStage.PROBATIONARY, differences[0]))
        state.gate_metric_at_blend_start = before
        state.gate_metric_now = -bench.evaluator.evaluate(model, *bench.validation).loss
        num_passed += model.lifecycle.gates.check_fossilization(state).is_passed
    assert num_passed < 0.05 * NUM_NULL_SEEDS, num_passed


def test_measuring_leaves_buffers_modes_gradients_and_the_random_stream_alone() -> None:
    run = make_run()
    drive(run, 3)
    bench, model = run.bench, run.bench.model
    settings = [Setting(slot="block1", alpha=0.0), Setting(slot="block2", alpha=1.0)]
    before, modes = tensors_of(run), [module.training for module in model.modules()]
    momenta, stream = [norm.momentum for norm in norms_of(run)], torch.get_rng_state()
    gradients = [p.grad for p in model.parameters()]
    bench.evaluator.compute_differences(model, settings, bench.calibration, bench.gate_items)
    bench.evaluator.evaluate(model, *bench.validation)
    assert_same(before, tensors_of(run))
    assert modes == [module.training for module in model.modules()]
    assert momenta == [norm.momentum for norm in norms_of(run)]
    assert torch.equal(stream, torch.get_rng_state())
    assert all(a is b for a, b in zip(gradients, (p.grad for p in model.parameters()), strict=True))
    assert all(slot.captured is None and slot.features is None for slot in model.each_slot())


def test_statistics_are_put_back_when_measuring_fails() -> None:
    run = make_run()
    drive(run, 3)
    bench, before = run.bench, tensors_of(run)
    inputs, targets = bench.gate_items
    modes = [module.training for module in bench.model.modules()]
    with pytest.raises(RuntimeError):
        bench.evaluator.compute_differences(
            bench.model,
            [Setting(slot="block1", alpha=0.0)],
            bench.calibration,
            (torch.cat([inputs, inputs], dim=1), targets),
        )
    assert_same(before, tensors_of(run))
    assert modes == [module.training for module in bench.model.modules()]


@pytest.mark.parametrize(("slot", "alpha"), [("block1", 0.0), ("block2", 1.0)])
def test_the_tail_from_a_kept_prefix_equals_a_full_pass_with_overrides(slot: str, alpha: float) -> None:
    run = make_run()
    drive(run, 3)
    bench, model = run.bench, run.bench.model
    setting = [Setting(slot=slot, alpha=alpha)]
    items = bench.gate_items
    by_tail, _ = bench.evaluator.compute_differences(model, setting, bench.calibration, items)
    model._host_costs = replace(model._host_costs, tails={})
    by_full_pass, _ = bench.evaluator.compute_differences(model, setting, bench.calibration, items)
    assert torch.equal(by_tail[0], by_full_pass[0])
    assert by_tail[0].abs().sum() > 0.0


def test_a_setting_that_changes_nothing_measures_exactly_nothing() -> None:
    run = make_run()
    drive(run, 2)
    estimate = _contribution(run, "block3")
    assert (estimate.mean, estimate.standard_error, estimate.num_items) == (0.0, 0.0, 64)


def test_the_bill_counts_the_pass_and_one_tail_per_setting() -> None:
    run = make_run()
    drive(run, 3)
    bench, model = run.bench, run.bench.model
    _, bill = bench.evaluator.compute_differences(
        model, [Setting(slot="block1", alpha=0.0)], bench.calibration, bench.gate_items
    )
    per_item = model.forward_flops + model.tail_flops("block1")
    assert (bill.calibration, bill.counterfactual) == (64 * per_item, 64 * per_item)


def test_refreshed_statistics_are_those_of_the_calibration_inputs() -> None:
    run = make_run()
    bench = run.bench
    bench.evaluator.refresh_statistics(bench.model, bench.calibration)
    norm = norms_of(run)[0]
    block = bench.model.host.get_submodule("block1")
    assert isinstance(block, nn.Sequential)
    with torch.no_grad():
        features = block[0](bench.calibration)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, features.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-4)


def test_chunks_do_not_change_a_split_result() -> None:
    run = make_run()
    bench = run.bench
    result = bench.evaluator.evaluate(bench.model, *bench.validation)
    bench.model.eval()
    with torch.no_grad():
        outputs = bench.model(bench.validation[0])
    loss = nn.functional.cross_entropy(outputs, bench.validation[1])
    assert result.loss == pytest.approx(float(loss), abs=1e-5)
    assert result.num_items == 64


def test_the_pool_averages_per_item_and_starts_over_for_a_new_seed_or_stage() -> None:
    pool = ContributionPool()
    first, second = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 1.0])
    pool.add("a", "a#1", SeedStage.BLENDING, first)
    both = pool.add("a", "a#1", SeedStage.BLENDING, second)
    assert both == estimate_mean((first + second) / 2, num_intervals=2)
    assert pool.add("a", "a#1", SeedStage.PROBATIONARY, first).num_intervals == 1
    assert pool.add("a", "a#2", SeedStage.PROBATIONARY, first).num_intervals == 1


def test_a_restored_pool_goes_on_where_the_saved_one_stood() -> None:
    pool, other = ContributionPool(), ContributionPool()
    differences = torch.tensor([1.0, 0.0, 2.0])
    pool.add("a", "a#1", SeedStage.BLENDING, differences)
    other.restore(*pool.state())
    expected = pool.add("a", "a#1", SeedStage.BLENDING, differences)
    assert other.add("a", "a#1", SeedStage.BLENDING, differences) == expected


@pytest.mark.parametrize(
    "name", ["counterfactual_every", "contribution_items", "calibration_items", "chunk_items"]
)
def test_a_count_that_is_too_small_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"measuring.{name}=0"):
        MeasuringConfig(**{name: 0})
