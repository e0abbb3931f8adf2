"""Encoder, core, heads and critic as one module that decides, scores stored steps, and values observations.

```
inputs > encoder > core > heads > JointDistribution        under autocast only encoders are narrow:
inputs > encoder > core > critic > value                   cores, heads and critic are float32
```
Encoder and core of the critic are its own, or those of the actor. Its own, unless asked otherwise: the value
loss is much larger than the surrogate, and through shared layers it moves what the policy stands on.
Shapes: E rows, T steps, N = E or E * T rows as the heads see them, H heads of the action, D units of the
core.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from esper.tamiyo.action_layout import BLUEPRINT_HEAD, SLOT_HEAD, ActionLayout
from esper.tamiyo.actor_critic import (
    MASK_BLUEPRINT,
    MASK_OP,
    MASK_SLOT,
    PRIVILEGED,
    Memory,
    PolicyInputs,
    PolicyStep,
    SequenceEvaluation,
)
from esper.tamiyo.distributions import ActionLogits, ActionMask, JointDistribution
from esper.tamiyo.network.core import MemorylessCore, RecurrentCore
from esper.tamiyo.network.encoder import Encoded, GrowthEncoder
from esper.tamiyo.network.flat import FlatEncoder, FlatGrowthEncoder, FlatHeads
from esper.tamiyo.network.heads import GrowthHeads
from esper.tamiyo.network.layers import build_mlp

_Encoder = GrowthEncoder | FlatEncoder | FlatGrowthEncoder
_Core = RecurrentCore | MemorylessCore


class Body(NamedTuple):
    """From named inputs to the vector that heads or critic see."""

    encoder: _Encoder
    core: _Core


class PolicyView(NamedTuple):
    """What the network makes of one observation of each row, before anything is drawn."""

    distribution: JointDistribution
    value: Tensor
    """[E], in units of the normalised return."""
    memory: Memory
    """After the step."""
    masks: ActionMask
    can_judge: bool
    """Whether the critic was told what it was trained with; without that its value is NaN."""


@final
class RecurrentActorCritic(nn.Module):
    """A policy with a memory and a critic; `build_network` makes one.

    Example:
        network = build_network(NetworkConfig(), build_growth_layout(space), seed=0)
        step = network.act(inputs, network.initial_memory(8), torch.ones(8, dtype=torch.bool))
    """

    value_layer: nn.Linear
    """Last layer of the critic, one output."""

    def __init__(
        self,
        layout: ActionLayout,
        body: Body,
        heads: GrowthHeads | FlatHeads,
        *,
        critic_body: Body | None,
        core_size: int,
        value_size: int,
        num_privileged: int = 0,
    ) -> None:
        """Put the parts together.

        Args:
            layout: Columns of the actions.
            body: Encoder and memory of the actor.
            heads: From vectors to logits.
            critic_body: Encoder and memory of the critic; None = those of the actor.
            core_size: D.
            value_size: Units of the critic's hidden layer.
            num_privileged: Columns of the input that only the critic sees; 0 = none.
        """
        super().__init__()
        self.layout = layout
        self.encoder, self.core = body
        self.heads = heads
        self.critic_encoder = None if critic_body is None else critic_body.encoder
        self.critic_core = None if critic_body is None else critic_body.core
        self._num_layers = self.core.initial_memory(1).hidden.shape[0]
        self.value_trunk = build_mlp(core_size + num_privileged, value_size)
        self._num_privileged = num_privileged
        self.value_layer = nn.Linear(value_size, 1)
        masks = {SLOT_HEAD: MASK_SLOT, BLUEPRINT_HEAD: MASK_BLUEPRINT}
        self._mask_names = (MASK_OP, *(name for head, name in masks.items() if head in layout.uses))

    def initial_memory(self, num_rows: int) -> Memory:
        """Return the memory at the start of an episode: zeros, [L, num_rows, D], the critic's layers last."""
        memory = self.core.initial_memory(num_rows)
        return (
            memory if self.critic_core is None else _join(memory, self.critic_core.initial_memory(num_rows))
        )

    def view(self, inputs: PolicyInputs, memory: Memory, episode_start: Tensor) -> PolicyView:
        """Return distribution, value and memory of E rows, inside the graph if gradients are on.

        Args:
            inputs: Tensors [E, ...].
            memory: Before the step.
            episode_start: [E] bool; True = the memory is cleared first.

        Raises:
            ValueError: If an input is missing.
        """
        encoded = self._encode(inputs)
        mask = self._read_mask(inputs)
        can_judge = self._num_privileged == 0 or PRIVILEGED in inputs
        with self._wide():
            actor, critic = self._split(memory.cleared(episode_start))
            output, actor = self.core.step(encoded.core, actor)
            distribution = self._decide(output, encoded, mask)
            if self.critic_core is None:
                return PolicyView(distribution, self._value(output, inputs), actor, mask, can_judge)
        judged = self._encode_for_critic(inputs, encoded)
        with self._wide():
            output, critic = self.critic_core.step(judged.core, critic)
            return PolicyView(
                distribution, self._value(output, inputs), _join(actor, critic), mask, can_judge
            )

    def act(
        self,
        inputs: PolicyInputs,
        memory: Memory,
        episode_start: Tensor,
        *,
        noise: Tensor | None = None,
        is_greedy: bool = False,
    ) -> PolicyStep:
        """Decide for E rows, outside any graph.

        A row whose numbers are not finite gets some legal action, and log-probabilities and a value that are
        not finite either; the other rows are what they would be without it.

        Args:
            inputs: Tensors [E, ...].
            memory: Before the step.
            episode_start: [E] bool; True = the memory is cleared first.
            noise: [E, H] in [0, 1), what decides the draws; None = numbers of the global generator.
            is_greedy: Take the likeliest choices instead of drawing.

        Raises:
            EmptyMaskError: If a row has no legal action; nothing is drawn then.
            ValueError: If an input is missing, or the noise is of another shape.
        """
        self._require_privileged(inputs)
        with torch.no_grad():
            view = self.view(inputs, memory, episode_start)
            distribution = view.distribution
            distribution.check_not_empty()
            if is_greedy:
                actions = distribution.mode()
            else:
                shape = (len(episode_start), len(self.layout.heads))
                numbers = torch.rand(shape, device=episode_start.device) if noise is None else noise
                actions = distribution.sample(numbers)
            return PolicyStep(
                actions=actions,
                log_probs=distribution.log_prob(actions),
                value=view.value,
                num_valid=distribution.num_valid(),
                memory=view.memory,
                shown=distribution.probabilities(actions),
            )

    def evaluate(
        self, inputs: PolicyInputs, actions: Tensor, memory: Memory, episode_start: Tensor
    ) -> SequenceEvaluation:
        """Score E rows of T stored steps under the present weights.

        Rows of steps that are not real may have empty masks: their results are finite and mean nothing.

        Args:
            inputs: Tensors [E, T, ...].
            actions: [E, T, H] int64.
            memory: Before the first step of each row.
            episode_start: [E, T] bool.

        Raises:
            ValueError: If an input is missing.
        """
        self._require_privileged(inputs)
        num_rows, num_steps = episode_start.shape
        flat = {name: tensor.flatten(0, 1) for name, tensor in inputs.items()}
        encoded = self._encode(flat)
        judged, mask = self._encode_for_critic(flat, encoded), self._read_mask(flat)
        actor, critic = self._split(memory)
        with self._wide():
            core_ETC = encoded.core.view(num_rows, num_steps, -1)
            output_ND = self.core.sequence(core_ETC, actor, episode_start).flatten(0, 1)
            judged_ND = output_ND
            if self.critic_core is not None:
                critic_ETC = judged.core.view(num_rows, num_steps, -1)
                judged_ND = self.critic_core.sequence(critic_ETC, critic, episode_start).flatten(0, 1)
            distribution = self._decide(output_ND, encoded, mask)
            flat_actions = actions.flatten(0, 1)
            results = (
                distribution.log_prob(flat_actions),
                distribution.active(flat_actions),
                distribution.entropy(),
                self._value(judged_ND, flat),
                distribution.num_valid(),
            )
        return SequenceEvaluation(*(x.view(num_rows, num_steps, *x.shape[1:]) for x in results))

    def compute_values(self, inputs: PolicyInputs, memory: Memory, episode_start: Tensor) -> Tensor:
        """Return [E] normalised values of E observations, outside any graph.

        Args:
            inputs: Tensors [E, ...].
            memory: Before the observation.
            episode_start: [E] bool; True = the memory counts as cleared.

        Raises:
            ValueError: If an input is missing.
        """
        self._require_privileged(inputs)
        with torch.no_grad():
            actor, critic = self._split(memory.cleared(episode_start))
            encoder, core = self.critic_encoder or self.encoder, self.critic_core or self.core
            encoded = self._encode(inputs, encoder)
            with self._wide():
                output, _ = core.step(encoded.core, actor if self.critic_core is None else critic)
                return self._value(output, inputs)

    # ------------------------------------------------------------------ parts

    def _split(self, memory: Memory) -> tuple[Memory, Memory]:
        """Return the layers of the actor, and those of the critic's own memory: none where it has none."""
        place = self._num_layers
        return (
            Memory(memory.hidden[:place].contiguous(), memory.cell[:place].contiguous()),
            Memory(memory.hidden[place:].contiguous(), memory.cell[place:].contiguous()),
        )

    def _encode_for_critic(self, inputs: PolicyInputs, encoded: Encoded) -> Encoded:
        return encoded if self.critic_encoder is None else self._encode(inputs, self.critic_encoder)

    def _encode(self, inputs: PolicyInputs, encoder: _Encoder | None = None) -> Encoded:
        weight = self.value_layer.weight
        encoder = self.encoder if encoder is None else encoder
        missing = [name for name in encoder.input_names if name not in inputs]
        if missing:
            raise ValueError(f"network inputs lack {', '.join(missing)}; given: {', '.join(sorted(inputs))}")
        named = {name: inputs[name] for name in encoder.input_names}
        encoded: Encoded = encoder(
            {name: x.to(weight.dtype) if x.is_floating_point() else x for name, x in named.items()}
        )
        return encoded.to(weight.dtype)

    def _read_mask(self, inputs: PolicyInputs) -> ActionMask:
        missing = [name for name in self._mask_names if name not in inputs]
        if missing:
            raise ValueError(f"network inputs lack {', '.join(missing)}; given: {', '.join(sorted(inputs))}")
        return ActionMask(
            op=inputs[MASK_OP],
            slot=inputs[MASK_SLOT] if MASK_SLOT in self._mask_names else None,
            blueprint=inputs[MASK_BLUEPRINT] if MASK_BLUEPRINT in self._mask_names else None,
        )

    def _wide(self) -> AbstractContextManager[None]:
        return torch.autocast(self.value_layer.weight.device.type, enabled=False)

    def _decide(self, output_ND: Tensor, encoded: Encoded, mask: ActionMask) -> JointDistribution:
        logits: ActionLogits = self.heads(output_ND, encoded, mask)
        return JointDistribution(self.layout, logits, mask)

    def _require_privileged(self, inputs: PolicyInputs) -> None:
        if self._num_privileged > 0 and PRIVILEGED not in inputs:
            raise ValueError(
                f"network inputs lack {PRIVILEGED!r}, which the critic reads; "
                f"given: {', '.join(sorted(inputs))}"
            )

    def _value(self, output_ND: Tensor, inputs: PolicyInputs) -> Tensor:
        if self._num_privileged > 0:
            if PRIVILEGED not in inputs:  # a policy in the field: it decides as ever, and judges nothing
                return output_ND.new_full((len(output_ND),), torch.nan)
            output_ND = torch.cat([output_ND, inputs[PRIVILEGED].to(output_ND.dtype)], dim=-1)
        value: Tensor = self.value_layer(torch.relu(self.value_trunk(output_ND)))
        return value.squeeze(-1)


def _join(actor: Memory, critic: Memory) -> Memory:
    return Memory(torch.cat([actor.hidden, critic.hidden]), torch.cat([actor.cell, critic.cell]))
