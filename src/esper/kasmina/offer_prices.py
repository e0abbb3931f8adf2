"""What each blueprint costs in one slot, as the descriptors that a policy sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.kasmina.blueprints.spec import SlotSpec
from esper.kasmina.cost import count_trainable
from esper.kasmina.pricing import price_module
from esper.kasmina.seeded_build import build_seeded
from esper.leyline import BlueprintDescriptor


def describe(
    registry: BlueprintRegistry, spec: SlotSpec, ids: Iterable[str]
) -> Mapping[str, BlueprintDescriptor]:
    """Return what each blueprint costs in one slot.

    Args:
        registry: Where the ids are registered.
        spec: The slot.
        ids: Blueprints that fit it.

    Example:
        >>> slot = next(iter(model.each_slot())).spec
        >>> describe(builtin_registry(), slot, ["mlp"])["mlp"].num_params
        2128
    """
    described = {}
    for blueprint_id in ids:
        blueprint = registry.get(blueprint_id)
        branch = build_seeded(lambda build=blueprint.build: build(spec), 0)  # type: ignore[misc]
        described[blueprint_id] = BlueprintDescriptor(
            id=blueprint_id,
            family=blueprint.family,
            num_params=count_trainable(branch),
            flops_per_item=price_module(branch, spec.seed_shape, registry.prices),
        )
    return described
