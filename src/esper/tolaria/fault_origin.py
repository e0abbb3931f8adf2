"""Where a number that is not finite came from: bad before the batch, or what its pass shows first.

```
lasting     a moment of the optimiser, a weight, a running statistic; it would spoil every batch from here on
in a pass   the input, the first module whose output is bad, the loss, else the gradient
```
Looked for on a fault alone: it costs one more forward pass. Knows nothing of skipping or rolling back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from esper.kasmina import MorphogeneticModel
from esper.leyline import JsonValue
from esper.tolaria.optimizers import TopologyOptimizer
from esper.tolaria.reducer import HOST

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

LARGEST_SOUND = 1e19
"""Numbers from here on count as not finite: their squares overflow float32."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOrigin:
    """What was first found bad.

    Example:
        FaultOrigin(place="activation", name="host.block1.0", batch=3)
    """

    place: str
    """moment, weight, statistic, input, activation, loss or gradient."""
    name: str
    """Qualified name of a tensor or module; empty for input and loss."""
    slot: str | None = None
    """Slot whose seed it belongs to; None = the host."""
    batch: int | None = None
    """Batch of the epoch, from 0; None = found after the last one."""

    def describe(self) -> str:
        """Return it in words."""
        where = "" if self.batch is None else f" at batch {self.batch}"
        return f"{self.place} {self.name}".rstrip() + where

    def to_json(self) -> list[JsonValue]:
        """Return plain data."""
        return [self.place, self.name, self.slot, self.batch]

    @staticmethod
    def from_json(data: Iterable[object]) -> FaultOrigin:
        """Rebuild from `to_json`."""
        place, name, slot, batch = data
        return FaultOrigin(
            place=str(place),
            name=str(name),
            slot=None if slot is None else str(slot),
            batch=None if batch is None else int(str(batch)),
        )


def is_sound(value: float) -> bool:
    """Whether a number is finite and its square fits float32."""
    return abs(value) < LARGEST_SOUND  # False for NaN


def compute_norm(tensors: Iterable[Tensor]) -> Tensor | None:
    """Return the L2 norm over all floating tensors, not finite if one of them is not; None without any."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    return nn.utils.get_total_norm(floating).float() if floating else None


def find_lasting(model: MorphogeneticModel, optimizer: TopologyOptimizer) -> dict[str, FaultOrigin]:
    """Return per group ("host" or a slot) the first bad moment, weight or statistic; mostly nothing."""
    moments, weights = optimizer.state()[0], dict(model.named_parameters())
    statistics = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    parts: tuple[tuple[str, Mapping[str, Tensor]], ...] = (
        ("moment", moments),
        ("weight", weights),
        ("statistic", statistics),
    )
    norm = compute_norm(tensor.detach() for _, part in parts for tensor in part.values())
    if norm is None or is_sound(float(norm)):  # sync: one number
        return {}
    found: dict[str, FaultOrigin] = {}
    for place, part in parts:
        for name, tensor in part.items():
            slot = _find_slot(model, name)
            if (slot or HOST) not in found and not _is_sound(tensor):
                found[slot or HOST] = FaultOrigin(place=place, name=name, slot=slot)
    return found


def find_bad_name(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first bad tensor."""
    return next((name for name, tensor in named if not _is_sound(tensor)), None)


def find_in_pass(model: MorphogeneticModel, inputs: Tensor, run: Callable[[], object]) -> FaultOrigin | None:
    """Run a forward pass and return what it showed first, or None if every output was sound.

    Args:
        model: Whose modules are looked at.
        inputs: [B, ...] of that pass.
        run: The pass; random stream and running statistics are the caller's to keep.
    """
    if not _is_sound(inputs):
        return FaultOrigin(place="input", name="")
    with torch.no_grad(), _watched(model) as bad:
        run()
    if not bad:
        return None
    return FaultOrigin(place="activation", name=bad[0], slot=_find_slot(model, bad[0]))


@contextmanager
def _watched(model: MorphogeneticModel) -> Iterator[list[str]]:
    """Collect the names of modules with a bad output, in the order in which they finish."""
    bad: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, args: object, output: object) -> None:
            del module, args
            if isinstance(output, Tensor) and not _is_sound(output):
                bad.append(name)

        return look

    handles: list[RemovableHandle] = [
        module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name
    ]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()


def _is_sound(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return is_sound(float(tensor.detach().abs().max()))  # NaN is the maximum where there is one


def _find_slot(model: MorphogeneticModel, name: str) -> str | None:
    for slot in model.each_slot():
        if name.startswith(f"slots.{slot.slot_id.replace('.', '/')}."):
            return slot.slot_id
    return None
