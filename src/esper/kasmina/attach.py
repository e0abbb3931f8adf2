"""Slots beside a host: where its growth points are, what passes there, and the hooks that connect them.

A hook is a bound method of the slot, never a closure: a deep copy of host and slots together then trains its
own seeds, the host keeps its state-dict keys, and `torch.export` sees the seeds' weights as parameters.
Slots are attached before any `torch.compile`: a hook that comes later is silently ignored there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, final

import torch
from torch import Tensor, nn

from esper.kasmina.blueprints.spec import SlotSpec
from esper.kasmina.hosts.protocol import InjectionPoint
from esper.leyline import HostError, Layout, suggest

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_RANKS = MappingProxyType({Layout.MAP_2D: 4, Layout.SEQUENCE: 3, Layout.FLAT: 2})


class _HookTarget(Protocol):
    def on_host_output(self, module: nn.Module, args: tuple[object, ...], output: Tensor) -> Tensor | None:
        """See `SeedSlot.on_host_output`."""


def probe_slots(host: nn.Module, points: Sequence[InjectionPoint], sample: Tensor) -> tuple[SlotSpec, ...]:
    """Run the host once and return what passes at each declared point, in forward order.

    The pass is in eval mode without gradients; modes are put back, so statistics stay untouched.

    Args:
        host: Any module whose forward takes one batch.
        points: Declared growth points.
        sample: A batch [B, ...] on the host's device, B >= 1.

    Raises:
        HostError: If the host does not take the sample, is compiled already, or a path does not exist, is not
            called exactly once, gives no tensor, has another layout or channel count than declared.
    """
    if hasattr(host, "_orig_mod"):
        raise HostError("host is already compiled: attach the slots first, then compile the grown model")
    modules = dict(host.named_modules())
    seen = _Recorder()
    handles = []
    for point in points:
        if point.path not in modules:
            raise HostError(
                f"slot {point.slot_id!r}: host has no module {point.path!r}; {suggest(point.path, modules)}"
            )
        handles.append(modules[point.path].register_forward_hook(seen.watch(point.slot_id)))
    modes = [(module, module.training) for module in host.modules()]
    host.eval()
    try:
        with torch.no_grad():
            host(sample)
    except (RuntimeError, ValueError, IndexError) as error:
        why = str(error).partition("\n")[0]
        shape = tuple(sample.shape[1:])
        raise HostError(f"{type(host).__name__} does not take inputs of shape {shape}: {why}") from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    by_slot = {point.slot_id: point for point in points}
    for point in points:
        if seen.calls[point.slot_id] != 1:
            raise HostError(
                f"slot {point.slot_id!r}: module {point.path!r} was called {seen.calls[point.slot_id]} times "
                "in one forward pass; choose a module that is called exactly once"
            )
    return tuple(_build_spec(by_slot[slot_id], seen.outputs[slot_id]) for slot_id in seen.outputs)


def attach_hooks(
    host: nn.Module, paths: Sequence[str], slots: Sequence[_HookTarget]
) -> list[RemovableHandle]:
    """Connect each slot to the output of its module; returns the handles that take the hooks off again."""
    return [
        host.get_submodule(path).register_forward_hook(slot.on_host_output)
        for path, slot in zip(paths, slots, strict=True)
    ]


@final
class _Recorder:
    """Counts calls and keeps the last output of each watched module."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.outputs: dict[str, object] = {}

    def watch(self, slot_id: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def record(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            del module, args
            self.calls[slot_id] += 1
            self.outputs[slot_id] = output

        return record


def _build_spec(point: InjectionPoint, output: object) -> SlotSpec:
    if not isinstance(output, Tensor):
        raise HostError(
            f"slot {point.slot_id!r}: module {point.path!r} returns {type(output).__name__}, needs one tensor"
        )
    if output.dim() != _RANKS[point.layout]:
        raise HostError(
            f"slot {point.slot_id!r}: layout {point.layout.value!r} needs {_RANKS[point.layout]} dimensions, "
            f"module {point.path!r} returns {tuple(output.shape)}"
        )
    channel_dim = -1 if point.layout is Layout.SEQUENCE else 1
    if output.shape[channel_dim] != point.num_channels:
        raise HostError(
            f"slot {point.slot_id!r}: declares {point.num_channels} channels, "
            f"module {point.path!r} returns {output.shape[channel_dim]}"
        )
    return SlotSpec(
        slot_id=point.slot_id,
        layout=point.layout,
        shape=tuple(output.shape[1:]),
        num_channels=point.num_channels,
        dtype=output.dtype,
        device=output.device,
    )
