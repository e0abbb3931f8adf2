"""One host's life: the same object whether a heuristic, a schedule or a learned policy decides.

```
while not host_run.is_finished:
    decision = policy.decide(host_run.observe())
    host_run.apply(decision)          1) act         lifecycle, optimiser follows the topology
    host_run.train_epoch()            2) train       batch by batch, resumable at every batch
                                      3) validate    metrics, counterfactuals
                                      4) judge       governor: healthy, or rolled back
                                      5) tick        every slot's clock, snapshot when due
host_run.finish()                     horizon: live seeds are culled, the test split is read once
```
It is handed decisions and never asks who made them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import final

from esper.kasmina import Clock
from esper.leyline import (
    ActionResult,
    Budgets,
    Decision,
    EpochOutcome,
    Event,
    GovernorGaveUpError,
    HostError,
    JsonValue,
    Observation,
    TaskSpec,
    TrainingSignals,
    Verdict,
    derive_seed,
)
from esper.tolaria.acting import act
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.config import HostRunConfig
from esper.tolaria.ending import remove_unkept
from esper.tolaria.epoch import EpochProgress, StopCheck
from esper.tolaria.fault_origin import FaultOrigin, find_lasting
from esper.tolaria.host_events import describe_rollback
from esper.tolaria.host_ranks import HostRanks
from esper.tolaria.measuring import SplitResult
from esper.tolaria.parts import HostRunParts, Workbench, build_workbench
from esper.tolaria.shared_state import describe_shared
from esper.tolaria.snapshot import capture_state, is_finite, restore_state
from esper.tolaria.steps import (
    IntervalMeasurement,
    build_epoch_event,
    build_outcome,
    build_skip_events,
    build_slot_events,
    judge_interval,
    measure_slots,
    record_outcome,
    update_scores,
)


@final
class HostRun:
    """One host from its first batch to its horizon.

    Args of the constructor are checked configs and built parts; every random stream comes from
    (run seed, instance) alone, so that the same pair gives the same life in any fleet.
    """

    def __init__(
        self, task: TaskSpec, config: HostRunConfig, parts: HostRunParts, *, run_seed: int, instance: int = 0
    ) -> None:
        """Build the host and everything around it; nothing is trained yet.

        Raises:
            HostError: If the host's growth points do not match its forward pass, or one of its weights is not
                finite: there would be no good state to go back to.
            ConfigError: If the device or precision is not available here.
        """
        self.task = task
        self.config = config
        self.run_seed = run_seed
        self.instance = instance
        self._parts = parts
        self.ranks: HostRanks = parts.ranks
        self.bench: Workbench = build_workbench(task, config, parts, run_seed=run_seed, instance=instance)
        self.horizon_epochs = config.epochs if config.epochs is not None else task.horizon_epochs
        self.epoch = 0
        self.progress = EpochProgress()
        self.verdict = Verdict()
        self.is_terminated = False
        self.event_count = 0
        """Decisions so far; part of the random path of seeds and never rolled back."""
        self.signals = TrainingSignals()
        bad = find_lasting(self.bench.model, self.bench.optimizer)
        if bad:
            raise HostError(f"the host as built is not finite: {next(iter(bad.values())).describe()}")
        self.last_good: StateRecord = capture_state(self, with_last_good=False)

    # ------------------------------------------------------------------ what a policy sees

    @property
    def is_finished(self) -> bool:
        """Whether the horizon is reached or the governor ended the episode."""
        return self.epoch >= self.horizon_epochs or self.is_terminated

    @property
    def clock(self) -> Clock:
        """Epochs and batches finished."""
        per_epoch = self.bench.batches.num_batches
        return Clock(
            epoch=self.epoch,
            batch=self.epoch * per_epoch + self.progress.batch,
            batches_per_epoch=per_epoch,
        )

    def observe(self) -> Observation:
        """Return everything a policy may look at now."""
        bench = self.bench
        memory_left = bench.memory.bytes_left(bench.model)
        bench.space = bench.memory.price(bench.space, bench.model, memory_left)
        return Observation(
            signals=self.signals,
            slots=bench.model.reports(),
            budgets=replace(self._budgets(), memory_bytes_left=memory_left),
            space=bench.space,
            metric=self.task.metric,
            chance_loss=self.task.chance_loss,
            num_validation_items=len(bench.validation[1]),
        )

    # ------------------------------------------------------------------ 1) act

    def apply(self, decision: Decision) -> ActionResult:
        """Carry out a decision between two epochs; an illegal one is refused and counts as WAIT.

        So is one for which memory does not suffice: everything is then as if it had waited.

        Raises:
            RuntimeError: If called in the middle of an epoch.
        """
        if self.progress.batch:
            raise RuntimeError(f"apply() inside epoch {self.epoch} at batch {self.progress.batch}")
        return act(self, decision)

    # ------------------------------------------------------------------ 2) to 5)

    def train_epoch(self, should_stop: StopCheck | None = None) -> EpochOutcome | None:
        """Train, validate, judge and tick one interval.

        Args:
            should_stop: Asked after every batch; when it says True the epoch stops at that boundary, and the
                next call goes on there.

        Returns:
            The outcome, or None if it was stopped before the epoch ended. After a rollback the outcome is
            that of the failed epoch and `verdict` says why.

        Raises:
            GovernorGaveUpError: If the host still fails after the allowed number of rollbacks.
            RuntimeError: If the run is finished.
        """
        if self.is_finished:
            raise RuntimeError(f"host run {self.instance} is finished at epoch {self.epoch}")
        started = time.monotonic()
        with self.bench.rng.installed():
            if not self._train(should_stop):
                return None
            lasting = find_lasting(self.bench.model, self.bench.optimizer)
            seconds = time.monotonic() - started
            return self.end_interval(self._measure(), lasting, seconds)

    def begin_interval(self) -> int:
        """Make the moves that stand before training, for whoever trains this host's next interval.

        Returns:
            The number under which the interval's batches are asked for; another one after each rollback.

        Raises:
            RuntimeError: If the run is finished.
        """
        if self.is_finished:
            raise RuntimeError(f"host run {self.instance} is finished at epoch {self.epoch}")
        bench = self.bench
        if self.progress.batch == 0:
            # A seed that was planted past `apply` must be known to the optimiser before its gate asks.
            bench.follow_topology()
            self.emit(bench.model.begin_epoch(self.clock))
            bench.follow_topology()
        self.ranks.check("interval", partial(describe_shared, self))
        bench.runner.begin()
        return self.epoch + bench.governor.rollback_count * self.horizon_epochs

    def end_interval(
        self, measured: IntervalMeasurement, lasting: Mapping[str, FaultOrigin], seconds: float
    ) -> EpochOutcome:
        """Judge an interval that was trained and measured, then roll back or let every clock tick.

        Args:
            measured: Validation and counterfactuals of the network as it stands after `progress`.
            lasting: Group -> what is bad now and would be in every batch to come.
            seconds: What training took.

        Raises:
            GovernorGaveUpError: If the host still fails after the allowed number of rollbacks.
        """
        update_scores(self.bench.model, self.bench.scorer, self.bench.ledger, epoch=self.epoch + 1)
        outcome = build_outcome(
            self.bench, self.progress, measured, lasting, epoch=self.epoch + 1, seconds=seconds
        )
        self.verdict = self.ranks.agree(judge_interval(self.bench, self.progress, outcome, lasting))
        if self.verdict.is_failure:
            self._roll_back(outcome)
        else:
            self._tick(outcome)
        return outcome

    def finish(self) -> SplitResult:
        """End at the horizon: cull what is not fossilised, read the test split once, on what leaves."""
        bench = self.bench
        with bench.rng.installed():
            remove_unkept(self)
            return bench.evaluator.evaluate(bench.model, *bench.test)

    def conclude(self) -> SplitResult:
        """End at the horizon as `finish` does, but measure the validation split and leave the test split.

        For rewards and selection, which must not see the test split.
        """
        bench = self.bench
        with bench.rng.installed():
            remove_unkept(self)
            return bench.evaluator.evaluate(bench.model, *bench.validation)

    def _train(self, should_stop: StopCheck | None) -> bool:
        bench, progress = self.bench, self.progress
        order_epoch = self.begin_interval()
        while progress.batch < bench.batches.num_batches:
            batch = bench.batches.row(order_epoch, progress.batch, 0)
            self.ranks.seed_batch(bench.rng, self.run_seed, (self.instance, order_epoch, progress.batch))
            bench.runner.train_batch(batch, self.clock.batch, progress, self.ranks.take_share(batch))
            if should_stop is not None and should_stop():
                return False
        bench.model.update_alphas(self.clock.batch)
        self.ranks.settle("epoch", partial(describe_shared, self))
        return True

    @property
    def is_measuring_due(self) -> bool:
        """Whether seeds are measured at the end of the present interval."""
        return (self.epoch + 1) % self.config.measuring.counterfactual_every == 0

    def _measure(self) -> IntervalMeasurement:
        bench = self.bench
        validation = bench.evaluator.evaluate(bench.model, *bench.validation, bench.probe.after_validation)
        if not self.is_measuring_due:
            return IntervalMeasurement(validation=validation)
        slots, bill = measure_slots(
            bench.model, bench.evaluator, bench.pool, bench.calibration, bench.gate_items
        )
        return IntervalMeasurement(validation=validation, slots=slots, bill=bill)

    def _tick(self, outcome: EpochOutcome) -> None:
        bench = self.bench
        gate_metric = -outcome.validation_loss if self.task.gates_use_loss else outcome.metric
        for slot in bench.model.each_slot():
            record_outcome(
                slot, outcome.slots.get(slot.slot_id), metric=outcome.metric, gate_metric=gate_metric
            )
        self.emit(
            [
                build_epoch_event(bench.model, bench.ledger, outcome),
                *build_slot_events(bench.model, outcome.slots, outcome.epoch),
                *build_skip_events(self.progress, outcome),
            ]
        )
        self.epoch += 1
        self.progress = EpochProgress()
        self.emit(bench.model.tick(self.clock))
        self.bench.follow_topology()
        self.signals = bench.tracker.update(outcome)
        bench.probe.after_epoch(bench.model, outcome)
        if self.epoch % self.config.snapshot_every == 0:
            record = capture_state(self, with_last_good=False)
            # A seed that nothing depends on can go bad without a sign in the host's numbers.
            self.last_good = record if is_finite(record) else self.last_good

    def _roll_back(self, outcome: EpochOutcome) -> None:
        bench, verdict = self.bench, self.verdict
        self.emit(build_skip_events(self.progress, outcome))
        is_terminal = self.config.on_failure == "terminate"
        count = bench.governor.count_rollback()
        if count > self.config.governor.max_rollbacks and not is_terminal:
            raise GovernorGaveUpError(
                f"host run {self.instance} failed again after {count - 1} rollbacks: {verdict.kind}, "
                f"{verdict.reason}; last good epoch {self.last_good.state['epoch']}"
            )
        restore_state(self, self.last_good, keep_counters=True)
        # The same numbers would lead to the same fault.
        bench.rng.reseed(derive_seed(self.run_seed, "torch", self.instance, self.epoch, count))
        self.is_terminated = is_terminal
        self.emit([describe_rollback(verdict, self.epoch, count=count, is_terminal=is_terminal)])
        blamed = () if verdict.blamed_slot is None else (verdict.blamed_slot,)
        self.emit(bench.model.cull_live(self.clock, "rollback", blamed))
        for slot in bench.model.each_slot():
            slot.state.had_governor_event = True
        self.bench.follow_topology()
        # A second rollback must not bring the blamed seed back.
        self.last_good = capture_state(self, with_last_good=False)
        self.ranks.check("rollback", partial(describe_shared, self))

    # ------------------------------------------------------------------ inside

    def _budgets(self) -> Budgets:
        bench, life, gates = self.bench, self.config.lifecycle, self.config.gates
        model = bench.model
        fraction = life.max_added_params_fraction
        shortest = gates.min_incubation_epochs + min(bench.space.tempo_ids) + gates.min_probation_epochs + 1
        return Budgets(
            horizon_epochs=self.horizon_epochs,
            epochs_left=max(0, self.horizon_epochs - self.epoch),
            host_params=model.host_params,
            added_params=model.added_params,
            max_added_params=None if fraction is None else int(fraction * model.host_params),
            host_flops_per_item=max(1, model.host_flops),
            added_flops_per_item=model.added_flops,
            flops_spent=bench.ledger.total,
            never_grow_flops=max(1, 3 * model.host_flops * bench.batches.num_items * self.horizon_epochs),
            max_live_seeds=life.max_live_seeds,
            shortest_lifecycle_epochs=shortest,
            min_cull_age_epochs=life.min_cull_age_epochs,
            is_sequential=life.is_sequential,
        )

    def emit(self, events: Sequence[Event]) -> None:
        """Send events on, marked with this run's instance."""
        for event in events:
            self._parts.sink.emit(replace(event, instance=self.instance))

    # ------------------------------------------------------------------ state

    def settle(self) -> None:
        """Make the copies on other ranks equal to that of rank 0 and check it; all do, before one saves.

        Raises:
            RanksDisagreeError: If they differ in more than running statistics.
        """
        self.ranks.settle("checkpoint", partial(describe_shared, self))
        self.ranks.check("checkpoint", partial(describe_shared, self))

    def state(self) -> StateRecord:
        """Return everything needed to go on bit for bit, the last known good state included."""
        return capture_state(self, with_last_good=True)

    def restore(self, record: StateRecord) -> None:
        """Put back what `state` returned, topology first.

        Raises:
            ForeignCheckpointError: If the record does not fit this task, host or configuration.
        """
        restore_state(self, record, keep_counters=False)

    def describe(self) -> dict[str, JsonValue]:
        """Return a short summary: task, instance, epoch, parameters."""
        return {
            "task": self.task.name,
            "instance": self.instance,
            "epoch": self.epoch,
            "total_params": self.bench.model.num_params,
        }
