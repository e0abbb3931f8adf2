"""How closely a host is watched: four profiles in one table. Standard library only; measures nothing itself.

```
             gradients of   quantiles   weights   classes           sharpness         may cost
minimal      -              -           -         -                 -                 nothing
standard     1 batch        -           -         -                 -                 1 % of a step
diagnostic   4 batches      5           norms,    accuracy, loss    every 5 epochs    10 % of a step
                                        drift
research     every batch    9           and rank  and confusion     every epoch       what it costs
```
A batch is one of an epoch. Whatever the profile, training and decisions are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

EVERY_BATCH = 2**31
"""More batches than an epoch has."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is measured of a host in every interval, unless a field says otherwise.

    Example:
        PROFILES["standard"].gradient_batches  # 1
    """

    name: str
    history_epochs: int
    """Intervals that red flags look back on; 0 = no red flags."""
    gradient_batches: int = 0
    """Batches whose gradients are looked at, spread evenly, the last one among them."""
    quantiles: tuple[float, ...] = ()
    """Of the size of single gradient numbers in the last batch."""
    has_weights: bool = False
    """Norms of weights, and their drift."""
    has_ranks: bool = False
    """Effective ranks of matrices and kernels."""
    has_classes: bool = False
    """Accuracy and loss per class."""
    has_confusion: bool = False
    sharpness_every: int = 0
    """Intervals between measurements of sharpness; 0 = never."""
    sharpness_draws: int = 0
    sharpness_items: int = 0
    """Validation items per draw."""
    isolation_items: int = 0
    """Validation items on which isolated seeds are checked; 0 = they are not."""
    max_cost_fraction: float | None = None
    """What it may add to the time of an epoch; None = no limit."""


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(name="minimal", history_epochs=0, max_cost_fraction=0.0),
            Profile(name="standard", history_epochs=10, gradient_batches=1, max_cost_fraction=0.01),
            Profile(
                name="diagnostic",
                history_epochs=20,
                gradient_batches=4,
                quantiles=(0.01, 0.25, 0.5, 0.75, 0.99),
                has_weights=True,
                has_classes=True,
                sharpness_every=5,
                sharpness_draws=3,
                sharpness_items=128,
                isolation_items=8,
                max_cost_fraction=0.10,
            ),
            Profile(
                name="research",
                history_epochs=50,
                gradient_batches=EVERY_BATCH,
                quantiles=(0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99),
                has_weights=True,
                has_ranks=True,
                has_classes=True,
                has_confusion=True,
                sharpness_every=1,
                sharpness_draws=10,
                sharpness_items=256,
                isolation_items=32,
            ),
        )
    }
)
"""Name -> profile, from the least to the most that is measured."""
PROFILE_NAMES = tuple(PROFILES)
RAISED = PROFILES["diagnostic"]
"""What a red flag raises a lesser profile to."""


@final
class Escalation:
    """Which profile is in force: the chosen one, or for some epochs after a red flag the raised one.

    A flag that is raised in that time does not prolong it, so that it ends whatever the flags do.
    """

    def __init__(self, chosen: Profile, raised_epochs: int) -> None:
        """Start at the chosen profile.

        Args:
            chosen: By the configuration.
            raised_epochs: How long one red flag raises it, >= 0.
        """
        order = PROFILE_NAMES.index
        self.chosen = chosen
        self._length = raised_epochs if order(chosen.name) < order(RAISED.name) else 0
        self.epochs_left = 0

    @property
    def profile(self) -> Profile:
        """The one in force."""
        return RAISED if self.epochs_left else self.chosen

    def end_epoch(self, *, has_new_flag: bool) -> int:
        """Count one epoch down.

        Args:
            has_new_flag: Whether a red flag was raised in it.

        Returns:
            For how many epochs the profile is raised from here on because of this flag; 0 = it is not.
        """
        if self.epochs_left:
            self.epochs_left -= 1
            return 0
        self.epochs_left = self._length if has_new_flag else 0
        return self.epochs_left


def is_batch_measured(batch: int, num_batches: int, wanted: int) -> bool:
    """Whether a batch is among those that are looked at: evenly spread, the last one always among them.

    Args:
        batch: Of the epoch, from 0.
        num_batches: Of the epoch.
        wanted: How many to look at.

    Example:
        >>> [batch for batch in range(10) if is_batch_measured(batch, 10, 2)]
        [4, 9]
    """
    wanted = min(wanted, num_batches)
    return (batch + 1) * wanted // num_batches > batch * wanted // num_batches
