"""Growth against its peers at equal FLOPs: calibrates, tunes, publishes; every run is one row, resumable.

    python benchmarks/peer_study.py --tier standard        all stages, two processes of one thread each
    python benchmarks/peer_study.py --tier smoke           four arms on digits, two seeds, seconds
    python benchmarks/peer_study.py --stage tune --wave 0 --tasks digits --shard 0/2      a share of a stage

Rows that exist are not run again. What tuning has decided lies in benchmarks/growth/settled.json, or beside
the rows where these go to another folder; stage publish reads it and decides nothing. Arms that widen need
the extra `peers`. Seeds from 1000 on are for tuning, their rows hold validation results only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from growth.arms import ARM_NAMES, SMOKE_ARMS, Kind
from growth.jobs import Job, Stage, grown_key, list_jobs, run_job
from growth.peer_arm import require_library
from growth.settled import (
    Settled,
    read_settled,
    settle_budget,
    settle_epochs,
    settle_rates,
    write_settled,
)
from growth.tasks import TASK_NAMES, BenchTask, find_settings, load_bench_task
from growth_study import read_fossils
from study_queue import Row, append_row, find_row, parse_seeds, parse_shard, read_rows

from esper.leyline import ConfigError, EsperError

if TYPE_CHECKING:
    from growth.own_arm import Fossils

RESULTS = Path(__file__).parent / "results"
SETTLED = Path(__file__).parent / "growth" / "settled.json"
TUNING_SEEDS, PUBLISHED_SEEDS = "1000-1002", "0-9"
SMOKE_EPOCHS = 12
NUM_SHARDS = 2
SETTLING = tuple(stage.value for stage in Stage if stage is not Stage.PUBLISH)
STEPS = (
    (Stage.CALIBRATE, 0),
    (Stage.RECALIBRATE, 0),
    (Stage.TUNE, 0),
    (Stage.TUNE, 1),
    (Stage.PUBLISH, 0),
    (Stage.PUBLISH, 1),
)
"""Stages and waves in order; after each but the published ones something is settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a tier runs, and where it goes."""

    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    tuning_seeds: tuple[int, ...]
    published_seeds: tuple[int, ...]
    epochs: int | None
    """None = each task's own."""
    results: Path

    @property
    def settled_path(self) -> Path:
        """Decisions lie beside rows that are not the committed ones."""
        return SETTLED if self.results == RESULTS else self.results / "settled.json"

    def rows_path(self, task: str) -> Path:
        return self.results / f"peer_{task}.jsonl"

    def load(self, task: str) -> BenchTask:
        return load_bench_task(find_settings(task, epochs=self.epochs))

    def seeds(self, stage: Stage) -> tuple[int, ...]:
        return self.published_seeds if stage is Stage.PUBLISH else self.tuning_seeds

    def flags(self) -> list[str]:
        """Return the command line that another process needs to follow the same plan."""
        shown = ["--tasks", *self.tasks, "--arms", *self.arms, "--results", str(self.results)]
        shown += ["--tuning-seeds", ",".join(map(str, self.tuning_seeds))]
        shown += ["--seeds", ",".join(map(str, self.published_seeds))]
        return shown if self.epochs is None else [*shown, "--epochs", str(self.epochs)]


def find_settled(plan: Plan, known: dict[str, Settled], task: str) -> Settled:
    """Return what was settled for a task.

    Raises:
        ConfigError: If nothing was.
    """
    if task not in known:
        raise ConfigError(f"{plan.settled_path}: nothing is settled for {task}: run the stage calibrate")
    return known[task]


def find_fossils(plan: Plan, task: BenchTask, job: Job, settled: Settled) -> Fossils:
    """Return the seeds that the grown network of the same seed had kept.

    Raises:
        ConfigError: If there is no such row.
    """
    key = grown_key(job, task.name, settled)
    row = find_row(plan.rows_path(task.name), key, task.settings.hash_protocol())
    if row is None:
        raise ConfigError(f"{job.key(task.name)} needs the row {key}: run wave 0 first")
    return read_fossils(row)


def find_done(plan: Plan, task: BenchTask, job: Job, settled: Settled | None) -> Row | None:
    """Return the finished row of a job.

    Raises:
        ValueError: If it was run under another budget: tables never mix two.
    """
    row = find_row(plan.rows_path(task.name), job.key(task.name), task.settings.hash_protocol())
    budget = None if settled is None else settled.budget_flops
    if row is not None and row["budget_flops"] != budget:
        raise ValueError(
            f"{plan.rows_path(task.name)}: {job.key(task.name)} was run within {row['budget_flops']} "
            f"FLOPs, the settled budget is {budget}; give those rows another folder with --results"
        )
    return row


def list_missing(
    plan: Plan, stage: Stage, wave: int, task: BenchTask, settled: Settled | None, shard: tuple[int, int]
) -> list[Job]:
    """Return those runs of a share of a stage's wave that have no row yet."""
    index, count = shard
    jobs = list_jobs(stage, wave, task, settled, plan.seeds(stage), plan.arms)
    return [job for job in jobs[index::count] if find_done(plan, task, job, settled) is None]


def load_task(plan: Plan, stage: Stage, name: str) -> tuple[BenchTask, Settled | None]:
    """Return a task and what a stage may know of it: calibration knows of no decision."""
    known = read_settled(plan.settled_path)
    return plan.load(name), None if stage is Stage.CALIBRATE else find_settled(plan, known, name)


def is_missing(plan: Plan, stage: Stage, wave: int) -> bool:
    """Whether any run of a stage's wave has no row yet."""
    found = (list_missing(plan, stage, wave, *load_task(plan, stage, name), (0, 1)) for name in plan.tasks)
    return any(found)


def work(plan: Plan, stage: Stage, wave: int, shard: tuple[int, int]) -> None:
    """Run what is missing of a share of a stage's wave."""
    for name in plan.tasks:
        task, settled = load_task(plan, stage, name)
        missing = list_missing(plan, stage, wave, task, settled, shard)
        if any(job.arm.kind is Kind.WIDTH for job in missing):
            require_library()
        for job in missing:
            is_static = job.arm.kind is Kind.STATIC
            fossils = find_fossils(plan, task, job, settled) if is_static and settled else ()
            row = run_job(job, task, settled, fossils)
            append_row(plan.rows_path(name), row)
            print(describe(row), flush=True)


def describe(row: Row) -> str:
    accuracy = row["test_accuracy"] if row["test_accuracy"] is not None else row["validation_accuracy"]
    outcome = f"accuracy {float(str(accuracy)):.4f}" if row["failure"] is None else f"FAILED {row['failure']}"
    return (
        f"{row['stage']} {row['task']} seed {row['seed']:<5} lr {row['learning_rate']:<8g} {row['arm']:<19} "
        f"{outcome} params {row['params_final']} GFLOP {int(str(row['flops_total'])) / 1e9:.3f} "
        f"epochs {row['epochs']} CPU seconds {float(str(row['cpu_seconds'])):.1f}"
    )


def settle(plan: Plan, stage: Stage) -> None:
    """Decide what a finished stage was run for, and write it down."""
    known = read_settled(plan.settled_path)
    for name in plan.tasks:
        rows = [row for row in read_rows(plan.rows_path(name)) if row["stage"] == stage.value]
        if stage is Stage.CALIBRATE:
            found = settle_budget(rows, plan.arms)
            # What was settled within the same budget stays.
            is_same = name in known and known[name].budget_flops == found.budget_flops
            known[name] = known[name] if is_same else found
        elif stage is Stage.RECALIBRATE:
            settle_epochs(find_settled(plan, known, name), rows)
        elif stage is Stage.TUNE:
            settle_rates(find_settled(plan, known, name), rows)
    write_settled(plan.settled_path, known)


def run_all(plan: Plan, num_shards: int) -> int:
    """Run every step, then settle what it was for; return the first exit code that is not 0."""
    for stage, wave in STEPS:
        if num_shards == 1:
            work(plan, stage, wave, (0, 1))
        elif any(
            list_missing(plan, stage, wave, *load_task(plan, stage, name), (0, 1)) for name in plan.tasks
        ):
            codes = run_shards(plan, stage, wave, num_shards)
            if any(codes):
                print(f"stage {stage.value}, wave {wave}: workers ended with {codes}", file=sys.stderr)
                return next(code for code in codes if code)
        if stage is not Stage.PUBLISH:
            settle(plan, stage)
    return 0


def run_shards(plan: Plan, stage: Stage, wave: int, num_shards: int) -> list[int]:
    """Run a step in processes of one thread each and return their exit codes."""
    command = [sys.executable, __file__, "--stage", stage.value, "--wave", str(wave), *plan.flags()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, "--shard", f"{index}/{num_shards}"], env=environment)
        for index in range(num_shards)
    ]
    return [worker.wait() for worker in workers]


def build_plan(options: argparse.Namespace) -> Plan:
    is_smoke = options.tier == "smoke"
    return Plan(
        tasks=tuple(options.tasks or (("digits",) if is_smoke else TASK_NAMES)),
        arms=tuple(options.arms or (SMOKE_ARMS if is_smoke else ARM_NAMES)),
        tuning_seeds=options.tuning_seeds or parse_seeds("1000" if is_smoke else TUNING_SEEDS),
        published_seeds=options.seeds or parse_seeds("0-1" if is_smoke else PUBLISHED_SEEDS),
        epochs=options.epochs or (SMOKE_EPOCHS if is_smoke else None),
        results=options.results or (Path("build/peer_smoke") if is_smoke else RESULTS),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Growth against its peers, one JSON line per run.")
    parser.add_argument("--tier", choices=("smoke", "standard"), default="standard")
    parser.add_argument("--stage", choices=[stage.value for stage in Stage], help="one stage only, in here")
    parser.add_argument("--wave", type=int, choices=(0, 1), default=0, help="of that stage")
    parser.add_argument("--shard", default=(0, 1), type=parse_shard, help="INDEX/COUNT of that stage's runs")
    parser.add_argument("--settle", choices=SETTLING, help="only decide from that stage's rows")
    parser.add_argument("--tasks", nargs="+", choices=TASK_NAMES)
    parser.add_argument("--arms", nargs="+", choices=ARM_NAMES)
    parser.add_argument("--tuning-seeds", type=parse_seeds)
    parser.add_argument("--seeds", type=parse_seeds, help="published ones")
    parser.add_argument("--epochs", type=int, help="of the arms that are not matched by FLOPs")
    parser.add_argument("--results", type=Path, help="folder of the rows files")
    parser.add_argument("--processes", type=int, default=NUM_SHARDS)
    options = parser.parse_args(arguments)
    plan = build_plan(options)
    torch.set_num_threads(1)
    try:
        if options.settle is not None:
            settle(plan, Stage(options.settle))
        elif options.stage is not None:
            work(plan, Stage(options.stage), options.wave, options.shard)
        else:
            return run_all(plan, options.processes)
    except (EsperError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
