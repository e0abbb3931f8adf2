"""Signs of trouble are found in metrics, and only there where a policy had a choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from esper.simic.anomalies import (
    METRIC_TABLE,
    Metrics,
    MinibatchOutcome,
    compute_allowed_drift,
    compute_drift,
    describe_minibatches,
    describe_rollout,
    find_anomalies,
    find_faulty_rows,
)
from esper.simic.config import AnomalyConfig, PPOConfig, RolloutConfig, TrainingConfig

from .tiny_networks import Script, build_bench

CONFIG = AnomalyConfig()
HEALTHY: Metrics = {
    "rollout/learn_fraction": 0.8,
    "rollout/op_share/WAIT": 0.6,
    "rollout/op_share/CULL": 0.4,
    "train/entropy/op": 0.5,
    "train/explained_variance": 0.6,
    "train/value_std": 0.8,
    "train/return_std": 1.0,
    "train/ratio_max": 1.4,
    "train/anchor_drift": 1e-7,
    "train/anchor_drift_allowed": 1e-5,
    "train/skipped/policy": 0.0,
}


def names(history: Sequence[Metrics]) -> list[str]:
    return [finding.name for finding in find_anomalies(history, CONFIG)]


def test_a_healthy_run_has_no_findings() -> None:
    assert names([HEALTHY] * 10) == []
    assert find_anomalies([], CONFIG) == ()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"train/entropy/op": 0.01}, "entropy_collapse/op"),
        ({"rollout/op_share/WAIT": 0.999}, "single_operation/WAIT"),
        ({"train/explained_variance": -0.3}, "blind_critic"),
        ({"train/explained_variance": 0.01}, "blind_critic"),
        ({"train/value_std": 0.001}, "value_collapse"),
    ],
)
def test_a_lasting_collapse_is_found_and_a_single_bad_round_is_not(change: Metrics, name: str) -> None:
    sick = {**HEALTHY, **change}
    assert names([sick] * 5) == [name]
    assert names([sick] * 4) == []
    assert names([sick, sick, HEALTHY, sick, sick]) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"train/ratio_max": 40.0}, "ratio_explosion"),
        ({"train/anchor_drift": 1e-3}, "anchor_drift"),
        ({"train/anchor_drift": math.inf}, "anchor_drift"),
        ({"train/skipped/value": 2.0}, "non_finite/value"),
    ],
)
def test_what_can_never_be_chance_is_found_at_once(change: Metrics, name: str) -> None:
    (finding,) = find_anomalies([{**HEALTHY, **change}], CONFIG)
    assert finding.name == name
    assert finding.value > finding.threshold
    assert finding.advice


def test_a_metric_that_is_not_known_in_every_round_is_not_judged() -> None:
    without = {name: x for name, x in HEALTHY.items() if name != "train/explained_variance"}
    assert names([{**HEALTHY, "train/explained_variance": -1.0}] * 4 + [without]) == []


def test_nothing_is_found_in_a_run_where_every_step_must_wait() -> None:
    config = TrainingConfig(ppo=PPOConfig(learning_rate=1e-3), anomalies=AnomalyConfig(patience_rounds=1))
    bench = build_bench(config, script=Script(forced=lambda row, t: True))
    history = []
    for _ in range(6):
        history.append(bench.learner.update(bench.collect().batch).metrics)
        assert find_anomalies(history, config.anomalies) == ()
    assert history[-1]["rollout/learn_fraction"] == 0.0
    assert not any(name.startswith(("rollout/op_share", "train/entropy/")) for name in history[-1])
    assert "train/ratio_max" not in history[-1]


def test_every_reported_metric_is_in_the_table() -> None:
    bench = build_bench()
    metrics = bench.learner.update(bench.collect().batch).metrics
    patterns = [name.split("<")[0] for name in METRIC_TABLE]
    for name in metrics:
        assert name in METRIC_TABLE or any(p.endswith("/") and name.startswith(p) for p in patterns), name


def test_metrics_of_a_rollout_without_real_steps_are_absent() -> None:
    assert describe_rollout({"valid": 0.0}) == {}


def outcome(kl: float, *, bad: str | None = None, is_over: bool = False) -> MinibatchOutcome:
    numbers = dict.fromkeys(("policy", "value", "floors", "loss", "clip", "grad_norm", "clamped"), 1.0)
    return MinibatchOutcome({**numbers, "kl": kl, "entropy": 2.0, "entropy_share/op": 0.5}, 1.0, bad, is_over)


def test_means_are_over_the_minibatches_looked_at_and_steps_count_what_was_executed() -> None:
    metrics = describe_minibatches([outcome(0.1), outcome(math.nan, bad="value"), outcome(0.3, is_over=True)])
    assert metrics["train/approx_kl"] == pytest.approx(0.2)
    assert metrics["train/entropy_loss"] == -2.0
    assert (metrics["train/num_steps"], metrics["train/kl_stops"]) == (1.0, 1.0)
    assert (metrics["train/skipped/value"], metrics["train/skipped/policy"]) == (1.0, 0.0)
    assert metrics["train/entropy/op"] == 0.5


def test_an_update_without_a_finite_minibatch_reports_only_that() -> None:
    metrics = describe_minibatches([outcome(math.nan, bad="policy")])
    assert metrics["train/skipped/policy"] == 1.0
    assert "train/approx_kl" not in metrics


@pytest.mark.parametrize(
    ("amp", "device_type", "is_double", "allowed"),
    [
        ("bf16", "cpu", False, 1e-3),
        ("off", "cpu", True, 1e-6),
        ("off", "cpu", False, 1e-5),
        ("off", "cuda", False, 2e-4),
    ],
)
def test_the_allowed_drift_follows_the_precision(
    amp: str, device_type: str, is_double: bool, allowed: float
) -> None:
    assert compute_allowed_drift(amp=amp, device_type=device_type, is_double=is_double) == allowed


def test_drift_is_that_of_the_joint_action_where_there_was_a_choice() -> None:
    sampled = torch.tensor([[[0.1, 0.2], [9.0, 9.0]]])
    learn = torch.tensor([[True, False]])
    assert compute_drift(sampled, torch.zeros_like(sampled), learn) == pytest.approx(0.3)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e30])
def test_a24_faulty_rows_are_named_with_what_was_found(number: float) -> None:
    features = torch.zeros(3, 2, 2)
    features[1, 0, 1] = number
    reward = torch.tensor([0.0, 0.0, number])
    inputs = {"features": features, "mask_op": torch.ones(3, 2, dtype=torch.bool)}
    rows = torch.ones(3, dtype=torch.bool)
    found = find_faulty_rows(inputs, rows, RolloutConfig(), reward=reward)
    assert found.rows.tolist() == [False, True, True]
    assert "input 'features' reached" in found.reasons[1]
    assert "the reward reached" in found.reasons[2]
    assert find_faulty_rows(inputs, rows & ~found.rows, RolloutConfig(), reward=reward).reasons == {}
