"""Refusals of settings that are out of range, in one wording."""

from __future__ import annotations

import math

from esper.leyline import ConfigError, suggest


def require(
    name: str, value: float, low: float, high: float = math.inf, *, is_low_open: bool = False
) -> None:
    """Refuse a number outside [low, high], or (low, high]; what is not finite is outside of any range.

    Args:
        name: As a user writes it, for the message.
        value: What was given.
        low: Least value.
        high: Largest value.
        is_low_open: Whether `low` itself is outside.

    Raises:
        ConfigError: If it is outside.
    """
    is_inside = math.isfinite(value) and low <= value <= high and not (is_low_open and value == low)
    if not is_inside:
        ceiling = "" if high == math.inf else f" and <= {high}"
        floor = "" if low == -math.inf else f" {'>' if is_low_open else '>='} {low}"
        raise ConfigError(f"{name}={value}: must be finite{' and' if floor else ''}{floor}{ceiling}")


def require_name(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not known, with the nearest that is.

    Raises:
        ConfigError: If it is unknown.
    """
    if value not in known:
        raise ConfigError(f"{name}={value!r}: {suggest(value, known)}")
