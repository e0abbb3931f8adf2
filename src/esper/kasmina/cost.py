"""What a module costs: trainable parameters, and forward FLOPs counted on the meta device.

Convention: 2 FLOPs per multiply-add; norms, activations and pooling count 0. On `meta` nothing is computed,
so a count is exact, needs no data and takes milliseconds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper.leyline import HostError


def count_trainable(module: nn.Module) -> int:
    """Return the number of trainable parameters, each once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_flops(module: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> int:
    """Return forward FLOPs per item.

    Args:
        module: Any module; a copy on `meta` without hooks is run in eval mode.
        shape: One item's input shape, without the batch dimension.
        dtype: Of the input.

    Raises:
        HostError: If the forward pass looks at values: on `meta` there are none.
    """
    plain = copy.deepcopy(module).to("meta").eval()
    for part in plain.modules():
        # Hooks of slots belong to the growth, not to the module whose price is asked; a copy has no
        # handle that could take them off.
        part._forward_hooks.clear()
    counter = FlopCounterMode(display=False)
    inputs = torch.empty(1, *shape, dtype=dtype, device="meta")
    try:
        with counter, torch.no_grad():
            plain(inputs)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HostError(
            f"{type(module).__name__}: its forward pass fails on the meta device, where FLOPs are counted on "
            f"inputs of shape {tuple(inputs.shape)} without values: {reason}; expected a path that depends "
            "on shapes alone: choose by torch.where, or leave the choice out where inputs.is_meta"
        ) from error
    return int(counter.get_total_flops())
