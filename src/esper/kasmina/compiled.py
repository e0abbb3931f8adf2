"""The host's forward through `torch.compile`, with compiled code that belongs to one host alone.

torch keeps compiled code, and the limit on how often it may compile anew, beside a Python function, and all
hosts of a class share their function: one run would use up the limit of the next, which then goes on
uncompiled, with other roundings. So every topology of every host gets a function of its own. While a seed
incubates on recorded features, the host is called as it is.
Knows a host and its slots; no loss, no optimiser.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import nn

from esper.kasmina.slot import SeedSlot

_TopologyKey = tuple[tuple[str | None, str], ...]


@final
class CompiledHost:
    """Calls a host, hooks included, compiled anew whenever the topology changes.

    Example:
        forward = CompiledHost(host, slots, "default")
        outputs = forward(inputs)
    """

    def __init__(self, host: nn.Module, slots: Sequence[SeedSlot], mode: str) -> None:
        """Bind host and slots; nothing is compiled before the first call.

        Args:
            host: Module whose hooks lead to the slots.
            slots: Every slot of the host.
            mode: A mode of `torch.compile`, such as "default" or "reduce-overhead".
        """
        self._host = host
        self._slots = tuple(slots)
        self._mode = mode
        self._key: _TopologyKey | None = None
        self._forward: Callable[..., object] = host

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call the host with its own arguments and return what it returns."""
        if any(slot.plan.is_recording and slot.teacher is None for slot in self._slots):
            # A compiled backward pass may write over what the forward pass computed, and with torch 2.13 it
            # did so to recorded features, once it came out of the compiler's cache of earlier results.
            return self._host(*args, **kwargs)
        key = tuple((s.state.seed_id, s.mode.value) for s in self._slots)
        if key != self._key:
            self._key = key
            self._forward = torch.compile(
                _copy_function(self._host), mode=None if self._mode == "default" else self._mode
            )
        return self._forward(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, object]) -> CompiledHost:
        """Return one for the copied host and slots; compiled code knows its host and is not taken along."""
        host, slots = copy.deepcopy(self._host, memo), copy.deepcopy(self._slots, memo)
        return CompiledHost(host, slots, self._mode)


def _copy_function(host: nn.Module) -> Callable[..., object]:
    """Return a function that calls the host and shares its code object with no other function."""

    def call_host(*args: object, **kwargs: object) -> object:
        return host(*args, **kwargs)

    return types.FunctionType(
        call_host.__code__.replace(), call_host.__globals__, "call_host", None, call_host.__closure__
    )
