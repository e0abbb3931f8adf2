"""Open, loop, close: the training of one policy, from its configuration to its policy on disk.

```
build data, hosts, network   everything that can be refused is refused before anything is written
run directory                config.toml, meta.json before step 0; lock held; by rank 0 alone
loop                         rounds; a checkpoint when due, or at the step at which a rank is asked to stop
finish                       last checkpoint, policy/ (weights and contract), training.json
```
Every process of a training walks through the same loop; one process is a training with one rank.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn, final

from esper.leyline import (
    ConfigError,
    ExitCode,
    ForeignCheckpointError,
    RanksDisagreeError,
    canonical_hash,
)
from esper.nissa import build_hub
from esper.runtime.config_file import leaf_values, render_config
from esper.runtime.disk_estimate import check_training_disk
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.fault_plan import FaultPlan
from esper.runtime.fault_points import FaultPoints
from esper.runtime.imitating import check_teachers, describe_imitation, start_by_imitation
from esper.runtime.life_sharing import share_lives
from esper.runtime.rank_records import join_reports, pack_record, pack_report, unpack_record
from esper.runtime.ranks.lone import LoneRank, Ranks
from esper.runtime.resuming import refuse_changes, refuse_other_size
from esper.runtime.run_folder import RunFolder, RunOrigin, default_run_path
from esper.runtime.run_records import RUNS_ROOT
from esper.runtime.run_stop import SAVED_BY_FIRST, RunStop, TimeLimit, describe_save, describe_stop
from esper.runtime.shutdown import StopSignal
from esper.runtime.training import TrainingAssembly, assemble_training
from esper.runtime.training_record import NoRecord, TrainingRecord, TrainingResult, WrittenRecord
from esper.simic import RoundReport, count_rows, pick_rows
from esper.tolaria import FleetConfig, StateRecord

_OF_ONE_RANK = ("host.device", "telemetry.", "task.data_dir")
"""Settings in which ranks may differ: they stand on machines of their own."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What is to be trained, and where it is written.

    Example:
        TrainingRequest(config=config, run_dir=Path("runs/a"), provenance={}, is_resumed=False)
    """

    config: ExperimentConfig
    run_dir: Path
    """A new directory; for a resume the run."""
    provenance: Mapping[str, str]
    """Dotted key -> where its value came from; written beside the configuration."""
    is_resumed: bool = False
    argv: tuple[str, ...] = ()
    """Command line, for the record."""
    points: FaultPoints = field(default_factory=lambda: FaultPoints(FaultPlan()))
    """Where a drill may strike in this process."""

    given: ExperimentConfig | None = None
    """The settings as they were given, where `config` names the device of one rank; None = `config`."""

    @property
    def settings(self) -> ExperimentConfig:
        """What is written and compared: that of all ranks."""
        return self.config if self.given is None else self.given

    def with_fleet(self, fleet: FleetConfig) -> TrainingRequest:
        """Return the request with the fleet that was chosen, for whoever goes on with the run."""
        given = None if self.given is None else replace(self.given, fleet=fleet)
        return replace(self, config=replace(self.config, fleet=fleet), given=given)

    @property
    def origin(self) -> RunOrigin:
        """What the run is started with."""
        config = self.config
        return RunOrigin(task=config.task.name, policy=config.policy, seed=config.seed, argv=self.argv)


def train_policy(
    config: ExperimentConfig,
    *,
    run_dir: Path | None,
    provenance: Mapping[str, str],
    resume: bool = False,
    argv: Sequence[str] = (),
) -> TrainingResult:
    """Train one policy to its last round, in this process.

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
    if run_dir is None:
        if resume:
            raise ConfigError("resume needs the directory of the run")
        origin = RunOrigin(task=config.task.name, policy=config.policy, seed=config.seed)
        run_dir = default_run_path(RUNS_ROOT, origin, datetime.now())
    request = TrainingRequest(
        config=config,
        run_dir=run_dir,
        provenance=provenance,
        is_resumed=resume,
        argv=tuple(argv),
        points=FaultPoints(FaultPlan.from_environ(os.environ)),
    )
    result = train_among_ranks(request, LoneRank())
    assert result is not None, "rank 0 writes the results"
    return result


def train_among_ranks(request: TrainingRequest, ranks: Ranks) -> TrainingResult | None:
    """Train one policy to its last round, as one of its ranks; all ranks call it.

    Returns:
        The result on rank 0, None on the others.

    Raises:
        EsperError: Refused input, an unusable data set or checkpoint, no usable environment, a failed rank.
        InterruptedRunError: A signal to any rank stopped the run after its checkpoint was saved.
    """
    config = request.config
    limit = TimeLimit(config.checkpoint.max_hours)
    refuse_other_settings(config, ranks)
    assembly = assemble_training(config, ranks, request.points)
    request = request.with_fleet(assembly.envs.fleet)
    try:
        check_teachers(config)
        with StopSignal() as signals, _open_record(request, assembly, ranks) as record:
            return _Training(request, assembly, ranks, record, RunStop(signals, limit)).run()
    finally:
        assembly.env.close()  # its hosts may live in processes of their own


def refuse_other_settings(config: ExperimentConfig, ranks: Ranks) -> None:
    """Refuse to train together with ranks that were started with other settings.

    Raises:
        RanksDisagreeError: On all ranks, if one differs in more than its device, data folder or telemetry.
    """
    shared = {key: str(x) for key, x in leaf_values(config) if not key.startswith(_OF_ONE_RANK)}
    if not ranks.collective.all_agree(canonical_hash(dict(shared))):
        raise RanksDisagreeError("ranks were started with different settings; give all the same command line")


@contextmanager
def _open_record(
    request: TrainingRequest, assembly: TrainingAssembly, ranks: Ranks
) -> Iterator[TrainingRecord]:
    """Hold the run directory while training; only rank 0 has it."""
    if ranks.collective.rank > 0:
        yield NoRecord()
        return
    config = request.config
    if request.is_resumed:
        refuse_changes(request.run_dir, request.settings)
        folder = RunFolder.open(request.run_dir)
        notices: tuple[str, ...] = ()
    else:
        notices = check_training_disk(config, assembly.trainer.state(), request.run_dir)
        text = render_config(request.settings, request.provenance)
        folder = RunFolder.create(request.run_dir, config_text=text, origin=request.origin)
    with folder:
        hub = build_hub(
            config.telemetry,
            run_id=folder.run_id,
            stream=sys.stderr,
            environ=os.environ,
            directory=folder.path,
            watchers=request.points.backends,
        )
        try:
            size = ranks.collective.world_size
            record = WrittenRecord(
                config,
                assembly,
                folder,
                hub,
                world_size=size,
                notices=notices,
                points=request.points,
            )
            try:
                yield record
            finally:
                record.close()
        finally:
            hub.close()


@final
class _Training:
    """One attempt at a training, as one rank walks through it."""

    def __init__(
        self,
        request: TrainingRequest,
        assembly: TrainingAssembly,
        ranks: Ranks,
        record: TrainingRecord,
        stop: RunStop,
    ) -> None:
        self._request, self._config = request, request.config
        self._assembly, self._trainer = assembly, assembly.trainer
        self._ranks, self._collective = ranks, ranks.collective
        self._record, self._stop = record, stop

    def run(self) -> TrainingResult | None:
        request = self._request
        if request.is_resumed:
            self._load()
        self._record.start(is_resumed=request.is_resumed)
        choice = self._assembly.envs.fleet_choice
        for line in () if choice is None else choice.describe():
            self._record.say(line)
        if not request.is_resumed:
            self._imitate()
        self._loop()
        self._record.save_now(self._gather_states())
        result = self._record.finish()
        self._ranks.barrier()
        return result

    def _imitate(self) -> None:
        """Start by imitation, if asked for; what a checkpoint holds has it behind it."""
        self._ranks.enter("imitation", 0)
        start = start_by_imitation(self._config, self._assembly, self._collective)
        if start is not None:
            self._record.say(describe_imitation(start))
        # Ranks compute alike, but not on machines of different kinds.
        self._ranks.broadcast_module(self._assembly.network)

    def _loop(self) -> None:
        trainer, every = self._trainer, self._config.checkpoint.every_epochs
        while not trainer.is_finished:
            if self._pause() and trainer.num_collected:
                self._assembly.pace.go_on()
            self._meet_hosts()
            self._ranks.enter("rollout", trainer.round)
            report = trainer.run_round(self._request.points.ask(self._should_pause))
            if report is None:  # all ranks stand at the same step, and agree above on why
                continue
            self._tell(report)
            if every and trainer.round % every == 0 and not trainer.is_finished:
                self._record.save_later(self._gather_states())

    def _pause(self) -> bool:
        """Let all ranks agree on whether to leave or only to save here; return whether they saved and go on.

        Raises:
            InterruptedRunError: If any rank is to leave.
        """
        stop = self._stop
        mine = (stop(), stop.is_time_over, stop.exit_code, stop.take_save_request())
        leaves, is_time_over, exit_code, saves = self._collective.all_max([float(flag) for flag in mine])
        if leaves:
            self._leave(ExitCode(int(exit_code)), is_time_over=bool(is_time_over))
        if saves:
            self._record.save_later(self._gather_states())
        return bool(saves)

    def _meet_hosts(self) -> None:
        """Train the never-grown lives of the hosts that the next rollouts begin with, shared among ranks."""
        if self._trainer.num_collected == 0:
            self._ranks.enter("lives", self._trainer.round)
            assembly = self._assembly
            share_lives(assembly.envs.never_runs, assembly.env.find_next_instances(), self._collective)

    def _should_pause(self) -> bool:
        trainer, is_wanted = self._trainer, self._stop.pauses()
        self._ranks.enter("rollout", trainer.round)
        return self._assembly.pace.should_stop(is_wanted, trainer.num_collected, trainer.round)

    def _leave(self, exit_code: ExitCode, *, is_time_over: bool) -> NoReturn:
        """Save this place and end.

        Raises:
            InterruptedRunError: Always.
        """
        saved = self._record.save_now(self._gather_states())
        hours = self._config.checkpoint.max_hours
        reason = f"after {hours:g} hours (checkpoint.max_hours)" if is_time_over else "by a signal"
        if is_time_over:
            self._record.say(f"stopped {reason}")
        self._record.stop()
        self._ranks.barrier()  # a launcher ends the other ranks when the first has left
        what = describe_save(saved) if self._collective.rank == 0 else SAVED_BY_FIRST
        size = self._collective.world_size
        raise describe_stop(reason, what, self._request.run_dir, exit_code, size)

    def _tell(self, report: RoundReport) -> None:
        mine = pack_report(report, self._assembly.env_ids.start)
        self._record.tell(join_reports(report, self._collective.gather_bytes(mine)))

    # ------------------------------------------------------------------ saved states

    def _gather_states(self) -> list[StateRecord]:
        """Return the states of all ranks as they are now; nobody writes into them."""
        self._ranks.enter("save", self._trainer.round)
        states = self._collective.gather_bytes(pack_record(self._trainer.state()))
        return [unpack_record(state) for state in states]

    def _load(self) -> None:
        self._ranks.enter("load", 0)
        loaded = unpack_record(self._collective.gather_bytes(pack_record(self._record.load()))[0])
        training = loaded.state.get("training")
        if not isinstance(training, dict):
            raise ForeignCheckpointError(f"the checkpoint of {self._request.run_dir} holds no training")
        saved = StateRecord(tensors=loaded.tensors, state=training)
        num_rows, num_envs = count_rows(saved), self._config.envs.num_envs
        if num_rows != num_envs:
            raise ForeignCheckpointError(
                f"the checkpoint of {self._request.run_dir} holds {num_rows} environments, not {num_envs}"
            )
        refuse_other_size(loaded, self._collective.world_size, self._config.distributed)
        is_first = self._collective.rank == 0
        self._trainer.restore(pick_rows(saved, self._assembly.env_ids, is_first=is_first))
