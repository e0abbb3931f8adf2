"""How every blueprint did in one run: tried, kept, culled, what it brought, what it cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import final

from esper.leyline import JsonValue
from esper.nissa.analytics.history import SeedFate


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintScore:
    """One row of the scoreboard; None = there was no such seed, or nothing was measured."""

    blueprint: str
    num_germinated: int
    num_fossilized: int
    num_culled: int
    keep_rate: float | None
    """Fossilized over (fossilized + culled), in [0, 1]; None = nothing decided yet."""
    mean_contribution: float | None
    """Mean of the seeds' last contributions, in metric units; None = none was measured."""
    mean_gain: float | None = None
    """Mean change of the validation metric over a seed's life, the host's own progress included."""
    mean_blend_delta: float | None = None
    """Mean change since a seed began to blend in."""
    churn: float | None = None
    """Parameters of culled seeds over those of all that germinated, in [0, 1]: built for nothing."""
    params_added: int = 0
    """Of the seeds that were kept."""
    mean_fossilized_age_epochs: float | None = None
    """From germination to being kept."""
    mean_culled_age_epochs: float | None = None
    """From germination to being removed."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the fields by name."""
        return asdict(self)


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
    kept = [fate for fate in fates if fate.outcome == "fossilized"]
    culled = [fate for fate in fates if fate.outcome == "culled"]
    num_decided, num_built = len(kept) + len(culled), sum(fate.num_params for fate in fates)
    return BlueprintScore(
        blueprint=blueprint,
        num_germinated=len(fates),
        num_fossilized=len(kept),
        num_culled=len(culled),
        keep_rate=len(kept) / num_decided if num_decided else None,
        mean_contribution=_mean(fate.contribution for fate in fates),
        mean_gain=_mean(fate.gain for fate in fates),
        mean_blend_delta=_mean(fate.blend_delta for fate in fates),
        churn=sum(fate.num_params for fate in culled) / num_built if num_built else None,
        params_added=sum(fate.num_params for fate in kept),
        mean_fossilized_age_epochs=_mean(map(_age, kept)),
        mean_culled_age_epochs=_mean(map(_age, culled)),
    )


def _age(fate: SeedFate) -> float | None:
    return None if fate.end_epoch is None else float(fate.end_epoch - fate.start_epoch)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None
