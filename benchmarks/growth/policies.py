"""Policies of the arms that grow by adding seeds: esper's own, and growth by the calendar.

A periodic arm plants one seed per slot at even intervals over the first half of the run, blends it in and
keeps it: it looks at nothing. Its gates ask for no evidence, and measuring is cut down to two items, so that
it does not pay for what it does not read.
"""

from __future__ import annotations

import random
from dataclasses import replace

from esper.kasmina import GateConfig
from esper.leyline import Action, LifecycleOp, TamiyoPolicy, derive_seed
from esper.runtime.policies import SCORE_EVERY
from esper.runtime.presets import build_preset
from esper.tamiyo import (
    FixedSchedulePolicy,
    GreedyScorePolicy,
    HeuristicConfig,
    HeuristicTamiyo,
    NeverGrow,
    ScheduledAction,
)
from esper.tolaria import HostRunConfig, MeasuringConfig
from growth.bill import FIRST_FRACTION, LAST_FRACTION
from growth.network import BLUEPRINTS

PERIODIC = ("periodic_random", "round_robin")


def build_rules() -> HeuristicConfig:
    """Return the rules for hosts that underfit, as the preset of digits has them."""
    return replace(build_preset("digits").heuristic, blueprints_flat=BLUEPRINTS)


def build_arm_policy(arm: str, *, seed: int, slots: tuple[str, ...], epochs: int) -> TamiyoPolicy:
    """Return an arm's policy; an arm that does not grow gets one that never does.

    Args:
        arm: Name of the arm.
        seed: The run's; only "periodic_random" draws.
        slots: Slot ids of the host.
        epochs: Horizon of the run.
    """
    if arm == "heuristic":
        return HeuristicTamiyo(build_rules())
    if arm == "greedy":
        return GreedyScorePolicy(rules=build_rules())
    if arm in PERIODIC:
        pairs = draw_pairs(seed, slots) if arm == "periodic_random" else list_pairs(slots)
        return FixedSchedulePolicy(build_schedule(pairs, epochs), build_rules())
    return NeverGrow()


def configure_arm(arm: str, config: HostRunConfig) -> HostRunConfig:
    """Return a host's settings with what an arm reads, and without what it does not."""
    if arm == "greedy":
        return replace(config, measuring=replace(config.measuring, score_every=SCORE_EVERY))
    if arm in PERIODIC:
        gates = GateConfig(
            min_incubation_epochs=1,
            min_gradient_ratio=0.0,
            is_evidence_required=False,
            min_probation_epochs=1,
            min_measurements=1,
            max_metric_drop=1.0,
        )
        return replace(config, gates=gates, measuring=MeasuringConfig(contribution_items=2))
    return config


def draw_pairs(seed: int, slots: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return every slot once, in random order, each with a random blueprint."""
    rng = random.Random(derive_seed(seed, "periodic"))
    return [(slot, rng.choice(BLUEPRINTS)) for slot in rng.sample(slots, len(slots))]


def list_pairs(slots: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return slots and blueprints in turn."""
    return [(slot, BLUEPRINTS[index % len(BLUEPRINTS)]) for index, slot in enumerate(slots)]


def build_schedule(pairs: list[tuple[str, str]], epochs: int) -> tuple[ScheduledAction, ...]:
    """Return a germination per pair, each followed by its blend and its fossilisation.

    Args:
        pairs: Slot and blueprint, in order.
        epochs: Horizon; births lie where the growths in width lie, in its first half.
    """
    rules = build_rules()
    span = LAST_FRACTION - FIRST_FRACTION
    entries: list[ScheduledAction] = []
    for index, (slot, blueprint) in enumerate(pairs):
        birth = max(1, round((FIRST_FRACTION + span * index / max(1, len(pairs) - 1)) * epochs))
        germinate = Action(
            op=LifecycleOp.GERMINATE,
            slot=slot,
            blueprint=blueprint,
            blend=rules.blend,
            curve=rules.curve,
            tempo_epochs=rules.tempo_epochs,
        )
        entries += [
            ScheduledAction(epoch=birth, action=germinate),
            ScheduledAction(epoch=birth + 1, action=Action(op=LifecycleOp.ADVANCE, slot=slot)),
            ScheduledAction(epoch=birth + 1, action=Action(op=LifecycleOp.FOSSILIZE, slot=slot)),
        ]
    return tuple(entries)
