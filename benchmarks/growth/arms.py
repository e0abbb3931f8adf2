"""The arms: what each one trains, and on whose row or which decision it builds.

```
small, big                the network of fixed size, for the task's epochs
small_flops, big_flops    the same, for as many epochs as the budget pays for
static_final              the network that the heuristic ended with, from scratch, for the same epochs
static_final_flops        the same, for as many epochs as the budget pays for
periodic_random           a random seed in a random free slot, at even intervals; nothing is measured
round_robin               slots and blueprints in turn, at the same intervals
greedy, heuristic         esper's policies: measured scores, and the rules
width_random, width_tiny  hidden layers of the small network widened to those of big, by gromo: new units of
                          random weights that change nothing at first, or TINY's with a line search
  ..._kept                the same with the optimiser's momentum carried over each growth
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

GROWN = "heuristic"
"""The arm whose bill is the budget and whose network `static_final` trains from scratch."""


class Budget(Enum):
    """What an arm's number of epochs follows from."""

    EPOCHS = "epochs"
    """The task's epochs, whatever they cost."""
    FIXED = "fixed"
    """The budget over the price of an epoch: the size never changes."""
    PLANNED = "planned"
    """The budget over a plan whose price is known before: growth that nothing can refuse."""
    CALIBRATED = "calibrated"
    """So many epochs that the mean bill on tuning seeds is the budget: growth that decides as it goes."""


class Kind(Enum):
    """Who runs an arm."""

    FIXED = "fixed"
    STATIC = "static"
    POLICY = "policy"
    WIDTH = "width"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One arm of the benchmark."""

    name: str
    kind: Kind
    budget: Budget
    is_big: bool = False
    """Kind FIXED: which of the two sizes."""
    is_tiny: bool = False
    """Kind WIDTH: new units by TINY, else random ones."""
    is_momentum_kept: bool = False
    """Kind WIDTH: whether the optimiser's state is carried over a growth."""

    @property
    def wave(self) -> int:
        """1 if the arm needs a row of `GROWN`, else 0: waves run one after the other."""
        return 1 if self.kind is Kind.STATIC else 0


_ARMS = (
    Arm(name="small", kind=Kind.FIXED, budget=Budget.EPOCHS),
    Arm(name="small_flops", kind=Kind.FIXED, budget=Budget.FIXED),
    Arm(name="big", kind=Kind.FIXED, budget=Budget.EPOCHS, is_big=True),
    Arm(name="big_flops", kind=Kind.FIXED, budget=Budget.FIXED, is_big=True),
    Arm(name="static_final", kind=Kind.STATIC, budget=Budget.EPOCHS),
    Arm(name="static_final_flops", kind=Kind.STATIC, budget=Budget.FIXED),
    Arm(name="periodic_random", kind=Kind.POLICY, budget=Budget.CALIBRATED),
    Arm(name="round_robin", kind=Kind.POLICY, budget=Budget.CALIBRATED),
    Arm(name="greedy", kind=Kind.POLICY, budget=Budget.CALIBRATED),
    Arm(name=GROWN, kind=Kind.POLICY, budget=Budget.CALIBRATED),
    Arm(name="width_random", kind=Kind.WIDTH, budget=Budget.PLANNED),
    Arm(name="width_random_kept", kind=Kind.WIDTH, budget=Budget.PLANNED, is_momentum_kept=True),
    Arm(name="width_tiny", kind=Kind.WIDTH, budget=Budget.CALIBRATED, is_tiny=True),
    Arm(
        name="width_tiny_kept", kind=Kind.WIDTH, budget=Budget.CALIBRATED, is_tiny=True, is_momentum_kept=True
    ),
)
ARMS: Mapping[str, Arm] = MappingProxyType({arm.name: arm for arm in _ARMS})
ARM_NAMES: tuple[str, ...] = tuple(ARMS)
CALIBRATED: tuple[str, ...] = tuple(arm.name for arm in _ARMS if arm.budget is Budget.CALIBRATED)
SMOKE_ARMS = ("small", "big_flops", "periodic_random", GROWN)
