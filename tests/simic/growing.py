"""Small growing hosts for tests of the environment: a tiny image set, a plain reward, a fixed plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from esper.leyline import (
    Action,
    ActionResult,
    Decision,
    EpochOutcome,
    JsonValue,
    Observation,
    Verdict,
    VerdictKind,
)
from esper.simic.growth_env import GrowthEnvParts, GrowthRolloutEnv
from esper.simic.instances import InstancePlan
from esper.simic.never_runs import NeverRuns
from esper.simic.rewards.facts import StepFacts
from esper.tamiyo import PolicyInputs, build_indices, encode_many
from esper.tolaria import Fleet, HostRun, SerialFleet, SplitResult, StateRecord
from tolaria.small_run import make_config, make_parts, make_task

HORIZON = 6


@dataclass(frozen=True, slots=True)
class Paid:
    """Two shares that add up."""

    terms: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.terms.values())


@dataclass(slots=True)
class MetricReward:
    """Pays the change of the metric and of the never-grown one; keeps every fact it saw."""

    facts: list[StepFacts] = field(default_factory=list)
    num_steps: int = 0

    def reset(self) -> None:
        self.num_steps = 0

    def compute(self, facts: StepFacts) -> Paid:
        self.facts.append(facts)
        self.num_steps += 1
        before = facts.before.signals.metric if facts.before.signals.has_history else 0.0
        never = facts.never_metric_after - facts.never_metric_before
        return Paid({"metric": facts.after.signals.metric - before, "never": -never})

    def state(self) -> dict[str, JsonValue]:
        return {"num_steps": self.num_steps}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        self.num_steps = int(str(state["num_steps"]))


@dataclass(slots=True)
class LosingFleet:
    """A fleet that loses one row: as its interval `at_epoch` is trained, or as its episode is concluded."""

    inner: SerialFleet[PolicyInputs]
    row: int
    at_epoch: int | None
    """None = when it is concluded."""
    epoch: int = 0
    is_lost: bool = False

    @property
    def num_hosts(self) -> int:
        return self.inner.num_hosts

    @property
    def is_finished(self) -> tuple[bool, ...]:
        flags = list(self.inner.is_finished)
        flags[self.row] = flags[self.row] or self.is_lost
        return tuple(flags)

    def reset(
        self,
        mask: Sequence[bool],
        instances: Sequence[int],
        start_states: Sequence[StateRecord | None] | None = None,
    ) -> None:
        self.is_lost = self.is_lost and not mask[self.row]
        self.inner.reset(mask, instances, start_states)

    def observe(self) -> PolicyInputs:
        return self.inner.observe()

    def observations(self) -> tuple[Observation, ...]:
        return self.inner.observations()

    def apply(self, decisions: Sequence[Decision]) -> tuple[ActionResult, ...]:
        return self.inner.apply(decisions)

    def train_epoch(self) -> tuple[tuple[EpochOutcome | None, ...], tuple[Verdict, ...]]:
        outcomes, verdicts = self.inner.train_epoch()
        self.epoch += 1
        self.is_lost = self.is_lost or self.epoch == self.at_epoch
        told = list(verdicts)
        if self.is_lost:
            told[self.row] = Verdict(kind=VerdictKind.LOST, reason="made up")
        return outcomes, tuple(told)

    def finish(self) -> tuple[SplitResult, ...]:
        return self.inner.finish()

    def conclude(self, mask: Sequence[bool]) -> tuple[SplitResult | None, ...]:
        self.is_lost = self.is_lost or (mask[self.row] and self.at_epoch is None)
        results = list(self.inner.conclude(mask))
        if self.is_lost:
            results[self.row] = None
        return tuple(results)

    def state(self) -> tuple[StateRecord, ...]:
        return self.inner.state()

    def restore(self, states: Sequence[StateRecord]) -> None:
        self.inner.restore(states)

    def close(self) -> None:
        self.inner.close()


def build_small_run(instance: int) -> HostRun:
    """A host of two growth points in every odd instance, of three in every even one; a failure ends it."""
    slots = ("block1", "block3") if instance % 2 else ()
    config = replace(make_config(epochs=HORIZON), on_failure="terminate")
    parts = replace(make_parts(), slots=slots)
    return HostRun(make_task(), config, parts, run_seed=5, instance=instance)


def encode_small(observations: Sequence[Observation]) -> dict[str, Tensor]:
    """Two of the inputs, padded to three slots."""
    batch = encode_many(observations)
    slots = torch.zeros(len(observations), 3, batch.slots.shape[-1])
    slots[:, : batch.slots.shape[1]] = batch.slots
    return {"global": batch.global_features, "slots": slots}


def make_env(
    num_envs: int = 2,
    *,
    instances: tuple[int, ...] = (0, 1, 2, 3),
    start_epochs: tuple[int, ...] = (0,),
    horizon_semantics: str = "terminate",
    encode: Callable[[Sequence[Observation]], PolicyInputs] = encode_small,
    first_env: int = 0,
    wrap: Callable[[SerialFleet[PolicyInputs]], Fleet[PolicyInputs]] = lambda fleet: fleet,
) -> tuple[GrowthRolloutEnv, list[MetricReward]]:
    """Return an environment, not yet reset, and the rewards of its rows."""
    rewards: list[MetricReward] = []

    def build_reward() -> MetricReward:
        rewards.append(MetricReward())
        return rewards[-1]

    parts = GrowthEnvParts(
        fleet=wrap(SerialFleet(build_small_run, range(num_envs), encode=encode)),
        never_runs=NeverRuns(build_small_run, start_epochs=tuple(e for e in start_epochs if e)),
        plan=InstancePlan(seed=1, instances=instances, start_epochs=start_epochs),
        build_reward=build_reward,
        env_ids=tuple(range(first_env, first_env + num_envs)),
        horizon_semantics=horizon_semantics,
    )
    return GrowthRolloutEnv(parts), rewards


def all_rows(env: GrowthRolloutEnv) -> Tensor:
    """A mask of every row."""
    return torch.ones(env.num_envs, dtype=torch.bool)


def as_rows(env: GrowthRolloutEnv, *actions: Action) -> Tensor:
    """Return one action per environment as indices."""
    pairs = zip(actions, env.observations, strict=True)
    return torch.tensor([build_indices(action, observation.space) for action, observation in pairs])
