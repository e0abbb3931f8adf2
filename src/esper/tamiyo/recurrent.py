"""The learned policy: a network and the memory of one host, drawn from or taken greedily.

The draws of a decision are a function of (seed, host, decision): a resumed run needs no state of a generator,
and a decision does not depend on how many numbers the ones before it drew.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from esper.leyline import (
    Action,
    ConfigError,
    Decision,
    EsperError,
    Evidence,
    ForeignCheckpointError,
    Observation,
    derive_seed,
)
from esper.tamiyo.action_layout import OP_HEAD, build_action, build_growth_layout
from esper.tamiyo.actor_critic import Memory
from esper.tamiyo.inputs import build_inputs
from esper.tamiyo.inspection import describe_features, describe_legal, list_used_heads
from esper.tamiyo.memory import read_int, read_keys, read_list
from esper.tamiyo.network import PolicyView, RecurrentActorCritic
from esper.tamiyo.noise import draw_noise


@final
class NonFinitePolicyError(EsperError):
    """Raised when a policy's network answers with numbers that are not finite: its weights are unusable."""


@final
class RecurrentPolicy:
    """Decides for one host at a time with a trained network; changes no weight.

    Example:
        policy = RecurrentPolicy(load_policy(folder).network, seed=0)
    """

    def __init__(self, network: RecurrentActorCritic, *, seed: int, is_greedy: bool = False) -> None:
        """Start before the first host.

        Args:
            network: Over the inputs of growing hosts; used where it is, on whatever device.
            seed: Of the draws; equal seeds give equal decisions on equal observations.
            is_greedy: Take the likeliest choices instead of drawing; then the seed does not matter.
        """
        self._network = network
        self._seed = seed
        self._is_greedy = is_greedy
        self._num_hosts = 0
        self._num_decisions = 0
        self._memory = network.initial_memory(1)

    def reset(self) -> None:
        """Begin the next host with an empty memory and a stream of its own."""
        self._num_hosts += 1
        self._num_decisions = 0
        self._memory = self._network.initial_memory(1)

    def decide(self, observation: Observation) -> Decision:
        """Decide, and remember what was seen.

        Raises:
            ConfigError: If the host offers other operations or arguments than the network was built for, or
                is too large for a flat network.
            EmptyMaskError: If nothing is legal.
            NonFinitePolicyError: If the network's answer is not finite; nothing is remembered then.
        """
        self._check_layout(observation)
        device = self._memory.hidden.device
        encoded = build_inputs([observation])
        inputs = {name: tensor.to(device) for name, tensor in encoded.items()}
        with torch.no_grad():
            view = self._network.view(inputs, self._memory, torch.zeros(1, dtype=torch.bool, device=device))
            distribution = view.distribution
            distribution.check_not_empty(("the host",))
            if self._is_greedy:
                actions = distribution.mode()
            else:
                actions = distribution.sample(self._draw_noise(device))
            log_prob = float(distribution.log_prob(actions).sum())
        self._check_finite(view, log_prob)
        self._memory = view.memory
        self._num_decisions += 1
        action = build_action(tuple(actions[0].tolist()), observation.space)
        evidence = Evidence(
            observation=describe_features(encoded, 0, observation.space.slot_ids),
            masks=describe_legal(encoded, 0, action, observation.space),
            probabilities=_show_probabilities(action, actions, view),
            value=_read_value(view),
        )
        return _describe(action, int(actions[0, 0]), evidence, log_prob)

    def state(self) -> dict[str, object]:
        """Return memory and place in the random stream as plain data."""
        return {
            "seed": self._seed,
            "num_hosts": self._num_hosts,
            "num_decisions": self._num_decisions,
            "hidden": self._memory.hidden[:, 0].tolist(),
            "cell": self._memory.cell[:, 0].tolist(),
        }

    def restore(self, state: dict[str, object]) -> None:
        """Put back what `state` returned, the seed included.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed, or the memory is not of this network's
                shape; nothing is changed then.
        """
        read_keys("recurrent", state, ("seed", "num_hosts", "num_decisions", "hidden", "cell"))
        seed, num_hosts = read_int(state, "seed"), read_int(state, "num_hosts")
        num_decisions = read_int(state, "num_decisions")
        memory = Memory(self._read_memory(state, "hidden"), self._read_memory(state, "cell"))
        self._seed, self._num_hosts, self._num_decisions = seed, num_hosts, num_decisions
        self._memory = memory

    # ------------------------------------------------------------------ parts

    def _draw_noise(self, device: torch.device) -> Tensor:
        key = torch.tensor([derive_seed(self._seed, "recurrent-policy", self._num_hosts)], device=device)
        step = torch.tensor([self._num_decisions], device=device)
        return draw_noise(key, step, len(self._network.layout.heads))

    def _check_layout(self, observation: Observation) -> None:
        offered, built_for = build_growth_layout(observation.space), self._network.layout
        if offered != built_for:
            raise ConfigError(
                f"the host offers {offered.op_names} with arguments {dict(offered.argument_names)}, the "
                f"policy was built for {built_for.op_names} with {dict(built_for.argument_names)}: use the "
                "action space that it was trained with"
            )

    def _check_finite(self, view: PolicyView, log_prob: float) -> None:
        value = _read_value(view)
        if not (math.isfinite(log_prob) and (value is None or math.isfinite(value))):
            raise NonFinitePolicyError(
                f"decision {self._num_decisions} of host {self._num_hosts}: log-probability {log_prob}, "
                f"value {value}; expected finite numbers, so load an earlier policy"
            )

    def _read_memory(self, state: dict[str, object], key: str) -> Tensor:
        like = self._memory.hidden
        num_layers, _, size = like.shape
        layers = [read_list({key: layer}, key) for layer in read_list(state, key)]
        if len(layers) != num_layers or any(len(layer) != size for layer in layers):
            raise ForeignCheckpointError(
                f"saved memory of policy 'recurrent', field {key!r}: {len(layers)} layers of "
                f"{[len(layer) for layer in layers]} units, the network has {num_layers} of {size}"
            )
        return like.new_tensor([[_read_number(key, item) for item in layer] for layer in layers])[:, None]


def _read_value(view: PolicyView) -> float | None:
    """Return the critic's estimate; None where it cannot judge without what it saw in training."""
    return float(view.value[0]) if view.can_judge else None


def _read_number(key: str, item: object) -> float:
    if isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item):
        raise ForeignCheckpointError(
            f"saved memory of policy 'recurrent', field {key!r}: expected finite numbers, got {item!r}"
        )
    return float(item)


def _show_probabilities(action: Action, actions: Tensor, view: PolicyView) -> dict[str, tuple[float, ...]]:
    shown = view.distribution.probabilities(actions)
    return {head: tuple(shown[head][0].tolist()) for head in list_used_heads(action)}


def _describe(action: Action, op: int, evidence: Evidence, log_prob: float) -> Decision:
    legal, value = evidence.masks[OP_HEAD], evidence.value
    probability = evidence.probabilities[OP_HEAD][op]
    where = "" if action.slot is None else f" on {action.slot}"
    return Decision(
        action=action,
        reason=f"{action.op.value}{where}: probability {probability:.3f} among {sum(legal)} of "
        f"{len(legal)} operations, joint {math.exp(log_prob):.3g}"
        f"{'' if value is None else f', value {value:.4f}'}",
        confidence=min(math.exp(log_prob), 1.0),
        evidence=evidence,
    )
