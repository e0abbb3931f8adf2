"""Settings and scheduler states as plain data and back, types kept: what JSON lacks is tagged.

`{"kind": ..., "value": ...}` stands for a tuple, a dictionary (its keys strings or numbers), a `Counter`, a
float that is not finite, or a tensor without axes. Nothing else is taken: no object, so no code to load.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def encode_plain(value: object, where: str) -> JsonValue:
    """Return a value as JSON data.

    Args:
        value: None, bool, number, string, 0-dim tensor, or list, tuple, dict, Counter of such.
        where: What it belongs to, for the error.

    Raises:
        ConfigError: If there is anything else in it; says where.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"kind": "float", "value": repr(value)}
        case list():
            return [encode_plain(item, where) for item in value]
        case tuple():
            return {"kind": "tuple", "value": [encode_plain(item, where) for item in value]}
        case dict() if all(isinstance(key, str | int | float) for key in value):
            pairs: list[JsonValue] = [
                [encode_plain(key, where), encode_plain(item, f"{where}, {key!r}")]
                for key, item in value.items()
            ]
            return {"kind": "counter" if isinstance(value, Counter) else "dict", "value": pairs}
        case Tensor() if value.dim() == 0 and value.dtype in _DTYPES:
            return {"kind": f"tensor:{value.dtype}", "value": encode_plain(value.item(), where)}
    raise ConfigError(
        f"{where} holds a {type(value).__name__}, which is not plain data: numbers, strings, lists and "
        "dictionaries can be saved; keep the rest out of state_dict()"
    )


def decode_plain(value: JsonValue, where: str) -> object:
    """Return what `encode_plain` was given.

    Args:
        value: What it returned.
        where: For the error.

    Raises:
        ForeignCheckpointError: If it is malformed.
    """
    if isinstance(value, list):
        return [decode_plain(item, where) for item in value]
    if not isinstance(value, Mapping):
        return value
    match dict(value):
        case {"kind": "float", "value": "inf" | "-inf" | "nan" as text}:
            return float(str(text))
        case {"kind": "tuple", "value": list(items)}:
            return tuple(decode_plain(item, where) for item in items)
        case {"kind": "dict" | "counter" as kind, "value": list(pairs)} if all(
            isinstance(pair, list) and len(pair) == 2 and not isinstance(pair[0], list | Mapping)
            for pair in pairs
        ):
            entries = {key: decode_plain(item, where) for key, item in pairs}
            return Counter(entries) if kind == "counter" else entries
        case {"kind": str(kind), "value": inner}:
            number = decode_plain(inner, where)
            for dtype in _DTYPES:
                if kind == f"tensor:{dtype}" and isinstance(number, int | float):
                    return torch.tensor(number, dtype=dtype)
    raise ForeignCheckpointError(f"{where}: {value!r:.80} is malformed")
