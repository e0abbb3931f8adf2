"""Open, loop, close: the training of one policy, from its configuration to its policy on disk.

```
build data, hosts, network   everything that can be refused is refused before anything is written
run directory                config.toml, meta.json before step 0; lock held
loop                         rounds; a checkpoint when due, or at the very step at which a signal asks
finish                       last checkpoint, policy/ (weights and contract), training.json
```
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import final

from esper.leyline import (
    AnomalyFound,
    CheckpointError,
    CheckpointFailed,
    CheckpointSaved,
    ConfigError,
    EpisodeFinished,
    Event,
    ForeignCheckpointError,
    InterruptedRunError,
    JsonValue,
    Notice,
    PolicyTrainingStarted,
    PolicyUpdated,
    RunFinished,
    canonical_hash,
)
from esper.nissa import EventHub, build_hub
from esper.runtime.config_file import render_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.imitating import check_teachers, describe_imitation, start_by_imitation
from esper.runtime.resuming import refuse_changes
from esper.runtime.run_folder import RunFolder, RunOrigin, default_run_path, replace_text
from esper.runtime.run_records import POLICY_FOLDER_NAME, RUNS_ROOT
from esper.runtime.shutdown import StopSignal
from esper.runtime.training import TrainingAssembly, assemble_training, count_parameters
from esper.simic import FinishedEpisode, RoundReport
from esper.tamiyo import save_policy
from esper.tolaria import CheckpointStore, StateRecord, checkpoint_name

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


def train_policy(
    config: ExperimentConfig,
    *,
    run_dir: Path | None,
    provenance: Mapping[str, str],
    resume: bool = False,
    argv: Sequence[str] = (),
) -> TrainingResult:
    """Train one policy to its last round.

    Args:
        config: The whole experiment.
        run_dir: Where to write; None chooses a new directory below `runs/`. For a resume: the run.
        provenance: Dotted key -> where its value came from; written beside the configuration.
        resume: Go on from the newest valid checkpoint of `run_dir`.
        argv: Command line, for the record.

    Raises:
        EsperError: Refused input, an unusable data set or checkpoint, no usable environment.
        InterruptedRunError: A signal stopped the run after its checkpoint was saved.
    """
    assembly = assemble_training(config)
    check_teachers(config)
    origin = RunOrigin(task=config.task.name, policy=config.policy, seed=config.seed, argv=tuple(argv))
    if resume:
        if run_dir is None:
            raise ConfigError("resume needs the directory of the run")
        refuse_changes(run_dir, config)
        folder = RunFolder.open(run_dir)
    else:
        path = default_run_path(RUNS_ROOT, origin, datetime.now()) if run_dir is None else run_dir
        folder = RunFolder.create(path, config_text=render_config(config, provenance), origin=origin)
    with folder, StopSignal() as stop:
        hub = build_hub(
            config.telemetry,
            run_id=folder.run_id,
            stream=sys.stderr,
            environ=os.environ,
            directory=folder.path,
        )
        try:
            return _WrittenTraining(config, assembly, folder, hub).run(stop, is_resumed=resume)
        finally:
            hub.close()


@final
class _WrittenTraining:
    """One attempt at a training that has a directory."""

    def __init__(
        self, config: ExperimentConfig, assembly: TrainingAssembly, folder: RunFolder, hub: EventHub
    ) -> None:
        self._config = config
        self._assembly = assembly
        self._trainer = assembly.trainer
        self._folder = folder
        self._hub = hub
        self._store = CheckpointStore(
            folder.checkpoints_path,
            kind=CHECKPOINT_KIND,
            esper_version=version("esper-lite"),
            keep=config.checkpoint.keep,
        )
        self._topology_hash = canonical_hash(
            {name: list(x.shape) for name, x in assembly.network.state_dict().items()}
        )
        self._rounds: list[dict[str, float]] = []
        self._num_env_steps = 0
        self._num_failures = 0
        self._loaded_name: str | None = None
        self._passed_over: tuple[str, ...] = ()

    def run(self, stop: StopSignal, *, is_resumed: bool) -> TrainingResult:
        self._store.clean()
        rewinds_to = self._load() if is_resumed else None
        self._hub.emit(self._describe_start(rewinds_to, is_resumed=is_resumed))
        texts = list(self._config.training.notices)
        texts += [
            f"checkpoint {name} is damaged; going on from {self._loaded_name}" for name in self._passed_over
        ]
        for text in texts:
            self._hub.emit(Notice(epoch=self._trainer.round, text=text))
        if not is_resumed:
            self._imitate()
        self._loop(stop)
        self._save()
        result = self._write_results()
        self._hub.emit(RunFinished(epoch=self._trainer.round, reason="horizon"))
        return result

    def _imitate(self) -> None:
        """Start by imitation, if asked for; what a checkpoint holds has it behind it."""
        start = start_by_imitation(self._config, self._assembly)
        if start is not None:
            self._hub.emit(Notice(epoch=0, text=describe_imitation(start)))

    def _loop(self, stop: StopSignal) -> None:
        every = self._config.checkpoint.every_epochs
        while not self._trainer.is_finished:
            report = None
            if not stop():
                self._loaded_name = None
                report = self._trainer.run_round(stop)
            if report is not None:
                self._tell(report)
            if stop() and not self._trainer.is_finished:
                saved = self._save()
                self._hub.emit(RunFinished(epoch=self._trainer.round, reason="interrupted"))
                what = f"saved {saved}" if saved else "this place could NOT be saved, an older one is kept"
                raise InterruptedRunError(
                    f"stopped by a signal; {what}; go on: esper train --resume {self._folder.path}",
                    stop.exit_code,
                )
            if every and self._trainer.round % every == 0 and not self._trainer.is_finished:
                self._save()

    # ------------------------------------------------------------------ telling

    def _describe_start(self, rewinds_to: int | None, *, is_resumed: bool) -> PolicyTrainingStarted:
        return PolicyTrainingStarted(
            epoch=self._trainer.round,
            task=self._config.task.name,
            seed=self._config.seed,
            num_envs=self._config.envs.num_envs,
            num_rounds=self._config.training.num_updates,
            horizon_epochs=self._assembly.horizon_epochs,
            num_parameters=count_parameters(self._assembly.network),
            is_resumed=is_resumed,
            rewinds_to_seq=rewinds_to,
        )

    def _tell(self, report: RoundReport) -> None:
        metrics = dict(report.metrics) | describe_growth(report.episodes)
        self._rounds.append(metrics)
        self._num_env_steps = report.num_env_steps
        events: list[Event] = [describe_episode(episode, report.round) for episode in report.episodes]
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

    # ------------------------------------------------------------------ saving

    def _save(self) -> str | None:
        """Save under the name of this place and return it, or None if that failed, which is reported."""
        trainer = self._trainer
        name = checkpoint_name(trainer.round, trainer.num_collected)
        if name == self._loaded_name:  # nothing was trained since: it is there already
            return name
        self._hub.flush(durable=True)
        record = trainer.state()
        state: dict[str, JsonValue] = {
            "training": record.state,
            "rounds": [dict(metrics) for metrics in self._rounds],
            "num_env_steps": self._num_env_steps,
            "last_seq": self._hub.next_seq - 1,
        }
        try:
            saved = self._store.save(
                name,
                StateRecord(tensors=record.tensors, state=state),
                topology_hash=self._topology_hash,
            )
        except CheckpointError as error:
            self._num_failures += 1
            self._hub.emit(
                CheckpointFailed(
                    epoch=trainer.round, name=name, error=str(error), num_failures=self._num_failures
                )
            )
            return None
        self._hub.emit(CheckpointSaved(epoch=trainer.round, name=saved.name, num_bytes=saved.num_bytes))
        return name

    def _load(self) -> int:
        loaded = self._store.load()
        self._loaded_name, self._passed_over = loaded.name, tuple(map(str, loaded.rejected))
        match loaded.record.state:
            case {
                "training": dict(training),
                "rounds": list(rounds),
                "num_env_steps": int(num_env_steps),
                "last_seq": int(last_seq),
            } if loaded.topology_hash == self._topology_hash:
                self._trainer.restore(StateRecord(tensors=loaded.record.tensors, state=training))
                self._rounds = [
                    {str(name): float(str(value)) for name, value in row.items()}
                    for row in rounds
                    if isinstance(row, dict)
                ]
                self._num_env_steps = num_env_steps
                return last_seq
        raise ForeignCheckpointError(
            f"checkpoint {loaded.name} of {self._folder.path} holds no training of this policy"
        )

    def _write_results(self) -> TrainingResult:
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
        return result


# ---------------------------------------------------------------------- what episodes come to


def describe_growth(episodes: Sequence[FinishedEpisode]) -> dict[str, float]:
    """Return means over the hosts of a round: what growth brought, what it kept, what it spent."""
    facts = [episode.facts for episode in episodes if episode.facts]
    if not facts:
        return {}

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    def number(name: str) -> list[float]:
        return [float(str(fact[name])) for fact in facts]

    fossils = number("num_fossils")
    pairs = zip(number("metric"), number("never_metric"), strict=True)
    spent = zip(number("flops_spent"), number("never_grow_flops"), strict=True)
    sizes = zip(number("added_params"), number("host_params"), strict=True)
    return {
        "rollout/gain_mean": mean([metric - never for metric, never in pairs]),
        "rollout/fossils_mean": mean(fossils),
        "rollout/fossilize_rate": mean([float(count > 0) for count in fossils]),
        "rollout/flops_ratio_mean": mean([flops / never for flops, never in spent]),
        "rollout/growth_mean": mean([added / host for added, host in sizes]),
        "rollout/failure_rate": mean([float(fact["reason"] != "horizon") for fact in facts]),
    }


def describe_episode(episode: FinishedEpisode, round_number: int) -> EpisodeFinished:
    """Return the event of one host that was grown."""
    facts = episode.facts
    ops = facts["ops"]
    assert isinstance(ops, Mapping)
    return EpisodeFinished(
        epoch=round_number,
        instance=int(str(facts["instance"])),
        env_id=int(str(facts["env_id"])),
        reason=str(facts["reason"]),
        total_reward=episode.total_reward,
        num_steps=episode.num_steps,
        metric=float(str(facts["metric"])),
        never_metric=float(str(facts["never_metric"])),
        added_params=int(str(facts["added_params"])),
        host_params=int(str(facts["host_params"])),
        flops_spent=int(str(facts["flops_spent"])),
        never_grow_flops=int(str(facts["never_grow_flops"])),
        num_fossils=int(str(facts["num_fossils"])),
        num_refused=int(str(facts["num_refused"])),
        ops={str(op): int(str(count)) for op, count in ops.items()},
    )


def average_rounds(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each metric's mean over the rounds in which it was known."""
    names = sorted({name for row in rounds for name in row})
    known = {name: [row[name] for row in rounds if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in known.items()}
