"""The ranks of one training, opened and closed: groups with timeouts, signs of life, exchanges.

```
with RankGroup(...) as group:       # heartbeat, store, two groups, all with timeouts
    group.broadcast_module(network)
    group.enter("rollout", update)  # no collective while rollouts run
    group.enter("update", update)   # group.collective and group.reduce_gradients in the learner
    group.barrier()
```
The control group is gloo and waits for whole rollouts; gradients travel by nccl on GPUs and wait less.
Nothing is sent as a pickle. After an error the groups are not closed, because that may block: see `leaving`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from esper.leyline import ConfigError
from esper.runtime.ranks.channel import Channel, Operation, Place
from esper.runtime.ranks.config import DistributedConfig
from esper.runtime.ranks.gradients import MeanGradients, copy_weights
from esper.runtime.ranks.guard import Guard
from esper.runtime.ranks.heartbeat import Heartbeat
from esper.runtime.ranks.leaving import describe_error
from esper.runtime.ranks.notes import RankNotes
from esper.runtime.ranks.pace import RankPace
from esper.runtime.ranks.rank_env import RankEnvironment
from esper.runtime.ranks.stop_agreement import StopAgreement
from esper.runtime.ranks.straggler import Straggler
from esper.runtime.ranks.torch_collective import TorchCollective

_WATCHDOG_S = 60.0
"""Seconds more that a group itself waits than we do: nccl's own watchdog ends the process without a word."""


@final
class RankGroup:
    """This rank's connection to all others; entered once per process.

    Example:
        with RankGroup(environment, config, heartbeat=heartbeat, folder=folder, device=device) as group:
            parts = LearnerParts(..., collective=group.collective, reduce_gradients=group.reduce_gradients)
    """

    def __init__(
        self,
        environment: RankEnvironment,
        config: DistributedConfig,
        *,
        heartbeat: Heartbeat,
        folder: Path,
        device: torch.device,
        is_ordered: bool = False,
        init_method: str = "env://",
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            environment: This rank.
            config: Timeouts.
            heartbeat: This rank's, not started yet; it outlives the group, to tell why the rank left.
            folder: Where heartbeats lie, seen by all ranks; made if missing.
            device: Where gradients lie.
            is_ordered: Add gradients in the order of ranks, so that sums do not depend on a tree.
            init_method: Where ranks meet, as torch writes it.

        Raises:
            ConfigError: If the device needs a way of exchange that this torch lacks.
        """
        if device.type == "cuda" and not dist.is_nccl_available():
            raise ConfigError(f"device {device}: this torch has no nccl; train on one GPU, or on the CPU")
        self._environment, self._config = environment, config
        self._folder, self._device = folder, device
        self._is_ordered, self._init_method = is_ordered, init_method
        self.heartbeat = heartbeat
        self._opened: _Opened | None = None

    @property
    def collective(self) -> TorchCollective:
        """Agreement over plain numbers."""
        return self._parts.collective

    @property
    def channel(self) -> Channel:
        """The way to the other ranks, for exchanges of one's own."""
        return self._parts.channel

    def pace(self, num_steps: int) -> RankPace:
        """Return when rollouts are cut, and where all ranks stop.

        Args:
            num_steps: Steps of a whole rollout.
        """
        parts, place = self._parts, self._environment
        stops = StopAgreement(
            parts.notes,
            parts.guard,
            rank=place.rank,
            world_size=place.world_size,
            num_steps=num_steps,
            timeout_s=self._config.control_timeout_s,
        )
        straggler = Straggler(parts.notes, self._config, rank=place.rank, world_size=place.world_size)
        return RankPace(straggler, stops, num_steps=num_steps, enter=self.enter)

    def enter(self, phase: str, step: int) -> None:
        """Say what this rank begins; its peers read it when it stops answering.

        Args:
            phase: A word for a person, such as rollout or update.
            step: Update, >= 0.
        """
        self.heartbeat.enter(phase, step)

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its mean over ranks, in place; a missing one counts as zeros.

        Raises:
            RanksDisagreeError: If number, shapes or types of the parameters differ between ranks.
            RankFailureError: If a rank did not come.
        """
        self._parts.mean_gradients(parameters)

    def broadcast_module(self, module: nn.Module) -> None:
        """Give all ranks the parameters and buffers of rank 0, bit by bit.

        Raises:
            RanksDisagreeError: If names, shapes or types differ between ranks.
            RankFailureError: If a rank did not come.
        """
        copy_weights(module, self._parts.channel)

    def barrier(self) -> None:
        """Wait until every rank is here.

        Raises:
            RanksDisagreeError: If ranks entered another collective.
            RankFailureError: If a rank did not come.
        """
        self._parts.channel.meet(Operation.BARRIER)

    def __enter__(self) -> Self:
        """Begin to beat, and open store and groups together with all other ranks.

        Raises:
            RankFailureError: If a rank did not come within `init_timeout_s`.
            RuntimeError: If this process has a group already.
        """
        if dist.is_initialized():
            raise RuntimeError("this process has process groups already; a RankGroup is entered once")
        self._folder.mkdir(parents=True, exist_ok=True)
        self.heartbeat.start()
        guard = Guard(
            self.heartbeat,
            self._folder,
            world_size=self._environment.world_size,
            silence_s=self._config.silence_s,
        )
        with guard("opening the groups"):
            self._opened = self._open(guard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the groups after success; after an error only say that this rank left."""
        if error is not None:
            self.heartbeat.close(describe_error(error))
            return
        self.heartbeat.close()
        self._opened = None
        dist.destroy_process_group()

    @property
    def _parts(self) -> _Opened:
        if self._opened is None:
            raise RuntimeError("the group is not open: use it inside `with RankGroup(...) as group`")
        return self._opened

    def _open(self, guard: Guard) -> _Opened:
        place, config = self._environment, self._config
        limit = timedelta(seconds=config.init_timeout_s)
        store, _, _ = next(rendezvous(self._init_method, place.rank, place.world_size, timeout=limit))
        store.set_timeout(limit)
        # Keys of this attempt only: a store that outlives an attempt still holds the addresses of the dead.
        store = PrefixStore(place.session, store)
        dist.init_process_group(
            "gloo", store=store, rank=place.rank, world_size=place.world_size, timeout=limit
        )
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        channel = Channel(
            Place(
                rank=place.rank,
                world_size=place.world_size,
                control_timeout_s=config.control_timeout_s,
                gradient_timeout_s=config.gradient_timeout_s,
            ),
            self.heartbeat,
            guard,
            control=_open_group("gloo", config.control_timeout_s),
            gradients=_open_group(backend, config.gradient_timeout_s),
        )
        return _Opened(channel, guard, RankNotes(PrefixStore("notes", store)), is_ordered=self._is_ordered)


@final
class _Opened:
    """What exists only while the groups are open."""

    def __init__(self, channel: Channel, guard: Guard, notes: RankNotes, *, is_ordered: bool) -> None:
        self.channel, self.guard, self.notes = channel, guard, notes
        self.collective = TorchCollective(channel)
        self.mean_gradients = MeanGradients(channel, is_ordered=is_ordered)


def _open_group(backend: str, timeout_s: float) -> ProcessGroup:
    group = dist.new_group(backend=backend, timeout=timedelta(seconds=timeout_s + _WATCHDOG_S))
    if not isinstance(group, ProcessGroup):
        raise RuntimeError(f"torch opened no {backend} group for this rank")
    return group
