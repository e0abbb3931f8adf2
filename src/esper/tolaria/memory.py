"""How much memory the training of a host and its seeds takes, before any of it is taken.

```
weights       parameters and buffers
gradients     one per trainable number
optimiser     sgd with momentum 1, adam and adamw 2 per trainable number, plain sgd none
activations   what autograd keeps for one batch, and two gradients of the largest of it on their way back;
              or, if more, three of the largest for one evaluation pass
copies        last good state, and two copies while a checkpoint is written: each weights and optimiser
```
Counted on shapes alone, in float32. Not in it: data, scratch space of kernels, torch itself. Mixed precision
takes less, and is counted as if it did not. Knows modules and settings; where free memory is looked up is
handed in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch

from esper.kasmina import (
    BlueprintRegistry,
    MorphogeneticModel,
    PriceBook,
    Seed,
    SeedSlot,
    build_seed,
    build_seeded,
    price_saved,
)
from esper.leyline import ActionSpace, BlendForm, BlueprintDescriptor, ConfigError, Layout, SeedStage
from esper.tolaria.config import HostRunConfig

if TYPE_CHECKING:
    from torch import nn

MIB = 2**20
_NUM_COPIES = 3
_NUM_PASSING = 2
_NUM_EVALUATED = 3
_AMPLE = 64
"""So many times the need of a host is ample: what each seed would take is then not counted at all."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Bytes at the peak of training.

    Example:
        MemoryNeed(weights=1_108, gradients=1_052, optimizer=1_052, activations=329_288, copies=6_480)
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    copies: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.copies

    @property
    def unallocated(self) -> int:
        """The part that is not held between two epochs: activations, and copies beside the last good one."""
        return self.activations + self.copies * (_NUM_COPIES - 1) // _NUM_COPIES


def estimate_need(
    module: nn.Module,
    shape: Sequence[int],
    config: HostRunConfig,
    dtype: torch.dtype = torch.float32,
    prices: PriceBook | None = None,
) -> MemoryNeed:
    """Return what training a module takes.

    Args:
        module: A host or a seed, on any device.
        shape: One item's input shape, without the batch dimension.
        config: Batch size, optimiser, size of evaluation passes.
        dtype: Of the input.
        prices: Where what is kept for the backward pass was counted before; None counts it anew.

    Raises:
        HostError: If the forward pass looks at values.

    Example:
        >>> need = estimate_need(nn.Linear(3, 2), (3,), HostRunConfig())
        >>> need.total > 0
        True
    """
    parameters = list(module.parameters())
    weights = sum(tensor.nbytes for tensor in (*parameters, *module.buffers()))
    trained = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    moments = trained * _count_moments(config)
    book = PriceBook() if prices is None else prices
    saved = price_saved(module, shape, book, batch_size=config.batch_size, dtype=dtype)
    evaluated = _NUM_EVALUATED * saved.largest * config.measuring.chunk_items // config.batch_size
    return MemoryNeed(
        weights=weights,
        gradients=trained,
        optimizer=moments,
        activations=max(saved.total + _NUM_PASSING * saved.largest, evaluated),
        copies=_NUM_COPIES * (weights + moments),
    )


def _count_moments(config: HostRunConfig) -> int:
    optimizer = config.optimizer
    if optimizer.name == "sgd":
        return 1 if optimizer.momentum else 0
    return 2


def refuse_shortage(
    need: MemoryNeed, config: HostRunConfig, available: int | None, *, num_hosts: int = 1, device: str
) -> None:
    """Refuse training that cannot fit, before it begins.

    Args:
        need: Of one host.
        config: Its settings; `max_memory_mb` goes before what is free.
        available: Free bytes on the device; None = not known, nothing is refused then.
        num_hosts: Hosts that live at once and train in turns.
        device: Its name, for the message.

    Raises:
        ConfigError: Saying what is needed, what there is, and what to change.

    Example:
        >>> need = estimate_need(nn.Linear(3, 2), (3,), HostRunConfig())
        >>> refuse_shortage(need, HostRunConfig(), None, device="cpu")
    """
    limit = available if config.max_memory_mb is None else int(config.max_memory_mb * MIB)
    total = num_hosts * (need.total - need.activations) + need.activations
    if limit is None or total <= limit:
        return
    whose = f"{device} has free" if config.max_memory_mb is None else "host.max_memory_mb allows"
    hosts = "" if num_hosts == 1 else f"{num_hosts} hosts, "
    raise ConfigError(
        f"training takes about {total / MIB:.1f} MiB ({hosts}activations {need.activations / MIB:.1f} MiB at "
        f"host.batch_size={config.batch_size}, host.measuring.chunk_items={config.measuring.chunk_items}), "
        f"{whose} {limit / MIB:.1f} MiB: lower one of the two, or choose a smaller host"
    )


@final
class MemoryWatch:
    """Says how much memory a new seed of one host may take.

    Example:
        left = watch.bytes_left(model)
        space = watch.price(space, model, left)
    """

    def __init__(
        self, config: HostRunConfig, registry: BlueprintRegistry, read: Callable[[], int | None]
    ) -> None:
        """Bind settings and the look at the device.

        Args:
            config: Of the host run.
            registry: Where the blueprints on offer are.
            read: Returns free bytes on the host's device, or None where nobody knows.
        """
        self._config = config
        self._registry = registry
        self._read = read
        self._host: MemoryNeed | None = None
        self._seeds: dict[str, MemoryNeed] = {}

    def bytes_left(self, model: MorphogeneticModel) -> int | None:
        """Return the bytes that a new seed may take, which may be negative; None = ample or not known.

        Free memory is looked at while a slot is free: what no seed could take now is not known.
        """
        budget = self._config.max_memory_mb
        has_room = any(slot.state.stage is SeedStage.DORMANT for slot in model.each_slot())
        free = self._read() if budget is None and has_room else None
        if budget is None and free is None:
            return None
        if self._host is None:
            self._host = self._estimate(model.host, model.input_shape, model.input_dtype)
        if free is not None and free >= _AMPLE * self._host.total:
            return None
        needs = [self._host, *self._list_seed_needs(model)]
        if budget is not None:
            return int(budget * MIB) - sum(need.total for need in needs)
        assert free is not None
        return free - sum(need.unallocated for need in needs)

    def price(self, space: ActionSpace, model: MorphogeneticModel, left: int | None) -> ActionSpace:
        """Return the space with what a seed of each blueprint takes, counted once and where it may matter."""
        if left is None or any(
            d.memory_bytes for by_id in space.descriptors.values() for d in by_id.values()
        ):
            return space
        descriptors = {
            slot_id: self._price_slot(model.slot(slot_id), by_id)
            for slot_id, by_id in space.descriptors.items()
        }
        return replace(space, descriptors=descriptors)

    def _price_slot(
        self, slot: SeedSlot, by_id: Mapping[str, BlueprintDescriptor]
    ) -> dict[str, BlueprintDescriptor]:
        priced, spec = {}, slot.spec
        channel_dim = -1 if spec.layout is Layout.SEQUENCE else 1
        # With a gate, the form that takes most: whichever is chosen then fits.
        form = BlendForm.GATE if spec.refuse_blend(BlendForm.GATE) is None else BlendForm.ADD
        for blueprint_id, descriptor in by_id.items():
            branch = build_seeded(lambda b=blueprint_id: self._registry.get(b).build(spec), 0)  # type: ignore[misc]
            seed = build_seeded(
                lambda branch=branch: build_seed(  # type: ignore[misc]
                    branch, form, spec.num_channels, channel_dim, len(spec.shape) - 1
                ),
                0,
            )
            need = self._estimate(seed, spec.seed_shape)
            priced[blueprint_id] = replace(descriptor, memory_bytes=need.total)
        return priced

    def _list_seed_needs(self, model: MorphogeneticModel) -> list[MemoryNeed]:
        known, self._seeds = self._seeds, {}
        needs, recomputed = [], 0
        for slot in model.each_slot():
            if slot.seed is None:
                continue
            key = f"{slot.state.seed_id}/{slot.state.blueprint}"  # a rollback gives an id out again
            need = known.get(key) or self._estimate_seed(slot.seed, slot.spec.seed_shape)
            self._seeds[key] = need
            if slot.seed.is_recomputed:  # of those, one at a time has its activations
                recomputed = max(recomputed, need.activations)
                need = replace(need, activations=0)
            needs.append(need)
        return [*needs, MemoryNeed(weights=0, gradients=0, optimizer=0, activations=recomputed, copies=0)]

    def _estimate_seed(self, seed: Seed, shape: Sequence[int]) -> MemoryNeed:
        keeping = copy.deepcopy(seed)
        keeping.is_recomputed = False  # what is recomputed cannot be seen being kept
        return self._estimate(keeping, shape)

    def _estimate(
        self, module: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> MemoryNeed:
        return estimate_need(module, shape, self._config, dtype, self._registry.prices)
