"""Building a network from a configuration and a seed: the same seed gives the same bits.

The layers are laid out without storage first and every weight is then drawn from one generator of our own:
the global random stream is neither read nor moved, and a layer that nobody thought of is an error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from esper.leyline import BLUEPRINT_FAMILIES, LifecycleOp, derive_seed
from esper.tamiyo.action_layout import ALPHA_TARGET_HEAD, ActionLayout
from esper.tamiyo.actor_critic import NUM_PRIVILEGED
from esper.tamiyo.network.actor import Body, RecurrentActorCritic
from esper.tamiyo.network.config import NetworkConfig
from esper.tamiyo.network.core import MemorylessCore, RecurrentCore
from esper.tamiyo.network.encoder import GrowthEncoder
from esper.tamiyo.network.flat import FlatEncoder, FlatGrowthEncoder, FlatHeads
from esper.tamiyo.network.heads import GrowthHeads

HIDDEN_GAIN = math.sqrt(2.0)
"""Keeps the variance through a ReLU (He et al. 2015)."""
POLICY_GAIN = 0.01
"""Of the last layers before logits: a new policy is nearly uniform (Andrychowicz et al. 2021)."""
VALUE_GAIN = 0.01
"""Of the last layer before the value: a new critic says about 0. Rewards of a growing host are hundredths, so
that the first advantages, and PopArt's first rescaling, would else be the noise of an untrained critic."""
_REMOVALS = frozenset({LifecycleOp.CULL.value, LifecycleOp.SET_ALPHA.value})
"""Operations that undo, or disturb, what an earlier decision began."""


def build_network(config: NetworkConfig, layout: ActionLayout, *, seed: int) -> RecurrentActorCritic:
    """Return a new network on the CPU in float32.

    Args:
        config: What it consists of.
        layout: Columns of its actions.
        seed: Any whole number >= 0.

    Raises:
        ConfigError: If the configuration does not fit the layout.

    Example:
        >>> network = build_network(NetworkConfig(), build_growth_layout(observation.space), seed=0)
        >>> type(network).__name__
        'RecurrentActorCritic'
    """
    network = lay_out_network(config, layout, num_families=len(BLUEPRINT_FAMILIES))
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(derive_seed(seed, "policy-network"))
    with torch.no_grad():
        _draw_weights(network, generator, memory_span=config.memory_span)
        for place, name in enumerate(layout.op_names):
            if name in _REMOVALS:
                network.heads.op_layer().bias[place] = config.removal_bias
        targets = layout.argument_names.get(ALPHA_TARGET_HEAD, ())
        if targets:
            place = max(range(len(targets)), key=lambda choice: float(targets[choice]))
            network.heads.argument_bias(ALPHA_TARGET_HEAD)[..., place] = config.full_target_bias
    return network


def lay_out_network(
    config: NetworkConfig, layout: ActionLayout, *, num_families: int
) -> RecurrentActorCritic:
    """Return a network whose weights have shapes but no storage (device "meta").

    Args:
        config: What it consists of.
        layout: Columns of its actions.
        num_families: Blueprint families that have a vector of their own.

    Raises:
        ConfigError: If the configuration does not fit the layout.
    """
    with torch.device("meta"):
        heads = GrowthHeads(layout, config) if config.kind == "growth" else FlatHeads(layout, config)
        return RecurrentActorCritic(
            layout,
            _lay_out_body(config, num_families),
            heads,
            critic_body=_lay_out_body(config, num_families) if config.is_critic_separate else None,
            core_size=config.core_size,
            value_size=config.hidden_size,
            num_privileged=NUM_PRIVILEGED if config.is_critic_privileged else 0,
        )


def _lay_out_body(config: NetworkConfig, num_families: int) -> Body:
    if config.kind == "growth":
        return Body(GrowthEncoder(config, num_families=num_families), _lay_out_core(config))
    if config.flat_features > 0:
        return Body(FlatEncoder(config), _lay_out_core(config))
    return Body(FlatGrowthEncoder(config, num_families=num_families), _lay_out_core(config))


def _lay_out_core(config: NetworkConfig) -> RecurrentCore | MemorylessCore:
    if not config.is_recurrent:
        return MemorylessCore(config.hidden_size, config.core_size, num_layers=config.core_layers)
    return RecurrentCore(
        config.hidden_size,
        config.core_size,
        num_layers=config.core_layers,
        checkpoint_core=config.checkpoint_core,
    )


def _draw_weights(network: RecurrentActorCritic, generator: torch.Generator, *, memory_span: int) -> None:
    gains = {id(layer): POLICY_GAIN for layer in network.heads.policy_layers()}
    gains[id(network.value_layer)] = VALUE_GAIN
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            _draw_linear(module, gains.get(id(module)), generator)
        elif isinstance(module, nn.LSTM):
            _draw_lstm(module, generator)
            if memory_span > 1:
                _spread_spans(module, memory_span, generator)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0 / math.sqrt(module.embedding_dim), generator=generator)
            if module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        else:
            assert not list(module.parameters(recurse=False)), f"{name}: no rule for its weights"


def _draw_linear(layer: nn.Linear, last_gain: float | None, generator: torch.Generator) -> None:
    """Draw orthogonal weights (Saxe et al. 2014); `last_gain` is given for layers before logits and value.

    Hidden biases are small, not zero: without them ReLU layers are homogeneous, and a layer norm behind them
    could not tell an input from twice that input.
    """
    nn.init.orthogonal_(layer.weight, HIDDEN_GAIN if last_gain is None else last_gain, generator=generator)
    if last_gain is None:
        bound = 1.0 / math.sqrt(layer.in_features)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    else:
        nn.init.zeros_(layer.bias)


def _draw_lstm(lstm: nn.LSTM, generator: torch.Generator) -> None:
    """Draw each gate's matrices orthogonal with gain 1; forget gates start at bias 1 (Gers et al. 2000)."""
    for name, weight in lstm.named_parameters():
        if weight.dim() == 2:
            for gate in weight.chunk(4):
                nn.init.orthogonal_(gate, generator=generator)
        else:
            nn.init.zeros_(weight)
            if name.startswith("bias_ih"):
                _forget_gate(weight).fill_(1.0)


def _spread_spans(lstm: nn.LSTM, span: int, generator: torch.Generator) -> None:
    """Let each cell hold on for a time of its own (Tallec and Ollivier 2018, section 2.2).

    A forget gate at bias b keeps sigmoid(b) per step, so that it forgets over about e^b + 1 steps. Biases are
    the logarithm of a uniform draw in [1, span - 1], and the input gate opens as little as the cell forgets.
    """
    for name, bias in lstm.named_parameters():
        if name.startswith("bias_ih"):
            drawn = torch.rand(len(_forget_gate(bias)), generator=generator)
            spread = (1.0 + drawn * max(0, span - 2)).log()
            _forget_gate(bias).copy_(spread)
            _input_gate(bias).copy_(-spread)


def _input_gate(bias: Tensor) -> Tensor:
    """Return the first quarter of a bias: torch orders gates input, forget, cell, output."""
    return bias.chunk(4)[0]


def _forget_gate(bias: Tensor) -> Tensor:
    """Return the second quarter of a bias; see `_input_gate`."""
    return bias.chunk(4)[1]
