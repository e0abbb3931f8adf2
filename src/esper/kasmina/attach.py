"""Slots beside a host: where its growth points are, what passes there, and the hooks that connect them.

A hook is a bound method of the slot, never a closure: a deep copy of host and slots together then trains its
own seeds, the host keeps its state-dict keys, and `torch.export` sees the seeds' weights as parameters.
Slots are attached before any `torch.compile`: a hook that comes later is silently ignored there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, final

from esper.kasmina.blueprints.spec import SlotSpec
from esper.kasmina.hosts.protocol import InjectionPoint, SegmentedHost
from esper.kasmina.inputs import Inputs
from esper.kasmina.survey import refuse_wrapped, run_quietly
from esper.leyline import HostError, Layout, suggest

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle


class _HookTarget(Protocol):
    def on_host_output(self, module: nn.Module, args: tuple[object, ...], output: object) -> object | None:
        """See `SeedSlot.on_host_output`."""

    def on_pair_input(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """See `SeedSlot.on_pair_input`."""


def probe_slots(host: nn.Module, points: Sequence[InjectionPoint], sample: Inputs) -> tuple[SlotSpec, ...]:
    """Run the host once and return what passes at each declared point, in forward order.

    The pass is in eval mode without gradients; modes are put back, so statistics stay untouched.

    Args:
        host: Any module whose forward takes one batch.
        points: Declared growth points.
        sample: A batch on the host's device, at least one item.

    Raises:
        HostError: If the host does not take the sample, is compiled already, or a path does not exist, is not
            called exactly once, gives no tensor, has another layout or channel count than declared.
    """
    refuse_wrapped(host)
    spanning = [point.slot_id for point in points if point.pair is not None]
    if spanning and isinstance(host, SegmentedHost):
        raise HostError(
            f"slot {spanning[0]!r} spans two layers, but {type(host).__name__} declares segments(): a part "
            "of it that runs alone would lack the first layer's input; leave segments() out to grow it wider"
        )
    modules = dict(host.named_modules())
    seen = _Recorder()
    handles = []
    for point in points:
        if point.path not in modules:
            raise HostError(
                f"slot {point.slot_id!r}: host has no module {point.path!r}; {suggest(point.path, modules)}"
            )
        handles.append(modules[point.path].register_forward_hook(seen.watch(point.slot_id)))
    try:
        run_quietly(host, sample)
    finally:
        for handle in handles:
            handle.remove()
    by_slot = {point.slot_id: point for point in points}
    for point in points:
        if seen.calls[point.slot_id] != 1:
            raise HostError(
                f"slot {point.slot_id!r}: module {point.path!r} was called {seen.calls[point.slot_id]} times "
                "in one forward pass; choose a module that is called exactly once"
            )
    return tuple(_build_spec(by_slot[slot_id], seen.outputs[slot_id]) for slot_id in seen.outputs)


def attach_hooks(
    host: nn.Module,
    paths: Sequence[str],
    slots: Sequence[_HookTarget],
    first_paths: Sequence[str | None] | None = None,
) -> list[RemovableHandle]:
    """Connect each slot to the output of its module.

    Args:
        host: Holds the modules.
        paths: Of the module whose output is a slot's feature.
        slots: One per path.
        first_paths: Of the first of two layers that a slot spans; None = it spans none.

    Returns:
        The handles that take the hooks off again.
    """
    handles = [
        host.get_submodule(path).register_forward_hook(slot.on_host_output)
        for path, slot in zip(paths, slots, strict=True)
    ]
    for first, slot in zip(first_paths or [None] * len(slots), slots, strict=True):
        if first is not None:
            layer = host.get_submodule(first)
            handles.append(layer.register_forward_pre_hook(slot.on_pair_input, with_kwargs=True))
    return handles


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
    tap = point.tap
    try:
        chosen = tap.choose(output)
    except HostError as error:
        raise HostError(f"slot {point.slot_id!r}: module {point.path!r} {error}") from error
    if chosen.dim() != tap.arrangement.rank or tap.arrangement.layout is not point.layout:
        raise HostError(
            f"slot {point.slot_id!r}: layout {point.layout.value!r} ({tap.arrangement.value}) needs "
            f"{tap.arrangement.rank} dimensions, module {point.path!r} returns {tuple(chosen.shape)}"
        )
    feature = tap.arrangement.to_canonical(chosen)
    channels = feature.shape[-1] if point.layout is Layout.SEQUENCE else feature.shape[1]
    if channels != point.num_channels:
        raise HostError(
            f"slot {point.slot_id!r}: declares {point.num_channels} channels, "
            f"module {point.path!r} returns {channels}"
        )
    return SlotSpec(
        slot_id=point.slot_id,
        layout=point.layout,
        shape=tuple(feature.shape[1:]),
        num_channels=point.num_channels,
        dtype=feature.dtype,
        device=feature.device,
        pair=point.pair,
    )
