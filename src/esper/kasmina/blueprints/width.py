"""Blueprints for slots that span two layers: more hidden units of the pair itself.

```
width         second(between(first(x)))   half as many units as there are, second = 0
width_small   second(between(first(x)))   a quarter
```
x is the first layer's input, delta joins the second one's output. With `second` at 0 the units are drawn at
random and learn from the second step on, as every seed whose last linear map is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from esper.kasmina.blueprints.pair import PairPlan, WidthBranch, count_width_params
from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.leyline import ConfigError, Layout

if TYPE_CHECKING:
    from torch import nn

_SMALL, _LARGE = 4, 2
"""One new unit for so many that there are: a quarter is a step that a budget of 1.3 still pays for, half is
the factor by which studies of growing widths usually go."""


def _pair_of(spec: SlotSpec) -> PairPlan:
    if spec.pair is None:
        raise ConfigError(f"slot {spec.slot_id!r} spans no two layers, whose units a width seed would add to")
    return spec.pair


def _builder(divisor: int) -> Callable[[SlotSpec], nn.Module]:
    def build(spec: SlotSpec) -> nn.Module:
        plan = _pair_of(spec)
        return WidthBranch(plan, plan.count_units(divisor))

    return build


def _counter(divisor: int) -> Callable[[SlotSpec], int]:
    def count(spec: SlotSpec) -> int:
        plan = _pair_of(spec)
        return count_width_params(plan, plan.count_units(divisor))

    return count


def _is_smaller(spec: SlotSpec) -> bool:
    """Whether a quarter differs from half: not where there are three units, or groups of many."""
    if spec.pair is None:
        return False
    plan = _pair_of(spec)
    return plan.count_units(_SMALL) < plan.count_units(_LARGE)


WIDTH_BLUEPRINTS: tuple[BlueprintSpec, ...] = (
    BlueprintSpec(
        id="width",
        family="width",
        layouts=frozenset(Layout),
        build=_builder(_LARGE),
        count_params=_counter(_LARGE),
        spans_pair=True,
    ),
    BlueprintSpec(
        id="width_small",
        family="width",
        layouts=frozenset(Layout),
        build=_builder(_SMALL),
        count_params=_counter(_SMALL),
        accepts=_is_smaller,
        spans_pair=True,
    ),
)
