"""How every blueprint did in one run: tried, kept, culled, and what it brought."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from esper.nissa.analytics.history import SeedFate


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintScore:
    """One row of the scoreboard."""

    blueprint: str
    num_germinated: int
    num_fossilized: int
    num_culled: int
    keep_rate: float | None
    """Fossilized over (fossilized + culled), in [0, 1]; None = nothing decided yet."""
    mean_contribution: float | None
    """Mean of the seeds' last contributions, in metric units; None = none was measured."""


def compute_scoreboard(fates: Iterable[SeedFate]) -> tuple[BlueprintScore, ...]:
    """Return one row per blueprint, most often kept first, then by mean contribution, then by name.

    Example:
        >>> fates = compute_fates(effective_events(log.records))
        >>> [row.blueprint for row in compute_scoreboard(fates)]
        ['norm']
    """
    groups: dict[str, list[SeedFate]] = defaultdict(list)
    for fate in fates:
        groups[fate.blueprint].append(fate)
    rows = [_score(blueprint, group) for blueprint, group in groups.items()]
    return tuple(
        sorted(
            rows,
            key=lambda row: (
                -row.num_fossilized,
                math.inf if row.mean_contribution is None else -row.mean_contribution,
                row.blueprint,
            ),
        )
    )


def _score(blueprint: str, fates: list[SeedFate]) -> BlueprintScore:
    num_fossilized = sum(fate.outcome == "fossilized" for fate in fates)
    num_culled = sum(fate.outcome == "culled" for fate in fates)
    num_decided = num_fossilized + num_culled
    measured = [f.contribution for f in fates if f.contribution is not None and math.isfinite(f.contribution)]
    return BlueprintScore(
        blueprint=blueprint,
        num_germinated=len(fates),
        num_fossilized=num_fossilized,
        num_culled=num_culled,
        keep_rate=num_fossilized / num_decided if num_decided else None,
        mean_contribution=math.fsum(measured) / len(measured) if measured else None,
    )
