"""Growing hosts as a `RolloutEnv`: one step of every row is act, train, validate, observe, reward.

```
actions [E, H] --build_action--> decisions --Fleet.apply--> results
                                             Fleet.train_epoch --> verdicts
           rows at their horizon, or failed: Fleet.conclude     what was not kept goes, validation is read
                                             Fleet.observations --> StepFacts --> reward --> EnvStep
```
The horizon is part of the task and remaining time is observed, so it ends an episode for good (terminated);
"truncate" treats it as an outside cut instead. A host that the governor gave up on is terminated with the
governor's verdict. An episode whose host was lost is truncated, and the step in which that happened is not
valid: nobody knows what it led to. Nothing here knows a network or a task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, final

import torch
from torch import Tensor

from esper.leyline import (
    ActionResult,
    Decision,
    ForeignCheckpointError,
    JsonValue,
    LifecycleOp,
    Observation,
    SeedStage,
    Verdict,
    VerdictKind,
)
from esper.simic.config import HORIZON_SEMANTICS
from esper.simic.decision_records import TakenStep
from esper.simic.episode import Episode, as_table, read_host, read_list
from esper.simic.instances import EpisodeStart, InstancePlan
from esper.simic.interfaces import EnvStep
from esper.simic.never_runs import NeverRun, NeverRuns
from esper.simic.privileged import build_privileged
from esper.simic.rewards.facts import StepFacts
from esper.tamiyo import PRIVILEGED, ActionLayout, PolicyInputs, build_action, build_growth_layout
from esper.tolaria import Fleet, SplitResult


class PaidReward(Protocol):
    """What a reward comes to: a total and its shares."""

    @property
    def total(self) -> float:
        """Sum of the shares."""

    @property
    def terms(self) -> Mapping[str, float]:
        """Name -> share."""


class EpisodeReward(Protocol):
    """The reward of one episode at a time; `simic.rewards` builds it."""

    def reset(self) -> None:
        """Begin an episode."""

    def compute(self, facts: StepFacts) -> PaidReward:
        """Return the reward of one step; steps come in order."""

    def state(self) -> dict[str, JsonValue]:
        """Return what it remembers of the present episode."""

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthEnvParts:
    """What the environment is made of."""

    fleet: Fleet[PolicyInputs]
    """E hosts whose encoder makes policy inputs of one shape, however many slots a host has."""
    never_runs: NeverRuns
    plan: InstancePlan
    build_reward: Callable[[], EpisodeReward]
    """Makes the reward of one row."""
    env_ids: tuple[int, ...]
    """[E] numbers of the rows over all processes."""
    horizon_semantics: str = "terminate"


@final
class GrowthRolloutEnv:
    """E growing hosts that a learner acts upon."""

    def __init__(self, parts: GrowthEnvParts) -> None:
        """Take a fleet over; every row must be reset before the first step.

        Raises:
            ValueError: If the numbers of rows disagree or the semantics are unknown.
        """
        if len(parts.env_ids) != parts.fleet.num_hosts:
            raise ValueError(f"{len(parts.env_ids)} env_ids for a fleet of {parts.fleet.num_hosts} hosts")
        if parts.horizon_semantics not in HORIZON_SEMANTICS:
            raise ValueError(f"horizon_semantics={parts.horizon_semantics!r}: one of {HORIZON_SEMANTICS}")
        self._parts = parts
        self._rewards = [parts.build_reward() for _ in parts.env_ids]
        self._episodes = [Episode() for _ in parts.env_ids]
        self._observations = parts.fleet.observations()
        self._layout = build_growth_layout(self._observations[0].space)
        self._has_ended = [True] * self.num_envs
        self.taken: tuple[TakenStep | None, ...] = (None,) * self.num_envs
        """[E] what each row did in the last step; None where that was not a real one."""

    # ------------------------------------------------------------------ what a learner sees

    @property
    def num_envs(self) -> int:
        """E."""
        return len(self._parts.env_ids)

    @property
    def layout(self) -> ActionLayout:
        """See `RolloutEnv.layout`."""
        return self._layout

    @property
    def names(self) -> tuple[str, ...]:
        """See `RolloutEnv.names`."""
        pairs = zip(self._parts.env_ids, self._episodes, strict=True)
        return tuple(f"environment {env_id} (instance {e.start.instance})" for env_id, e in pairs)

    @property
    def observations(self) -> tuple[Observation, ...]:
        """[E] typed observations behind the inputs, for policies that are rules."""
        return self._observations

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """[E] what each row remembers of its present episode."""
        return tuple(self._episodes)

    def observe(self) -> PolicyInputs:
        """See `RolloutEnv.observe`; the inputs of the hosts, and what only a critic may see."""
        return self._observe([not has_ended for has_ended in self._has_ended])

    def _observe(self, is_known: Sequence[bool]) -> PolicyInputs:
        """Return the inputs; a critic is told of the never-grown lives of the rows that are named."""
        pairs = zip(self._episodes, is_known, strict=True)
        never_runs = [self._never(e.start) if is_row_known else None for e, is_row_known in pairs]
        privileged = build_privileged(self._observations, never_runs)
        return {**self._parts.fleet.observe(), PRIVILEGED: privileged}

    # ------------------------------------------------------------------ episodes

    def find_next_instances(self) -> tuple[int, ...]:
        """Return which hosts the rows that have ended meet in their next episodes."""
        rows = zip(self._parts.env_ids, self._episodes, self._has_ended, strict=True)
        plan = self._parts.plan
        return tuple(plan.start(env, e.number + 1).instance for env, e, has_ended in rows if has_ended)

    def reset(self, mask: Tensor) -> None:
        """See `RolloutEnv.reset`; the plan says which host a row gets and where it begins."""
        rows = [bool(flag) for flag in mask]
        states = []
        for row, is_reset in enumerate(rows):
            state = None
            if is_reset:
                number = self._episodes[row].number + 1
                start = self._parts.plan.start(self._parts.env_ids[row], number)
                state = self._never(start).states.get(start.epoch)
                self._episodes[row] = Episode(number=number, start=start)
                self._rewards[row].reset()
                self._has_ended[row] = False
            states.append(state)
        instances = [episode.start.instance for episode in self._episodes]
        self._parts.fleet.reset(rows, instances, states)
        self._observations = self._parts.fleet.observations()

    def step(self, actions: Tensor) -> EnvStep:
        """See `RolloutEnv.step`."""
        before = self._observations
        results = self._parts.fleet.apply(self._decide(actions.tolist()))
        _, verdicts = self._parts.fleet.train_epoch()
        finished = self._parts.fleet.is_finished
        ends = [end and not ended for end, ended in zip(finished, self._has_ended, strict=True)]
        concluded = self._parts.fleet.conclude(ends)
        verdicts = tuple(map(_with_loss, verdicts, ends, concluded))
        self._observations = tuple(map(_with_result, self._parts.fleet.observations(), concluded))
        cut = self._find_cut(ends, verdicts)
        last = [end and not is_cut for end, is_cut in zip(ends, cut, strict=True)]
        is_valid = [
            not ended and verdict.kind != VerdictKind.LOST
            for ended, verdict in zip(self._has_ended, verdicts, strict=True)
        ]
        rows = [
            self._pay(row, before[row], results[row], verdicts[row], is_last=last[row]) if is_known else None
            for row, is_known in enumerate(is_valid)
        ]
        self.taken = tuple(
            None if paid is None else self._take(row, before[row], results[row], paid)
            for row, paid in enumerate(rows)
        )
        self._has_ended = [ended or end for ended, end in zip(self._has_ended, ends, strict=True)]
        return self._answer(rows, is_valid, ends, verdicts)

    def _find_cut(self, ends: Sequence[bool], verdicts: Sequence[Verdict]) -> list[bool]:
        """Return [E] whether the episode ends as an outside cut.

        That is so where the host was lost, and at the horizon, if the settings say so.
        """
        is_cut = self._parts.horizon_semantics == "truncate"
        return [
            end and (verdict.kind == VerdictKind.LOST or (is_cut and not verdict.is_failure))
            for end, verdict in zip(ends, verdicts, strict=True)
        ]

    def _decide(self, rows: Sequence[Sequence[int]]) -> list[Decision]:
        decisions = []
        for row, observation, has_ended in zip(rows, self._observations, self._has_ended, strict=True):
            if has_ended:
                decisions.append(Decision(reason="the episode has ended"))
                continue
            try:
                decisions.append(
                    Decision(action=build_action(tuple(row), observation.space), reason="learned")
                )
            except ValueError as error:  # padding that a mask should have kept from being chosen
                decisions.append(Decision(reason=f"refused: {error}"))
        return decisions

    def _pay(
        self, row: int, before: Observation, result: ActionResult, verdict: Verdict, *, is_last: bool
    ) -> PaidReward:
        episode, after = self._episodes[row], self._observations[row]
        never = self._never(episode.start)
        # After a rollback the host stands where it stood before; the never-grown one went on.
        elapsed = before.signals.epoch + 1
        facts = StepFacts(
            before=before,
            after=after,
            result=result,
            verdict=verdict,
            is_last=is_last,
            never_metric_before=never.metric(before.signals.epoch),
            never_metric_after=never.metric(len(never.metrics) if is_last else elapsed),
        )
        paid = self._rewards[row].compute(facts)
        episode.count(result, paid.total)
        return paid

    def _take(self, row: int, before: Observation, result: ActionResult, paid: PaidReward) -> TakenStep:
        episode = self._episodes[row]
        return TakenStep(
            env_id=self._parts.env_ids[row],
            instance=episode.start.instance,
            before=before,
            result=result,
            reward=paid.total,
            terms=paid.terms,
            return_so_far=episode.total_reward,
        )

    def _never(self, start: EpisodeStart) -> NeverRun:
        return self._parts.never_runs.get(start.instance)

    # ------------------------------------------------------------------ answers

    def _answer(
        self,
        paid: Sequence[PaidReward | None],
        is_valid: Sequence[bool],
        ends: Sequence[bool],
        verdicts: Sequence[Verdict],
    ) -> EnvStep:
        truncated = self._find_cut(ends, verdicts)
        pairs = zip(ends, verdicts, strict=True)
        names = sorted({name for reward in paid if reward is not None for name in reward.terms})
        terms = {
            name: torch.tensor([0.0 if r is None else r.terms.get(name, 0.0) for r in paid]) for name in names
        }
        return EnvStep(
            inputs=self._observe(is_valid),  # of a row that was cut off just now the value is still asked
            reward=torch.tensor([0.0 if reward is None else reward.total for reward in paid]),
            terminated=torch.tensor([e and not cut for e, cut in zip(ends, truncated, strict=True)]),
            truncated=torch.tensor(truncated),
            is_valid=torch.tensor(list(is_valid)),
            terms=terms,
            summaries=tuple(
                self._summarise(row, verdict) if end else None for row, (end, verdict) in enumerate(pairs)
            ),
        )

    def _summarise(self, row: int, verdict: Verdict) -> dict[str, JsonValue]:
        episode, observation = self._episodes[row], self._observations[row]
        budgets, metric = observation.budgets, observation.signals.metric
        never = self._never(episode.start).metrics[-1]
        return {
            "env_id": self._parts.env_ids[row],
            "instance": episode.start.instance,
            "start_epoch": episode.start.epoch,
            "reason": _describe_end(verdict),
            "return": episode.total_reward,
            "length": episode.num_steps,
            "metric": metric,
            "never_metric": never,
            "host_params": budgets.host_params,
            "added_params": budgets.added_params,
            "flops_spent": budgets.flops_spent,
            "never_grow_flops": budgets.never_grow_flops,
            "num_slots": len(observation.slots),
            "num_fossils": sum(slot.stage is SeedStage.FOSSILIZED for slot in observation.slots),
            "num_refused": episode.num_refused,
            "ops": {op.value: episode.ops[op.value] for op in LifecycleOp},
        }

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, JsonValue | Tensor]:
        """Return hosts, rewards and episodes; tensors are copies."""
        state: dict[str, JsonValue | Tensor] = {
            "episodes": [episode.to_dict() for episode in self._episodes],
            "rewards": [reward.state() for reward in self._rewards],
            "has_ended": list(self._has_ended),
        }
        for row, record in enumerate(self._parts.fleet.state()):
            state |= {f"host{row}.{name}": tensor for name, tensor in record.tensors.items()}
            state[f"host{row}"] = record.state
        return state

    def restore(self, state: Mapping[str, JsonValue | Tensor]) -> None:
        """Put back what `state` returned; hosts are built anew from their instances.

        Raises:
            ForeignCheckpointError: If the state is of other hosts.
        """
        episodes = [Episode.from_dict(record) for record in read_list(state, "episodes")]
        rewards = read_list(state, "rewards")
        if len(episodes) != self.num_envs or len(rewards) != self.num_envs:
            raise ForeignCheckpointError(f"saved for {len(episodes)} environments, here are {self.num_envs}")
        records = [read_host(state, row) for row in range(self.num_envs)]
        self._episodes = episodes
        for reward, saved in zip(self._rewards, rewards, strict=True):
            reward.restore(as_table(saved, "rewards"))
        self._has_ended = [bool(flag) for flag in read_list(state, "has_ended")]
        instances = [episode.start.instance for episode in episodes]
        self._parts.fleet.reset([True] * self.num_envs, instances, records)
        self._observations = self._parts.fleet.observations()

    def close(self) -> None:
        """Free the fleet."""
        self._parts.fleet.close()


def _with_loss(verdict: Verdict, is_ended: bool, result: SplitResult | None) -> Verdict:
    """Return the verdict on a row, which was lost if it has ended and nothing could be read of it."""
    if is_ended and result is None and verdict.kind != VerdictKind.LOST:
        return Verdict(kind=VerdictKind.LOST, reason="its worker died while the episode was concluded")
    return verdict


def _describe_end(verdict: Verdict) -> str:
    """Return why an episode ended; of a lost one also how."""
    if verdict.kind == VerdictKind.LOST:
        return f"{verdict.kind}: {verdict.reason}"
    return verdict.kind if verdict.is_failure else "horizon"


def _with_result(observation: Observation, result: SplitResult | None) -> Observation:
    """Return the observation with the metric of the network that leaves, where the episode has ended."""
    if result is None:
        return observation
    signals = replace(observation.signals, metric=result.metric, validation_loss=result.loss)
    return replace(observation, signals=signals)
