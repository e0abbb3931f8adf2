"""What a host does between two of its layers, seen by putting known values in the place of their outputs.

```
pass 1   as it is                                                       x, out, and what the model returns
pass 2   the first layer returns values of ours, the second returns out   what reaches the second, and by what
```
If the second pass returns what the first did, nothing but the second layer uses the first one's output.
In eval mode and without gradients; modes are put back. Judges nothing: that is `kasmina.pairs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from esper.kasmina.difference import measure_largest
from esper.kasmina.inputs import Inputs, map_tensors
from esper.kasmina.survey import run_quietly
from esper.leyline import HostError

_SPREAD = 4.0
"""Standard deviation of the values put in: wide enough that no two activations agree on them."""


class StepSeen(NamedTuple):
    """A module without children that ran between the two layers."""

    path: str
    module: nn.Module
    entering: Tensor
    leaving: Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairProbe:
    """What two passes showed."""

    entering: Tensor
    """Input of the first layer."""
    is_entering_kept: bool
    """Whether it still held the same values when the second layer ran."""
    put_in: Tensor
    """What stood for the first layer's output."""
    arriving: Tensor
    """What the second layer was given."""
    steps: tuple[StepSeen, ...]
    """In order; some may lie on other ways through the host."""
    largest_difference: float
    """Between what the model returned in both passes: 0 where nothing else uses the first layer's output."""


def probe_pair(host: nn.Module, inputs: Inputs, first: nn.Module, second: nn.Module) -> PairProbe:
    """Watch a host between two layers, each of which it calls once.

    Args:
        host: Holds both; left as it is.
        inputs: A batch on its device.
        first: Its output is replaced.
        second: Its input is looked at.

    Raises:
        HostError: If the first does not run before the second, or a layer is not called with one tensor.
    """
    plain = _Watch(host, first, second)
    expected = plain.run(inputs)
    entering, out = plain.seen(first), plain.leaving[second]
    generator = torch.Generator().manual_seed(0)
    shape = plain.leaving[first].shape
    values = (_SPREAD * torch.randn(shape, generator=generator)).to(out.device, out.dtype)
    probing = _Watch(host, first, second, put_in=values, put_out=out)
    got = probing.run(inputs)
    if probing.order.index(first) > probing.order.index(second):
        raise HostError("runs after it")
    return PairProbe(
        entering=entering,
        is_entering_kept=plain.is_entering_kept,
        put_in=values,
        arriving=probing.seen(second),
        steps=tuple(probing.steps),
        largest_difference=measure_largest(expected, got),
    )


@final
class _Watch:
    """One pass with hooks on two layers and on every module without children."""

    def __init__(
        self,
        host: nn.Module,
        first: nn.Module,
        second: nn.Module,
        *,
        put_in: Tensor | None = None,
        put_out: Tensor | None = None,
    ) -> None:
        self._host, self._first, self._second = host, first, second
        self._put = {first: put_in, second: put_out}
        self._entering: dict[nn.Module, Tensor | None] = {}
        self._given: Tensor | None = None
        """The first layer's input itself, whose values may change under it."""
        self.is_entering_kept = True
        self.leaving: dict[nn.Module, Tensor] = {}
        self.steps: list[StepSeen] = []
        self.order: list[nn.Module] = []

    def run(self, inputs: Inputs) -> object:
        handles = []
        for path, module in self._host.named_modules():
            if module in self._put or not any(True for _ in module.children()):
                handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True))
                # First of all hooks: what the layer itself returns is what is looked at and replaced.
                handles.append(module.register_forward_hook(self._after(path), prepend=True))
        copied = map_tensors(inputs, Tensor.clone)
        assert isinstance(copied, Tensor | tuple | dict)
        try:
            return run_quietly(self._host, copied)
        finally:
            for handle in handles:
                handle.remove()

    def seen(self, layer: nn.Module) -> Tensor:
        """Return what a layer was given."""
        entering = self._entering[layer]
        if entering is None:
            raise HostError("is not called with one tensor alone")
        return entering

    def _before(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        given = (*args, *kwargs.values())
        only = given[0] if len(given) == 1 else None
        self._entering[module] = only.clone() if isinstance(only, Tensor) else None
        if module is self._first and isinstance(only, Tensor):
            self._given = only
        if module is self._second and self._given is not None:
            self.is_entering_kept = torch.equal(self._given, self.seen(self._first))

    def _after(self, path: str) -> Callable[[nn.Module, tuple[object, ...], object], object | None]:
        def look(module: nn.Module, args: tuple[object, ...], output: object) -> object | None:
            del args
            if not isinstance(output, Tensor):
                return None
            self.leaving[module] = output.clone()
            if module in self._put:
                self.order.append(module)
                put = self._put[module]
                return None if put is None else put.clone()
            entering = self._entering[module]
            if entering is not None and self.order == [self._first]:
                self.steps.append(StepSeen(path, module, entering, output.clone()))
            return None

        return look
