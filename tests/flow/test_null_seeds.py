"""Seeds that are worth nothing are not kept: from measured differences through pool and gates to the decision.

Every per-item difference is drawn around zero; everything after the drawing is the real thing: pooling over
intervals, the slot's record and its clock, the quality gates, the heuristic.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from builders import make_budgets, make_observation
from esper.kasmina import Clock, GateConfig, LifecycleConfig, MorphogeneticModel, SeedSlot, builtin_registry
from esper.kasmina.blending import AlphaRamp
from esper.kasmina.seed_state import SeedState
from esper.leyline import AlphaCurve, JsonValue, LifecycleOp, SeedStage, SlotOutcome
from esper.tamiyo import HeuristicTamiyo
from esper.tolaria.measuring import ContributionPool
from esper.tolaria.steps import record_outcome
from kasmina.growing import draw, grow, make_gates, make_mlp

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
SURE = GateConfig(keep_errors=2.5)
"""Gates that ask for two and a half standard errors instead of one."""


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
        mixed = self.lasting**0.5 * items + (1.0 - self.lasting) ** 0.5 * fresh
        return alpha * (self.worth + self.error * NUM_ITEMS**0.5 * mixed)


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
