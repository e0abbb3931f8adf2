"""What a module costs: trainable parameters, and forward FLOPs counted on the meta device.

Convention: 2 FLOPs per multiply-add; norms, activations and pooling count 0. On `meta` nothing is computed,
so a count is exact, needs no data and takes milliseconds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.kasmina.blueprints.spec import SlotSpec
from esper.kasmina.seeded_build import build_seeded
from esper.leyline import BlueprintDescriptor


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
        # Hooks of slots belong to the growth, not to the module whose price is asked.
        part._forward_hooks.clear()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        plain(torch.empty(1, *shape, dtype=dtype, device="meta"))
    return int(counter.get_total_flops())


def describe(
    registry: BlueprintRegistry, spec: SlotSpec, ids: Iterable[str]
) -> Mapping[str, BlueprintDescriptor]:
    """Return what each blueprint costs in one slot.

    Args:
        registry: Where the ids are registered.
        spec: The slot.
        ids: Blueprints that fit it.
    """
    described = {}
    for blueprint_id in ids:
        blueprint = registry.get(blueprint_id)
        branch = build_seeded(lambda build=blueprint.build: build(spec), 0)  # type: ignore[misc]
        described[blueprint_id] = BlueprintDescriptor(
            id=blueprint_id,
            family=blueprint.family,
            num_params=count_trainable(branch),
            flops_per_item=count_flops(branch, spec.shape),
        )
    return described
