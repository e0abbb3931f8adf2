"""A policy on fresh hosts: one life per seed, the test split read once at its end, everything counted.

Rules and learned policies come through the same door, and so do the masks: they are part of the observation,
which no policy can decide without. Knows no task by name and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import final

from esper.leyline import JsonValue, LifecycleOp, SeedStage, TamiyoPolicy
from esper.simic.rewards.config import RewardConfig
from esper.simic.rewards.gain import compute_objective
from esper.tolaria import HostRun


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeResult:
    """One host's life under one policy. Metrics are higher-is-better, fractions where they are accuracies."""

    seed: int
    test_metric: float
    test_loss: float
    validation_metric: float
    """Of the network that left, seeds that were not kept removed."""
    objective: float
    """J on validation, metric units; see `rewards.gain`."""
    host_params: int
    added_params: int
    flops_spent: int
    never_grow_flops: int
    num_slots: int
    num_fossils: int
    num_refused: int
    ops: dict[str, int]
    """Operations carried out, by name."""
    failure: str | None = None
    """What the governor found, where the host did not reach its horizon."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data."""
        plain: dict[str, JsonValue] = asdict(self)
        return plain


def evaluate_policy(
    build_run: Callable[[int], HostRun],
    policy: TamiyoPolicy,
    seeds: Sequence[int],
    *,
    prices: RewardConfig,
    on_episode: Callable[[EpisodeResult], None] | None = None,
) -> tuple[EpisodeResult, ...]:
    """Let a policy grow one host per seed.

    Args:
        build_run: Makes the fresh host run of a seed; equal seeds give equal hosts and data orders, so that
            results of several policies are paired.
        policy: Reset before each host.
        seeds: Of the hosts; none of them may have been trained on.
        prices: lambda_p and lambda_f of the objective.
        on_episode: Called after each host.

    Example:
        >>> policy = build_policy("never", seed=0)
        >>> results = evaluate_policy(lambda seed: host_run(), policy, [20, 21], prices=RewardConfig())
        >>> [result.seed for result in results]
        [20, 21]
    """
    results = []
    for seed in seeds:
        results.append(run_episode(build_run(seed), policy, seed, prices=prices))
        if on_episode is not None:
            on_episode(results[-1])
    return tuple(results)


def run_episode(run: HostRun, policy: TamiyoPolicy, seed: int, *, prices: RewardConfig) -> EpisodeResult:
    """Let a policy grow one fresh host to its horizon and read its test split once.

    Example:
        >>> policy = build_policy("never", seed=0)
        >>> result = run_episode(host_run(), policy, 0, prices=RewardConfig())
        >>> result.seed, result.num_refused
        (0, 0)
    """
    policy.reset()
    ops: Counter[str] = Counter()
    num_refused = 0
    while not run.is_finished:
        result = run.apply(policy.decide(run.observe()))
        ops[result.effective.op.value] += 1
        num_refused += result.is_refused
        run.train_epoch()
    validation, test = run.conclude(), run.finish()
    observation = run.observe()
    signals = replace(observation.signals, metric=validation.metric, validation_loss=validation.loss)
    leaving = replace(observation, signals=signals)
    budgets = observation.budgets
    return EpisodeResult(
        seed=seed,
        test_metric=test.metric,
        test_loss=test.loss,
        validation_metric=validation.metric,
        objective=compute_objective(leaving, prices.lambda_p, prices.lambda_f),
        host_params=budgets.host_params,
        added_params=budgets.added_params,
        flops_spent=budgets.flops_spent,
        never_grow_flops=budgets.never_grow_flops,
        num_slots=len(observation.slots),
        num_fossils=sum(slot.stage is SeedStage.FOSSILIZED for slot in observation.slots),
        num_refused=num_refused,
        ops={op.value: ops[op.value] for op in LifecycleOp},
        failure=run.verdict.kind if run.is_terminated else None,
    )
