"""Which runs nobody beats: the Pareto front of a metric against what it costs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import final

from esper.leyline import JsonValue


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """One network, or one way of making it.

    Example:
        ParetoPoint(name="heuristic", metric=0.94, cost=7_622)
    """

    name: str
    metric: float
    cost: float
    """Parameters or FLOPs, less is better."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the fields by name."""
        return asdict(self)


def find_front(points: Iterable[ParetoPoint], *, is_higher_better: bool = True) -> tuple[ParetoPoint, ...]:
    """Return the points that no other point dominates, the cheapest first, then by name.

    A point dominates another if it is at least as good and at most as dear, and better in one of the two.
    Points that are equal in both do not dominate each other: all of them are on the front, or none is. A
    point with a number that is not finite is never on it.

    Args:
        points: In any order.
        is_higher_better: Whether a greater metric is the better one.

    Example:
        >>> sizes = {"small": (0.90, 100), "large": (0.94, 900), "poor": (0.89, 500)}
        >>> points = [ParetoPoint(name=name, metric=m, cost=c) for name, (m, c) in sizes.items()]
        >>> [point.name for point in find_front(points)]
        ['small', 'large']
    """
    sign = 1.0 if is_higher_better else -1.0
    finite = [point for point in points if math.isfinite(point.metric) and math.isfinite(point.cost)]
    front: list[ParetoPoint] = []
    best, dearest = -math.inf, math.inf
    for point in sorted(finite, key=lambda point: (point.cost, -sign * point.metric, point.name)):
        quality = sign * point.metric
        if quality > best:
            best, dearest = quality, point.cost
            front.append(point)
        elif quality == best and point.cost == dearest:
            front.append(point)
    return tuple(front)
