"""The stages of a seed and the one table of legal moves between them. Files store names, never integers.

```
DORMANT > GERMINATED > TRAINING > BLENDING > PROBATIONARY > FOSSILIZED        (kept for good)
             |            |          |            |
             +------------+----------+------------+--> CULLED > EMBARGOED > RESETTING > DORMANT
```
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import final


@final
class SeedStage(Enum):
    """Where a slot stands; the value is the name that files store."""

    __hash__ = object.__hash__  # Enum hashes names, in Python, at every look-up in a table of stages
    DORMANT = "DORMANT"
    """Empty: no module, no parameters, no effect."""
    GERMINATED = "GERMINATED"
    """The seed's module exists and is not trained yet."""
    TRAINING = "TRAINING"
    """Incubation: the seed learns on detached features; the host does not see it (alpha is 0)."""
    BLENDING = "BLENDING"
    """Alpha ramps from 0 to its target; the seed trains with the host."""
    PROBATIONARY = "PROBATIONARY"
    """Alpha is at its target; the seed's contribution is being measured."""
    FOSSILIZED = "FOSSILIZED"
    """Kept for good; part of the network from here on."""
    CULLED = "CULLED"
    """Just removed; its parameters and optimiser state are gone."""
    EMBARGOED = "EMBARGOED"
    """Cooling down, so that culling and germinating again cannot be farmed."""
    RESETTING = "RESETTING"
    """Last interval before the slot is free again."""

    @property
    def has_seed(self) -> bool:
        """Whether a seed module lives in the slot."""
        return self in _WITH_SEED

    @property
    def is_live(self) -> bool:
        """Whether the seed may still be culled: GERMINATED to PROBATIONARY."""
        return self in _WITH_SEED and self is not SeedStage.FOSSILIZED

    @property
    def is_isolated(self) -> bool:
        """Whether the seed exists without touching the host's values or gradients."""
        return self in (SeedStage.GERMINATED, SeedStage.TRAINING)

    @property
    def is_trained(self) -> bool:
        """Whether the seed's parameters are updated: TRAINING and every later stage with a seed."""
        return self in _WITH_SEED and self is not SeedStage.GERMINATED

    @property
    def affects_output(self) -> bool:
        """Whether the seed may change the network's output: BLENDING, PROBATIONARY, FOSSILIZED."""
        return self in (SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)

    @property
    def is_cooldown(self) -> bool:
        """Whether the slot is empty but blocked: CULLED, EMBARGOED, RESETTING."""
        return self in (SeedStage.CULLED, SeedStage.EMBARGOED, SeedStage.RESETTING)

    @property
    def is_terminal(self) -> bool:
        """Whether no transition leaves this stage."""
        return not TRANSITIONS[self]

    @property
    def successors(self) -> tuple[SeedStage, ...]:
        """The stages that the table allows next, success path first."""
        return TRANSITIONS[self]

    def can_become(self, target: SeedStage) -> bool:
        """Whether the table has the edge from this stage to `target`."""
        return target in TRANSITIONS[self]


TRANSITIONS: Mapping[SeedStage, tuple[SeedStage, ...]] = MappingProxyType(
    {
        SeedStage.DORMANT: (SeedStage.GERMINATED,),
        SeedStage.GERMINATED: (SeedStage.TRAINING, SeedStage.CULLED),
        SeedStage.TRAINING: (SeedStage.BLENDING, SeedStage.CULLED),
        SeedStage.BLENDING: (SeedStage.PROBATIONARY, SeedStage.CULLED),
        SeedStage.PROBATIONARY: (SeedStage.FOSSILIZED, SeedStage.CULLED),
        SeedStage.FOSSILIZED: (),
        SeedStage.CULLED: (SeedStage.EMBARGOED,),
        SeedStage.EMBARGOED: (SeedStage.RESETTING,),
        SeedStage.RESETTING: (SeedStage.DORMANT,),
    }
)
"""Every legal move. `kasmina.lifecycle` is the only writer of a stage and obeys this table; its one listed
exception is `restore`, which puts a saved state back after a load or a rollback."""

STAGE_ORDER: tuple[SeedStage, ...] = tuple(SeedStage)
"""Fixed order for one-hot encodings; appended to, never reordered."""

_WITH_SEED = frozenset(
    {
        SeedStage.GERMINATED,
        SeedStage.TRAINING,
        SeedStage.BLENDING,
        SeedStage.PROBATIONARY,
        SeedStage.FOSSILIZED,
    }
)
