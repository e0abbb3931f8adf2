"""Writes the numbers of a run as an offline run of Weights & Biases: files only, never the network.

They go up when somebody runs `wandb sync` on them, by hand. Needs the extra `wandb`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, final

from esper.leyline import Event, JsonValue, PolicyTrainingStarted, RunStarted
from esper.nissa.backends.scalars import EPOCH_AXIS, STEP_AXIS, compute_scalars
from esper.nissa.record import Record

if TYPE_CHECKING:
    from wandb import Run

PROJECT = "esper-lite"
"""Project that a run belongs to once it is synchronised."""
_OFFLINE = (("WANDB_MODE", "offline"), ("WANDB_ERROR_REPORTING", "false"))
"""What its library and the process that it starts read from the environment; theirs is to send by default."""


@final
class WandbBackend:
    """Writes one offline run per attempt, below `wandb/` in the run's directory."""

    def __init__(self, run_dir: Path, run_id: str) -> None:
        """Start nothing yet.

        Args:
            run_dir: The run's directory.
            run_id: Name of the run; its attempts share it.
        """
        self._run_dir = run_dir
        self._run_id = run_id
        self._run: Run | None = None

    @property
    def name(self) -> str:
        """Always "wandb"."""
        return "wandb"

    def write(self, record: Record) -> None:
        """Log the numbers of one record, if it has any; the first record starts the offline run.

        Raises:
            ImportError: If wandb is not installed.
            Exception: What its library raises where it cannot start or write.
        """
        if self._run is None:
            self._run = self._start(record)
        event = record.event
        if isinstance(event, RunStarted | PolicyTrainingStarted):
            self._run.config.update(_describe(event), allow_val_change=True)  # type: ignore[no-untyped-call]
        scalars = compute_scalars(event)
        if scalars is not None:
            self._run.log({**scalars.values, scalars.axis: scalars.step})

    def flush(self, *, durable: bool = False) -> None:
        """Do nothing: its own process writes what it was given."""
        del durable

    def close(self) -> None:
        """Finish the offline run; a second call does nothing.

        Raises:
            Exception: What its library raises where it cannot finish.
        """
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    def _start(self, record: Record) -> Run:
        os.environ.update(_OFFLINE)  # before the import, which reads them
        import wandb  # noqa: PLC0415 - an extra

        run = wandb.init(
            project=PROJECT,
            dir=self._run_dir,
            id=self._run_id,
            name=self._run_dir.absolute().name,
            mode="offline",
            settings=wandb.Settings(
                silent=True,
                console="off",
                host="",
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        axis = STEP_AXIS if isinstance(record.event, PolicyTrainingStarted) else EPOCH_AXIS
        run.define_metric("*", step_metric=axis)
        return run


def _describe(event: Event) -> dict[str, JsonValue]:
    """Return what a run is, for its page."""
    facts: dict[str, JsonValue] = {}
    if isinstance(event, RunStarted):
        facts = {"policy": event.policy, "host_params": event.host_params, "slots": list(event.slots)}
    elif isinstance(event, PolicyTrainingStarted):
        facts = {
            "policy": "ppo",
            "num_envs": event.num_envs,
            "num_rounds": event.num_rounds,
            "num_parameters": event.num_parameters,
        }
    if isinstance(event, RunStarted | PolicyTrainingStarted):
        facts |= {"task": event.task, "seed": event.seed, "horizon_epochs": event.horizon_epochs}
    return facts
