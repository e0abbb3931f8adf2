"""What is known of a metric by its name: its direction, and a difference that is large."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from esper.leyline import ConfigError, MetricSpec

_HIGHER = (
    "accuracy",
    "acc",
    "f1",
    "auc",
    "auroc",
    "precision",
    "recall",
    "r2",
    "map",
    "miou",
    "bleu",
    "rouge",
    "score",
)
_LOWER = ("loss", "error", "mse", "mae", "rmse", "perplexity", "ppl", "nll", "cross_entropy", "wer", "cer")
_SCALES: Mapping[bool, float] = MappingProxyType({True: 0.05, False: 0.1})
"""Direction -> a difference that is large: five points of a share, a tenth of a nat."""


def name_metric(name: str, is_higher_better: bool | None, scale: float | None = None) -> MetricSpec:
    """Return the facts of a metric.

    Args:
        name: As `observe` is given it.
        is_higher_better: None = as the name says, where it is a common one.
        scale: A difference that is large, in its units, > 0; None = 0.05 if higher is better, else 0.1.

    Raises:
        ConfigError: If the direction is neither told nor known, or the scale is not positive.
    """
    if scale is not None and not 0.0 < scale < math.inf:
        raise ConfigError(f"metric_scale={scale}: must be finite and > 0, or None")
    words = set(name.lower().replace("-", "_").split("_")) | {name.lower()}
    if is_higher_better is None:
        if bool(words & set(_HIGHER)) == bool(words & set(_LOWER)):
            raise ConfigError(
                f"metric={name!r}: say higher_is_better=True or False; it is known of "
                f"{', '.join(_HIGHER[:3])}, {', '.join(_LOWER[:4])} and the like"
            )
        is_higher_better = bool(words & set(_HIGHER))
    return MetricSpec(
        name=name,
        is_higher_better=is_higher_better,
        scale=_SCALES[is_higher_better] if scale is None else scale,
    )
