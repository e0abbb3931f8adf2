"""Decisions as rows of whole numbers, so that ranks compare and follow them without a pickle.

Slots and blueprints travel as hashes of their names, not as places in a table: where one rank lacks a
blueprint the later ones have other places, and it would plant a neighbour without noticing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

from esper.leyline import Action, ActionSpace, AlphaCurve, BlendForm, LifecycleOp

UNKNOWN = "unknown here"
"""Stands for a slot or blueprint that the other rank has and this one lacks; no action with it is legal."""
ACTION_LENGTH = 7
_NOTHING = -1
_LARGEST = 2**63 - 1


def encode_action(action: Action) -> list[int]:
    """Return an action as `ACTION_LENGTH` whole numbers that fit into 64 bits."""
    return [
        list(LifecycleOp).index(action.op),
        _number_name(action.slot),
        _number_name(action.blueprint),
        list(BlendForm).index(action.blend),
        list(AlphaCurve).index(action.curve),
        max(-_LARGEST, min(_LARGEST, action.tempo_epochs)),
        struct.unpack("<q", struct.pack("<d", action.alpha_target))[0],
    ]


def decode_action(numbers: Sequence[int], space: ActionSpace) -> Action:
    """Return the action of `encode_action`, in the names that are known here.

    Args:
        numbers: [ACTION_LENGTH], from a rank of this program.
        space: Slots and blueprints of this rank's host.
    """
    op, slot, blueprint, blend, curve, tempo, alpha = numbers
    return Action(
        op=list(LifecycleOp)[op],
        slot=_find_name(slot, space.slot_ids),
        blueprint=_find_name(blueprint, space.blueprint_ids),
        blend=list(BlendForm)[blend],
        curve=list(AlphaCurve)[curve],
        tempo_epochs=tempo,
        alpha_target=struct.unpack("<d", struct.pack("<q", alpha))[0],
    )


def describe_action(action: Action) -> str:
    """Return an action in a few words, such as "GERMINATE block2 conv_light"."""
    parts = (action.op.value, action.slot, action.blueprint)
    return " ".join(part for part in parts if part is not None)


def _number_name(name: str | None) -> int:
    if name is None:
        return _NOTHING
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def _find_name(number: int, names: Iterable[str]) -> str | None:
    if number == _NOTHING:
        return None
    return next((name for name in names if _number_name(name) == number), UNKNOWN)
