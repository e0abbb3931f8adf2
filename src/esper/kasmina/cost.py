"""What a module costs: trainable parameters, forward FLOPs, and bytes kept for the backward pass.

Convention: 2 FLOPs per multiply-add; norms, activations and pooling count 0. FLOPs and bytes are counted on
the meta device: nothing is computed or allocated, a count is exact, needs no data and takes milliseconds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from esper.kasmina.allocation import is_allocation_failure
from esper.kasmina.inputs import Inputs, call_host, count_items, map_tensors
from esper.leyline import HostError

_META_ERRORS = (
    RuntimeError,
    NotImplementedError,
    ValueError,
    TypeError,
    AssertionError,
    AttributeError,
    LookupError,
)
"""What a forward pass may raise that looks for values where there are none."""


def count_trainable(module: nn.Module) -> int:
    """Return the number of trainable parameters, each once.

    Example:
        >>> count_trainable(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_flops(module: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> int:
    """Return forward FLOPs per item.

    Args:
        module: Any module; a copy on `meta` without hooks is run in eval mode.
        shape: One item's input shape, without the batch dimension.
        dtype: Of the input.

    Raises:
        HostError: If the forward pass looks at values: on `meta` there are none.

    Example:
        >>> count_flops(nn.Linear(3, 2), (3,))
        12
    """
    inputs = torch.empty(1, *shape, dtype=dtype, device="meta")
    with _naming_what_looks_at_values(module, inputs):
        return _count_on(_copy_to_meta(module), inputs)


def count_call_flops(module: nn.Module, inputs: Inputs) -> int:
    """Return forward FLOPs per item of a module that may take several arguments.

    Counted on `meta` where the forward pass allows it; a forward pass that looks at values is run once, for
    real, on a copy, with attention in its plain form, which is the only one that is counted on a CPU.

    Args:
        module: Any module; left as it is.
        inputs: A batch on the module's device.

    Raises:
        HostError: If the module cannot be copied.
    """
    items = count_items(inputs)
    on_meta = map_tensors(inputs, lambda tensor: torch.empty_like(tensor, device="meta"))
    assert isinstance(on_meta, Tensor | tuple | dict)
    try:
        return _count_on(_copy_to_meta(module), on_meta) // items
    except _META_ERRORS as error:
        if is_allocation_failure(error):
            raise
    plain = _copy_plain(module)
    with sdpa_kernel(SDPBackend.MATH):
        return _count_on(plain, inputs) // items


def _count_on(module: nn.Module, inputs: Inputs) -> int:
    """Count on a copy of the module, which is changed."""
    # A view of a parameter without a gradient function, such as a class token, would end torch's counter.
    module.requires_grad_(False)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        call_host(module.eval(), inputs)
    return int(counter.get_total_flops())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedBytes:
    """What autograd keeps between forward and backward pass.

    Example:
        SavedBytes(total=198_216, largest=65_536)
    """

    total: int
    largest: int
    """The largest single storage: about the size of a gradient on its way back."""


def count_saved_bytes(
    module: nn.Module, shape: Sequence[int], *, batch_size: int, dtype: torch.dtype = torch.float32
) -> SavedBytes:
    """Return the bytes that autograd keeps between forward and backward pass of one training batch.

    Every storage counts once; parameters, buffers and the input do not. Exact for what layers save, in the
    precision of the parameters; scratch space inside kernels and gradients on their way are not in it.

    Args:
        module: Any module; a copy on `meta` without hooks is run in training mode.
        shape: One item's input shape, without the batch dimension.
        batch_size: Items, >= 1.
        dtype: Of the input.

    Raises:
        HostError: If the forward pass looks at values: on `meta` there are none.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> count_saved_bytes(net, (3,), batch_size=4).total
        32
    """
    plain = _copy_to_meta(module).train()
    inputs = torch.empty(batch_size, *shape, dtype=dtype, device="meta")
    own = [tensor.untyped_storage() for tensor in (*plain.parameters(), *plain.buffers(), inputs)]
    # Storages are held here, so that an id stands for one of them and no other.
    known = {id(storage): storage for storage in own}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in known:
            known[id(storage)] = storage
            sizes[id(storage)] = storage.nbytes()
        return tensor

    with (
        _naming_what_looks_at_values(module, inputs),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, _unpack),
    ):
        plain(inputs)
    return SavedBytes(total=sum(sizes.values()), largest=max(sizes.values(), default=0))


def _unpack(tensor: Tensor) -> Tensor:
    return tensor


def _copy_to_meta(module: nn.Module) -> nn.Module:
    return _copy_plain(module).to("meta")


def _copy_plain(module: nn.Module) -> nn.Module:
    """Return a copy without hooks: those of slots belong to the growth, not to what a module costs."""
    try:
        copied = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        if is_allocation_failure(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HostError(
            f"{type(module).__name__} cannot be copied, which counting, exporting and rolling back need: "
            f"{reason}; keep only parameters, buffers and plain data as its attributes"
        ) from error
    for part in copied.modules():
        part._forward_hooks.clear()
    return copied


@contextmanager
def _naming_what_looks_at_values(module: nn.Module, inputs: Tensor) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if is_allocation_failure(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HostError(
            f"{type(module).__name__}: its forward pass fails on the meta device, where costs are counted on "
            f"inputs of shape {tuple(inputs.shape)} without values: {reason}; expected a path that depends "
            "on shapes alone: choose by torch.where, or leave the choice out where inputs.is_meta"
        ) from error
