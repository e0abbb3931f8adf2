"""One process among several that train together: who it is, how it joins, how it leaves.

```
train_as_rank: verdict of an earlier attempt? > place on a device > open the groups > train
               any error > verdict, one line, out
```
A launcher that restarts workers starts the same command again; so a restarted worker goes on from the newest
checkpoint by itself, or begins anew where there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from esper.leyline import ConfigError
from esper.runtime.devices import resolve_device
from esper.runtime.fault_plan import FaultPlan
from esper.runtime.fault_points import FaultPoints
from esper.runtime.launching import find_newest_place, set_aside
from esper.runtime.policy_run import TrainingRequest
from esper.runtime.ranks import (
    Heartbeat,
    RankEnvironment,
    clear_verdicts,
    find_final,
    find_restart_trap,
    leave,
)
from esper.runtime.ranks.rank_group import RankGroup
from esper.runtime.run_records import RANKS_NAME

ResultT = TypeVar("ResultT")


def train_as_rank(
    request: TrainingRequest,
    environment: RankEnvironment,
    *,
    log: Callable[[str], None],
    train: Callable[[TrainingRequest, RankGroup], ResultT],
    exit_process: Callable[[int], object] = os._exit,
) -> ResultT | None:
    """Train together with the other ranks; after an error the process ends here.

    Args:
        request: The same on all ranks, with a directory that all of them see.
        environment: This process's place.
        log: Takes one line for a person.
        train: What all ranks do once they are joined, such as `train_among_ranks`; its device is this rank's.
        exit_process: Ends the process with a code, without destructors.

    Returns:
        What `train` returns; None if this rank is not to start.
    """
    folder = request.run_dir / RANKS_NAME
    verdict = find_final(folder) if environment.restart_count > 0 else None
    if verdict is not None:
        log(f"not restarted: rank {verdict.rank} left with code {verdict.code}: {verdict.reason}")
        exit_process(verdict.code)
        return None
    plan = FaultPlan.from_environ(os.environ, rank=environment.rank)
    heartbeat = Heartbeat(
        folder,
        rank=environment.rank,
        session=environment.session,
        every_s=request.config.distributed.heartbeat_every_s,
        faults=plan,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        request = _take_up(request, environment, log)
        device = find_device(request.config.host.device, environment)
        with RankGroup(
            environment,
            request.config.distributed,
            heartbeat=heartbeat,
            folder=folder,
            device=device,
            is_ordered=request.config.training.is_sum_ordered,
        ) as group:
            given = request.config
            config = replace(given, host=replace(given.host, device=str(device)))
            return train(replace(request, config=config, given=given, points=FaultPoints(plan)), group)
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into groups that block
        leave(
            error,
            folder=folder,
            environment=environment,
            heartbeat=heartbeat,
            log=log,
            exit_process=exit_process,
        )
        return None


def find_device(text: str, environment: RankEnvironment) -> torch.device:
    """Return where a rank trains: with "auto" or "cuda" on a GPU of its own.

    Args:
        text: Name of the device, as in the settings.
        environment: This process's place.

    Raises:
        ConfigError: If the name is unknown, or there are fewer GPUs than ranks on this machine.
    """
    device = resolve_device(text)
    if device.type != "cuda" or text not in ("auto", "cuda"):
        return device
    count = torch.cuda.device_count()
    if environment.local_world_size > count:
        raise ConfigError(
            f"host.device={text!r}: {environment.local_world_size} processes on a machine with {count} GPUs, "
            f"and each needs its own; start {count}, or use --host.device cpu"
        )
    return torch.device("cuda", environment.local_rank)


def _take_up(
    request: TrainingRequest, environment: RankEnvironment, log: Callable[[str], None]
) -> TrainingRequest:
    """Return what this attempt is to do, after what the earlier ones left."""
    is_first = environment.rank == 0
    trap = find_restart_trap(os.environ)
    if trap is not None and is_first:
        log(trap)
    if environment.restart_count == 0:
        if is_first:
            clear_verdicts(request.run_dir / RANKS_NAME)  # a new command of a person is a new start
        return request
    if request.is_resumed:
        return request
    if find_newest_place(request.run_dir) is not None:
        return replace(request, is_resumed=True)
    if is_first:
        set_aside(request.run_dir, environment.restart_count - 1)
    return request


def name_folder(run_dir: Path | None) -> Path:
    """Return the directory of a run that several processes write.

    Raises:
        ConfigError: If none is given: each process would choose another one.
    """
    if run_dir is None:
        raise ConfigError("several processes train into one directory: give it with --run-dir")
    return run_dir
