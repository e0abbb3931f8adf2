"""python scripts/cli_flags.py [--update]: path, type and default of every field of the experiment config.

The list is frozen in tests/architecture/cli_flags.txt: a new, renamed or changed flag is a line that a
reviewer sees. Without --update the file is only compared.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Iterator
from enum import Enum

from esper.runtime.experiment import ExperimentConfig
from generated import settle
from source_tree import REPO

FROZEN = REPO / "tests" / "architecture" / "cli_flags.txt"


def flag_lines(config: type, default: object = dataclasses.MISSING, prefix: str = "") -> Iterator[str]:
    """Yield "path: type = default" for every leaf of a nested config dataclass, in declaration order.

    Args:
        config: The dataclass.
        default: The value that its parent holds by default; a missing one makes each class speak for itself.
        prefix: Dotted path of the parent with a trailing dot.
    """
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        value = _default_of(field) if default is dataclasses.MISSING else getattr(default, field.name)
        nested = _nested_config(hints[field.name])
        path = prefix + field.name
        if nested is None:
            yield f"{path}: {_type_text(hints[field.name])} = {_value_text(value)}"
        else:
            if value is None:
                yield f"{path}: {_type_text(hints[field.name])} = None"
            yield from flag_lines(nested, dataclasses.MISSING if value is None else value, path + ".")


def _default_of(field: dataclasses.Field[object]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _nested_config(hint: object) -> type | None:
    candidates = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(
        (item for item in candidates if isinstance(item, type) and dataclasses.is_dataclass(item)), None
    )


def _type_text(hint: object) -> str:
    if isinstance(hint, types.UnionType):
        return " | ".join(_type_text(item) for item in typing.get_args(hint))
    if hint is types.NoneType:
        return "None"
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "")


def _value_text(value: object) -> str:
    if value is dataclasses.MISSING:
        return "required"
    return str(value.value) if isinstance(value, Enum) else repr(value)


def build_flags() -> str:
    """Return the whole list, one line per flag."""
    return "\n".join(flag_lines(ExperimentConfig)) + "\n"


if __name__ == "__main__":
    raise SystemExit(settle(FROZEN, build_flags(), is_check="--update" not in sys.argv[1:]))
