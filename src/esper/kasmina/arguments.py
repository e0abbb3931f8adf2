"""How a module is called inside somebody's model, as the arguments of a graph that takes its place.

Names and defaults are those of the module's own forward; what it takes by `*args` or `**kwargs` is what one
recorded call handed over. Knows signatures; no slot, no graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import nn

_LITERALS = (int, float, bool, str, torch.dtype, torch.device)
_Kind = inspect.Parameter


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of a target.

    Example:
        Argument(name="mask", default=(None,), is_positional=False)
    """

    name: str
    default: tuple[object, ...] = ()
    """The value in a tuple; () = must be given."""
    is_positional: bool
    """Whether the target is handed it by place, not by name."""


def read_arguments(
    module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[Argument, ...]:
    """Return the arguments that a stand-in for a module must take, in an order that Python accepts.

    An argument with a default that cannot be written down is required where the call gave it, and left out
    where it did not.

    Args:
        module: The target.
        args: What one call gave by place.
        kwargs: What it gave by name.
    """
    parameters = _bound_parameters(module, args, kwargs)
    names = [p.name for p in parameters if p.kind in (_Kind.POSITIONAL_ONLY, _Kind.POSITIONAL_OR_KEYWORD)]
    found: list[Argument] = []
    for place, name in enumerate(names):
        parameter = next(p for p in parameters if p.name == name)
        is_positional = place < len(args) or parameter.kind is _Kind.POSITIONAL_ONLY
        found += _mirror(parameter, is_positional, is_given=place < len(args) or name in kwargs)
    rest = next((p.name for p in parameters if p.kind is _Kind.VAR_POSITIONAL), "argument")
    extras = range(len(names), len(args))
    if extras:
        found = [replace(argument, default=()) for argument in found]
    found += [Argument(name=f"{rest}_{place}", is_positional=True) for place in extras]
    for parameter in parameters:
        if parameter.kind is _Kind.KEYWORD_ONLY:
            found += _mirror(parameter, False, is_given=parameter.name in kwargs)
    known = {argument.name for argument in found}
    found += [
        Argument(name=name, is_positional=False, default=(None,) if value is None else ())
        for name, value in kwargs.items()
        if name not in known
    ]
    return _order_defaults(found)


def _bound_parameters(
    module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> list[inspect.Parameter]:
    """Return the forward's parameters; none where the call does not fit: a hook changes it then."""
    try:
        signature = inspect.signature(module.forward)
        signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        return []
    return list(signature.parameters.values())


def _mirror(parameter: inspect.Parameter, is_positional: bool, *, is_given: bool) -> list[Argument]:
    if parameter.default is inspect.Parameter.empty:
        return [Argument(name=parameter.name, is_positional=is_positional)]
    if _is_literal(parameter.default):
        return [Argument(name=parameter.name, is_positional=is_positional, default=(parameter.default,))]
    return [Argument(name=parameter.name, is_positional=is_positional)] if is_given else []


def _is_literal(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_literal(part) for part in value)
    return value is None or type(value) in _LITERALS


def _order_defaults(arguments: list[Argument]) -> tuple[Argument, ...]:
    """Give what must be given, but comes after a default, the default None: the host always gives it."""
    has_default, ordered = False, []
    for argument in arguments:
        has_default = has_default or bool(argument.default)
        ordered.append(
            replace(argument, default=(None,)) if has_default and not argument.default else argument
        )
    return tuple(ordered)
