"""A user's own seed: a decorated builder becomes a blueprint that keeps the same contract as ours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from esper.kasmina import (
    BlueprintRegistry,
    BlueprintSpec,
    SlotSpec,
    build_seeded,
    builtin_registry,
    count_trainable,
    require_contract,
)
from esper.leyline import BlueprintContractError, ConfigError, Layout, suggest
from esper.runtime.user_code import load_blueprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from esper.tamiyo import HeuristicConfig

_SAMPLES = (
    SlotSpec(slot_id="sample", layout=Layout.MAP_2D, shape=(16, 8, 8), num_channels=16),
    SlotSpec(slot_id="sample", layout=Layout.SEQUENCE, shape=(12, 16), num_channels=16),
    SlotSpec(slot_id="sample", layout=Layout.FLAT, shape=(16,), num_channels=16),
)
"""What a blueprint is tried on when it is declared: one feature per layout."""


def blueprint(
    name: str, *, needs: str | Sequence[str] = "2d", family: str = "own", version: int = 1
) -> Callable[[Callable[[SlotSpec], nn.Module]], BlueprintSpec]:
    """Return a decorator that makes a blueprint of a builder `(SlotSpec) -> nn.Module` and checks it at once.

    The module maps a feature h, [B, C, H, W], [B, T, C] or [B, C], to what is added to it. It must be exactly
    zero at birth and able to learn from there: end in a linear map whose weights are zero, say.

    Args:
        name: Unique id, by which it is germinated.
        needs: Layouts that it fits: "2d", "sequence", "flat".
        family: Group of like blueprints; a policy that never saw it knows it by its costs.
        version: Raised when the meaning of the id changes.

    Raises:
        ConfigError: If a layout is unknown.
        BlueprintContractError: If the module changes shapes, is not zero at birth, cannot learn, or jumps;
            says which.

    Example:
        >>> import esper
        >>> from torch import nn
        >>> @esper.blueprint("twice", needs="flat")
        ... def twice(slot):
        ...     layer = nn.Linear(slot.num_channels, slot.num_channels)
        ...     nn.init.zeros_(layer.weight)
        ...     nn.init.zeros_(layer.bias)
        ...     return layer
        ...
        >>> twice.id  # esper.grow(model, sample=x, blueprints=["mlp", twice])
        'twice'
    """
    known = {layout.value: layout for layout in Layout}
    wanted = (needs,) if isinstance(needs, str) else tuple(needs)
    for layout in wanted:
        if layout not in known:
            raise ConfigError(f"blueprint {name!r}: needs={layout!r}: {suggest(layout, known)}")

    def decorate(build: Callable[[SlotSpec], nn.Module]) -> BlueprintSpec:
        spec = BlueprintSpec(
            id=name,
            family=family,
            layouts=frozenset(known[layout] for layout in wanted),
            build=build,
            count_params=lambda slot: count_trainable(build_seeded(lambda: build(slot), 0)),
            version=version,
        )
        for sample in _SAMPLES:
            if sample.layout in spec.layouts:
                _require_module(spec, sample)
                require_contract(spec, sample)
        return spec

    return decorate


def _require_module(blueprint: BlueprintSpec, sample: SlotSpec) -> None:
    made: object = build_seeded(lambda: blueprint.build(sample), 0)
    if not isinstance(made, nn.Module):
        raise BlueprintContractError(
            f"blueprint {blueprint.id!r}: its function returns {type(made).__name__} for a slot of shape "
            f"{sample.shape}; expected an nn.Module"
        )


Offer = tuple[BlueprintRegistry, tuple[str, ...]]
"""A registry, and the ids and families on offer in it; empty = all."""


def load_offer(names: Sequence[str]) -> Offer:
    """Return a registry for what a configuration offers, and the names on offer.

    Args:
        names: Ids, families, or "package.module:name" of own ones, which are imported; none = every built-in.

    Raises:
        EsperError: If a name is unknown, a module cannot be imported, or a blueprint breaks the contract.
    """
    return extend_registry([load_blueprint(name) if is_reference(name) else name for name in names])


def is_reference(name: str) -> bool:
    """Whether a name of a configuration is that of a user's own blueprint."""
    return ":" in name


def add_to_rotation(rules: HeuristicConfig, specs: Iterable[BlueprintSpec]) -> HeuristicConfig:
    """Return the heuristic's rules with blueprints at the end of the rotations of their layouts.

    What somebody offers by its own name is wanted, and would otherwise never be planted beside those that
    stand in a rotation.
    """
    fields = {
        Layout.MAP_2D: "blueprints_2d",
        Layout.SEQUENCE: "blueprints_sequence",
        Layout.FLAT: "blueprints_flat",
    }
    for spec in specs:
        for layout in sorted(spec.layouts & fields.keys(), key=lambda known: known.value):
            present = rules.rotation_for(layout.value)
            if spec.id not in present:
                rules = replace(rules, **{fields[layout]: (*present, spec.id)})  # type: ignore[arg-type]
    return rules


def extend_registry(
    blueprints: Sequence[str | BlueprintSpec] | None,
) -> tuple[BlueprintRegistry, tuple[str, ...]]:
    """Return a registry with a user's own blueprints, and the names on offer.

    Args:
        blueprints: Ids, families, or what `blueprint` made; None = every built-in one.

    Raises:
        UnknownNameError: If a name is not registered.
        ConfigError: If an own id is taken, or something is neither a name nor a blueprint.
    """
    registry = builtin_registry().extended()
    names: list[str] = []
    for item in blueprints or ():
        if isinstance(item, BlueprintSpec):
            registry.add(item)
            names.append(item.id)
        elif isinstance(item, str):
            names.append(item)
        else:
            raise ConfigError(
                f"blueprints holds {type(item).__name__}: expected names such as 'conv_light', or functions "
                "under @esper.blueprint"
            )
    for name in names:
        registry.members(name)
    return registry.freeze(), tuple(names)
