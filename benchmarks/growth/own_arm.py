"""One run of an arm whose network is a host of ours: of fixed size, grown by seeds, or grown before."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from growth_study import EventCounter, list_fossils, plant_fossils
from study_queue import FIRST_TUNING_SEED, Row

from esper.leyline import JsonValue, TamiyoPolicy
from esper.tolaria import FlopsLedger, HostRun, HostRunConfig, HostRunParts
from esper.tolaria.steps import charge_training
from growth.network import BLUEPRINTS, PlainMLP, build_registry
from growth.policies import build_arm_policy, configure_arm
from growth.record import Point, Trace, require_finite
from growth.tasks import BenchTask

Fossils = Sequence[Mapping[str, JsonValue]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRun:
    """What is run."""

    task: BenchTask
    arm: str
    hidden: tuple[int, ...]
    """Widths of the host's hidden layers."""
    learning_rate: float
    seed: int
    epochs: int
    fossils: Fossils = ()
    """Seeds that are part of the network from the first batch on."""

    def build(self, counter: EventCounter) -> HostRun:
        """Return the run, ready to train."""
        task = self.task
        config = HostRunConfig(
            batch_size=task.settings.batch_size,
            epochs=self.epochs,
            optimizer=replace(task.settings.optimizer, learning_rate=self.learning_rate),
        )
        parts = HostRunParts(
            build_host=lambda: PlainMLP(task.num_inputs, self.hidden, task.spec.num_outputs),
            data=task.data,
            cache=task.cache,
            registry=build_registry(),
            device=torch.device("cpu"),
            blueprints=BLUEPRINTS,
            sink=counter,
        )
        run = HostRun(task.spec, configure_arm(self.arm, config), parts, run_seed=self.seed)
        if self.fossils:
            plant_fossils(run, list(self.fossils))
            counter.counts.clear()
        return run

    def epoch_flops(self) -> int:
        """Return the price of one epoch of the network as it is before the first batch."""
        run = self.build(EventCounter())
        ledger = FlopsLedger()
        charge_training(ledger, run.bench.model, run.bench.batches.num_items)
        return ledger.total

    def run(self) -> Row:
        """Train to the horizon and return what a row says about it.

        Raises:
            GovernorGaveUpError: If the host kept failing.
            BrokenRunError: If the loss is not finite.
        """
        counter = EventCounter()
        run = self.build(counter)
        slots = run.bench.model.slot_ids
        policy = build_arm_policy(self.arm, seed=self.seed, slots=slots, epochs=self.epochs)
        policy.reset()
        trace = Trace(peak_params=run.bench.model.num_params)
        while not run.is_finished:
            _live_one_epoch(run, policy, trace)
        trace.growth_seconds = max(0.0, trace.growth_seconds - _time_validation(run) * len(trace.points))
        return _report(run, trace, counter, is_published=self.seed < FIRST_TUNING_SEED)


def _live_one_epoch(run: HostRun, policy: TamiyoPolicy, trace: Trace) -> None:
    before = _describe_structure(run)
    started = time.monotonic()
    run.apply(policy.decide(run.observe()))
    trace.peak_params = max(trace.peak_params, run.bench.model.num_params)
    outcome = run.train_epoch()
    assert outcome is not None
    trace.growth_seconds += time.monotonic() - started - outcome.seconds
    require_finite(outcome.validation_loss, outcome.epoch)
    point = Point(
        flops=run.bench.ledger.total,
        metric=outcome.metric,
        loss=outcome.validation_loss,
        is_changed=_describe_structure(run) != before,
    )
    trace.points.append(point)


def _describe_structure(run: HostRun) -> tuple[tuple[str, float], ...]:
    """Return what of the network a seed's life can change: who lives where, and how far it is blended in."""
    return tuple(
        (str(slot.state.seed_id), slot.state.alpha) if slot.state.stage.has_seed else ("", 0.0)
        for slot in run.bench.model.each_slot()
    )


def _time_validation(run: HostRun) -> float:
    """Return seconds of one plain validation: every arm has those, they are no part of growth."""
    started = time.monotonic()
    run.bench.evaluator.evaluate(run.bench.model, *run.bench.validation)
    return time.monotonic() - started


def _report(run: HostRun, trace: Trace, counter: EventCounter, *, is_published: bool) -> Row:
    # The end comes first: what is not kept leaves the network before anything is measured on it.
    result = run.finish() if is_published else run.conclude()
    bench = run.bench
    validation = bench.evaluator.evaluate(bench.model, *bench.validation) if is_published else result
    fossils = list_fossils(run)
    return {
        "test_accuracy": result.metric if is_published else None,
        "test_loss": result.loss if is_published else None,
        "validation_accuracy": validation.metric,
        "validation_loss": validation.loss,
        "flops": dict(bench.ledger.totals()),
        "flops_total": bench.ledger.total,
        "params_final": bench.model.num_params,
        "widths": None,
        "fossils": fossils,
        "num_grown": counter.counts["SeedGerminated"],
        "num_refused": counter.counts["SeedCulled"],
        "num_kept": len(fossils),
    } | trace.describe()
