"""What a round reports, in one table of names, and pure detectors of training that went wrong.

A detector sees metrics and thresholds, no network: it can run on a log as well. Names are those that
Stable-Baselines3 writes where it has one. A metric that cannot be known in a round (no episode ended, no step
had a choice) is absent from it, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from esper.simic.advantages import compute_explained_variance, compute_value_slope
from esper.simic.config import AnomalyConfig, RolloutConfig
from esper.simic.interfaces import EnvStep
from esper.simic.ppo_loss import TERMS
from esper.tamiyo import PolicyInputs

Metrics = Mapping[str, float]


class MetricInfo(NamedTuple):
    """One line of the table."""

    cleanrl: str
    """What CleanRL calls it; empty where it has no word for it."""
    meaning: str


METRIC_TABLE: Mapping[str, MetricInfo] = MappingProxyType(
    {
        "rollout/ep_rew_mean": MetricInfo("charts/episodic_return", "mean return of the episodes that ended"),
        "rollout/ep_len_mean": MetricInfo("charts/episodic_length", "their mean length in steps"),
        "rollout/num_episodes": MetricInfo("", "episodes that ended in the rollout"),
        "rollout/num_steps": MetricInfo("", "real transitions of the rollout"),
        "rollout/num_quarantined": MetricInfo("", "rows taken out for what their environment reported"),
        "rollout/learn_fraction": MetricInfo("", "share of real steps with more than one legal action"),
        "rollout/op_share/<op>": MetricInfo("", "share of the learnable steps that took the operation"),
        "rollout/time_explained_variance": MetricInfo(
            "", "what a critic that knows the step alone would have explained of the returns"
        ),
        "rollout/memory_drift": MetricInfo(
            "", "relative change, by the update, of the memories with which cut rows go on; absent if none is"
        ),
        "rollout/memory_rms": MetricInfo("", "root mean square of hidden units after the last step, below 1"),
        "rollout/cell_rms": MetricInfo("", "root mean square of cell units there"),
        "rollout/memory_saturation": MetricInfo("", "share of hidden units beyond 0.95 there, in [0, 1]"),
        "train/approx_kl": MetricInfo(
            "losses/approx_kl",
            "k3, mean over the minibatches looked at; Stable-Baselines3: over those of the last epoch",
        ),
        "train/clip_fraction": MetricInfo("losses/clipfrac", "share of ratios outside the clip range"),
        "train/clip_range": MetricInfo("", "clip range of the ratio"),
        "train/entropy_loss": MetricInfo(
            "losses/entropy", "minus the mean joint entropy; CleanRL without minus"
        ),
        "train/entropy/<head>": MetricInfo(
            "", "entropy over its ceiling, where the head had a choice, in [0, 1]"
        ),
        "train/explained_variance": MetricInfo(
            "losses/explained_variance", "of the rollout's values, before the update"
        ),
        "train/policy_gradient_loss": MetricInfo("losses/policy_loss", "clipped surrogate, negated"),
        "train/value_loss": MetricInfo(
            "losses/value_loss",
            "half the squared error on normalised returns; Stable-Baselines3: the whole, raw",
        ),
        "train/floor_loss": MetricInfo("", "penalty of the entropy floors"),
        "train/loss": MetricInfo(
            "", "weighted sum of the terms, mean over minibatches; Stable-Baselines3: of the last one"
        ),
        "train/learning_rate": MetricInfo("charts/learning_rate", "of this update"),
        "train/n_updates": MetricInfo(
            "", "optimiser steps executed since the run began; Stable-Baselines3 counts epochs"
        ),
        "train/num_steps": MetricInfo("", "optimiser steps executed in this update"),
        "train/kl_stops": MetricInfo("", "1 if the divergence ended the update"),
        "train/grad_norm": MetricInfo("", "mean norm before clipping"),
        "train/ratio_max": MetricInfo("", "largest probability ratio"),
        "train/ratio_clamps": MetricInfo("", "log-ratios beyond 20"),
        "train/anchor_drift": MetricInfo("", "largest |log-probability sampled - recomputed|"),
        "train/anchor_drift_allowed": MetricInfo("", "what the precision explains of it"),
        "train/skipped/<term>": MetricInfo("", "steps skipped because the term was not finite"),
        "train/value_slope": MetricInfo(
            "", "slope of returns over values, 1 = calibrated, below 1 = values too far apart"
        ),
        "train/value_bias": MetricInfo("", "mean of returns less mean of values, raw"),
        "train/value_std": MetricInfo("", "deviation of the rollout's values, raw"),
        "train/return_std": MetricInfo("", "deviation of its returns, raw"),
        "train/return_mean": MetricInfo("", "mean of its returns, raw"),
    }
)
"""Metric -> its word elsewhere and its meaning; a name in angle brackets stands for one of several."""


_METRIC_OF_NUMBER = (
    ("policy", "train/policy_gradient_loss"),
    ("value", "train/value_loss"),
    ("floors", "train/floor_loss"),
    ("loss", "train/loss"),
    ("kl", "train/approx_kl"),
    ("clip", "train/clip_fraction"),
    ("grad_norm", "train/grad_norm"),
)
_ENTROPY_SHARE = "entropy_share/"
GRADIENT = "gradient"
"""The "term" that is at fault when all terms are finite and the gradient is not."""


class MinibatchOutcome(NamedTuple):
    """What became of one minibatch, the same on all ranks but for `max_ratio`."""

    numbers: Mapping[str, float]
    """Of `ppo_loss.Loss` plus "grad_norm", over all ranks."""
    max_ratio: float
    """Of this rank."""
    bad_term: str | None
    """The first term that was not finite: the step was skipped."""
    is_over: bool
    """The divergence was too large: neither this step was taken nor any after it."""

    @property
    def is_executed(self) -> bool:
        """Whether the optimiser took the step."""
        return self.bad_term is None and not self.is_over


def describe_rollout(totals: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a rollout before it is learned from.

    Args:
        totals: Over all ranks: counts "valid", "learn", "op/<name>"; sums and "<name>_squares" of "return",
            "value" and "residual" over the valid steps.
    """
    count = totals["valid"]
    if count <= 0:
        return {}
    moments = {
        name: (count, totals[name], totals[f"{name}_squares"]) for name in ("return", "value", "residual")
    }
    metrics = {f"train/{name}_std": _deviation(moments[name]) for name in ("return", "value")}
    metrics["train/return_mean"] = totals["return"] / count
    metrics["train/value_bias"] = (totals["return"] - totals["value"]) / count
    metrics["train/value_slope"] = compute_value_slope(
        moments["return"], moments["value"], moments["residual"]
    )
    metrics["rollout/learn_fraction"] = totals["learn"] / count
    if totals["learn"] > 0:
        ops = {name.removeprefix("op/"): number for name, number in totals.items() if name.startswith("op/")}
        metrics |= {f"rollout/op_share/{name}": number / totals["learn"] for name, number in ops.items()}
    metrics["train/explained_variance"] = compute_explained_variance(moments["return"], moments["residual"])
    return {name: number for name, number in metrics.items() if math.isfinite(number)}


def describe_minibatches(outcomes: Sequence[MinibatchOutcome]) -> dict[str, float]:
    """Return the metrics of an update: means over the minibatches looked at, the one that ended it included.

    Args:
        outcomes: In order, at least one.
    """
    finite = [outcome.numbers for outcome in outcomes if outcome.bad_term is None]
    bad = [outcome.bad_term for outcome in outcomes]
    metrics = {f"train/skipped/{term}": float(bad.count(term)) for term in (*TERMS, GRADIENT)}
    metrics["train/num_steps"] = float(sum(outcome.is_executed for outcome in outcomes))
    metrics["train/kl_stops"] = float(outcomes[-1].is_over)
    if not finite:
        return metrics
    metrics |= {metric: sum(n[key] for n in finite) / len(finite) for key, metric in _METRIC_OF_NUMBER}
    metrics["train/entropy_loss"] = -sum(numbers["entropy"] for numbers in finite) / len(finite)
    metrics["train/ratio_clamps"] = sum(numbers["clamped"] for numbers in finite)
    for key in [key for key in finite[0] if key.startswith(_ENTROPY_SHARE)]:
        seen = [numbers[key] for numbers in finite if key in numbers]
        metrics[f"train/entropy/{key.removeprefix(_ENTROPY_SHARE)}"] = sum(seen) / len(seen)
    return metrics


def compute_allowed_drift(*, amp: str, device_type: str, is_double: bool) -> float:
    """Return how far a recomputed log-probability may be from the sampled one before something is wrong.

    Kernels round differently in other shapes: within 1e-6 in float64, 1e-5 in float32 on a CPU, 2e-4
    elsewhere (reduced-precision matrix products), 1e-3 under autocast.

    Args:
        amp: "off", "bf16" or "fp16".
        device_type: "cpu", "cuda" or "mps".
        is_double: Whether the network is float64.
    """
    if amp != "off":
        return 1e-3
    if is_double:
        return 1e-6
    return 1e-5 if device_type == "cpu" else 2e-4


def _deviation(moments: tuple[float, float, float]) -> float:
    count, total, squares = moments
    return math.sqrt(max(0.0, squares / count - (total / count) ** 2))


class Anomaly(NamedTuple):
    """One sign of trouble."""

    name: str
    value: float
    threshold: float
    advice: str


def find_anomalies(history: Sequence[Metrics], config: AnomalyConfig) -> tuple[Anomaly, ...]:
    """Return what is wrong with the last round, given those before it.

    Nothing is found where no step had a choice: a policy that may only wait has not collapsed.

    Args:
        history: Rounds, the present one last.
        config: Thresholds and patience.

    Example:
        >>> find_anomalies([], AnomalyConfig())
        ()
    """
    if not history:
        return ()
    present = history[-1]
    findings = [*_find_drift(present), *_find_skips(present)]
    if present.get("rollout/learn_fraction", 0.0) > 0:
        recent = history[-config.patience_rounds :] if len(history) >= config.patience_rounds else ()
        findings += _find_ratio(present, config)
        findings += [
            *_find_entropy(recent, config),
            *_find_single_operation(recent, config),
            *_find_blind_critic(recent, config),
        ]
    return tuple(findings)


def _find_entropy(recent: Sequence[Metrics], config: AnomalyConfig) -> list[Anomaly]:
    return [
        Anomaly(
            name=f"entropy_collapse/{name.removeprefix('train/entropy/')}",
            value=recent[-1][name],
            threshold=config.min_entropy,
            advice="raise entropy.start, or give the head a floor in entropy.floors",
        )
        for name in _names(recent, "train/entropy/")
        if _holds(recent, name, lambda value: value < config.min_entropy)
    ]


def _find_single_operation(recent: Sequence[Metrics], config: AnomalyConfig) -> list[Anomaly]:
    return [
        Anomaly(
            name=f"single_operation/{name.removeprefix('rollout/op_share/')}",
            value=recent[-1][name],
            threshold=config.max_op_share,
            advice="the policy takes one operation whatever it sees: raise entropy.start or set "
            "entropy.floors.op, and check that another operation can ever earn more",
        )
        for name in _names(recent, "rollout/op_share/")
        if _holds(recent, name, lambda value: value > config.max_op_share)
    ]


def _find_blind_critic(recent: Sequence[Metrics], config: AnomalyConfig) -> list[Anomaly]:
    found = []
    name = "train/explained_variance"
    if recent and _holds(recent, name, lambda value: value < config.min_explained_variance):
        found.append(
            Anomaly(
                name="blind_critic",
                value=recent[-1][name],
                threshold=config.min_explained_variance,
                advice="the critic explains nothing of the returns: check gamma, the scale of rewards, and "
                "that the observation tells what they depend on",
            )
        )
    spreads = [
        round_["train/value_std"] / round_["train/return_std"]
        for round_ in recent
        if round_.get("train/return_std", 0.0) > 0 and "train/value_std" in round_
    ]
    if recent and len(spreads) == len(recent) and max(spreads) < config.min_value_spread:
        found.append(
            Anomaly(
                name="value_collapse",
                value=spreads[-1],
                threshold=config.min_value_spread,
                advice="the critic predicts a constant: raise ppo.vf_coef or check normalization.value_norm",
            )
        )
    return found


def _find_ratio(present: Metrics, config: AnomalyConfig) -> list[Anomaly]:
    ratio = present.get("train/ratio_max", 0.0)
    if ratio <= config.max_ratio:
        return []
    advice = "the update left its trust region: lower ppo.learning_rate or ppo.epochs, or set ppo.target_kl"
    return [Anomaly("ratio_explosion", ratio, config.max_ratio, advice)]


def _find_drift(present: Metrics) -> list[Anomaly]:
    drift = present.get("train/anchor_drift", 0.0)
    allowed = present.get("train/anchor_drift_allowed", math.inf)
    if drift <= allowed:
        return []
    advice = (
        "scoring does not repeat sampling: memory, masks or episode starts differ between rollout and update"
    )
    return [Anomaly("anchor_drift", drift, allowed, advice)]


def _find_skips(present: Metrics) -> list[Anomaly]:
    prefix = "train/skipped/"
    advice = (
        "optimiser steps were skipped because this was not finite: look at rewards and observations first"
    )
    return [
        Anomaly(f"non_finite/{name.removeprefix(prefix)}", present[name], 0.0, advice)
        for name in sorted(present)
        if name.startswith(prefix) and present[name] > 0
    ]


def _names(recent: Sequence[Metrics], prefix: str) -> list[str]:
    return [name for name in sorted(recent[-1]) if name.startswith(prefix)] if recent else []


def _holds(recent: Sequence[Metrics], name: str, is_bad: Callable[[float], bool]) -> bool:
    """Whether every recent round has the metric and it is bad in each."""
    return all(name in metrics and is_bad(metrics[name]) for metrics in recent)


class FaultyRows(NamedTuple):
    """Rows of an environment's answer that must not be learned from."""

    rows: Tensor
    """[E] bool."""
    reasons: Mapping[int, str]
    """Row -> what was found."""


def find_faulty_rows(
    inputs: PolicyInputs, rows: Tensor, config: RolloutConfig, *, reward: Tensor | None = None
) -> FaultyRows:
    """Return which rows of what an environment reported are not finite, or larger than is believed.

    Args:
        inputs: Name -> [E, ...]; only floating ones are looked at.
        rows: [E] bool, the rows to look at.
        config: Its largest value that is believed.
        reward: [E], where there is one.
    """
    named = {f"input {name!r}": tensor for name, tensor in inputs.items() if tensor.is_floating_point()}
    if reward is not None:
        named["the reward"] = reward
    is_bad = torch.zeros_like(rows)
    reasons: dict[int, str] = {}
    for name, tensor in named.items():
        is_believed = (tensor.abs() <= config.max_abs_value).reshape(len(rows), -1).all(dim=1)
        found = rows & ~is_believed
        for row in found.nonzero().flatten().tolist():
            worst = tensor[row].abs().max().item()
            reasons.setdefault(row, f"{name} reached {worst:g}; at most {config.max_abs_value:g} is believed")
        is_bad = is_bad | found
    return FaultyRows(is_bad, reasons)


def add_lost_rows(faults: FaultyRows, step: EnvStep, rows: Tensor) -> FaultyRows:
    """Add the rows that an environment lost: like a faulty one such a row ends with a step that is not valid.

    Args:
        faults: What was found so far.
        step: The environment's answer.
        rows: [E] bool, the rows to look at.
    """
    lost = rows & step.truncated & ~step.is_valid
    reasons = dict(faults.reasons)
    for row in lost.nonzero().flatten().tolist():
        facts = (step.summaries[row] if step.summaries else None) or {}
        reasons[row] = str(facts.get("reason", "its episode was lost"))
    return FaultyRows(faults.rows | lost, reasons)


def compute_drift(sampled: Tensor, anchor: Tensor, learn: Tensor) -> float:
    """Return the largest |joint log-probability when sampled - recomputed| over learnable steps.

    Args:
        sampled: [E, T, H] stored by the rollout.
        anchor: [E, T, H] of the same actions under the same weights.
        learn: [E, T] bool.
    """
    gap = (sampled - anchor).sum(dim=-1).abs()
    return float(torch.where(learn, gap, torch.zeros_like(gap)).max())  # sync: once per update
