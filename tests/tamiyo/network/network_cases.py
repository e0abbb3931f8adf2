"""Random inputs of growing hosts and small networks over them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from builders import make_space
from esper.leyline import (
    BLUEPRINT_FAMILIES,
    BLUEPRINT_FEATURES,
    GLOBAL_FEATURES,
    SLOT_FEATURES,
    LifecycleOp,
    feature_width,
)
from esper.tamiyo.action_layout import HEAD_OPS, ActionLayout, build_growth_layout
from esper.tamiyo.network import NetworkConfig, RecurrentActorCritic, build_network

LAYOUT = build_growth_layout(make_space())
SMALL = NetworkConfig(
    hidden_size=12,
    token_size=8,
    family_size=3,
    attention_heads=2,
    core_size=10,
    core_layers=2,
    removal_bias=0.0,
    full_target_bias=0.0,
)
FLAT = replace(SMALL, kind="flat", flat_slots=4, flat_blueprints=5)
OPS = tuple(LifecycleOp)
_ADDRESSED = torch.tensor([op in HEAD_OPS["slot"] for op in OPS])
_BIRTHS = torch.tensor([op in HEAD_OPS["blueprint"] for op in OPS])


def make_inputs(*shape: int, slots: int = 3, blueprints: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Return inputs [*shape, ...] of hosts with 1 to `slots` slots; no mask that can be reached is empty."""
    rng = torch.Generator().manual_seed(seed)

    def features(*sizes: int) -> Tensor:
        return torch.randn(*shape, *sizes, generator=rng).clamp(-10, 10)

    def coin(*sizes: int, chance: float) -> Tensor:
        return torch.rand(*shape, *sizes, generator=rng) < chance

    def families(*sizes: int) -> Tensor:
        return torch.randint(0, len(BLUEPRINT_FAMILIES) + 1, (*shape, *sizes), generator=rng)

    counts = torch.randint(1, slots + 1, shape, generator=rng)
    slot_exists = torch.arange(slots) < counts[..., None]
    blueprint_exists = slot_exists[..., None] & coin(slots, blueprints, chance=0.8)
    mask_blueprint = blueprint_exists & coin(slots, blueprints, chance=0.7)
    mask_slot = slot_exists[..., None, :] & coin(len(OPS), slots, chance=0.6)
    mask_slot &= ~_BIRTHS[:, None] | mask_blueprint.any(dim=-1)[..., None, :]
    mask_op = ~_ADDRESSED | mask_slot.any(dim=-1)
    return {
        "global": features(feature_width(GLOBAL_FEATURES)),
        "slots": features(slots, feature_width(SLOT_FEATURES)) * slot_exists[..., None],
        "blueprints": features(slots, blueprints, feature_width(BLUEPRINT_FEATURES))
        * blueprint_exists[..., None],
        "slot_families": families(slots) * slot_exists,
        "blueprint_families": families(slots, blueprints) * blueprint_exists,
        "slot_exists": slot_exists,
        "blueprint_exists": blueprint_exists,
        "mask_op": mask_op,
        "mask_slot": mask_slot,
        "mask_blueprint": mask_blueprint,
    }


def pad_inputs(inputs: dict[str, Tensor], slots: int, blueprints: int) -> dict[str, Tensor]:
    """Return the inputs with that many further slots and blueprints that do not exist."""

    def grow(tensor: Tensor, dim: int, more: int) -> Tensor:
        shape = list(tensor.shape)
        shape[dim] = more
        return torch.cat([tensor, tensor.new_zeros(shape)], dim=dim)

    rank = inputs["mask_op"].dim() - 1
    places = {
        "slots": (rank, None),
        "blueprints": (rank, rank + 1),
        "slot_families": (rank, None),
        "blueprint_families": (rank, rank + 1),
        "slot_exists": (rank, None),
        "blueprint_exists": (rank, rank + 1),
        "mask_slot": (rank + 1, None),
        "mask_blueprint": (rank, rank + 1),
    }
    padded = dict(inputs)
    for name, (slot_dim, blueprint_dim) in places.items():
        padded[name] = grow(padded[name], slot_dim, slots)
        if blueprint_dim is not None:
            padded[name] = grow(padded[name], blueprint_dim, blueprints)
    return padded


def permute_slots(inputs: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """Return inputs [N, ...] with their slots in another order."""
    permuted = {
        name: tensor[:, order]
        for name, tensor in inputs.items()
        if name not in ("global", "mask_op", "mask_slot")
    }
    return {
        **permuted,
        "global": inputs["global"],
        "mask_op": inputs["mask_op"],
        "mask_slot": inputs["mask_slot"][:, :, order],
    }


def make_network(
    config: NetworkConfig = SMALL, *, layout: ActionLayout = LAYOUT, seed: int = 0, spread: float = 0.0
) -> RecurrentActorCritic:
    """Return a network.

    Args:
        spread: Standard deviation of noise added to every weight, so that it is no longer nearly uniform.
    """
    network = build_network(config, layout, seed=seed)
    rng = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=spread)
        for module in network.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0
    return network
