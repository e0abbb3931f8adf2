"""Which runs a stage consists of, and one run from its key to its row.

```
calibrate  the arms that decide as they go, tuning seeds, middle rate, the task's epochs
           recalibrate: the same but for the heuristic, for the epochs that were found
tune       every arm, tuning seeds, three rates, within the budget    wave 0, then what needs it: wave 1
publish    every arm, seeds 0 to 9, at its rate, test split           wave 0, then wave 1
```
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from study_queue import FIRST_TUNING_SEED, Row

from esper.leyline import ConfigError, EsperError
from growth.arms import ARMS, CALIBRATED, GROWN, Arm, Budget, Kind
from growth.bill import Shape, count_plan_flops, find_affordable
from growth.own_arm import Fossils, OwnRun
from growth.peer_arm import WidthRun
from growth.settled import Settled
from growth.tasks import BenchTask

CAUGHT = (EsperError, ArithmeticError, AssertionError, RuntimeError, ValueError)
"""What a run may end in that counts against its arm; a mistake in this package is among them, and shows as a
failure in the table."""


class Stage(Enum):
    """What rows are for."""

    CALIBRATE = "calibrate"
    RECALIBRATE = "recalibrate"
    TUNE = "tune"
    PUBLISH = "publish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run."""

    stage: Stage
    arm: Arm
    learning_rate: float
    seed: int

    def key(self, task: str) -> Row:
        return {
            "stage": self.stage.value,
            "arm": self.arm.name,
            "task": task,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
        }


def list_jobs(
    stage: Stage,
    wave: int,
    task: BenchTask,
    settled: Settled | None,
    seeds: Sequence[int],
    arms: Sequence[str],
) -> list[Job]:
    """Return a stage's runs, those of a seed together.

    Args:
        stage: Which.
        wave: 0 = what stands for itself, 1 = what needs a row of wave 0.
        task: Its grid of rates is used for tuning.
        settled: Decisions so far; None while calibrating.
        seeds: Run seeds.
        arms: Names of the arms that are wanted.

    Raises:
        ConfigError: If an arm that is to be published has no rate yet.
    """
    if stage in (Stage.CALIBRATE, Stage.RECALIBRATE):
        wanted = [ARMS[name] for name in CALIBRATED if name in arms and name != GROWN and wave == 0]
        wanted += [ARMS[GROWN]] if stage is Stage.CALIBRATE and wave == 0 else []
        rates: dict[str, tuple[float, ...]] = {arm.name: (task.settings.default_rate,) for arm in wanted}
    else:
        wanted = [ARMS[name] for name in arms if ARMS[name].wave == wave]
        rates = {arm.name: _rates_of(stage, arm, task, settled) for arm in wanted}
    return [
        Job(stage=stage, arm=arm, learning_rate=rate, seed=seed)
        for seed in seeds
        for arm in wanted
        for rate in rates[arm.name]
    ]


def _rates_of(stage: Stage, arm: Arm, task: BenchTask, settled: Settled | None) -> tuple[float, ...]:
    if stage is Stage.TUNE:
        return task.settings.rates
    if settled is None or arm.name not in settled.learning_rates:
        raise ConfigError(
            f"task {task.name}, arm {arm.name}: no learning rate was settled; run the stage tune"
        )
    return (settled.learning_rates[arm.name],)


def grown_key(job: Job, task: str, settled: Settled) -> Row:
    """Return the key of the row that a job of wave 1 builds on: the same seed, at the rate settled for it."""
    if GROWN not in settled.learning_rates:
        raise ConfigError(f"task {task}: no learning rate of {GROWN} was settled; run wave 0 of tune")
    grown = Job(stage=job.stage, arm=ARMS[GROWN], learning_rate=settled.learning_rates[GROWN], seed=job.seed)
    return grown.key(task)


def count_epochs(job: Job, task: BenchTask, settled: Settled | None, fossils: Fossils) -> int:
    """Return for how many epochs a job trains, as its arm's budget says."""
    arm = job.arm
    if arm.budget is Budget.EPOCHS or job.stage is Stage.CALIBRATE:
        return task.settings.epochs
    assert settled is not None, "only calibration comes before a budget"
    if arm.budget is Budget.CALIBRATED:
        return settled.epochs[arm.name]
    if arm.budget is Budget.PLANNED:
        start = Shape(num_inputs=task.num_inputs, hidden=task.small, num_outputs=task.spec.num_outputs)

        def price(epochs: int) -> int:
            return count_plan_flops(start, task.big, epochs, num_items=task.num_train)

        return find_affordable(price, settled.budget_flops)
    per_epoch = build_own_run(job, task, epochs=1, fossils=fossils).epoch_flops()
    return find_affordable(lambda epochs: per_epoch * epochs, settled.budget_flops)


def build_own_run(job: Job, task: BenchTask, *, epochs: int, fossils: Fossils) -> OwnRun:
    return OwnRun(
        task=task,
        arm=job.arm.name,
        hidden=task.big if job.arm.is_big else task.small,
        learning_rate=job.learning_rate,
        seed=job.seed,
        epochs=epochs,
        fossils=fossils,
    )


def run_job(job: Job, task: BenchTask, settled: Settled | None, fossils: Fossils = ()) -> Row:
    """Run one job and return its row; a run that breaks down is a row, too.

    Args:
        job: What to run.
        task: Its task.
        settled: Decisions; None while calibrating.
        fossils: Of the row it builds on, for `Kind.STATIC`.
    """
    epochs = count_epochs(job, task, settled, fossils)
    row = job.key(task.name) | {
        "format": 1,
        "epochs": epochs,
        "budget_flops": None if settled is None else settled.budget_flops,
        "protocol_hash": task.settings.hash_protocol(),
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    started, cpu_started = time.monotonic(), time.process_time()
    try:
        shown = _run(job, task, epochs, fossils) | {"failure": None}
    except CAUGHT as error:
        shown = describe_failure(job, task, f"{type(error).__name__}: {error}"[:300])
    took: Row = {
        "seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time() - cpu_started,
    }
    # Only tables and pictures of the published runs read a curve.
    kept: Row = {} if job.stage is Stage.PUBLISH else {"curve": []}
    return row | shown | kept | took


def _run(job: Job, task: BenchTask, epochs: int, fossils: Fossils) -> Row:
    if job.arm.kind is Kind.WIDTH:
        return WidthRun(
            task=task,
            is_tiny=job.arm.is_tiny,
            is_momentum_kept=job.arm.is_momentum_kept,
            learning_rate=job.learning_rate,
            seed=job.seed,
            epochs=epochs,
        ).run()
    return build_own_run(job, task, epochs=epochs, fossils=fossils).run()


def describe_failure(job: Job, task: BenchTask, failure: str) -> Row:
    """Return a row of a run that learned nothing and reached nothing: it counts, it is not missing."""
    chance = 1.0 / task.spec.num_outputs
    is_published = job.seed < FIRST_TUNING_SEED
    params = task.params(task.big if job.arm.is_big else task.small)
    return {
        "failure": failure,
        "test_accuracy": chance if is_published else None,
        "test_loss": task.spec.chance_loss if is_published else None,
        "validation_accuracy": chance,
        "validation_loss": task.spec.chance_loss,
        "flops": {},
        "flops_total": 0,
        "params_final": params,
        "params_peak": params,
        "widths": None,
        "fossils": [],
        "num_grown": 0,
        "num_refused": 0,
        "num_kept": 0,
        "curve": [],
        "loss_jump": None,
        "change_jump": None,
        "growth_seconds": 0.0,
    }
