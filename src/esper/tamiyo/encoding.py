"""An observation as bounded float32 tensors, row by row as the feature table of leyline says.

```
encode(observation)   raw numbers by feature name > scale of the table > one vector per group
```
This is what the features mean; `esper.tamiyo.batch_encoding` computes the same for many hosts at once.
Shapes: S slots, B blueprints, G / F / D columns of the three groups. Whatever a field holds, every
feature is finite and within the bound: non-finite becomes 0, and its validity flag 0 where it has one.
It knows no model and no policy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from esper.leyline import (
    BLUEPRINT_FAMILIES,
    BLUEPRINT_FEATURES,
    FEATURE_BOUND,
    GLOBAL_FEATURES,
    HISTORY_LENGTH,
    SLOT_FEATURES,
    STAGE_ORDER,
    BlendForm,
    BlueprintDescriptor,
    Estimate,
    FeatureScale,
    FeatureSpec,
    Layout,
    Observation,
    SlotReport,
    feature_width,
)

_Raw = Mapping[str, float | Sequence[float]]
"""Feature name -> raw number, or one number per column."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedObservation:
    """One host's observation as tensors on the CPU."""

    global_features: Tensor
    """[G] float32."""
    slots: Tensor
    """[S, F] float32, in forward order."""
    blueprints: Tensor
    """[S, B, D] float32."""
    slot_families: Tensor
    """[S] int64: family of the seed that lives there, 0 = none or unknown."""
    blueprint_families: Tensor
    """[S, B] int64: family of each blueprint, 0 = unknown or does not fit."""


def encode(observation: Observation) -> EncodedObservation:
    """Encode one observation.

    Returns:
        Tensors whose columns are those of `GLOBAL_FEATURES`, `SLOT_FEATURES` and `BLUEPRINT_FEATURES`.

    Example:
        >>> encode(observation).slots.abs().max() <= 10
        tensor(True)
    """
    space = observation.space
    descriptors = [
        [space.descriptors.get(report.slot, {}).get(name) for name in space.blueprint_ids]
        for report in observation.slots
    ]
    num_slots, num_blueprints = len(observation.slots), len(space.blueprint_ids)
    slots = [
        _scale_row(SLOT_FEATURES, _slot_numbers(report, place, observation))
        for place, report in enumerate(observation.slots)
    ]
    blueprints = [
        [_scale_row(BLUEPRINT_FEATURES, _blueprint_numbers(item, report, observation)) for item in row]
        for row, report in zip(descriptors, observation.slots, strict=True)
    ]
    families = [[_family_index(None if item is None else item.family) for item in row] for row in descriptors]
    return EncodedObservation(
        global_features=torch.tensor(_scale_row(GLOBAL_FEATURES, _global_numbers(observation))),
        slots=torch.tensor(slots, dtype=torch.float32).reshape(num_slots, feature_width(SLOT_FEATURES)),
        blueprints=torch.tensor(blueprints, dtype=torch.float32).reshape(
            num_slots, num_blueprints, feature_width(BLUEPRINT_FEATURES)
        ),
        slot_families=torch.tensor([_family_index(r.family) for r in observation.slots], dtype=torch.int64),
        blueprint_families=torch.tensor(families, dtype=torch.int64).reshape(num_slots, num_blueprints),
    )


# ---------------------------------------------------------------------- raw numbers by name


def _global_numbers(observation: Observation) -> _Raw:
    signals, budgets, unit = observation.signals, observation.budgets, observation.metric.scale
    chance, horizon = observation.chance_loss, budgets.horizon_epochs
    num_slots = len(observation.slots)
    losses, losses_missing = _history(signals.loss_history, chance)
    metrics, metrics_missing = _history(signals.metric_history, 1.0)
    live = sum(report.stage.is_live for report in observation.slots)
    allowance = budgets.max_added_params
    left = 1.0 if allowance is None else _ratio(allowance - budgets.added_params, allowance)
    counts = [sum(report.stage is stage for report in observation.slots) for stage in STAGE_ORDER]
    return {
        "epoch": _ratio(signals.epoch, horizon),
        "epochs_left": _ratio(budgets.epochs_left, horizon),
        "shortest_lifecycle": _ratio(budgets.shortest_lifecycle_epochs, horizon),
        "plateau": _ratio(signals.plateau_epochs, 10),
        "learning_rate": signals.learning_rate_fraction,
        "live_seeds": _ratio(live, num_slots if budgets.max_live_seeds is None else budgets.max_live_seeds),
        "params_left": left,
        "has_history": signals.has_history,
        "is_host_stable": signals.is_host_stable,
        "is_params_limited": allowance is not None,
        "is_sequential": budgets.is_sequential,
        "train_loss": _ratio(signals.train_loss, chance),
        "validation_loss": _ratio(signals.validation_loss, chance),
        "best_loss": _ratio(signals.best_loss, chance),
        "loss_gap": _ratio(signals.validation_loss - signals.train_loss, chance),
        "train_metric": signals.train_metric,
        "metric": signals.metric,
        "best_metric": signals.best_metric,
        "host_gradient_norm": signals.host_gradient_norm,
        "added_params": _ratio(budgets.added_params, budgets.host_params),
        "added_flops": _ratio(budgets.added_flops_per_item, budgets.host_flops_per_item),
        "flops_spent": _ratio(budgets.flops_spent, budgets.never_grow_flops),
        "loss_delta": _ratio(signals.loss_delta, 0.1 * chance),
        "metric_delta": _ratio(signals.metric_delta, unit),
        "metric_below_best": _ratio(signals.metric - signals.best_metric, unit),
        "loss_history": losses,
        "loss_history_missing": losses_missing,
        "metric_history": metrics,
        "metric_history_missing": metrics_missing,
        "stage_shares": [_ratio(count, num_slots) for count in counts],
    }


def _slot_numbers(report: SlotReport, place: int, observation: Observation) -> _Raw:
    budgets, unit = observation.budgets, observation.metric.scale
    horizon = budgets.horizon_epochs
    slope = None if report.alpha_slope is None else _ratio(report.alpha_slope, observation.chance_loss)
    fall = None if report.alpha_gain is None else _ratio(report.alpha_gain, observation.chance_loss)
    velocity, credit = report.contribution_velocity, report.credit
    return {
        "stage": _one_hot(report.stage.value, [stage.value for stage in STAGE_ORDER]),
        "previous_stage": _one_hot(
            None if report.previous_stage is None else report.previous_stage.value,
            [stage.value for stage in STAGE_ORDER],
        ),
        "layout": _one_hot(report.layout, [layout.value for layout in Layout]),
        "blend": _one_hot(report.blend, [form.value for form in BlendForm]),
        "depth": _ratio(place + 1, len(observation.slots)),
        "epochs_in_stage": _ratio(report.epochs_in_stage, horizon),
        "epochs_in_previous_stage": _ratio(report.epochs_in_previous_stage, horizon),
        "seed_age": _ratio(report.seed_age_epochs, horizon),
        "alpha": report.alpha,
        "alpha_target": report.alpha_target,
        "tempo": _ratio(report.tempo_epochs, horizon),
        "flops_share": _ratio(
            report.flops_per_item, budgets.host_flops_per_item + budgets.added_flops_per_item
        ),
        **_estimate("contribution", report.contribution, report.contribution_age_epochs, unit),
        **_estimate("shadow_gain", report.shadow_gain, report.shadow_gain_age_epochs, unit),
        **_optional("contribution_velocity", None if velocity is None else _ratio(velocity, unit)),
        **_optional("credit", None if credit is None else _ratio(credit, unit)),
        **_optional("gradient_ratio", report.gradient_ratio),
        **_optional("gradient_norm", report.gradient_norm),
        **_optional("alpha_slope", slope),
        **_optional("alpha_best", report.alpha_best),
        **_optional("alpha_gain", fall),
        **_optional("gradient_energy", _relative_energy(report, observation)),
        **_optional("linear_share", report.linear_share),
        **_optional("saturation", report.saturation),
        "scores_freshness": _freshness(report.scores_age_epochs),
        "params": _ratio(report.num_params, budgets.host_params),
        "channels": report.num_channels,
        "is_ramping": report.is_ramping,
        "is_cull_pending": report.is_cull_pending,
        "is_healthy": report.is_healthy,
        "can_advance": report.advance_refusal is None,
        "can_fossilize": report.fossilize_refusal is None,
    }


def _relative_energy(report: SlotReport, observation: Observation) -> float | None:
    """Return a slot's energy over the mean of those that are known: hosts differ in its size alone."""
    if report.gradient_energy is None:
        return None
    known = [slot.gradient_energy for slot in observation.slots if slot.gradient_energy is not None]
    total = sum(energy for energy in known if math.isfinite(energy))
    return _ratio(report.gradient_energy, total / len(known))


def _blueprint_numbers(
    item: BlueprintDescriptor | None, report: SlotReport, observation: Observation
) -> _Raw:
    if item is None:
        return {spec.name: 0.0 for spec in BLUEPRINT_FEATURES}
    budgets = observation.budgets
    allowance = budgets.max_added_params
    share = 0.0
    if allowance is not None:
        left = allowance - budgets.added_params
        share = _ratio(item.num_params, left) if left > 0 else 1.0
    return {
        "fits": True,
        "blueprint_params": _ratio(item.num_params, budgets.host_params),
        "blueprint_flops": _ratio(item.flops_per_item, budgets.host_flops_per_item),
        "budget_share": share,
        **_optional("blueprint_gain", (report.blueprint_gains or {}).get(item.id)),
    }


def _estimate(name: str, estimate: Estimate | None, age: int | None, unit: float) -> _Raw:
    """Name a measurement's columns; all 0 unless mean and standard error are both finite."""
    is_valid = (
        estimate is not None and math.isfinite(estimate.mean) and math.isfinite(estimate.standard_error)
    )
    mean = _ratio(estimate.mean, unit) if estimate is not None and is_valid else 0.0
    error = _ratio(estimate.standard_error, unit) if estimate is not None and is_valid else 0.0
    return {
        name: mean,
        f"{name}_error": error,
        f"{name}_freshness": _freshness(age) if is_valid else 0.0,
        f"has_{name}": is_valid,
    }


def _freshness(age: int | None) -> float:
    return 0.0 if age is None else _ratio(1, 1 + max(age, 0))


def _optional(name: str, value: float | None) -> _Raw:
    is_valid = value is not None and math.isfinite(_as_float(value))
    return {name: value if value is not None and is_valid else 0.0, f"has_{name}": is_valid}


def _history(values: Sequence[float], unit: float) -> tuple[list[float], list[float]]:
    """Return the last values over `unit` and their missing flags, right-aligned: the newest is last."""
    recent = [_ratio(value, unit) for value in values[-HISTORY_LENGTH:]]
    padded = [math.nan] * (HISTORY_LENGTH - len(recent)) + recent
    return padded, [float(not math.isfinite(value)) for value in padded]


def _one_hot(name: str | None, names: Sequence[str]) -> list[float]:
    return [float(name == candidate) for candidate in names]


def _family_index(family: str | None) -> int:
    return 1 + BLUEPRINT_FAMILIES.index(family) if family in BLUEPRINT_FAMILIES else 0


# ---------------------------------------------------------------------- numbers to features


def _scale_row(features: Sequence[FeatureSpec], numbers: _Raw) -> list[float]:
    """Bring raw numbers to the scale and the order of the table."""
    assert len(numbers) == len(features), f"{set(numbers) ^ {spec.name for spec in features}}"
    row: list[float] = []
    for spec in features:
        raw = numbers[spec.name]
        columns = [raw] if isinstance(raw, int | float) else list(raw)
        assert len(columns) == spec.width, f"{spec.name}: {len(columns)} columns, the table has {spec.width}"
        row.extend(_scale(_as_float(value), spec.scale) for value in columns)
    return row


def _scale(value: float, scale: FeatureScale) -> float:
    if not math.isfinite(value):
        return 0.0
    if scale is FeatureScale.SYMLOG:
        return _clip(math.copysign(math.log1p(abs(value)), value), -FEATURE_BOUND, FEATURE_BOUND)
    return _clip(value, -1.0 if scale is FeatureScale.SIGNED else 0.0, 1.0)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _ratio(value: float, unit: float) -> float:
    """Return value / unit; NaN if either is not finite or the unit is not positive.

    A quotient of finite numbers that is too large for a float is the largest float: it is clipped later, and
    is no missing measurement.
    """
    top, bottom = _as_float(value), _as_float(unit)
    if not (math.isfinite(top) and math.isfinite(bottom) and bottom > 0.0):
        return math.nan
    quotient = top / bottom
    return quotient if math.isfinite(quotient) else math.copysign(sys.float_info.max, quotient)


def _as_float(value: float) -> float:
    """Return the number as a float; an int too large for one counts as infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value > 0 or -1)
