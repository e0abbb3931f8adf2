"""Grown strangers: models as other people write them, with kept seeds in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper.kasmina import (
    BlueprintRegistry,
    Inputs,
    MorphogeneticModel,
    PointWishes,
    call_host,
    find_growth_points,
    list_tensors,
)
from esper.leyline import BlendForm, SeedStage
from kasmina.growing import draw, grow, make_model
from kasmina.strangers import Encoder, SmallResNet, build

IMAGES = draw(4, 3, 16, 16, seed=1)
TOKENS = {
    "input_ids": torch.arange(12).reshape(3, 4),
    "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]),
}


def slotted(
    host: nn.Module,
    sample: Inputs,
    wishes: PointWishes,
    *,
    registry: BlueprintRegistry | None = None,
) -> MorphogeneticModel:
    """Return a model with a dormant slot wherever `wishes` say."""
    found = find_growth_points(host, sample, wishes)
    return make_model(host, sample=sample, registry=registry, points=tuple(item.point for item in found))


def grown(
    host: nn.Module,
    sample: Inputs,
    wishes: PointWishes,
    blueprints: Sequence[str],
    *,
    blend: BlendForm = BlendForm.ADD,
    registry: BlueprintRegistry | None = None,
) -> MorphogeneticModel:
    """Return a model whose slots hold kept seeds of these blueprints, in turn, with random weights."""
    model = slotted(host, sample, wishes, registry=registry)
    for place, slot_id in enumerate(model.slot_ids):
        blueprint = blueprints[place % len(blueprints)]
        grow(model, slot_id, SeedStage.FOSSILIZED, blueprint=blueprint, blend=blend)
    return model


def grown_resnet(*blueprints: str, at: tuple[str, ...] = ("stages.*", "neck")) -> MorphogeneticModel:
    """Return a grown `SmallResNet` whose norms have statistics of their own."""
    host = build(SmallResNet)
    host(draw(8, 3, 16, 16, seed=7))
    return grown(host, IMAGES, PointWishes(at=at), blueprints or ("conv_light",))


def grown_encoder(*blueprints: str) -> MorphogeneticModel:
    """Return a grown `Encoder`: layers that return (hidden, weights) and are called with mask=."""
    wishes = PointWishes(at=("layers.*",), layout="nld", select=0)
    return grown(build(Encoder), TOKENS, wishes, blueprints or ("norm",))


def furthest(one: nn.Module, other: nn.Module, inputs: Inputs) -> float:
    """Return the largest difference between what two networks return."""
    with torch.no_grad():
        pairs = zip(list_tensors(call_host(one, inputs)), list_tensors(call_host(other, inputs)), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs)


def count_params(module: nn.Module) -> int:
    """Return the number of parameters, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def without_grafts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the host's own tensors."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("grafts.")}
