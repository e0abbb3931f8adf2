"""A policy's start by imitation: a rule grows hosts, the network learns to do alike and what it comes to.

```
demonstrate     a rule in the place of the network grows hosts, collected as ever
imitate         the likeliest weights for what it did (behaviour cloning; Pomerleau 1991), and a first critic
```
It is a start, not an end: PPO goes on from there and may leave the rule behind. What a rule knows costs a
random start many hosts to find, for most of what it plants is removed before it can pay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor, nn

from esper.leyline import WAIT, Action, ConfigError, Observation, TamiyoPolicy, refuse_action
from esper.simic.advantages import compute_gae, compute_next_values
from esper.simic.collector import CollectorParts, build_carry, collect_rollout
from esper.simic.config import TrainingConfig
from esper.simic.imitation_config import ImitationConfig
from esper.simic.interfaces import ActorCritic, RolloutEnv
from esper.simic.minibatches import MOST_BY_ITSELF, draw_groups
from esper.simic.normalizers import ValueNormalizer, scalar_moments
from esper.simic.ppo import PPOLearner
from esper.simic.rollout_buffer import RolloutBatch, TamiyoRolloutBuffer
from esper.tamiyo import Memory, PolicyInputs, PolicyStep, SequenceEvaluation, build_indices

_SMOOTH = 0.8
"""Weight of the past in the running mean that says when the policy follows closely enough."""


class WatchedEnv(RolloutEnv, Protocol):
    """An environment whose typed observations a rule can decide from."""

    @property
    def observations(self) -> tuple[Observation, ...]:
        """[E] what the pending inputs were encoded from."""


@final
class Demonstrator:
    """Rules that act in the place of a network, one per row; memories and values are still the network's.

    Example:
        Demonstrator(env, network, lambda: HeuristicTamiyo(HeuristicConfig()))
    """

    def __init__(
        self, env: WatchedEnv, network: ActorCritic, build_teacher: Callable[[], TamiyoPolicy]
    ) -> None:
        """Bind them; each row gets a teacher of its own when it is first asked."""
        self._env, self._network, self._build = env, network, build_teacher
        self._teachers: dict[int, TamiyoPolicy] = {}
        self.layout = network.layout

    @property
    def value_layer(self) -> nn.Linear:
        """See `ActorCritic.value_layer`."""
        return self._network.value_layer

    def initial_memory(self, num_rows: int) -> Memory:
        """See `ActorCritic.initial_memory`."""
        return self._network.initial_memory(num_rows)

    def parameters(self, recurse: bool = True) -> object:
        """See `ActorCritic.parameters`."""
        return self._network.parameters(recurse)

    def act(
        self,
        inputs: PolicyInputs,
        memory: Memory,
        episode_start: Tensor,
        *,
        noise: Tensor | None = None,
        is_greedy: bool = False,
    ) -> PolicyStep:
        """Decide by the rules; a rule is reset where an episode starts. What is not legal counts as WAIT.

        Raises:
            ConfigError: If a rule asks for an argument that the action space does not offer.
        """
        step = self._network.act(inputs, memory, episode_start, noise=noise, is_greedy=is_greedy)
        rows = [
            self._decide(row, observation, is_start=bool(episode_start[row]))
            for row, observation in enumerate(self._env.observations)
        ]
        actions = torch.tensor(rows, dtype=step.actions.dtype, device=step.actions.device)
        return step._replace(actions=actions, log_probs=torch.zeros_like(step.log_probs))

    def _decide(self, row: int, observation: Observation, *, is_start: bool) -> tuple[int, ...]:
        teacher = self._teachers.get(row)
        if teacher is None:
            teacher = self._teachers[row] = self._build()
        if is_start:
            teacher.reset()
        action: Action = teacher.decide(observation).action
        if refuse_action(action, observation) is not None:
            action = WAIT
        try:
            return build_indices(action, observation.space)
        except ValueError as error:
            raise ConfigError(
                f"imitation: the teacher's {action.op.value} cannot be said with the actions that a network "
                f"has ({error}); change the teacher's setting to one of them"
            ) from error

    def evaluate(
        self, inputs: PolicyInputs, actions: Tensor, memory: Memory, episode_start: Tensor
    ) -> SequenceEvaluation:
        """See `ActorCritic.evaluate`."""
        return self._network.evaluate(inputs, actions, memory, episode_start)

    def compute_values(self, inputs: PolicyInputs, memory: Memory, episode_start: Tensor) -> Tensor:
        """See `ActorCritic.compute_values`."""
        return self._network.compute_values(inputs, memory, episode_start)


def demonstrate(
    demonstrator: Demonstrator,
    env: WatchedEnv,
    learner: PPOLearner,
    config: TrainingConfig,
    *,
    num_steps: int,
    device: torch.device,
) -> list[RolloutBatch]:
    """Let the rules grow hosts for as many rounds as the settings say, and return what they did.

    Args:
        demonstrator: Of the same environment.
        env: Reset before each round.
        learner: Of the network: its normalisers see the inputs, as in training.
        config: Rollout and imitation.
        num_steps: T of a round.
        device: Where the network is.
    """
    parts = CollectorParts(
        config=config.rollout,
        device=device,
        autocast=learner.autocast,
        values=learner.value_normalizer,
        inputs=learner.input_normalizer,
    )
    carry = build_carry(demonstrator, range(env.num_envs), seed=0)
    batches = []
    for _ in range(config.imitation.num_rounds):
        buffer = TamiyoRolloutBuffer(num_envs=env.num_envs, num_steps=num_steps, device=device)
        batches.append(collect_rollout(env, demonstrator, buffer, carry, parts).batch)
    return batches


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImitationReport:
    """What imitation came to."""

    num_decisions: int
    """Steps with a choice that were learned from."""
    nats_first: float
    """Mean -ln p of what the rule did, over the first minibatch."""
    nats_last: float
    """The same in the end, smoothed over minibatches."""


def imitate(
    network: ActorCritic,
    values: ValueNormalizer,
    batches: Sequence[RolloutBatch],
    config: ImitationConfig,
    *,
    gamma: float,
    generator: torch.Generator,
) -> ImitationReport:
    """Fit actor and critic to what was demonstrated; the weights change in place.

    Args:
        network: An `nn.Module`.
        values: Statistics of returns; they move once per batch, as in training.
        batches: Demonstrated rollouts of any numbers of rows.
        config: Epochs, rate, doubt.
        gamma: Discount of the returns that the critic learns.
        generator: Of the order of rows.

    Raises:
        TypeError: If the network is not an `nn.Module`.
        ValueError: If there is no batch.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network is a {type(network).__name__}: imitation needs an nn.Module")
    if not batches:
        raise ValueError("no batch: imitation needs at least one demonstrated rollout")
    returns = [_compute_returns(batch, gamma) for batch in batches]
    for batch, raw in zip(batches, returns, strict=True):
        kept = raw[batch.steps.valid].double()
        moments = scalar_moments(float(len(kept)), float(kept.sum()), float((kept * kept).sum()))
        values.apply_update(moments, network.value_layer)
    work = [(batch, values.normalize(raw)) for batch, raw in zip(batches, returns, strict=True)]
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, eps=1e-5)
    first = last = math.nan
    for _ in range(config.epochs):
        for batch, targets in work:
            for rows in draw_groups(batch.num_rows, min(batch.num_rows, MOST_BY_ITSELF), generator):
                place = torch.tensor(rows, device=targets.device)
                losses = _compute_losses(network, batch.select(place), targets[place])
                optimizer.zero_grad(set_to_none=True)
                # Each clipped by itself: an untrained critic's gradient would else drown the actor's.
                for loss in (losses.critic,) if last <= config.doubt_nats else (losses.critic, losses.actor):
                    _add_clipped_gradient(loss, parameters, config.max_grad_norm)
                optimizer.step()
                if math.isnan(losses.nats):
                    continue
                first = losses.nats if math.isnan(first) else first
                last = losses.nats if math.isnan(last) else _SMOOTH * last + (1.0 - _SMOOTH) * losses.nats
    decisions = sum(int(batch.learn.sum()) for batch in batches)
    return ImitationReport(num_decisions=decisions, nats_first=first, nats_last=last)


def _compute_returns(batch: RolloutBatch, gamma: float) -> Tensor:
    """Return [E, T] Monte Carlo returns: what the rule's way really came to."""
    next_value = compute_next_values(batch.value, batch.steps.truncated, batch.bootstrap)
    return compute_gae(batch.value, next_value, batch.steps, gamma=gamma, gae_lambda=1.0)[1]


class _Losses(NamedTuple):
    actor: Tensor
    critic: Tensor
    nats: float
    """Mean -ln p over the decisions; NaN if the rows hold none."""


def _compute_losses(network: ActorCritic, batch: RolloutBatch, targets: Tensor) -> _Losses:
    scored = network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    learn, valid = batch.learn.to(targets.dtype), batch.steps.valid.to(targets.dtype)
    told = -(scored.log_probs.sum(dim=-1) * learn).sum() / learn.sum().clamp(min=1.0)
    judged = (0.5 * (scored.values - targets).square() * valid).sum() / valid.sum().clamp(min=1.0)
    nats = float(told.detach()) if bool(learn.any()) else math.nan
    return _Losses(told, judged, nats)


def _add_clipped_gradient(loss: Tensor, parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """Add the gradient of a loss, scaled to a norm of at most `max_norm`, to what the parameters hold."""
    grads: tuple[Tensor | None, ...] = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True
    )
    given = [(p, grad) for p, grad in zip(parameters, grads, strict=True) if grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([grad.norm() for _, grad in given]))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter, grad in given:
        scaled = grad * scale
        parameter.grad = scaled if parameter.grad is None else parameter.grad + scaled
