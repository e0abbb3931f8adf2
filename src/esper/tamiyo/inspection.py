"""What a decision was made from, in names that a person can read: features, masks along the path, options.

```
describe_features   one row of the inputs that a policy was given   -> name -> number, rounded
describe_legal      masks of that row, given what was chosen        -> head -> legality of each option
name_heads          an action space                                 -> head -> names of its options
```
It reads tensors on the CPU that were made already; nothing is encoded a second time for its sake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from esper.leyline import (
    GLOBAL_FEATURES,
    SLOT_FEATURES,
    Action,
    ActionSpace,
    Decision,
    Evidence,
    Observation,
    feature_columns,
)
from esper.tamiyo.action_layout import (
    BLUEPRINT_HEAD,
    HEAD_OPS,
    OP_HEAD,
    SLOT_HEAD,
    build_growth_layout,
)
from esper.tamiyo.actor_critic import MASK_BLUEPRINT, MASK_OP, MASK_SLOT, PolicyInputs
from esper.tamiyo.inputs import build_inputs

if TYPE_CHECKING:
    from torch import Tensor

_GLOBAL_NAMES = feature_columns(GLOBAL_FEATURES)
_SLOT_NAMES = feature_columns(SLOT_FEATURES)


def describe_features(inputs: PolicyInputs, row: int, slot_ids: Iterable[str]) -> dict[str, float]:
    """Return the features of one host by name; those that are 0 are left out.

    Args:
        inputs: As `build_inputs` makes them, [E, ...] on the CPU.
        row: Which of the E hosts.
        slot_ids: Of that host, in forward order; what is padded beyond them is left out.

    Returns:
        "feature" -> number and "slot/feature" -> number, 4 significant digits, in the order of the tables.

    Example:
        >>> shown = describe_features(build_inputs([observation]), 0, observation.space.slot_ids)
        >>> shown["epochs_left"], shown["hidden1/depth"], shown["hidden2/depth"]
        (1.0, 0.5, 1.0)
    """
    shown = {
        name: round_number(value)
        for name, value in zip(_GLOBAL_NAMES, inputs["global"][row].tolist(), strict=True)
        if value
    }
    for slot, values in zip(slot_ids, inputs["slots"][row].tolist(), strict=False):
        shown |= {
            f"{slot}/{name}": round_number(value)
            for name, value in zip(_SLOT_NAMES, values, strict=True)
            if value
        }
    return shown


def describe_legal(
    inputs: PolicyInputs, row: int, action: Action, space: ActionSpace
) -> dict[str, tuple[bool, ...]]:
    """Return head -> legality of each of its options, for the heads that the action's operation uses.

    Slots are those that were legal for the operation, blueprints those that were for the slot; arguments are
    always legal. A head is left out if the action names an operation or a slot that the host does not have.

    Args:
        inputs: As `build_inputs` makes them, [E, ...] on the CPU.
        row: Which of the E hosts.
        action: What was chosen.
        space: Of that host.

    Example:
        >>> action = build_policy("cycle", seed=0).decide(observation).action
        >>> describe_legal(build_inputs([observation]), 0, action, observation.space)["blueprint"]
        (False, True, True, True, True)
    """
    shown: dict[str, tuple[bool, ...]] = {}
    sizes = count_options(space)
    op = space.op_ids.index(action.op) if action.op in space.op_ids else None
    slot = space.slot_ids.index(action.slot) if action.slot in space.slot_ids else None
    for head in list_used_heads(action):
        if head == OP_HEAD:
            shown[head] = _read_mask(inputs[MASK_OP][row], len(space.op_ids))
        elif head == SLOT_HEAD and op is not None:
            shown[head] = _read_mask(inputs[MASK_SLOT][row, op], len(space.slot_ids))
        elif head == BLUEPRINT_HEAD and slot is not None:
            shown[head] = _read_mask(inputs[MASK_BLUEPRINT][row, slot], len(space.blueprint_ids))
        elif head not in (SLOT_HEAD, BLUEPRINT_HEAD):
            shown[head] = (True,) * sizes[head]
    return shown


def list_used_heads(action: Action) -> tuple[str, ...]:
    """Return the heads that an action's operation uses, in the order of the columns of a joint action.

    Example:
        >>> from esper.leyline import WAIT
        >>> list_used_heads(WAIT)
        ('op',)
        >>> list_used_heads(build_policy("cycle", seed=0).decide(observation).action)[:3]
        ('op', 'slot', 'blueprint')
    """
    return tuple(head for head, ops in HEAD_OPS.items() if action.op in ops)


def count_options(space: ActionSpace) -> dict[str, int]:
    """Return head -> number of a host's own options, every head in the order of the columns.

    Example:
        >>> count_options(observation.space)
        {'op': 6, 'slot': 2, 'blueprint': 5, 'blend': 3, 'curve': 3, 'tempo': 4, 'alpha_target': 3}
    """
    return dict(zip(HEAD_OPS, space.sizes, strict=True))


def name_heads(space: ActionSpace) -> dict[str, tuple[str, ...]]:
    """Return head -> names of its options, every head of a host's actions in their order.

    Example:
        >>> names = name_heads(observation.space)
        >>> names["slot"], names["tempo"]
        (('hidden1', 'hidden2'), ('1', '3', '5', '8'))
    """
    layout = build_growth_layout(space)
    return {
        OP_HEAD: layout.op_names,
        SLOT_HEAD: space.slot_ids,
        BLUEPRINT_HEAD: space.blueprint_ids,
        **layout.argument_names,
    }


def add_evidence(decision: Decision, observation: Observation, *, is_observation_kept: bool) -> Decision:
    """Return the decision with what it was made from; what the policy said of that itself stays.

    Args:
        decision: Of any policy.
        observation: What it decided from.
        is_observation_kept: Whether its features are kept; if not, those that a policy noted are dropped.

    Example:
        >>> decision = build_policy("cycle", seed=0).decide(observation)
        >>> evidence = add_evidence(decision, observation, is_observation_kept=False).evidence
        >>> evidence.masks["slot"], evidence.observation
        ((True, True), {})
    """
    evidence = Evidence() if decision.evidence is None else decision.evidence
    features: Mapping[str, float] = evidence.observation if is_observation_kept else {}
    masks = evidence.masks
    if not masks or (is_observation_kept and not features):
        inputs, space = build_inputs([observation]), observation.space
        masks = masks or describe_legal(inputs, 0, decision.action, space)
        if is_observation_kept:
            features = features or describe_features(inputs, 0, space.slot_ids)
    return replace(decision, evidence=replace(evidence, observation=features, masks=masks))


def round_number(value: float) -> float:
    """Return a number with 4 significant digits.

    Example:
        >>> round_number(0.123456), round_number(123456.0)
        (0.1235, 123500.0)
    """
    return float(f"{value:.4g}")


def _read_mask(mask: Tensor, size: int) -> tuple[bool, ...]:
    return tuple(mask[:size].tolist())
