"""Whether a run fits on its disk, asked before anything is written: checkpoints and events at their largest.

```
checkpoint = (network + two moments of each number + every slot's largest seed, with its own) x 2 (last good)
run        = checkpoints that are kept + the new one + the one that is removed last, and the event files
```
Knows sizes, not how anything is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from esper.leyline import RunDirectoryError
from esper.runtime.assemble import Assembly
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.run_records import CHECKPOINTS_NAME, RUNS_ROOT
from esper.simic import count_rows
from esper.tolaria import StateRecord

if TYPE_CHECKING:
    from torch import Tensor

_BYTES_PER_NUMBER = 4
_NUM_MOMENTS = 2
"""Of each parameter, as Adam keeps them; with momentum alone it is one."""
_STATE_BYTES = 150_000
"""Of plain data and generators in a checkpoint; a run of forty epochs has 60 kB in all."""
_ROUND_BYTES, _EPISODE_BYTES = 4_000, 500
"""Of events per round of a policy's training, and per host in it."""
_STEP_BYTES, _SEEN_BYTES = 1_000, 2_000
"""Of a decision and its reward in such a round, and of the features where they are kept."""
_STEPS_OF_AN_EPISODE = 100
"""Where only the task, which is not loaded here, knows."""
_EPOCH_BYTES, _SLOT_BYTES = 2_900, 1_600
"""Of events per epoch, and per slot in it, as they are written."""
_BYTES_PER_MB = 1_000_000
_NOTABLE_FRACTION = 0.5

FreeBytes = Callable[[Path], int]
"""Existing directory -> bytes that may still be written there."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DiskNeed:
    """Bytes that a run may take at most.

    Example:
        DiskNeed(checkpoint_bytes=2_000_000, num_checkpoints=4, event_bytes=100_000)
    """

    checkpoint_bytes: int
    """Of one checkpoint at its largest."""
    num_checkpoints: int
    """That may lie there at once."""
    event_bytes: int

    @property
    def total_bytes(self) -> int:
        """Of everything."""
        return self.checkpoint_bytes * self.num_checkpoints + self.event_bytes


def check_disk(
    config: ExperimentConfig,
    assembly: Assembly,
    run_dir: Path | None,
    free_bytes: FreeBytes = lambda path: shutil.disk_usage(path).free,
) -> tuple[str, ...]:
    """Refuse a host's run that cannot fit where it will be written; say so where it would take most of it.

    Args:
        config: The whole experiment.
        assembly: The run, assembled and not begun.
        run_dir: Its directory, which need not exist; None = a new one below `runs/`.
        free_bytes: Asked for the room.

    Returns:
        Notices for a person: one, or none.

    Raises:
        RunDirectoryError: If the room is too small; names the path, both sizes, and what to change.
    """
    need = DiskNeed(
        checkpoint_bytes=estimate_checkpoint(assembly),
        num_checkpoints=count_checkpoints(config),
        event_bytes=estimate_events(config, assembly.host_run.horizon_epochs, len(_slot_ids(assembly))),
    )
    return compare_with_room(need, RUNS_ROOT if run_dir is None else run_dir, free_bytes)


def compare_with_room(need: DiskNeed, run_dir: Path, free_bytes: FreeBytes) -> tuple[str, ...]:
    """Hold what a run needs against what is free; checkpoints that are there already count as written.

    Returns:
        A notice where it takes more than half of what is free.

    Raises:
        RunDirectoryError: If it does not fit.
    """
    place = _existing(run_dir)
    try:
        free = free_bytes(place)
    except OSError:  # a file system that does not tell
        return ()
    there = _count_bytes(run_dir / CHECKPOINTS_NAME)
    needed = max(need.total_bytes - there, need.checkpoint_bytes + need.event_bytes)
    facts = (
        f"{run_dir} may need {_show(needed)}: {need.num_checkpoints} checkpoints of up to "
        f"{_show(need.checkpoint_bytes)}, {_show(need.event_bytes)} of events; {_show(free)} are free there"
    )
    if needed > free:
        raise RunDirectoryError(
            f"{facts}; free some, lower --checkpoint.keep or --telemetry.max-events-mb, or give a --run-dir "
            "on another disk"
        )
    return (facts,) if needed > _NOTABLE_FRACTION * free else ()


def estimate_checkpoint(assembly: Assembly) -> int:
    """Return the largest size of a checkpoint of a host's run, in bytes.

    Every slot is taken to hold its largest seed, unless the configured share of parameters is smaller.
    """
    host_run = assembly.host_run
    bench = host_run.bench
    seeds = sum(
        max((each.num_params for each in bench.space.descriptors[slot].values()), default=0)
        for slot in _slot_ids(assembly)
    )
    fraction = host_run.config.lifecycle.max_added_params_fraction
    if fraction is not None:
        seeds = min(seeds, int(fraction * bench.model.host_params))
    now = count_tensor_bytes(bench.model.state()[0])
    learned = (bench.model.host_params + seeds) * _BYTES_PER_NUMBER
    pooled = len(_slot_ids(assembly)) * len(assembly.data.validation.targets) * 8  # float64 per item
    once = now + seeds * _BYTES_PER_NUMBER + _NUM_MOMENTS * learned + pooled
    return 2 * once + _STATE_BYTES


def check_training_disk(
    config: ExperimentConfig,
    record: StateRecord,
    run_dir: Path | None,
    free_bytes: FreeBytes = lambda path: shutil.disk_usage(path).free,
) -> tuple[str, ...]:
    """Refuse the training of a policy that cannot fit where it will be written; see `check_disk`.

    Args:
        config: The whole experiment.
        record: What a checkpoint would hold before the first step: moments and grown seeds are to come; of
            one rank, some of the hosts are enough.
        run_dir: Its directory, which need not exist; None = a new one below `runs/`.
        free_bytes: Asked for the room.

    Returns:
        Notices for a person: one, or none.

    Raises:
        RunDirectoryError: If the room is too small.
    """
    hosts = {name: tensor for name, tensor in record.tensors.items() if name.startswith("env/")}
    others = count_tensor_bytes(record.tensors) - count_tensor_bytes(hosts)
    numbers = others + count_tensor_bytes(hosts) * config.envs.num_envs // count_rows(record)
    room = int(config.telemetry.max_events_mb * _BYTES_PER_MB)
    num_envs, num_steps = config.envs.num_envs, config.training.rollout.num_steps or config.host.epochs
    num_seen = {"all": num_envs, "first": 1, "none": 0}[config.telemetry.observations]
    step_bytes = num_envs * _STEP_BYTES + num_seen * _SEEN_BYTES
    round_bytes = _ROUND_BYTES + num_envs * _EPISODE_BYTES + step_bytes * (num_steps or _STEPS_OF_AN_EPISODE)
    need = DiskNeed(
        checkpoint_bytes=numbers * (1 + _NUM_MOMENTS) + _STATE_BYTES * (1 + config.envs.num_envs),
        num_checkpoints=count_checkpoints(config),
        event_bytes=min(room, config.training.num_updates * round_bytes),
    )
    return compare_with_room(need, RUNS_ROOT if run_dir is None else run_dir, free_bytes)


def count_tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of tensors by name."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def count_checkpoints(config: ExperimentConfig) -> int:
    """Return how many checkpoints may lie on the disk at once: kept, being written, being removed."""
    return config.checkpoint.keep + 2


def estimate_events(config: ExperimentConfig, num_epochs: int, num_slots: int) -> int:
    """Return the bytes of the events of so many intervals, at most the configured room."""
    room = int(config.telemetry.max_events_mb * _BYTES_PER_MB)
    return min(room, num_epochs * (_EPOCH_BYTES + num_slots * _SLOT_BYTES))


def _slot_ids(assembly: Assembly) -> tuple[str, ...]:
    return tuple(assembly.host_run.bench.model.slot_ids)


def _existing(path: Path) -> Path:
    """Return the nearest directory above a path that exists."""
    place = path.absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place


def _count_bytes(folder: Path) -> int:
    """Return the bytes of the files below a folder; none if it is not there."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).lstat().st_size
            except OSError:  # gone meanwhile
                continue
    return total


def _show(num_bytes: int) -> str:
    if num_bytes < _BYTES_PER_MB:
        return f"{num_bytes / 1000:,.0f} kB"
    return f"{num_bytes / _BYTES_PER_MB:,.1f} MB"
