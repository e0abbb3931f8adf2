"""Observations as the named tensors that a network over growing hosts takes, and the contract they keep.

```
build_inputs(observations)     encoding + masks, padded to one shape; padding is never legal
describe_contract()            every feature by name, scale and width: what a saved policy was trained on
observation_contract()         the hash of that
find_contract_difference(old)  the first place where a saved description differs from ours
```
It knows no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from esper.leyline import (
    BLUEPRINT_FEATURES,
    FAMILY_FEATURE,
    FEATURE_BOUND,
    GLOBAL_FEATURES,
    SLOT_FEATURES,
    STAGE_ORDER,
    ActionSpace,
    BlendForm,
    ConfigError,
    FeatureSpec,
    JsonValue,
    Layout,
    LifecycleOp,
    Observation,
    canonical_hash,
    suggest,
)
from esper.tamiyo.action_layout import HEAD_OPS
from esper.tamiyo.actor_critic import MASK_BLUEPRINT, MASK_OP, MASK_SLOT
from esper.tamiyo.batch_encoding import encode_many
from esper.tamiyo.masks import compute_masks_many

if TYPE_CHECKING:
    from torch import Tensor


def build_inputs(
    observations: Sequence[Observation], *, num_slots: int = 1, num_blueprints: int = 1
) -> dict[str, Tensor]:
    """Return the inputs of E hosts on the CPU, named as `esper.tamiyo.actor_critic` lists them.

    Args:
        observations: E of them; their operations and arguments must be the same, slots and blueprints not.
        num_slots: Pad to at least this many slots, so that all steps of a rollout have one shape; >= 1.
        num_blueprints: Likewise for blueprints.

    Returns:
        Tensors padded to the largest host of the batch, or further as asked; what is padded is never legal.

    Raises:
        ConfigError: If hosts with different operations are mixed, or a number is < 1.
        ValueError: If there is no observation.

    Example:
        >>> build_inputs([observation, observation])["slots"].shape[:2]
        torch.Size([2, 2])
    """
    for name, number in (("num_slots", num_slots), ("num_blueprints", num_blueprints)):
        if number < 1:
            raise ConfigError(f"{name}={number}: must be >= 1")
    sizes = {"num_slots": num_slots, "num_blueprints": num_blueprints}
    encoded = encode_many(observations, **sizes)
    _check_same_operations([observation.space for observation in observations])
    masks = compute_masks_many(observations, **sizes)
    return {
        "global": encoded.global_features,
        "slots": encoded.slots,
        "blueprints": encoded.blueprints,
        "slot_families": encoded.slot_families,
        "blueprint_families": encoded.blueprint_families,
        "slot_exists": encoded.slot_mask,
        "blueprint_exists": encoded.blueprint_mask,
        MASK_OP: masks.ops,
        MASK_SLOT: masks.slots,
        MASK_BLUEPRINT: masks.blueprints,
    }


def describe_contract() -> dict[str, JsonValue]:
    """Return what a policy's inputs mean: features by group, names behind one-hot columns, heads.

    How many slots and blueprints there are is no part of it, nor which families exist: those are only ever
    appended to.

    Example:
        >>> sorted(describe_contract())[:3]
        ['blends', 'blueprints', 'bound']
    """
    groups = {
        "global": GLOBAL_FEATURES,
        "slots": SLOT_FEATURES,
        "blueprints": BLUEPRINT_FEATURES,
        "families": (FAMILY_FEATURE,),
    }
    described: dict[str, JsonValue] = {
        group: [_describe_feature(spec) for spec in specs] for group, specs in groups.items()
    }
    described["bound"] = FEATURE_BOUND
    described["stages"] = [stage.value for stage in STAGE_ORDER]
    described["layouts"] = [layout.value for layout in Layout]
    described["blends"] = [form.value for form in BlendForm]
    described["heads"] = [
        [head, [op.value for op in LifecycleOp if op in ops]] for head, ops in HEAD_OPS.items()
    ]
    return described


def observation_contract() -> str:
    """Return the SHA-256 of `describe_contract()`: equal ids mean inputs with equal meaning.

    Example:
        >>> observation_contract() == observation_contract()
        True
    """
    return canonical_hash(describe_contract())


def find_contract_difference(saved: Mapping[str, object]) -> str | None:
    """Return the first difference between a saved description and ours in words; None if there is none.

    Args:
        saved: What `describe_contract` once returned, possibly read back from JSON.
    """
    ours = describe_contract()
    for group in saved:
        if group not in ours:
            return f"group {group!r} of the saved contract is unknown: {suggest(group, ours)}"
    for group, described in ours.items():
        if group not in saved:
            return f"group {group!r} is missing in the saved contract"
        difference = _find_in_group(group, _as_list(saved[group]), _as_list(described))
        if difference is not None:
            return difference
    return None


def _describe_feature(spec: FeatureSpec) -> JsonValue:
    return [spec.name, spec.scale.value, spec.width]


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _find_in_group(group: str, saved: list[object], ours: list[object]) -> str | None:
    for place, (old, new) in enumerate(zip(saved, ours, strict=False)):
        if old != new:
            return f"{group}[{place}] was {_show(old)}, is now {_show(new)}"
    if len(saved) > len(ours):
        return f"{group}[{len(ours)}] was {_show(saved[len(ours)])}, is now missing"
    if len(ours) > len(saved):
        return f"{group}[{len(saved)}] is now {_show(ours[len(saved)])}, was missing"
    return None


def _show(value: object) -> str:
    return " ".join(str(item) for item in _as_list(value))


def _check_same_operations(spaces: Sequence[ActionSpace]) -> None:
    first = spaces[0]
    for place, space in enumerate(spaces):
        for name, got, expected in (
            ("op_ids", space.op_ids, first.op_ids),
            ("blend_ids", space.blend_ids, first.blend_ids),
            ("curve_ids", space.curve_ids, first.curve_ids),
            ("tempo_ids", space.tempo_ids, first.tempo_ids),
            ("alpha_target_ids", space.alpha_target_ids, first.alpha_target_ids),
        ):
            if got != expected:
                raise ConfigError(
                    f"observation {place}: {name}={got}, observation 0 has {expected}; hosts of one batch "
                    "must offer the same operations and arguments"
                )
