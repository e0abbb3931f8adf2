"""The observation contract: every number a learned policy sees, by name, meaning, scale and width.

A table, not an encoder: tensors are made in tamiyo and columns in fleets, both named by what stands here.
Names and scales are the contract, counts are not: slots and blueprints may be any number. A validity flag
says whether the number beside it was measured; a number that was not, or is not finite, is 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import final

from esper.leyline.actions import BlendForm
from esper.leyline.blueprints import Layout
from esper.leyline.signals import HISTORY_LENGTH
from esper.leyline.stages import STAGE_ORDER

FEATURE_BOUND = 10.0
"""Hard bound: no encoded feature leaves [-10, 10]."""


@final
class FeatureScale(Enum):
    """How a raw number becomes a feature."""

    FLAG = "flag"
    """0 or 1."""
    ONE_HOT = "one_hot"
    """One column per name, at most one of them 1; all 0 = none or unknown."""
    FRACTION = "fraction"
    """Clipped to [0, 1]."""
    SIGNED = "signed"
    """Clipped to [-1, 1]."""
    SYMLOG = "symlog"
    """sign(x) ln(1 + |x|), clipped to [-10, 10]."""
    INDEX = "index"
    """1 + the place in an id table, 0 = unknown: to be embedded, never used as a number."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """One row of the table.

    Example:
        FeatureSpec(name="alpha", scale=FeatureScale.FRACTION, meaning="alpha of the seed", width=1)
    """

    name: str
    scale: FeatureScale
    meaning: str
    """What the raw number is, its unit included."""
    width: int
    """Columns."""


def feature_width(features: Iterable[FeatureSpec]) -> int:
    """Return how many columns a group takes.

    Example:
        >>> feature_width(SLOT_FEATURES) == sum(spec.width for spec in SLOT_FEATURES)
        True
    """
    return sum(spec.width for spec in features)


def feature_columns(features: Iterable[FeatureSpec]) -> tuple[str, ...]:
    """Return the name of each column in order; a wide feature numbers its own: "loss_history/0", ...

    Example:
        >>> len(feature_columns(GLOBAL_FEATURES)) == feature_width(GLOBAL_FEATURES)
        True
    """
    return tuple(
        spec.name if spec.width == 1 else f"{spec.name}/{place}"
        for spec in features
        for place in range(spec.width)
    )


def _rows(scale: FeatureScale, width: int = 1, **meanings: str) -> tuple[FeatureSpec, ...]:
    rows = meanings.items()
    return tuple(FeatureSpec(name=name, scale=scale, meaning=text, width=width) for name, text in rows)


_FLAG, _FRACTION = FeatureScale.FLAG, FeatureScale.FRACTION
_SIGNED, _SYMLOG, _ONE_HOT = FeatureScale.SIGNED, FeatureScale.SYMLOG, FeatureScale.ONE_HOT

GLOBAL_FEATURES: tuple[FeatureSpec, ...] = (
    *_rows(
        _FRACTION,
        epoch="intervals finished over the horizon",
        epochs_left="intervals left over the horizon",
        shortest_lifecycle="intervals that the fastest lifecycle needs over the horizon",
        plateau="intervals in a row without gain, over 10",
        learning_rate="host learning rate over its peak",
        live_seeds="live seeds over how many may live at once",
        params_left="parameters that may still be added over the whole allowance; 1 = unlimited",
    ),
    *_rows(
        _FLAG,
        has_history="an interval was finished, so that the signals mean something",
        is_host_stable="the host's loss has settled",
        is_params_limited="the parameters that seeds may add are limited",
        is_sequential="no seed may be born while another incubates",
    ),
    *_rows(
        _SYMLOG,
        train_loss="training loss over the chance loss",
        validation_loss="validation loss over the chance loss",
        best_loss="lowest validation loss so far over the chance loss",
        loss_gap="validation loss less training loss, over the chance loss",
        train_metric="training metric, higher is better",
        metric="validation metric, higher is better",
        best_metric="highest validation metric so far",
        host_gradient_norm="L2 norm of the host's gradient",
        added_params="parameters of all seeds over the host's",
        added_flops="forward FLOPs of all seeds over the host's",
        flops_spent="FLOPs spent over those of never growing up to the horizon",
    ),
    *_rows(
        _SIGNED,
        loss_delta="last fall of the validation loss over a tenth of the chance loss; positive = better",
        metric_delta="last gain of the metric over its scale",
        metric_below_best="metric less the best metric, over its scale",
    ),
    *_rows(
        _SYMLOG,
        HISTORY_LENGTH,
        loss_history="last validation losses over the chance loss, newest last",
        metric_history="last validation metrics, newest last",
    ),
    *_rows(
        _FLAG, HISTORY_LENGTH, loss_history_missing="no such loss", metric_history_missing="no such metric"
    ),
    *_rows(_FRACTION, len(STAGE_ORDER), stage_shares="share of the slots in each stage"),
)
"""One vector per host."""

SLOT_FEATURES: tuple[FeatureSpec, ...] = (
    *_rows(_ONE_HOT, len(STAGE_ORDER), stage="present stage", previous_stage="stage before it"),
    *_rows(_ONE_HOT, len(Layout), layout="layout of the slot's features"),
    *_rows(_ONE_HOT, len(BlendForm), blend="how the seed's residual enters"),
    *_rows(
        _FRACTION,
        depth="place of the slot in forward order over the number of slots; 1 = last",
        epochs_in_stage="intervals in the present stage over the horizon",
        epochs_in_previous_stage="intervals in the previous stage over the horizon",
        seed_age="intervals since germination over the horizon",
        alpha="alpha of the seed",
        alpha_target="where its ramp ends",
        tempo="length of its ramp over the horizon",
        contribution_error="standard error of the contribution over the metric's scale",
        contribution_freshness="1 / (1 + intervals since it was measured); 0 = never",
        shadow_gain_error="standard error of the shadow gain over the metric's scale",
        shadow_gain_freshness="1 / (1 + intervals since it was measured); 0 = never",
        flops_share="forward FLOPs of the seed over those of host and seeds",
        saturation="effective rank of the slot's features over their channels",
        alpha_best="alpha at which the loss is predicted to be lowest",
        scores_freshness="1 / (1 + intervals since the slot was scored); 0 = never",
    ),
    *_rows(
        _SIGNED,
        contribution="contribution over the metric's scale",
        contribution_velocity="its smoothed change per interval over the metric's scale",
        credit="credit over the metric's scale",
        shadow_gain="gain of an isolated seed at full alpha over the metric's scale",
        linear_share="share of the functional gradient's energy that a linear map explains",
    ),
    *_rows(
        _SYMLOG,
        gradient_ratio="gradient RMS of the seed over the host's",
        gradient_norm="L2 norm of the seed's gradient",
        alpha_slope="change of the loss per alpha over the chance loss; negative = opening helps",
        alpha_gain="predicted fall of the loss from alpha 0 to the best alpha, over the chance loss",
        gradient_energy="energy of the functional gradient over its mean over the scored slots",
        params="parameters of the seed over the host's",
        channels="channels of the slot's features",
    ),
    *_rows(
        _FLAG,
        is_ramping="alpha is on its way",
        is_cull_pending="the seed is on its way out",
        is_healthy="no faulty gradient in the last interval",
        can_advance="the next gate passes",
        can_fossilize="the gates of keeping pass",
        has_contribution="the contribution was measured in this stage",
        has_contribution_velocity="it was measured twice or more",
        has_credit="the credit is known",
        has_shadow_gain="the shadow gain was measured",
        has_gradient_ratio="the gradient ratio was measured",
        has_gradient_norm="the gradient norm was measured",
        has_alpha_slope="the slope was measured",
        has_alpha_best="the best alpha was predicted",
        has_alpha_gain="the gain at the best alpha was predicted",
        has_gradient_energy="the functional gradient was measured",
        has_linear_share="the linear share was measured",
        has_saturation="the effective rank was measured",
    ),
)
"""One vector per slot, in forward order."""

BLUEPRINT_FEATURES: tuple[FeatureSpec, ...] = (
    *_rows(_FLAG, fits="the blueprint fits the slot; all else is 0 where it does not"),
    *_rows(
        _SYMLOG,
        blueprint_params="parameters that it adds here over the host's",
        blueprint_flops="forward FLOPs that it adds here over the host's",
    ),
    *_rows(_FRACTION, budget_share="those parameters over what may still be added; 0 = unlimited"),
    *_rows(_SIGNED, blueprint_gain="share of the functional gradient's energy that it explains, held out"),
    *_rows(_FLAG, has_blueprint_gain="the share was measured"),
)
"""One vector per slot and blueprint."""

FAMILY_FEATURE = FeatureSpec(
    name="family",
    scale=FeatureScale.INDEX,
    meaning="1 + index in BLUEPRINT_FAMILIES, per slot and blueprint and for the seed that lives in a slot",
    width=1,
)
"""Kept apart from the numbers: it is embedded."""
