"""What a host is called with: one tensor, several in order, or several by name.

The one place that knows how a batch becomes the arguments of a forward pass. Knows no module of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from esper.leyline import HostError

ResultT = TypeVar("ResultT")

Inputs = Tensor | Sequence[object] | Mapping[str, object]
"""A tensor is the only argument, a tuple or list the positional ones, a mapping those by name."""


def split_arguments(inputs: Inputs) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return positional arguments and arguments by name.

    Example:
        >>> split_arguments({"x": 1})
        ((), {'x': 1})
    """
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), {str(name): value for name, value in inputs.items()}
    return tuple(inputs), {}


def call_host(host: nn.Module, inputs: Inputs) -> object:
    """Run a host's forward on a batch and return what it returns.

    Example:
        >>> call_host(nn.Identity(), Tensor([1.0]))
        tensor([1.])
    """
    positional, named = split_arguments(inputs)
    return host(*positional, **named)


def run_on_copies(host: nn.Module, run: Callable[[], ResultT]) -> ResultT:
    """Return `run()`, during which the host has copies for its buffers: its own stay bit for bit.

    Args:
        host: Any module; its parameters stay its own, and get gradients where these are wanted.
        run: Calls the host, and takes gradients if it needs them: what is computed anew in a backward pass
            must meet the copies, too.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> _ = run_on_copies(norm, lambda: norm(torch.randn(4, 2)))
        >>> norm.num_batches_tracked
        tensor(0)
    """
    copies = {f"host.{name}": buffer.clone() for name, buffer in host.named_buffers()}
    found: ResultT = functional_call(_Borrowed(host), copies, (run,))
    return found


@final
class _Borrowed(nn.Module):
    """Holds a host for the length of one call."""

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self.host = host

    def forward(self, run: Callable[[], object]) -> object:
        return run()


def each_tensor(value: object) -> Iterator[Tensor]:
    """Yield every tensor in nested tuples, lists and mappings, in order.

    Example:
        >>> len(list(each_tensor((torch.zeros(1), {"a": torch.zeros(2)}))))
        2
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from each_tensor(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from each_tensor(part)


def map_tensors(value: object, change: Callable[[Tensor], Tensor]) -> object:
    """Return a value of the same nesting with every tensor replaced; what is no tensor stays.

    Example:
        >>> map_tensors((torch.ones(1), "a"), lambda tensor: 2 * tensor)
        (tensor([2.]), 'a')
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(part, change) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map_tensors(part, change) for part in value)
    return value


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Return inputs on a device.

    Example:
        >>> to_device({"x": torch.zeros(1)}, torch.device("cpu"))
        {'x': tensor([0.])}
    """
    moved = map_tensors(inputs, lambda tensor: tensor.to(device, non_blocking=True))
    assert isinstance(moved, Tensor | tuple | dict)
    return moved


def count_items(inputs: Inputs) -> int:
    """Return the number of items: the first axis of the first tensor.

    Raises:
        HostError: If there is no tensor with an axis, or it has no item.

    Example:
        >>> count_items(torch.zeros(5, 3))
        5
    """
    for tensor in each_tensor(inputs):
        if tensor.dim() > 0 and len(tensor) > 0:
            return len(tensor)
    raise HostError(
        f"sample holds no batch: expected a tensor [B, ...] with B >= 1, or a tuple or mapping of them, got "
        f"{describe_inputs(inputs)}"
    )


def describe_inputs(inputs: object) -> str:
    """Return what inputs look like, such as "[2, 3, 32, 32]" or "input_ids [2, 16], mask [2, 16]".

    Example:
        >>> describe_inputs({"tokens": torch.zeros(2, 16)})
        'tokens [2, 16]'
    """
    if isinstance(inputs, Tensor):
        return str(list(inputs.shape))
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {describe_inputs(part)}" for name, part in inputs.items())
    if isinstance(inputs, tuple | list):
        return "(" + ", ".join(describe_inputs(part) for part in inputs) + ")"
    return type(inputs).__name__
