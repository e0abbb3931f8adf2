"""The two seams of learning: an environment that steps E rows at once, and a network that learns on it.

```
RolloutEnv.observe() --PolicyInputs--> ActorCritic.act() --PolicyStep.actions--> RolloutEnv.step()
        --EnvStep--> TamiyoRolloutBuffer --rows--> ActorCritic.evaluate() --> losses --> optimiser step
```
Learner, buffer and collector know nothing of growth: inputs are named tensors, actions rows of whole numbers.
Growing hosts, a pole on a cart and the toys are all environments behind the same protocol.

Shapes: E environments (rows), T steps, H heads of the action, L layers and D units of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, final

from torch import Tensor, nn

from esper.leyline import JsonValue
from esper.tamiyo import ActionLayout, Memory, PolicyInputs, PolicyStep, SequenceEvaluation


class ActorCritic(Protocol):
    """A policy with a critic and a memory; an `nn.Module`."""

    @property
    def layout(self) -> ActionLayout:
        """Columns of its actions."""

    @property
    def value_layer(self) -> nn.Linear:
        """Last layer of the critic, one output: rescaled when the statistics of returns move (PopArt)."""

    def initial_memory(self, num_rows: int) -> Memory:
        """Return the memory at the start of an episode: zeros, [L, num_rows, D]."""

    def act(
        self,
        inputs: PolicyInputs,
        memory: Memory,
        episode_start: Tensor,
        *,
        noise: Tensor | None = None,
        is_greedy: bool = False,
    ) -> PolicyStep:
        """Decide for E rows, tensors [E, ...]; `episode_start` [E] bool clears the memory before the step.

        `noise` [E, H] in [0, 1) decides what is drawn; None = numbers of the global generator.
        """

    def evaluate(
        self, inputs: PolicyInputs, actions: Tensor, memory: Memory, episode_start: Tensor
    ) -> SequenceEvaluation:
        """Score E rows of T stored steps: inputs [E, T, ...], actions [E, T, H], episode_start [E, T] bool.

        `memory` is the one before the first step of each row.
        """

    def compute_values(self, inputs: PolicyInputs, memory: Memory, episode_start: Tensor) -> Tensor:
        """Return [E] normalised values of E observations, given the memory before them; changes nothing."""

    def parameters(self, recurse: bool = ...) -> object:
        """Return an iterator over the parameters, as `nn.Module` does."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EnvStep:
    """What one step of E environments led to; rows that had ended before are not valid and 0 elsewhere."""

    inputs: PolicyInputs
    """Observations after the step, [E, ...]; of a row that has just ended its final one, never a reset's."""
    reward: Tensor
    """[E] float32."""
    terminated: Tensor
    """[E] bool: the task itself ended (horizon included); nothing follows, nothing is bootstrapped."""
    truncated: Tensor
    """[E] bool: the episode was abandoned from outside; what would have followed is bootstrapped. Of a step
    that is not valid itself it says that the row was lost and must be reset."""
    is_valid: Tensor
    """[E] bool: a real transition."""
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """Name -> [E] share of the reward; the shares add up to it."""
    summaries: tuple[Mapping[str, JsonValue] | None, ...] = ()
    """[E] facts about the episode, for rows that ended with this step; plain data without clock times."""

    @property
    def ended(self) -> Tensor:
        """[E] bool: terminated or truncated."""
        return self.terminated | self.truncated


class RolloutEnv(Protocol):
    """E environments that step together. There is no autoreset: a row that has ended idles until `reset`."""

    @property
    def num_envs(self) -> int:
        """E, >= 1."""

    @property
    def layout(self) -> ActionLayout:
        """Columns of the actions that it takes."""

    @property
    def names(self) -> tuple[str, ...]:
        """[E] name of each row, for messages."""

    def reset(self, mask: Tensor) -> None:
        """Begin a new episode in the rows where `mask` [E] bool is True."""

    def observe(self) -> PolicyInputs:
        """Return the present observations, masks included, [E, ...] on the CPU."""

    def step(self, actions: Tensor) -> EnvStep:
        """Carry out one action per row, [E, H] int64; an illegal one counts as waiting."""

    def state(self) -> dict[str, JsonValue | Tensor]:
        """Return what a resumed run needs, as plain data and tensors."""

    def restore(self, state: Mapping[str, JsonValue | Tensor]) -> None:
        """Put back what `state` returned."""

    def close(self) -> None:
        """Free everything; harmless when repeated."""


class Bootstrap(NamedTuple):
    """Raw-scale values of observations that follow the rows of a rollout."""

    next_value: Tensor
    """[E, T]: V of the observation that followed step t, where step t was truncated; 0 elsewhere."""
    last_value: Tensor
    """[E]: V of the pending observation of a row that goes on; 0 where the row ended."""


class RolloutPace(Protocol):
    """When rollouts of one rank end early for the sake of the others, and who hears that one is complete."""

    def should_cut(self, num_steps: int, update: int) -> bool:
        """Whether the rollout of this update ends after `num_steps` steps; running rows go on in the next."""

    def finish(self, update: int) -> None:
        """Hear that this rank's rollout of this update is complete, cut or not."""


@final
class FreePace:
    """The pace of one process: every rollout is collected whole."""

    def should_cut(self, num_steps: int, update: int) -> bool:
        """Return False."""
        return False

    def finish(self, update: int) -> None:
        """Do nothing."""
