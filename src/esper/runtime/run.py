"""Open, loop, close: one experiment from its configuration to its summary, saved and resumable on the way.

```
build data, host, policy     everything that can be refused is refused before anything is written
run directory                config.toml, meta.json before step 0; lock held
loop                         decide, apply, train_epoch; a checkpoint when due or asked for by SIGUSR1;
                             on a stop signal, or when its time is over: save, leave, resumable
finish                       horizon culls, test split read once, last checkpoint, summary, report
```
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn, final

from esper.leyline import (
    ConfigError,
    GovernorGaveUpError,
    JsonValue,
    Notice,
    RunFinished,
    RunStarted,
    SeedStage,
)
from esper.nissa import EventHub, build_hub, write_report, write_summary
from esper.runtime.assemble import Assembly, assemble
from esper.runtime.config_file import render_config
from esper.runtime.disk_estimate import check_disk
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.fault_plan import FaultPlan
from esper.runtime.fault_points import FaultPoints
from esper.runtime.policies import find_policy
from esper.runtime.resuming import refuse_changes, refuse_other_size, restore_assembly
from esper.runtime.run_attempt import HeldRun, LateSink, StopQuestion, settle_policy
from esper.runtime.run_folder import RunFolder, RunOrigin, default_run_path
from esper.runtime.run_records import RUNS_ROOT
from esper.runtime.run_saver import Place, RunSaver, Snapshot
from esper.runtime.run_stop import RunStop, TimeLimit
from esper.runtime.shutdown import StopSignal
from esper.runtime.told_steps import STEPS_KEY, ToldSteps, read_steps
from esper.tamiyo import name_heads
from esper.tolaria import SplitResult, StateRecord

CHECKPOINT_KIND = "host-run"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResult:
    """What a finished run comes to."""

    run_dir: Path | None
    task: str
    policy: str
    seed: int
    epochs: int
    metric_name: str
    contribution_metric: str
    validation_metric: float
    test_metric: float
    test_loss: float
    host_params: int
    total_params: int
    flops: Mapping[str, int]
    total_flops: int
    slots: tuple[Mapping[str, JsonValue], ...]

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "run_dir": None if self.run_dir is None else str(self.run_dir),
            "task": self.task,
            "policy": self.policy,
            "seed": self.seed,
            "epochs": self.epochs,
            "metric_name": self.metric_name,
            "contribution_metric": self.contribution_metric,
            "validation_metric": self.validation_metric,
            "test_metric": self.test_metric,
            "test_loss": self.test_loss,
            "host_params": self.host_params,
            "total_params": self.total_params,
            "total_flops": self.total_flops,
            "flops": dict(self.flops),
            "slots": [dict(slot) for slot in self.slots],
        }


def run_experiment(
    config: ExperimentConfig,
    *,
    run_dir: Path | None,
    provenance: Mapping[str, str],
    resume: bool = False,
    is_dry_run: bool = False,
    argv: Sequence[str] = (),
) -> ExperimentResult:
    """Run one experiment to its horizon.

    Args:
        config: The whole experiment.
        run_dir: Where to write; None chooses a new directory below `runs/`. For a resume: the run.
        provenance: Dotted key -> where its value came from; written beside the configuration.
        resume: Go on from the newest valid checkpoint of `run_dir`.
        is_dry_run: Force one short life of every kind (kept, culled) with lenient gates; write nothing.
        argv: Command line, for the record.

    Raises:
        EsperError: Refused input, an unusable data set or checkpoint, a host that stays sick.
        InterruptedRunError: A signal, or the end of its time, stopped the run after its checkpoint was saved.
    """
    limit = TimeLimit(config.checkpoint.max_hours)
    config, provenance, notices = settle_policy(config, provenance)
    if is_dry_run:
        find_policy(config.policy, config, seed=config.seed, is_greedy=False)  # refused before, too
        return _run_unwritten(_shorten(config))
    sink, points = LateSink(), FaultPoints(FaultPlan.from_environ(os.environ))
    assembly = assemble(config, sink, probe=points.probe)
    notices += check_disk(config, assembly, run_dir)
    origin = RunOrigin(task=config.task.name, policy=config.policy, seed=config.seed, argv=tuple(argv))
    if resume:
        if run_dir is None:
            raise ConfigError("resume needs the directory of the run")
        refuse_changes(run_dir, config)
        folder = RunFolder.open(run_dir)
    else:
        path = default_run_path(RUNS_ROOT, origin, datetime.now()) if run_dir is None else run_dir
        folder = RunFolder.create(path, config_text=render_config(config, provenance), origin=origin)
    with folder, StopSignal() as signals:
        held = HeldRun(config, assembly, folder, points)
        return run_in_folder(held, sink, RunStop(signals, limit), notices, is_resumed=resume)


def run_in_folder(
    held: HeldRun, sink: LateSink, stop: StopQuestion, notices: Sequence[str], *, is_resumed: bool
) -> ExperimentResult:
    """Run an experiment to its horizon in a directory that is held; raises as `run_experiment` does.

    Args:
        held: What to run.
        sink: What its assembly emits to; gets the hub as its target.
        stop: Asked at every batch.
        notices: For a person.
        is_resumed: Go on from the newest valid checkpoint.
    """
    config, folder = held.config, held.folder
    hub = build_hub(
        config.telemetry,
        run_id=folder.run_id,
        stream=sys.stderr,
        environ=os.environ,
        directory=folder.path,
        watchers=held.points.backends,
    )
    sink.target = hub
    try:
        result = _WrittenRun(held, hub).run(stop, notices, is_resumed=is_resumed)
    finally:
        hub.close()
    _write_results(config, folder)
    return result


@final
class _WrittenRun:
    """One attempt at a run that has a directory."""

    def __init__(self, held: HeldRun, hub: EventHub) -> None:
        self._config, self._assembly = held.config, held.assembly
        self._folder, self._hub = held.folder, hub
        self._num_ranks, self._pass_on = held.num_ranks, held.pass_on
        self._loaded_name = ""
        self._points = held.points
        self._steps = ToldSteps(held.config, held.assembly)
        self._saver = RunSaver(
            held.folder.checkpoints_path,
            hub,
            held.config.checkpoint,
            kind=CHECKPOINT_KIND,
            file_ops=held.points.file_ops,
        )

    def run(self, stop: StopQuestion, notices: Sequence[str], *, is_resumed: bool) -> ExperimentResult:
        host_run = self._assembly.host_run
        self._saver.clean()
        rewinds_to = self._load() if is_resumed else None
        self._hub.emit(describe_start(self._config, self._assembly, rewinds_to, is_resumed=is_resumed))
        self._points.announce(self._hub, host_run.epoch)
        for text in (*notices, *self._describe_fallback()):
            self._hub.emit(Notice(epoch=host_run.epoch, text=text))
        try:
            self._loop(stop)
            test = host_run.finish()
            self._steps.finish(self._hub)
            host_run.settle()
            self._saver.save_now(self._place, self._capture)
        except GovernorGaveUpError:
            self._saver.close(host_run.epoch)  # before the last event
            self._hub.emit(self._describe_end("governor"))
            raise
        finally:
            self._saver.close(host_run.epoch)
        result = summarise(self._config, self._assembly, test, self._folder.path)
        self._hub.emit(
            replace(
                self._describe_end("governor" if host_run.is_terminated else "horizon"),
                test_metrics={self._assembly.task.metric.name: result.test_metric},
            )
        )
        return result

    def _describe_end(self, reason: str) -> RunFinished:
        """Return the last event of an attempt: where the network stands and what it has cost."""
        host_run = self._assembly.host_run
        return RunFinished(
            epoch=host_run.epoch,
            reason=reason,
            total_params=host_run.bench.model.num_params,
            flops=host_run.bench.ledger.totals(),
        )

    def _loop(self, stop: StopQuestion) -> None:
        host_run, every = self._assembly.host_run, self._config.checkpoint.every_epochs
        while not host_run.is_finished:
            outcome = None
            # Asked once: a stop between an action and its first batch would have a resumed run act twice.
            if not stop():
                if host_run.progress.batch == 0:
                    self._steps.act()
                outcome = host_run.train_epoch(self._points.ask(stop.pauses))
                if outcome is not None:
                    self._steps.settle(self._hub)
            if stop() and not host_run.is_finished:
                self._leave(stop)
            is_due = outcome is not None and every > 0 and host_run.epoch % every == 0
            if (stop.take_save_request() or is_due) and not host_run.is_finished:
                host_run.settle()
                self._saver.save_later(self._place, self._capture)
            self._saver.tell(host_run.epoch)

    def _leave(self, stop: StopQuestion) -> NoReturn:
        """Save this place and end the attempt."""
        self._assembly.host_run.settle()
        saved = self._saver.save_now(self._place, self._capture)
        if stop.is_time_over:
            self._hub.emit(Notice(epoch=self._assembly.host_run.epoch, text=f"stopped {stop.reason}"))
        self._hub.emit(self._describe_end("interrupted"))
        raise stop.describe(saved, self._folder.path)

    # ------------------------------------------------------------------ saving

    @property
    def _place(self) -> Place:
        host_run = self._assembly.host_run
        return Place(host_run.epoch, host_run.progress.batch, host_run.bench.governor.rollback_count)

    def _capture(self) -> Snapshot:
        host_run = self._assembly.host_run
        record = host_run.state()
        state: dict[str, JsonValue] = {
            "run": record.state,
            "policy": dict(self._assembly.policy.state()),  # type: ignore[arg-type]
            "num_ranks": self._num_ranks,
            STEPS_KEY: self._steps.state(),
        }
        if self._assembly.policy_fingerprint is not None:
            state["policy_fingerprint"] = self._assembly.policy_fingerprint
        return Snapshot(
            StateRecord(tensors=record.tensors, state=state), host_run.bench.model.topology_hash()
        )

    def _load(self) -> int:
        loaded = self._saver.load()
        self._loaded_name = loaded.name
        refuse_other_size(loaded.record, self._num_ranks, self._config.distributed)
        self._pass_on(loaded.record, loaded.topology_hash)
        last_seq = restore_assembly(self._assembly, loaded.record, loaded.topology_hash)
        self._steps.restore(read_steps(loaded.record.state))
        return last_seq

    def _describe_fallback(self) -> list[str]:
        return [
            f"checkpoint {damaged} is damaged; going on from {self._loaded_name} instead"
            for damaged in self._saver.passed_over
        ]


def describe_start(
    config: ExperimentConfig, assembly: Assembly, rewinds_to: int | None, *, is_resumed: bool
) -> RunStarted:
    """Return the first event of an attempt."""
    model = assembly.host_run.bench.model
    return RunStarted(
        epoch=assembly.host_run.epoch,
        task=config.task.name,
        policy=config.policy,
        seed=config.seed,
        horizon_epochs=assembly.host_run.horizon_epochs,
        host_params=model.host_params,
        slots=model.slot_ids,
        is_resumed=is_resumed,
        rewinds_to_seq=rewinds_to,
        heads=name_heads(assembly.host_run.bench.space),
    )


def summarise(
    config: ExperimentConfig, assembly: Assembly, test: SplitResult, run_dir: Path | None
) -> ExperimentResult:
    """Return a finished run in numbers; metrics as a reader expects them."""
    host_run, metric = assembly.host_run, assembly.task.metric
    bench = host_run.bench
    return ExperimentResult(
        run_dir=run_dir,
        task=config.task.name,
        policy=config.policy,
        seed=config.seed,
        epochs=host_run.epoch,
        metric_name=metric.name,
        contribution_metric="loss" if assembly.task.gates_use_loss else metric.name,
        validation_metric=metric.shown(host_run.signals.metric),
        test_metric=metric.shown(test.metric),
        test_loss=test.loss,
        host_params=bench.model.host_params,
        total_params=bench.model.num_params,
        flops=bench.ledger.totals(),
        total_flops=bench.ledger.total,
        slots=tuple(
            {
                "slot": report.slot,
                "blueprint": report.blueprint,
                "stage": report.stage.value,
                "contribution": None if report.contribution is None else report.contribution.mean,
                "contribution_error": (
                    None if report.contribution is None else report.contribution.standard_error
                ),
                "params": report.num_params,
                "flops_per_item": report.flops_per_item,
            }
            for report in bench.model.reports()
        ),
    )


def run_unwritten(config: ExperimentConfig) -> tuple[ExperimentResult, Assembly]:
    """Run an experiment to its horizon without a run directory."""
    assembly = assemble(config)
    host_run, policy = assembly.host_run, assembly.policy
    while not host_run.is_finished:
        host_run.apply(policy.decide(host_run.observe()))
        host_run.train_epoch()
    test = host_run.finish()
    return summarise(config, assembly, test, None), assembly


def _run_unwritten(config: ExperimentConfig) -> ExperimentResult:
    result, assembly = run_unwritten(config)
    stages = {slot.state.slot: slot.state for slot in assembly.host_run.bench.model.each_slot()}
    reached = {stage for state in stages.values() for stage, _ in state.history}
    missing = {SeedStage.FOSSILIZED.value, SeedStage.CULLED.value} - reached
    if missing:
        raise ConfigError(f"the dry run never reached {', '.join(sorted(missing))}: give it more --epochs")
    return result


def _shorten(config: ExperimentConfig) -> ExperimentConfig:
    """Return the same experiment with a short horizon and gates that let a forced seed through."""
    host = config.host
    gates = replace(
        host.gates,
        min_incubation_epochs=1,
        min_gradient_ratio=0.0,
        min_probation_epochs=1,
        min_measurements=1,
        max_metric_drop=1e6,
        is_evidence_required=False,
    )
    lifecycle = replace(host.lifecycle, min_cull_age_epochs=1, embargo_epochs=1)
    epochs = 8 if host.epochs is None else host.epochs
    host = replace(host, gates=gates, lifecycle=lifecycle, epochs=epochs)
    return replace(config, host=host, policy="cycle")


def _write_results(config: ExperimentConfig, folder: RunFolder) -> None:
    write_summary(folder.path)
    if config.telemetry.has_report:
        write_report(folder.path)
