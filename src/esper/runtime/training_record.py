"""What a training leaves behind: events, checkpoints, results. Rank 0 writes; the others only take part.

```
start, say, tell  -> events
save_*, load      -> checkpoints: the record of one process, however many ranks it came from
finish            -> policy/ (weights and contract), training.json
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from esper.leyline import (
    AnomalyFound,
    Event,
    ForeignCheckpointError,
    JsonValue,
    Notice,
    PolicyTrainingStarted,
    PolicyUpdated,
    RunFinished,
    canonical_hash,
)
from esper.nissa import EventHub
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.fault_points import FaultPoints
from esper.runtime.round_facts import average_rounds, describe_episode, describe_growth, read_step
from esper.runtime.run_folder import RunFolder, replace_text
from esper.runtime.run_records import POLICY_FOLDER_NAME
from esper.runtime.run_saver import Place, RunSaver, Snapshot
from esper.runtime.training import TrainingAssembly, count_parameters
from esper.simic import RoundReport, join_rows
from esper.tamiyo import save_policy
from esper.tolaria import StateRecord

CHECKPOINT_KIND = "policy-training"
RESULT_NAME = "training.json"
_LAST_ROUNDS = 5


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a finished training comes to; means over its last rounds."""

    run_dir: Path
    policy_dir: Path
    task: str
    seed: int
    num_rounds: int
    num_env_steps: int
    num_parameters: int
    metrics: Mapping[str, float]
    """Metric -> mean over the last five rounds in which it was known."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "run_dir": str(self.run_dir),
            "policy_dir": str(self.policy_dir),
            "task": self.task,
            "seed": self.seed,
            "num_rounds": self.num_rounds,
            "num_env_steps": self.num_env_steps,
            "num_parameters": self.num_parameters,
            "metrics": dict(self.metrics),
        }


class TrainingRecord(Protocol):
    """Where one rank's share of a training is written to."""

    def load(self) -> StateRecord:
        """Return the newest valid checkpoint; an empty record on all ranks but 0."""

    def start(self, *, is_resumed: bool) -> None:
        """Tell that training begins."""

    def say(self, text: str) -> None:
        """Tell something to a person."""

    def tell(self, report: RoundReport) -> None:
        """Tell what a round brought on all ranks, and what became of saves."""

    def save_later(self, records: Sequence[StateRecord]) -> None:
        """Save the states of all ranks beside training."""

    def save_now(self, records: Sequence[StateRecord]) -> str | None:
        """Save them, wait, and return the name; None if that failed, or on all ranks but 0."""

    def stop(self) -> None:
        """Tell that training was interrupted."""

    def finish(self) -> TrainingResult | None:
        """Write policy and results; None on all ranks but 0."""


@final
class NoRecord:
    """What every rank but the first writes: nothing."""

    def load(self) -> StateRecord:
        """Return an empty record."""
        return StateRecord(tensors={}, state={})

    def start(self, *, is_resumed: bool) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def tell(self, report: RoundReport) -> None:
        """Do nothing."""

    def save_later(self, records: Sequence[StateRecord]) -> None:
        """Do nothing."""

    def save_now(self, records: Sequence[StateRecord]) -> str | None:
        """Return None."""
        return None

    def stop(self) -> None:
        """Do nothing."""

    def finish(self) -> TrainingResult | None:
        """Return None."""
        return None


@final
class WrittenRecord:
    """The record of a training that has a directory."""

    def __init__(
        self,
        config: ExperimentConfig,
        assembly: TrainingAssembly,
        folder: RunFolder,
        hub: EventHub,
        *,
        world_size: int,
        notices: Sequence[str] = (),
        points: FaultPoints,
    ) -> None:
        """Bind them; nothing is written yet.

        Args:
            config: The experiment.
            assembly: Of rank 0.
            folder: The run's, held.
            hub: Where events go.
            world_size: Number of ranks.
            notices: For a person, told at the start.
            points: Where a drill may strike while it saves.
        """
        self._config, self._assembly = config, assembly
        self._folder, self._hub = folder, hub
        self._trainer, self._world_size = assembly.trainer, world_size
        self._points = points
        self._notices = (*config.training.notices, *notices)
        self._saver = RunSaver(
            folder.checkpoints_path, hub, config.checkpoint, kind=CHECKPOINT_KIND, file_ops=points.file_ops
        )
        self._topology_hash = canonical_hash(
            {name: list(x.shape) for name, x in assembly.network.state_dict().items()}
        )
        self._rounds: list[dict[str, float]] = []
        self._num_env_steps = 0
        self._loaded_name = ""
        self._rewinds_to: int | None = None
        self._saver.clean()

    # ------------------------------------------------------------------ checkpoints

    def load(self) -> StateRecord:
        """See `TrainingRecord.load`.

        Raises:
            CheckpointError: If no valid checkpoint is left.
            ForeignCheckpointError: If it is of another policy.
        """
        loaded = self._saver.load()
        match loaded.record.state:
            case {
                "rounds": list(rounds),
                "num_env_steps": int(num_env_steps),
                "last_seq": int(last_seq),
            } if loaded.topology_hash == self._topology_hash:
                self._loaded_name = loaded.name
                self._rounds = [
                    {str(name): float(str(value)) for name, value in row.items()}
                    for row in rounds
                    if isinstance(row, dict)
                ]
                self._num_env_steps, self._rewinds_to = num_env_steps, last_seq
                return loaded.record
        raise ForeignCheckpointError(
            f"checkpoint {loaded.name} of {self._folder.path} holds no training of this policy"
        )

    def save_later(self, records: Sequence[StateRecord]) -> None:
        """See `TrainingRecord.save_later`; a failure is told, and the run goes on."""
        self._saver.save_later(self._place, lambda: self._join(records))

    def save_now(self, records: Sequence[StateRecord]) -> str | None:
        """See `TrainingRecord.save_now`."""
        return self._saver.save_now(self._place, lambda: self._join(records))

    def close(self) -> None:
        """Wait for what is being saved, and tell."""
        self._saver.close(self._trainer.round)

    @property
    def _place(self) -> Place:
        return Place(self._trainer.round, self._trainer.num_collected)

    def _join(self, records: Sequence[StateRecord]) -> Snapshot:
        joined = join_rows(records)
        state: dict[str, JsonValue] = {
            "training": joined.state,
            "num_ranks": self._world_size,
            "rounds": [dict(metrics) for metrics in self._rounds],
            "num_env_steps": self._num_env_steps,
        }
        return Snapshot(StateRecord(tensors=joined.tensors, state=state), self._topology_hash)

    # ------------------------------------------------------------------ telling

    def start(self, *, is_resumed: bool) -> None:
        """See `TrainingRecord.start`."""
        config = self._config
        self._hub.emit(
            PolicyTrainingStarted(
                epoch=self._trainer.round,
                task=config.task.name,
                seed=config.seed,
                num_envs=config.envs.num_envs,
                num_rounds=config.training.num_updates,
                horizon_epochs=self._assembly.horizon_epochs,
                num_parameters=count_parameters(self._assembly.network),
                is_resumed=is_resumed,
                rewinds_to_seq=self._rewinds_to,
                heads=self._assembly.envs.sizes.heads,
            )
        )
        self._points.announce(self._hub, self._trainer.round)
        for text in self._notices:
            self.say(text)
        for name in self._saver.passed_over:
            self.say(f"checkpoint {name} is damaged; going on from {self._loaded_name}")

    def say(self, text: str) -> None:
        """See `TrainingRecord.say`."""
        self._hub.emit(Notice(epoch=self._trainer.round, text=text))

    def tell(self, report: RoundReport) -> None:
        """See `TrainingRecord.tell`."""
        metrics = dict(report.metrics) | describe_growth(report.episodes)
        self._rounds.append(metrics)
        self._num_env_steps = report.num_env_steps
        events: list[Event] = [event for step in report.told for event in read_step(step, report.round)]
        events += [describe_episode(episode, report.round) for episode in report.episodes]
        events += [
            Notice(epoch=report.round, text=f"{row.name} left out from step {row.step} on: {row.reason}")
            for row in report.quarantined
        ]
        events.append(PolicyUpdated(epoch=report.round, num_env_steps=report.num_env_steps, metrics=metrics))
        events += [
            AnomalyFound(
                epoch=report.round,
                name=finding.name,
                value=finding.value,
                threshold=finding.threshold,
                advice=finding.advice,
            )
            for finding in report.findings
        ]
        for event in events:
            self._hub.emit(event)
        self._saver.tell(report.round)

    def stop(self) -> None:
        """See `TrainingRecord.stop`."""
        self._hub.emit(RunFinished(epoch=self._trainer.round, reason="interrupted"))

    def finish(self) -> TrainingResult | None:
        """See `TrainingRecord.finish`."""
        policy_dir = self._folder.path / POLICY_FOLDER_NAME
        result = TrainingResult(
            run_dir=self._folder.path,
            policy_dir=policy_dir,
            task=self._config.task.name,
            seed=self._config.seed,
            num_rounds=self._trainer.round,
            num_env_steps=self._num_env_steps,
            num_parameters=count_parameters(self._assembly.network),
            metrics=average_rounds(self._rounds[-_LAST_ROUNDS:]),
        )
        facts = result.to_json()
        del facts["run_dir"], facts["policy_dir"]
        save_policy(
            policy_dir, self._assembly.network, self._assembly.network_config, metadata={"training": facts}
        )
        text = json.dumps(facts | {"rounds": [dict(row) for row in self._rounds]}, indent=1, sort_keys=True)
        replace_text(self._folder.path / RESULT_NAME, text + "\n")
        self._hub.emit(RunFinished(epoch=self._trainer.round, reason="horizon"))
        return result
