"""The Pareto front equals its definition, keeps ties, and never holds a number that is not finite."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from esper.nissa import ParetoPoint, find_front

_NUMBERS = st.integers(0, 4)  # few values, so that ties are frequent


def point(name: str, metric: float, cost: float) -> ParetoPoint:
    return ParetoPoint(name=name, metric=metric, cost=cost)


def dominates(one: ParetoPoint, other: ParetoPoint, sign: float) -> bool:
    """The definition, asked of every pair."""
    is_as_good = sign * one.metric >= sign * other.metric and one.cost <= other.cost
    return is_as_good and (one.metric != other.metric or one.cost != other.cost)


@given(pairs=st.lists(st.tuples(_NUMBERS, _NUMBERS), max_size=12), is_higher_better=st.booleans())
def test_the_front_is_whom_nobody_dominates(pairs: list[tuple[int, int]], is_higher_better: bool) -> None:
    points = [point(f"p{place}", *map(float, pair)) for place, pair in enumerate(pairs)]
    sign = 1.0 if is_higher_better else -1.0
    expected = {one.name for one in points if not any(dominates(other, one, sign) for other in points)}
    front = find_front(points, is_higher_better=is_higher_better)
    assert {one.name for one in front} == expected
    assert [one.cost for one in front] == sorted(one.cost for one in front)


def test_equals_stand_together() -> None:
    front = find_front([point("b", 0.9, 10), point("a", 0.9, 10), point("dear", 0.9, 11)])
    assert [one.name for one in front] == ["a", "b"]
    assert front[0].to_json() == {"name": "a", "metric": 0.9, "cost": 10}


def test_what_is_not_finite_is_left_out() -> None:
    points = [point("nan", math.nan, 1), point("inf", math.inf, 1), point("ok", 0.1, 5)]
    assert [one.name for one in find_front(points)] == ["ok"]
    assert find_front([]) == ()
