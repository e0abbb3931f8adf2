"""E observations encoded at once: read host by host, computed column by column.

```
encode_many(list)   fields > a float64 column per number > ratios > features by name > scales > tensors
```
`encode` says what every column means; here the same numbers come out, whatever a field holds, at the cost of
reading the fields. Logarithms are taken one by one by the same function: vectorised ones round differently.
Shapes: E hosts, N slots of all hosts together, S slots and B blueprints of the largest; columns as in
`esper.tamiyo.encoding`. Whole numbers count as exact, so they must stay below 2**53 to be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from esper.leyline import (
    BLUEPRINT_FAMILIES,
    BLUEPRINT_FEATURES,
    GLOBAL_FEATURES,
    HISTORY_LENGTH,
    SLOT_FEATURES,
    STAGE_ORDER,
    BlendForm,
    Layout,
    Observation,
    SlotReport,
)
from esper.tamiyo.columns import (
    Columns,
    Floats,
    Numbers,
    Pairs,
    SlotPlaces,
    build_scales,
    compute_ratio,
    divide,
    name_columns,
    one_hot,
    scale_columns,
    to_table,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GLOBAL_SCALES = build_scales(GLOBAL_FEATURES)
_SLOT_SCALES = build_scales(SLOT_FEATURES)
_BLUEPRINT_SCALES = build_scales(BLUEPRINT_FEATURES)
_STAGE_PLACES = MappingProxyType({stage: place for place, stage in enumerate(STAGE_ORDER)})
_LAYOUT_PLACES = MappingProxyType({layout.value: place for place, layout in enumerate(Layout)})
_BLEND_PLACES = MappingProxyType({form.value: place for place, form in enumerate(BlendForm)})
_FAMILY_PLACES = MappingProxyType({family: place for place, family in enumerate(BLUEPRINT_FAMILIES)})
_LIVE_STAGES = tuple(place for place, stage in enumerate(STAGE_ORDER) if stage.is_live)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedBatch:
    """E observations, padded with zeros to the largest numbers of slots and blueprints among them."""

    global_features: Tensor
    """[E, G] float32."""
    slots: Tensor
    """[E, S, F] float32."""
    blueprints: Tensor
    """[E, S, B, D] float32."""
    slot_families: Tensor
    """[E, S] int64."""
    blueprint_families: Tensor
    """[E, S, B] int64."""
    slot_mask: Tensor
    """[E, S] bool: True where a real slot is."""
    blueprint_mask: Tensor
    """[E, S, B] bool: True where a real slot and a real blueprint of its host are."""


@np.errstate(all="ignore")  # what is not finite is sorted out afterwards
def encode_many(
    observations: Sequence[Observation], *, num_slots: int = 0, num_blueprints: int = 0
) -> EncodedBatch:
    """Encode E observations at once; each row equals `encode` of that observation, then padding.

    Args:
        observations: E of them.
        num_slots: Pad to at least so many slots.
        num_blueprints: Likewise for blueprints.

    Raises:
        ValueError: If there is no observation.

    Example:
        >>> encode_many([observation, observation]).slots.shape[:2]
        torch.Size([2, 2])
    """
    if not observations:
        raise ValueError("encode_many needs at least one observation, got none")
    hosts = _read_hosts(observations)
    reports = [report for observation in observations for report in observation.slots]
    places = _find_places(observations, num_slots, num_blueprints)
    stages = one_hot([_STAGE_PLACES[report.stage] for report in reports], len(STAGE_ORDER))
    stage_counts = places.spread(stages).sum(axis=1)
    slots = scale_columns(_SLOT_SCALES, _build_slots(observations, reports, hosts, places, stages))
    blueprints, families = _build_blueprints(observations, hosts, places)
    slot_families = np.array([_family_index(report.family) for report in reports], dtype=np.int64)
    return EncodedBatch(
        global_features=torch.from_numpy(
            scale_columns(_GLOBAL_SCALES, _build_globals(observations, hosts, places, stage_counts))
        ),
        slots=torch.from_numpy(places.spread(slots)),
        blueprints=torch.from_numpy(places.spread(blueprints)),
        slot_families=torch.from_numpy(places.spread(slot_families)),
        blueprint_families=torch.from_numpy(places.spread(families)),
        slot_mask=torch.from_numpy(places.slot_mask),
        blueprint_mask=torch.from_numpy(places.slot_mask[:, :, None] & places.blueprint_mask[:, None]),
    )


# ---------------------------------------------------------------------- hosts

_SIGNALS = (
    "epoch", "plateau_epochs", "learning_rate_fraction", "has_history", "is_host_stable", "train_loss",
    "validation_loss", "best_loss", "train_metric", "metric", "best_metric", "host_gradient_norm",
    "loss_delta", "metric_delta",
)  # fmt: skip
_BUDGETS = (
    "horizon_epochs", "epochs_left", "shortest_lifecycle_epochs", "is_sequential", "added_params",
    "host_params", "added_flops_per_item", "host_flops_per_item", "flops_spent", "never_grow_flops",
    "max_live_seeds", "max_added_params",
)  # fmt: skip
_DERIVED = ("chance_loss", "metric_scale", "params_left", "flops_per_item")
_get_signals = attrgetter(*_SIGNALS)
_get_budgets = attrgetter(*_BUDGETS)


def _read_hosts(observations: Sequence[Observation]) -> Numbers:
    """Return name -> [E] of what is read of signals and budgets; NaN = None."""
    rows = []
    for observation in observations:
        budgets, allowance = observation.budgets, observation.budgets.max_added_params
        rows.append(
            (
                *_get_signals(observation.signals),
                *_get_budgets(budgets),
                observation.chance_loss,
                observation.metric.scale,
                None if allowance is None else allowance - budgets.added_params,
                budgets.host_flops_per_item + budgets.added_flops_per_item,
            )
        )
    return name_columns((*_SIGNALS, *_BUDGETS, *_DERIVED), rows)


def _build_globals(
    observations: Sequence[Observation], hosts: Numbers, places: SlotPlaces, stage_counts: Floats
) -> Columns:
    chance, horizon, scale = hosts["chance_loss"], hosts["horizon_epochs"], hosts["metric_scale"]
    num_slots = places.slot_mask.sum(axis=1).astype(np.float64)
    ones = np.ones(len(observations))
    is_unlimited = np.isnan(hosts["max_added_params"])
    max_live = np.where(np.isnan(hosts["max_live_seeds"]), num_slots, hosts["max_live_seeds"])
    live = stage_counts[:, _LIVE_STAGES].sum(axis=1)
    pairs = {
        "epoch": (hosts["epoch"], horizon),
        "epochs_left": (hosts["epochs_left"], horizon),
        "shortest_lifecycle": (hosts["shortest_lifecycle_epochs"], horizon),
        "plateau": (hosts["plateau_epochs"], 10.0 * ones),
        "learning_rate": (hosts["learning_rate_fraction"], ones),
        "live_seeds": (live, max_live),
        "params_left": (
            np.where(is_unlimited, 1.0, hosts["params_left"]),
            np.where(is_unlimited, 1.0, hosts["max_added_params"]),
        ),
        "has_history": (hosts["has_history"], ones),
        "is_host_stable": (hosts["is_host_stable"], ones),
        "is_sequential": (hosts["is_sequential"], ones),
        "train_loss": (hosts["train_loss"], chance),
        "validation_loss": (hosts["validation_loss"], chance),
        "best_loss": (hosts["best_loss"], chance),
        "loss_gap": (hosts["validation_loss"] - hosts["train_loss"], chance),
        "train_metric": (hosts["train_metric"], ones),
        "metric": (hosts["metric"], ones),
        "best_metric": (hosts["best_metric"], ones),
        "host_gradient_norm": (hosts["host_gradient_norm"], ones),
        "added_params": (hosts["added_params"], hosts["host_params"]),
        "added_flops": (hosts["added_flops_per_item"], hosts["host_flops_per_item"]),
        "flops_spent": (hosts["flops_spent"], hosts["never_grow_flops"]),
        "loss_delta": (hosts["loss_delta"], 0.1 * chance),
        "metric_delta": (hosts["metric_delta"], scale),
        "metric_below_best": (hosts["metric"] - hosts["best_metric"], scale),
    }
    losses = compute_ratio(_read_history(o.signals.loss_history for o in observations), chance[:, None])
    metrics = compute_ratio(_read_history(o.signals.metric_history for o in observations), 1.0)
    return divide(pairs) | {
        "is_params_limited": ~is_unlimited,
        "loss_history": losses,
        "loss_history_missing": ~np.isfinite(losses),
        "metric_history": metrics,
        "metric_history_missing": ~np.isfinite(metrics),
        "stage_shares": compute_ratio(stage_counts, num_slots[:, None]),
    }


def _read_history(histories: Iterable[Sequence[float]]) -> Floats:
    """Return [E, HISTORY_LENGTH], the newest last, NaN where there is none."""
    nothing = (math.nan,) * HISTORY_LENGTH
    return to_table([(*nothing, *history)[-HISTORY_LENGTH:] for history in histories], HISTORY_LENGTH)


# ---------------------------------------------------------------------- slots

_REPORT = (
    "epochs_in_stage", "epochs_in_previous_stage", "seed_age_epochs", "alpha", "alpha_target",
    "tempo_epochs", "flops_per_item", "contribution_age_epochs", "shadow_gain_age_epochs",
    "contribution_velocity", "credit", "gradient_ratio", "gradient_norm", "alpha_slope", "alpha_best",
    "alpha_gain", "gradient_energy", "linear_share", "saturation", "scores_age_epochs", "num_params",
    "num_channels", "is_ramping", "is_cull_pending", "is_healthy",
)  # fmt: skip
_ESTIMATES = ("contribution", "contribution_error", "shadow_gain", "shadow_gain_error")
_OPTIONAL = (
    "contribution_velocity", "credit", "gradient_ratio", "gradient_norm", "alpha_slope", "alpha_best",
    "alpha_gain", "gradient_energy", "linear_share", "saturation",
)  # fmt: skip
"""Features with a flag of their own, which says that the number is finite."""
_get_report = attrgetter(*_REPORT)


def _read_reports(reports: Sequence[SlotReport]) -> Numbers:
    """Return name -> [N]; NaN = None."""
    rows = []
    for report in reports:
        worth, gain = report.contribution, report.shadow_gain
        rows.append(
            (
                *_get_report(report),
                *((None, None) if worth is None else (worth.mean, worth.standard_error)),
                *((None, None) if gain is None else (gain.mean, gain.standard_error)),
            )
        )
    return name_columns((*_REPORT, *_ESTIMATES), rows)


def _build_slots(
    observations: Sequence[Observation],
    reports: Sequence[SlotReport],
    hosts: Numbers,
    places: SlotPlaces,
    stages: Floats,
) -> Columns:
    read = _read_reports(reports)
    of_slot = {name: column[places.host_of] for name, column in hosts.items()}
    num_slots = places.slot_mask.sum(axis=1)[places.host_of].astype(np.float64)
    values = divide(_pair_slots(read, of_slot, num_slots, places, _mean_energies(observations)))
    flags = {f"has_{name}": np.isfinite(values[name]) for name in _OPTIONAL}
    for name in ("contribution", "shadow_gain"):
        is_valid = np.isfinite(read[name]) & np.isfinite(read[f"{name}_error"])
        flags[f"has_{name}"] = is_valid
        for part in (name, f"{name}_error", f"{name}_freshness"):
            values[part] = np.where(is_valid, values[part], 0.0)
    previous = [-1 if r.previous_stage is None else _STAGE_PLACES[r.previous_stage] for r in reports]
    return {
        **values,
        **flags,
        "stage": stages,
        "previous_stage": one_hot(previous, len(STAGE_ORDER)),
        "layout": one_hot([_LAYOUT_PLACES.get(r.layout, -1) for r in reports], len(Layout)),
        "blend": one_hot([_BLEND_PLACES.get(r.blend or "", -1) for r in reports], len(BlendForm)),
        "can_advance": np.array([report.advance_refusal is None for report in reports]),
        "can_fossilize": np.array([report.fossilize_refusal is None for report in reports]),
    }


def _pair_slots(
    read: Numbers, of_slot: Numbers, num_slots: Floats, places: SlotPlaces, mean_energies: Floats
) -> Pairs:
    horizon, scale, chance = of_slot["horizon_epochs"], of_slot["metric_scale"], of_slot["chance_loss"]
    ones = np.ones(len(num_slots))
    plain = (
        "alpha", "alpha_target", "gradient_ratio", "gradient_norm", "alpha_best", "linear_share",
        "saturation", "is_ramping", "is_cull_pending", "is_healthy",
    )  # fmt: skip
    scaled = (*_ESTIMATES, "contribution_velocity", "credit")
    return {
        **{name: (read[name], ones) for name in plain},
        **{name: (read[name], scale) for name in scaled},
        "depth": (places.depth, num_slots),
        "epochs_in_stage": (read["epochs_in_stage"], horizon),
        "epochs_in_previous_stage": (read["epochs_in_previous_stage"], horizon),
        "seed_age": (read["seed_age_epochs"], horizon),
        "tempo": (read["tempo_epochs"], horizon),
        "flops_share": (read["flops_per_item"], of_slot["flops_per_item"]),
        "contribution_freshness": (ones, 1.0 + np.maximum(read["contribution_age_epochs"], 0.0)),
        "shadow_gain_freshness": (ones, 1.0 + np.maximum(read["shadow_gain_age_epochs"], 0.0)),
        "scores_freshness": (ones, 1.0 + np.maximum(read["scores_age_epochs"], 0.0)),
        "alpha_slope": (read["alpha_slope"], chance),
        "alpha_gain": (read["alpha_gain"], chance),
        "gradient_energy": (read["gradient_energy"], mean_energies[places.host_of]),
        "params": (read["num_params"], of_slot["host_params"]),
        "channels": (read["num_channels"], ones),
    }


def _mean_energies(observations: Sequence[Observation]) -> Floats:
    """Return [E] sum of the finite energies over the number of known ones; NaN where none is known."""
    means = []
    for observation in observations:
        known = [slot.gradient_energy for slot in observation.slots if slot.gradient_energy is not None]
        total = sum(energy for energy in known if math.isfinite(energy))
        means.append(total / len(known) if known else math.nan)
    return np.array(means)


# ---------------------------------------------------------------------- blueprints


def _build_blueprints(
    observations: Sequence[Observation], hosts: Numbers, places: SlotPlaces
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features [N, B, D] and families [N, B]."""
    num_blueprints = places.blueprint_mask.shape[1]
    costs: list[tuple[float | None, float | None, float | None]] = []
    families: list[int] = []
    for observation in observations:
        ids, descriptors = observation.space.blueprint_ids, observation.space.descriptors
        missing = num_blueprints - len(ids)
        for report in observation.slots:
            fitting, gains = descriptors.get(report.slot, {}), report.blueprint_gains or {}
            for name in ids:
                item = fitting.get(name)
                if item is None:
                    costs.append((None, None, None))
                    families.append(0)
                else:
                    costs.append((item.num_params, item.flops_per_item, gains.get(item.id)))
                    families.append(1 + _FAMILY_PLACES.get(item.family, -1))
            costs += [(None, None, None)] * missing
            families += [0] * missing
    shape = (len(places.host_of), num_blueprints)
    params, flops, gain = to_table(costs, 3).T.reshape(3, *shape)
    of_slot = {name: hosts[name][places.host_of, None] for name in ("host_params", "host_flops_per_item")}
    left = hosts["params_left"][places.host_of, None]
    is_fit = ~np.isnan(params)
    values = divide(
        {
            "blueprint_params": (params, np.broadcast_to(of_slot["host_params"], shape)),
            "blueprint_flops": (flops, np.broadcast_to(of_slot["host_flops_per_item"], shape)),
            "budget_share": (params, np.broadcast_to(left, shape)),
            "blueprint_gain": (gain, np.ones(shape)),
        }
    )
    share = np.where(left > 0.0, values["budget_share"], 1.0)
    columns = {
        **values,
        "fits": is_fit,
        "budget_share": np.where(is_fit & ~np.isnan(left), share, 0.0),
        "has_blueprint_gain": np.isfinite(values["blueprint_gain"]),
    }
    flat = {name: column.reshape(-1) for name, column in columns.items()}
    scaled = scale_columns(_BLUEPRINT_SCALES, flat)
    return scaled.reshape(*shape, _BLUEPRINT_SCALES.width), np.array(families, dtype=np.int64).reshape(shape)


def _find_places(observations: Sequence[Observation], num_slots: int, num_blueprints: int) -> SlotPlaces:
    slots = np.array([len(observation.slots) for observation in observations])
    blueprints = np.array([len(observation.space.blueprint_ids) for observation in observations])
    slot_mask = np.arange(max(num_slots, slots.max())) < slots[:, None]
    host_of, place = slot_mask.nonzero()
    blueprint_mask = np.arange(max(num_blueprints, blueprints.max())) < blueprints[:, None]
    return SlotPlaces(slot_mask, blueprint_mask, host_of, (place + 1).astype(np.float64))


def _family_index(family: str | None) -> int:
    return 0 if family is None else 1 + _FAMILY_PLACES.get(family, -1)
