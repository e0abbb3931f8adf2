"""Rounds of policy training: collect, learn, look for trouble; saved and gone on with at any step.

```
run_round -> collect_rollout (stops at a step if asked) -> time critic -> PPOLearner.update -> find_anomalies
state     -> learner + rollout so far + carry + environment + what was measured
```
Neutral of any environment: growth, a pole on a cart and the toys are trained by the same rounds. It emits
nothing and touches no disk; whoever runs it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from esper.leyline import Collective, ConfigError, ForeignCheckpointError, JsonValue, SingleProcess
from esper.simic.advantages import compute_gae, compute_next_values
from esper.simic.anomalies import Anomaly, find_anomalies
from esper.simic.carry_rows import ToldStep
from esper.simic.collector import (
    CollectorParts,
    build_carry,
    collect_rollout,
    describe_collection,
)
from esper.simic.config import TrainingConfig
from esper.simic.interfaces import ActorCritic, FreePace, RolloutEnv, RolloutPace
from esper.simic.memory_drift import DRIFT_METRIC, MemoryDrift, measure_drift
from esper.simic.ppo import PPOLearner
from esper.simic.rollout_buffer import (
    FinishedEpisode,
    QuarantinedRow,
    Rollout,
    RolloutBatch,
    TamiyoRolloutBuffer,
)
from esper.simic.time_critic import TimeCritic
from esper.tamiyo import PolicyInputs, PolicyStep
from esper.tolaria import StateRecord

TIME_CRITIC_METRIC = "rollout/time_explained_variance"
_PARTS = ("learner", "buffer", "carry", "env")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerParts:
    """What training is made of."""

    env: RolloutEnv
    network: ActorCritic
    learner: PPOLearner
    """Of the same network."""
    config: TrainingConfig
    num_steps: int
    """T: steps per environment and round; the horizon, where rows are whole episodes."""
    device: torch.device
    """Where the network is."""
    seed: int
    """Of the actions."""
    env_ids: tuple[int, ...] | None = None
    """[E] numbers of the environments over all processes, from which streams of actions derive; None = 0 to
    E - 1."""
    collective: Collective = field(default_factory=SingleProcess)
    """Ranks that train the same policy, each on rows of its own; the learner's."""
    pace: RolloutPace = field(default_factory=FreePace)
    """When a rollout is cut short for the other ranks."""
    record: Callable[[PolicyInputs, PolicyStep, Tensor, Tensor], Sequence[ToldStep | None]] | None = None
    """See `CollectorParts.record`; None tells nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What one round brought."""

    round: int
    """From 1."""
    num_env_steps: int
    """Real transitions since training began, of all ranks."""
    metrics: Mapping[str, float]
    """By the names of `anomalies.METRIC_TABLE`."""
    episodes: tuple[FinishedEpisode, ...]
    quarantined: tuple[QuarantinedRow, ...]
    findings: tuple[Anomaly, ...]
    told: tuple[ToldStep, ...] = ()
    """What is to be told of its steps, environment after environment."""


class _StoppedError(Exception):
    """Leaves the collector between two steps; never leaves this file."""


@final
class PolicyTrainer:
    """Trains one policy on one environment, round by round.

    Example:
        while not trainer.is_finished:
            report = trainer.run_round()
    """

    def __init__(self, parts: TrainerParts) -> None:
        """Begin before the first round; environments are reset by it.

        Raises:
            ConfigError: If the network was built for other actions than the environment takes: an index would
                mean one operation to the one and another to the other.
        """
        if parts.network.layout != parts.env.layout:
            raise ConfigError(
                f"the network acts by {parts.network.layout}, the environment by {parts.env.layout}: build "
                "the network for the environment's layout"
            )
        self._parts = parts
        self._buffer = TamiyoRolloutBuffer(
            num_envs=parts.env.num_envs, num_steps=parts.num_steps, device=parts.device
        )
        env_ids = range(parts.env.num_envs) if parts.env_ids is None else parts.env_ids
        self._carry = build_carry(parts.network, env_ids, seed=parts.seed)
        self._time_critic = TimeCritic(parts.num_steps, parts.collective)
        self._history: deque[Mapping[str, float]] = deque(maxlen=parts.config.anomalies.patience_rounds)
        self._num_env_steps = 0
        self.round = 0
        """Rounds finished."""

    @property
    def num_steps(self) -> int:
        """T of a round."""
        return self._parts.num_steps

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._parts.device

    @property
    def is_finished(self) -> bool:
        """Whether every round was trained."""
        return self.round >= self._parts.config.num_updates

    @property
    def num_collected(self) -> int:
        """Steps of the running round that were collected and not yet learned from."""
        return self._buffer.num_steps

    def run_round(self, should_stop: Callable[[], bool] | None = None) -> RoundReport | None:
        """Train one round.

        Args:
            should_stop: Asked after every step; when it says True the round stops there, and the next call
                goes on from that step.

        Returns:
            The report, or None if it was stopped before the round ended.

        Raises:
            RuntimeError: If every round was trained.
        """
        if self.is_finished:
            raise RuntimeError(f"all {self.round} rounds were trained")
        try:
            rollout = self._collect(should_stop)
        except _StoppedError:
            return None
        metrics = describe_collection(rollout, self._parts.collective) | self._judge_time(rollout.batch)
        update = self._parts.learner.update(rollout.batch)
        metrics |= update.metrics
        metrics |= self._judge_memory(rollout.batch)
        self._buffer.clear()
        self.round += 1
        self._num_env_steps += int(metrics["rollout/num_steps"])
        self._history.append(metrics)
        return RoundReport(
            round=self.round,
            num_env_steps=self._num_env_steps,
            metrics=metrics,
            episodes=rollout.episodes,
            quarantined=rollout.quarantined,
            findings=find_anomalies(tuple(self._history), self._parts.config.anomalies),
            told=self._carry.take_told(),
        )

    def _collect(self, should_stop: Callable[[], bool] | None) -> Rollout:
        def after_step() -> None:
            if should_stop is not None and should_stop():
                raise _StoppedError

        parts, learner = self._parts, self._parts.learner
        collector = CollectorParts(
            config=parts.config.rollout,
            device=parts.device,
            autocast=learner.autocast,
            values=learner.value_normalizer,
            inputs=learner.input_normalizer,
            should_cut=lambda num_steps: parts.pace.should_cut(num_steps, self.round),
            after_step=after_step,
            record=parts.record,
        )
        rollout = collect_rollout(parts.env, parts.network, self._buffer, self._carry, collector)
        parts.pace.finish(self.round)
        return rollout

    def _judge_time(self, batch: RolloutBatch) -> dict[str, float]:
        """Return how well a critic that knows nothing but the time would have done, then let it learn."""
        config = self._parts.config
        next_value = compute_next_values(batch.value, batch.steps.truncated, batch.bootstrap)
        _, returns = compute_gae(
            batch.value, next_value, batch.steps, gamma=config.gamma, gae_lambda=config.gae_lambda
        )
        explained = self._time_critic.explain(returns, batch.steps.valid)
        self._time_critic.learn(returns, batch.steps.valid)
        return {} if explained is None else {TIME_CRITIC_METRIC: explained}

    def _judge_memory(self, batch: RolloutBatch) -> dict[str, float]:
        """Return how far the update left behind the memories with which rows go on; nothing if none does."""
        parts, carry = self._parts, self._carry
        goes_on = ~(carry.has_ended | carry.episode_start)
        mine = measure_drift(parts.network, batch, carry.memory, goes_on, parts.learner.autocast)
        drift = MemoryDrift(*parts.collective.all_sum(list(mine))).relative
        return {} if drift is None else {DRIFT_METRIC: drift}

    # ------------------------------------------------------------------ state

    def state(self) -> StateRecord:
        """Return copies of everything that training goes on from, bit for bit."""
        env_state = self._parts.env.state()
        env = StateRecord(
            tensors={name: x.clone() for name, x in env_state.items() if isinstance(x, Tensor)},
            state={name: x for name, x in env_state.items() if not isinstance(x, Tensor)},
        )
        records = (self._parts.learner.state(), self._buffer.state(), self._carry.state(), env)
        tensors: dict[str, Tensor] = {"time_critic": self._time_critic.means.clone()}
        state: dict[str, JsonValue] = {
            "round": self.round,
            "num_env_steps": self._num_env_steps,
            "history": [dict(metrics) for metrics in self._history],
        }
        for name, record in zip(_PARTS, records, strict=True):
            tensors |= {f"{name}/{key}": tensor for key, tensor in record.tensors.items()}
            state[name] = record.state
        return StateRecord(tensors=tensors, state=state)

    def restore(self, record: StateRecord) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If it was saved by a training of other parts.
        """
        state = record.state
        match state:
            case {"round": int(finished), "num_env_steps": int(num_env_steps), "history": list(history)}:
                pass
            case _:
                raise ForeignCheckpointError("saved training: round, steps or history are missing")
        learner, buffer, carry, env = (_read_part(record, name) for name in _PARTS)
        if "time_critic" not in record.tensors:
            raise ForeignCheckpointError("saved training: the time critic is missing")
        self._parts.learner.restore(learner)
        self._buffer.restore(buffer)
        self._carry.restore(carry)
        self._parts.env.restore({**env.state, **env.tensors})
        self._time_critic.means = record.tensors["time_critic"].clone()
        self.round, self._num_env_steps = finished, num_env_steps
        self._history.clear()
        self._history.extend(_read_metrics(row) for row in history)


def _read_part(record: StateRecord, name: str) -> StateRecord:
    state, prefix = record.state.get(name), f"{name}/"
    if not isinstance(state, dict):
        raise ForeignCheckpointError(f"saved training: part {name!r} is missing")
    tensors = {key.removeprefix(prefix): x for key, x in record.tensors.items() if key.startswith(prefix)}
    return StateRecord(tensors=tensors, state=state)


def _read_metrics(row: JsonValue) -> dict[str, float]:
    if not isinstance(row, Mapping):
        raise ForeignCheckpointError(f"saved training: metrics {row!r:.80} are no table")
    return {str(name): float(str(value)) for name, value in row.items()}
