"""Where states that should be equal differ, and which rank stands alone. Compares plain data only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from esper.leyline import JsonValue, canonical_json

_ORDER = (
    "event_no",
    "epoch",
    "batch",
    "slots",
    "parameters",
    "buffers",
    "optimizer",
    "scaler",
    "governor",
    "plan",
    "values",
)
"""Causes before what follows from them."""
_MAX_TEXT = 120
_MISSING = "missing"
_HEX_FLOAT = re.compile(r"-?0x[01]\.[0-9a-f]+p[+-][0-9]+")
"""Floats in canonical JSON."""
_INTEGERS: Mapping[int, torch.dtype] = MappingProxyType(
    {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
)


def to_finite(value: JsonValue) -> JsonValue:
    """Return the same data with non-finite floats as text, which canonical JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {name: to_finite(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_finite(item) for item in value]
    return value


def sum_bits(tensors: Mapping[str, Tensor]) -> dict[str, JsonValue]:
    """Return a checksum per tensor: the sum of its bits read as whole numbers, modulo 2**64.

    One flipped bit always changes it. Computed where the tensors lie, and read in one go per device.

    Args:
        tensors: Of any shapes, types and devices.
    """
    sums: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        sums.setdefault(tensor.device, {})[name] = _sum_bits(tensor)
    values: dict[str, JsonValue] = {}
    for of_device in sums.values():
        stacked = torch.stack(list(of_device.values()))
        values |= dict(zip(of_device, stacked.tolist(), strict=True))  # sync: once per check and device
    return values


def describe_difference(states: Sequence[JsonValue]) -> str:
    """Return the first place where states differ, and what each rank has there.

    With three ranks or more, one that differs from equal others is named as the one.

    Args:
        states: One per rank, not all equal.
    """
    paths = [path for state in states[1:] if (path := find_difference(states[0], state)) is not None]
    path = min(paths, key=lambda names: [_place(name) for name in names])
    holders: dict[str, list[str]] = {}
    for rank, state in enumerate(states):
        holders.setdefault(_look_up(state, path), []).append(str(rank))
    table = ", ".join(f"{text} on rank {', '.join(ranks)}" for text, ranks in holders.items())
    rare, usual = sorted(holders.values(), key=len)[:2]
    is_alone = len(holders) == 2 and len(rare) == 1 < len(usual)
    alone = f"; rank {rare[0]} differs from all others" if is_alone else ""
    return f"{'.'.join(path)} is {table}{alone}"


def find_difference(one: JsonValue, other: JsonValue) -> tuple[str, ...] | None:
    """Return the path to the first difference of two states, causes first; None if they are equal."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        left, right = dict(one), dict(other)
    elif _is_list(one) and _is_list(other):
        left = {str(place): item for place, item in enumerate(one)}  # type: ignore[arg-type]
        right = {str(place): item for place, item in enumerate(other)}  # type: ignore[arg-type]
    else:
        return None if canonical_json(one) == canonical_json(other) else ()
    for name in sorted({*left, *right}, key=_place):
        if name not in left or name not in right:
            return (name,)
        inner = find_difference(left[name], right[name])
        if inner is not None:
            return (name, *inner)
    return None


def _is_list(value: JsonValue) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _place(name: str) -> tuple[int, int, str]:
    order = _ORDER.index(name) if name in _ORDER else len(_ORDER)
    return order, int(name) if name.isdecimal() else 0, name


def _look_up(state: JsonValue, path: Sequence[str]) -> str:
    for name in path:
        if isinstance(state, Mapping):
            if name not in state:
                return _MISSING
            state = state[name]
        elif isinstance(state, Sequence) and not isinstance(state, str) and int(name) < len(state):
            state = state[int(name)]
        else:
            return _MISSING
    text = str(state)
    if _HEX_FLOAT.fullmatch(text):
        text = repr(float.fromhex(text))
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def _sum_bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    return flat.view(_INTEGERS[flat.element_size()]).sum(dtype=torch.int64)
