"""Hosts by seed: one experiment, or a family of experiments that differ in what a seed draws.

```
vary(config, seed)           the same experiment with the settings that this seed stands for; pure
find_narrow(config, seeds)   the narrower half of some hosts, for a training that begins with them; pure
HostFactory                  seed -> HostRun; data is loaded once per choice of rows and kept
WorkerHosts                  the same in worker processes, which all look at the same data
```
A policy that is to serve many hosts must meet many: widths, depths, learning rates, amounts of data, budgets
of parameters. What a seed stands for depends on the seed alone, so that training and evaluation, here or
elsewhere, agree on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, final

from esper.data import DeviceCache, TaskData
from esper.leyline import ConfigError, EventSink, TaskSpec, derive_seed
from esper.runtime.assemble import assemble, check_memory
from esper.runtime.devices import resolve_device
from esper.runtime.experiment import ExperimentConfig, ModelConfig, TaskConfig
from esper.runtime.own_blueprints import Offer, load_offer
from esper.runtime.tasks import load_task
from esper.tamiyo import name_heads
from esper.tolaria import HostRun

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")
MIB = 2**20
SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps memory that processes share."""


def vary(config: ExperimentConfig, seed: int) -> ExperimentConfig:
    """Return the experiment that a seed stands for: every non-empty list of the family gives one entry.

    Args:
        config: The experiment around which the family is drawn.
        seed: Of the host; also becomes the run seed.
    """
    family = config.family

    def draw(name: str, choices: Sequence[_T], otherwise: _T) -> _T:
        return choices[derive_seed(seed, "family", name) % len(choices)] if choices else otherwise

    model, host, task = config.model, config.host, config.task
    factor = draw("learning_rate_factors", family.learning_rate_factors, 1.0)
    optimizer = replace(host.optimizer, learning_rate=factor * host.optimizer.learning_rate)
    width = draw("hidden_widths", family.hidden_widths, 0)
    budget = draw(
        "max_added_params_fractions",
        family.max_added_params_fractions,
        host.lifecycle.max_added_params_fraction,
    )
    lifecycle = replace(host.lifecycle, max_added_params_fraction=budget)
    return replace(
        config,
        seed=seed,
        model=replace(
            model,
            base_channels=draw("base_channels", family.base_channels, model.base_channels),
            num_blocks=draw("num_blocks", family.num_blocks, model.num_blocks),
            hidden=(width,) * len(model.hidden) if width else model.hidden,
            width=width or model.width,
        ),
        task=replace(task, num_train_rows=draw("num_train_rows", family.num_train_rows, task.num_train_rows)),
        host=replace(host, optimizer=optimizer, lifecycle=lifecycle),
    )


def compute_width(model: ModelConfig) -> int:
    """Return the channels or units of a host's widest layer; a cnn doubles its channels from block to block.

    The widest layer holds most of a host's parameters, so that a deeper host of the same first block counts
    as wider.
    """
    if model.kind == "mlp":
        return max(model.hidden, default=0)
    if model.kind == "transformer":
        return model.width
    return int(model.base_channels * 2 ** (model.num_blocks - 1))


def find_narrow(config: ExperimentConfig, seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the narrower half of the hosts that seeds stand for, narrowest first.

    Args:
        config: The experiment around which the family is drawn.
        seeds: Of the hosts, each once; of equally wide ones the smaller seeds come first, and of an odd
            number of hosts the one in the middle is left out.

    Raises:
        ConfigError: If all hosts are equally wide: no half is then narrower than the other.
    """
    widths = {seed: compute_width(vary(config, seed).model) for seed in seeds}
    if len(set(widths.values())) < 2:
        choices = "base_channels or num_blocks" if config.model.kind == "cnn" else "hidden_widths"
        raise ConfigError(
            f"envs.narrow_rounds={config.envs.narrow_rounds}: all {len(seeds)} training hosts "
            f"(envs.num_hosts) are equally wide, none is narrower than another: draw family.{choices} from "
            "two or more values, meet more hosts, or leave envs.narrow_rounds at 0"
        )
    return tuple(sorted(seeds, key=lambda seed: (widths[seed], seed))[: len(seeds) // 2])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSizes:
    """Largest numbers in a family, to which observations are padded."""

    num_slots: int
    num_blueprints: int
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Head -> names of its options, of the host with the most slots."""


@final
class HostFactory:
    """Makes the host run of a seed; owns the data that its runs share.

    Example:
        HostFactory(config).build(1003).observe()
    """

    def __init__(self, config: ExperimentConfig, *, on_failure: str = "terminate") -> None:
        """Load nothing yet.

        Args:
            config: The experiment around which hosts are drawn.
            on_failure: What follows a governor's verdict; see `HostRunConfig.on_failure`.
        """
        host = replace(config.host, on_failure=on_failure)
        # Who decides is not the host's business; building that policy, too, would only cost time.
        self._config = replace(config, policy="never", host=host)
        self._cache = DeviceCache()
        self._offer: Offer | None = None
        self._loaded: dict[TaskConfig, tuple[TaskSpec, TaskData]] = {}

    @property
    def horizon_epochs(self) -> int:
        """Decision intervals of every host's life."""
        epochs = self._config.host.epochs
        return self._load(self._config.task)[0].horizon_epochs if epochs is None else epochs

    def build(self, seed: int, sink: EventSink | None = None) -> HostRun:
        """Return the fresh host run of a seed.

        Args:
            seed: Which host.
            sink: Where its events go; None drops them.

        Raises:
            EsperError: If a setting that the seed stands for does not fit the task.
        """
        return self.build_replicate(seed, 0, sink)

    def build_replicate(self, seed: int, offset: int, sink: EventSink | None = None) -> HostRun:
        """Return another life of the host that a seed stands for: the same settings, other random streams.

        Args:
            seed: Which settings.
            offset: Added to the seed for weights and data order; 0 = the life that `build` gives.
            sink: Where its events go; None drops them.

        Raises:
            EsperError: If a setting that the seed stands for does not fit the task.
        """
        config = replace(vary(self._config, seed), seed=seed + offset)
        return self._assemble(config, sink)

    def for_workers(self) -> WorkerHosts:
        """Return what builds the same hosts in worker processes with one thread each.

        Everything that any host of the family reads is loaded and laid out here first; torch puts it into
        memory that processes share when a worker is started, so that N workers do not hold N copies.

        Raises:
            ConfigError: If hosts are not on the CPU, or shared memory does not suffice.
            DataError: If a data set is missing or damaged.
        """
        device = resolve_device(self._config.host.device)
        if device.type != "cpu":
            raise ConfigError(
                f"a fleet of worker processes with host.device={self._config.host.device!r}: workers run on "
                "the cores of the CPU; choose --fleet serial, or --device cpu"
            )
        rows = self._config.family.num_train_rows or (self._config.task.num_train_rows,)
        tensors: dict[int, Tensor] = {}
        for num_rows in rows:
            _, data = self._load(replace(self._config.task, num_train_rows=num_rows))
            for split in (data.train, data.validation, data.test):
                kept = self._cache.storage(split, device=device, mean=data.mean, std=data.std)
                parts = (split.inputs, split.targets, kept.inputs, kept.targets)
                own = [tensor for tensor in parts if not tensor.is_shared()]  # type: ignore[no-untyped-call]
                tensors |= {tensor.untyped_storage().data_ptr(): tensor for tensor in own}
        refuse_little_shared(sum(tensor.untyped_storage().nbytes() for tensor in tensors.values()))
        shared = HostFactory(replace(self._config, num_threads=1), on_failure=self._config.host.on_failure)
        shared._cache, shared._loaded = self._cache, self._loaded
        return WorkerHosts(factory=shared)

    def check_memory(self, num_hosts: int) -> None:
        """Refuse so many hosts at once, each as wide and deep as the family has them, if they cannot fit.

        Raises:
            ConfigError: If memory does not suffice.
        """
        config = self._config
        widest = max(self._list_shapes(), key=compute_width)
        if config.family.hidden_widths:
            width = max(config.family.hidden_widths)
            widest = replace(widest, hidden=(width,) * len(widest.hidden), width=width)
        check_memory(replace(config, model=widest), self._load(config.task)[0], num_hosts=num_hosts)

    def measure_sizes(self) -> ActionSizes:
        """Return the largest numbers of slots and blueprints that hosts of the family have."""
        slots, blueprints = 0, 0
        heads: Mapping[str, tuple[str, ...]] = {}
        for shape in self._list_shapes():
            config = replace(self._config, model=shape)
            space = self._assemble(config).bench.space
            heads = name_heads(space) if len(space.slot_ids) > slots else heads
            slots, blueprints = max(slots, len(space.slot_ids)), max(blueprints, len(space.blueprint_ids))
        return ActionSizes(num_slots=slots, num_blueprints=blueprints, heads=heads)

    def _list_shapes(self) -> list[ModelConfig]:
        """Return every depth and width that hosts of the family have."""
        family, model = self._config.family, self._config.model
        return [
            replace(model, num_blocks=blocks, base_channels=channels)
            for blocks, channels in product(
                family.num_blocks or (model.num_blocks,), family.base_channels or (model.base_channels,)
            )
        ]

    def _assemble(self, config: ExperimentConfig, sink: EventSink | None = None) -> HostRun:
        if self._offer is None:
            self._offer = load_offer(config.blueprints)
        data = self._load(config.task)
        return assemble(config, sink, loaded=data, cache=self._cache, offer=self._offer).host_run

    def _load(self, task: TaskConfig) -> tuple[TaskSpec, TaskData]:
        if task not in self._loaded:
            self._loaded[task] = load_task(task)
        return self._loaded[task]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHosts:
    """Makes what builds hosts in a worker process; picklable."""

    factory: HostFactory

    def __call__(self, sink: EventSink) -> Callable[[int], HostRun]:
        """Return seed -> host run whose events go to the sink."""
        return partial(self.factory.build, sink=sink)


def refuse_little_shared(num_bytes: int, folder: Path = SHARED_MEMORY) -> None:
    """Refuse data for which shared memory does not suffice: writing beyond it ends a process at once."""
    if folder.is_dir() and (free := shutil.disk_usage(folder).free) < num_bytes:
        raise ConfigError(
            f"fleet of worker processes: the data take {num_bytes / MIB:.1f} MiB of shared memory, {folder} "
            f"has {free / MIB:.1f} MiB free: enlarge it (of a container: --shm-size), or take --fleet serial"
        )
