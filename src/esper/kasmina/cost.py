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


def count_trainable(module: nn.Module) -> int:
    """Return the number of trainable parameters, each once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_flops(module: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> int:
    """Return forward FLOPs per item.

    Args:
        module: Any module; a copy on `meta` without hooks is run in eval mode.
        shape: One item's input shape, without the batch dimension.
        dtype: Of the input.
    """
    plain = copy.deepcopy(module).to("meta").eval()
    for part in plain.modules():
        # Hooks of slots belong to the growth, not to the module whose price is asked; a copy has no
        # handle that could take them off.
        part._forward_hooks.clear()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        plain(torch.empty(1, *shape, dtype=dtype, device="meta"))
    return int(counter.get_total_flops())
