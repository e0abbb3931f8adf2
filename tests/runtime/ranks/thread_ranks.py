"""Ranks as threads of one process, joined by real gloo groups: exchanges without starting processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo

from esper.runtime.ranks import Heartbeat
from esper.runtime.ranks.channel import Channel, Place
from esper.runtime.ranks.guard import Guard

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

ResultT = TypeVar("ResultT")


def run_ranks(folder: Path, world_size: int, work: Callable[[Channel], ResultT]) -> list[ResultT | Exception]:
    """Run the same function on every rank; return what each returned or raised.

    Args:
        folder: For heartbeats.
        world_size: Number of ranks.
        work: Gets the rank's channel.
    """
    store = HashStore()
    results: dict[int, ResultT | Exception] = {}

    def run(rank: int) -> None:
        heartbeat = Heartbeat(folder, rank=rank, session="threads", every_s=0.05)
        groups = [
            ProcessGroupGloo(PrefixStore(name, store), rank, world_size, timedelta(seconds=60))
            for name in ("control", "gradients")
        ]
        control, gradients = (cast("ProcessGroup", group) for group in groups)
        heartbeat.start()
        channel = Channel(
            Place(rank=rank, world_size=world_size, control_timeout_s=60.0, gradient_timeout_s=60.0),
            heartbeat,
            Guard(heartbeat, folder, world_size=world_size, silence_s=0.3),
            control=control,
            gradients=gradients,
        )
        try:
            results[rank] = work(channel)
        except Exception as error:  # noqa: BLE001 - returned to the test
            results[rank] = error
        heartbeat.close()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    return [results[rank] for rank in range(world_size)]
