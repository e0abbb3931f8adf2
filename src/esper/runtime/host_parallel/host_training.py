"""One host grown by several processes: rank 0 writes, the others walk through the same loop.

```
grow_among_ranks   same settings? > copies, assembly
  rank 0           run directory > (load > pass on) > the loop of one process > results
  the others       (take what rank 0 loaded) > the same loop without a directory
```
Before every save all ranks settle: rank 0's state then is that of all. Streams of random numbers are derived
from batch and rank, so that none is saved.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch

from esper.runtime.assemble import Assembly, assemble
from esper.runtime.config_file import render_config
from esper.runtime.disk_estimate import check_disk
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.host_parallel.agreed_stop import AgreedStop
from esper.runtime.host_parallel.host_copies import HostCopies
from esper.runtime.policy_run import TrainingRequest, refuse_other_settings
from esper.runtime.rank_records import pack_record, unpack_record
from esper.runtime.ranks.channel import Channel, Operation
from esper.runtime.ranks.rank_group import RankGroup
from esper.runtime.resuming import refuse_changes, restore_assembly
from esper.runtime.run import ExperimentResult, run_in_folder
from esper.runtime.run_attempt import HeldRun, LateSink, SettledExperiment, settle_policy
from esper.runtime.run_folder import RunFolder
from esper.runtime.run_stop import RunStop, TimeLimit
from esper.runtime.shutdown import StopSignal
from esper.tolaria import StateRecord

_HASH = "topology_hash"


@final
class HostTraining:
    """What every process of a launcher does with `--parallel host`.

    Example:
        train_as_rank(request, environment, log=report_note, train=HostTraining(request.config))
    """

    def __init__(self, written: ExperimentConfig) -> None:
        """Keep the settings as they were given; each rank has a device of its own.

        Args:
            written: What the run directory is to hold.
        """
        self._written = written

    def __call__(self, request: TrainingRequest, group: RankGroup) -> ExperimentResult | None:
        """Grow one host to its horizon, as one of its ranks; all ranks call it.

        Args:
            request: The same on all ranks, but for the device.
            group: Open.

        Returns:
            The result on rank 0, None on the others.

        Raises:
            EsperError: Refused input, an unusable data set or checkpoint, ranks that differ or fail.
            InterruptedRunError: A signal to any rank stopped the run after its checkpoint was saved.
        """
        refuse_other_settings(request.config, group)
        limit = TimeLimit(request.config.checkpoint.max_hours)
        settled = settle_policy(request.config, request.provenance)
        sink = LateSink()
        with StopSignal() as signals:
            stop = AgreedStop(RunStop(signals, limit), num_ranks=group.collective.world_size)
            copies = HostCopies(
                group.channel,
                stop,
                sink,
                enter=group.enter,
                is_ordered=request.config.training.is_sum_ordered,
            )
            assembly = assemble(settled.config, sink, ranks=copies, probe=request.points.probe)
            result = None
            notices = settled.notices + check_disk(settled.config, assembly, request.run_dir)
            if group.collective.rank == 0:
                with self._open_folder(request, settled) as folder:
                    held = HeldRun(
                        settled.config,
                        assembly,
                        folder,
                        request.points,
                        num_ranks=group.collective.world_size,
                        pass_on=_Sender(group.channel),
                    )
                    result = run_in_folder(held, sink, stop, notices, is_resumed=request.is_resumed)
            else:
                _follow(assembly, stop, request, group.channel)
            group.barrier()
        return result

    def _open_folder(self, request: TrainingRequest, settled: SettledExperiment) -> RunFolder:
        written = replace(settled.config, host=replace(settled.config.host, device=self._written.host.device))
        if request.is_resumed:
            refuse_changes(request.run_dir, written)
            return RunFolder.open(request.run_dir)
        text = render_config(written, settled.provenance)
        return RunFolder.create(request.run_dir, config_text=text, origin=request.origin)


def _follow(assembly: Assembly, stop: AgreedStop, request: TrainingRequest, channel: Channel) -> None:
    """Do what rank 0 does, but for what it writes; every exchange in the same order."""
    host_run, policy = assembly.host_run, assembly.policy
    every = request.config.checkpoint.every_epochs
    if request.is_resumed:
        record, topology_hash = receive_record(channel)
        restore_assembly(assembly, record, topology_hash)
    while not host_run.is_finished:
        outcome = None
        if not stop():
            if host_run.progress.batch == 0:
                host_run.apply(policy.decide(host_run.observe()))
            outcome = host_run.train_epoch(stop.pauses)
        if stop() and not host_run.is_finished:
            host_run.settle()
            raise stop.describe_follower(request.run_dir)
        is_due = outcome is not None and every > 0 and host_run.epoch % every == 0
        if (stop.take_save_request() or is_due) and not host_run.is_finished:
            host_run.settle()
    host_run.finish()
    host_run.settle()


# ---------------------------------------------------------------------- what rank 0 loaded


@final
class _Sender:
    """Gives the other ranks what rank 0 loaded: they need not see its disk."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __call__(self, record: StateRecord, topology_hash: str) -> None:
        send_record(record, topology_hash, self._channel)


def send_record(record: StateRecord, topology_hash: str, channel: Channel) -> None:
    """Give the other ranks a record, as rank 0; tensors travel as they are, never as a pickle.

    Raises:
        RanksDisagreeError: If ranks are here for something else.
        RankFailureError: If a rank did not come.
    """
    state = {**record.state, _HASH: topology_hash}
    _broadcast(pack_record(StateRecord(tensors=record.tensors, state=state)), channel)


def receive_record(channel: Channel) -> tuple[StateRecord, str]:
    """Return rank 0's record and the hash of its topology, as another rank.

    Raises:
        RanksDisagreeError: If ranks are here for something else.
        RankFailureError: If a rank did not come.
    """
    record = unpack_record(_broadcast(b"", channel))
    topology_hash = str(record.state.pop(_HASH))
    return record, topology_hash


def _broadcast(data: bytes, channel: Channel) -> bytes:
    channel.meet(Operation.RECORD)
    length = torch.tensor([len(data)], dtype=torch.int64)
    channel.copy_first(Operation.RECORD, length)
    content = torch.zeros(int(length), dtype=torch.uint8)
    if data:
        content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    channel.copy_first(Operation.RECORD, content)
    return content.numpy().tobytes()
