"""Seeds that are worth nothing are not kept: from differences through pool and gates to the decision.

In most tests every per-item difference is drawn around zero, and everything after the drawing is the real
thing: pooling over intervals, the slot's record and its clock, the quality gates, the heuristic. In the last
one the seeds are real, too: small random convolutions in a trained host, whose measured worth scatters around
zero with a spread of one standard error.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from builders import make_budgets, make_observation
from esper.kasmina import (
    BlueprintSpec,
    Clock,
    GateConfig,
    LifecycleConfig,
    MorphogeneticModel,
    SeedSlot,
    SlotSpec,
    builtin_registry,
)
from esper.kasmina.blending import AlphaRamp
from esper.kasmina.seed_state import SeedState
from esper.leyline import AlphaCurve, Estimate, JsonValue, Layout, LifecycleOp, SeedStage, SlotOutcome
from esper.tamiyo import HeuristicTamiyo
from esper.tolaria.measuring import ContributionPool, Setting
from esper.tolaria.steps import record_outcome
from kasmina.growing import draw, grow, make_gates, make_mlp
from tolaria.digit_hosts import build_digit_cnn, train_on_digits
from tolaria.null_seeds import FrozenNoise
from tolaria.small_run import host_tensors_of, plant_at_full_alpha

NUM_SEEDS = 200
NUM_ITEMS = 360
"""Validation items of the digits."""
THRESHOLD = 0.005
"""Smallest contribution worth keeping, in nats, as on the digits."""
BATCHES = 4
TEMPO = 3
SLOT = "hidden1"
LONGEST = 30
"""Intervals after which a seed without a verdict is a fault of the rules."""
NOISE_SIZE = 0.01
"""Of a real null seed, relative to what passes."""
GATES = GateConfig()
"""As shipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How the differences of a seed scatter."""

    error: float
    """Standard error of one interval's mean, in nats, at full alpha."""
    lasting: float
    """Share of the variance that an item keeps from interval to interval, in [0, 1]."""
    worth: float = 0.0
    """True mean difference, in nats, at full alpha."""
    trend: float = 0.0
    """What the host itself gains per interval, in nats."""

    def draw(self, items: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
        """Return one interval's differences [N], given the items' lasting part."""
        fresh = torch.randn(NUM_ITEMS, generator=generator)
        mixed: Tensor = self.lasting**0.5 * items + (1.0 - self.lasting) ** 0.5 * fresh
        drawn: Tensor = alpha * (self.worth + self.error * NUM_ITEMS**0.5 * mixed)
        return drawn


def _make_model(gates: GateConfig) -> tuple[MorphogeneticModel, dict[str, JsonValue]]:
    """A model with a seed that has just begun to blend, and the record to start every seed from."""
    model = MorphogeneticModel(
        make_mlp(),
        draw(4, 6),
        registry=builtin_registry(),
        gates=make_gates(gates, keep_threshold=THRESHOLD),
        lifecycle=LifecycleConfig(),
    )
    slot = grow(model, SLOT, SeedStage.BLENDING, blueprint="mlp")
    slot.set_alpha(0.0)
    state = slot.state
    state.ramp = AlphaRamp(
        start_value=0.0, target=1.0, start_batch=0, num_batches=TEMPO * BATCHES, curve=AlphaCurve.LINEAR
    )
    state.epochs_in_stage, state.gate_metric_at_blend_start = 0, -0.3
    return model, state.to_dict()


def _live(
    model: MorphogeneticModel, record: dict[str, JsonValue], noise: Noise, generator: torch.Generator
) -> LifecycleOp:
    """Let one seed live until it is kept or culled; return which."""
    slot: SeedSlot = model.slot(SLOT)
    model.lifecycle.restore(slot, SeedState.from_dict(record), slot.seed)
    state, pool, policy = slot.state, ContributionPool(), HeuristicTamiyo()
    items, host_metric = torch.randn(NUM_ITEMS, generator=generator), -0.3
    for epoch in range(1, LONGEST):
        clock = Clock(epoch=epoch, batch=epoch * BATCHES, batches_per_epoch=BATCHES)
        model.update_alphas(clock.batch)
        host_metric += noise.trend
        differences = noise.draw(items, state.alpha, generator)
        contribution = pool.add(SLOT, str(state.seed_id), state.stage, differences)
        record_outcome(
            slot,
            SlotOutcome(contribution=contribution, gradient_ratio=0.9, gradient_norm=1.0),
            metric=0.9,
            gate_metric=host_metric + float(differences.mean()),
        )
        model.tick(clock)
        observation = make_observation(*model.reports(), epoch=epoch, budgets=make_budgets(0))
        action = policy.decide(observation).action
        if action.slot == SLOT and action.op in (LifecycleOp.FOSSILIZE, LifecycleOp.CULL):
            return action.op
    pytest.fail(f"no verdict after {LONGEST} intervals: {slot.state}")


def _count_kept(gates: GateConfig, noise: Noise, num_seeds: int = NUM_SEEDS) -> int:
    model, record = _make_model(gates)
    generator = torch.Generator().manual_seed(11)
    fates = [_live(model, record, noise, generator) for _ in range(num_seeds)]
    return fates.count(LifecycleOp.FOSSILIZE)


@pytest.mark.slow
@pytest.mark.parametrize("trend", [0.0, 0.01])
@pytest.mark.parametrize("lasting", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("error", [0.0025, 0.005, 0.02, 0.1])
def test_of_200_null_seeds_fewer_than_5_in_100_are_kept_whatever_the_noise(
    error: float, lasting: float, trend: float
) -> None:
    kept = _count_kept(GATES, Noise(error=error, lasting=lasting, trend=trend))
    assert kept < 0.05 * NUM_SEEDS, kept


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [0.0, 0.5, 1.0])
def test_one_standard_error_above_the_threshold_is_no_protection(lasting: float) -> None:
    """That the counts above can fail: looks at noise, one error each, let through one in six and more."""
    kept = _count_kept(GateConfig(keep_errors=1.0), Noise(error=4 * THRESHOLD, lasting=lasting))
    assert kept > 0.1 * NUM_SEEDS, kept


@pytest.mark.slow
@pytest.mark.parametrize(("error", "worth"), [(0.005, 0.03), (0.02, 0.1)])
def test_seeds_that_are_worth_something_are_kept(error: float, worth: float) -> None:
    kept = _count_kept(GATES, Noise(error=error, lasting=0.5, worth=worth))
    assert kept > 0.95 * NUM_SEEDS, kept


def test_a_harmful_seed_is_never_kept() -> None:
    assert _count_kept(GATES, Noise(error=0.005, lasting=0.5, worth=-0.03), num_seeds=20) == 0


def _build_noise(spec: SlotSpec) -> nn.Module:
    return FrozenNoise(spec.num_channels, NOISE_SIZE)


def _measure_real_null_seeds() -> list[Estimate]:
    """Contributions of 200 random seeds, each pooled over three epochs of a host that goes on learning."""
    registry = builtin_registry().extended()
    registry.add(
        BlueprintSpec(
            id="noise",
            family="test",
            layouts=frozenset({Layout.MAP_2D}),
            build=_build_noise,
            count_params=lambda _: 0,
        )
    )
    run = train_on_digits(build_digit_cnn, epochs=8, registry=registry)
    hosts = [host_tensors_of(run)]
    for _ in range(2):
        run.train_epoch()
        hosts.append(host_tensors_of(run))
    seed = plant_at_full_alpha(run, "block2", "noise").seed
    assert seed is not None
    weight, bench = seed.get_buffer("branch.weight"), run.bench
    generator, estimates = torch.Generator().manual_seed(7), []
    for _ in range(NUM_SEEDS):
        weight.copy_(torch.randn(weight.shape, generator=generator))
        pool = ContributionPool()
        for tensors in hosts:
            bench.model.host.load_state_dict(tensors)
            differences, _bill = bench.evaluator.compute_differences(
                bench.model, [Setting(slot="block2", alpha=0.0)], bench.calibration, bench.gate_items
            )
            estimate = pool.add("block2", "s", SeedStage.PROBATIONARY, differences[0])
        estimates.append(estimate)
    return estimates


@pytest.mark.slow
def test_of_200_real_null_seeds_fewer_than_5_in_100_pass_g5_even_without_a_threshold() -> None:
    estimates = _measure_real_null_seeds()
    scores = torch.tensor([estimate.mean / estimate.standard_error for estimate in estimates])
    assert abs(float(scores.mean())) < 0.2
    assert 0.8 < float(scores.std()) < 1.2
    kept = {errors: _count_passing(errors, estimates) for errors in (1.0, GATES.keep_errors)}
    assert kept[GATES.keep_errors] < 0.05 * NUM_SEEDS, kept
    assert kept[1.0] > 0.1 * NUM_SEEDS, "the noise is too small to tell one rule from the other"


def _count_passing(keep_errors: float, estimates: list[Estimate]) -> int:
    gates = make_gates(GateConfig(keep_errors=keep_errors, keep_threshold=0.0))
    state = SeedState(slot=SLOT, gate_metric_at_blend_start=-0.3, gate_metric_now=0.0)
    num_passed = 0
    for estimate in estimates:
        state.clear_measurements()
        state.record_contribution(estimate)
        num_passed += gates.check_fossilization(state).is_passed
    return num_passed
