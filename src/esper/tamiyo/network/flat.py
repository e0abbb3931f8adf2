"""The flat baseline: one vector of a fixed size in, one linear layer per head out.

It takes a plain vector, or a growing host's inputs laid side by side for a fixed number of slots and
blueprints; a host with more is refused.

Shapes: N rows, O operations, S slots, B blueprints, C units of the core's input, D units of the core.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from esper.leyline import (
    BLUEPRINT_FEATURES,
    GLOBAL_FEATURES,
    SLOT_FEATURES,
    ConfigError,
    feature_width,
)
from esper.tamiyo.action_layout import BLUEPRINT_HEAD, OP_HEAD, SLOT_HEAD, ActionLayout
from esper.tamiyo.actor_critic import PolicyInputs
from esper.tamiyo.distributions import ActionLogits, ActionMask
from esper.tamiyo.network.config import NetworkConfig
from esper.tamiyo.network.encoder import GROWTH_INPUTS, Encoded
from esper.tamiyo.network.layers import FamilyEmbedding, build_mlp

FEATURES = "features"
"""Name of the input of networks over a plain vector."""


@final
class FlatEncoder(nn.Module):
    """Two plain layers over "features" [N, flat_features]."""

    input_names = (FEATURES,)

    def __init__(self, config: NetworkConfig) -> None:
        """Build the layers for `config.flat_features` inputs."""
        super().__init__()
        self._num_features = config.flat_features
        self.mlp = build_mlp(config.flat_features, config.hidden_size, config.hidden_size)

    def forward(self, inputs: PolicyInputs) -> Encoded:
        """Encode N rows.

        Raises:
            ConfigError: If the features have another width.
        """
        features = inputs[FEATURES]
        if features.shape[-1] != self._num_features:
            raise ConfigError(
                f"features of width {features.shape[-1]}, the network was built for "
                f"network.flat_features={self._num_features}"
            )
        return Encoded(self.mlp(features))


@final
class FlatGrowthEncoder(nn.Module):
    """Two plain layers over a growing host's inputs side by side, padded with zeros to a fixed size."""

    input_names = GROWTH_INPUTS

    def __init__(self, config: NetworkConfig, *, num_families: int) -> None:
        """Build the layers for `config.flat_slots` slots of `config.flat_blueprints` blueprints each."""
        super().__init__()
        self._num_slots, self._num_blueprints = config.flat_slots, config.flat_blueprints
        self.families = FamilyEmbedding(num_families, config.family_size)
        of_blueprint = feature_width(BLUEPRINT_FEATURES) + config.family_size + 1
        of_slot = feature_width(SLOT_FEATURES) + config.family_size + 1
        width = feature_width(GLOBAL_FEATURES) + self._num_slots * (
            of_slot + self._num_blueprints * of_blueprint
        )
        self.mlp = build_mlp(width, config.hidden_size, config.hidden_size)

    def forward(self, inputs: PolicyInputs) -> Encoded:
        """Encode N rows.

        Raises:
            ConfigError: If there are more slots or blueprints than the network was built for.
        """
        num_rows, num_slots, num_blueprints = inputs["blueprint_exists"].shape
        _check_fits("flat_slots", num_slots, self._num_slots)
        _check_fits("flat_blueprints", num_blueprints, self._num_blueprints)
        slots = self._join(inputs["slots"], inputs["slot_families"], inputs["slot_exists"])
        blueprints = self._join(
            inputs["blueprints"], inputs["blueprint_families"], inputs["blueprint_exists"]
        )
        more_slots, more = self._num_slots - num_slots, self._num_blueprints - num_blueprints
        slots = nn.functional.pad(slots, (0, 0, 0, more_slots))
        blueprints = nn.functional.pad(blueprints, (0, 0, 0, more, 0, more_slots))
        parts = (inputs["global"], slots.reshape(num_rows, -1), blueprints.reshape(num_rows, -1))
        return Encoded(self.mlp(torch.cat(parts, dim=-1)))

    def _join(self, features: Tensor, families: Tensor, exists: Tensor) -> Tensor:
        flag = exists[..., None].to(features.dtype)
        joined = torch.cat([features, self.families(families), flag], dim=-1)
        return joined.masked_fill(~exists[..., None], 0.0)


@final
class FlatHeads(nn.Module):
    """One linear layer for all logits of fixed sizes, cut to the sizes of the masks."""

    def __init__(self, layout: ActionLayout, config: NetworkConfig) -> None:
        """Build the layer.

        Raises:
            ConfigError: If the actions have slots or blueprints and the configuration no number of them, or
                the other way round.
        """
        super().__init__()
        for head, name, number in (
            (SLOT_HEAD, "flat_slots", config.flat_slots),
            (BLUEPRINT_HEAD, "flat_blueprints", config.flat_blueprints),
        ):
            if (head in layout.uses) != (number > 0):
                wanted = ">= 1: the actions have" if head in layout.uses else "0: the actions have no"
                raise ConfigError(f"network.{name}={number}: must be {wanted} head {head!r}")
        num_ops, num_slots = len(layout.op_names), max(config.flat_slots, 1)
        self._num_slots, self._num_blueprints = config.flat_slots, config.flat_blueprints
        wide, deep = (1, 1) if config.factorisation == "factored" else (num_ops, num_slots)
        shapes: dict[str, tuple[int, ...]] = {"op": (num_ops,)}
        if SLOT_HEAD in layout.uses:
            shapes[SLOT_HEAD] = (wide, config.flat_slots)
        if BLUEPRINT_HEAD in layout.uses:
            shapes[BLUEPRINT_HEAD] = (deep, config.flat_blueprints)
        shapes |= {head: (wide, deep, size) for head, size in layout.argument_sizes.items()}
        self._shapes = shapes
        self.heads = nn.ModuleDict(
            {
                f"head_{head}": nn.Linear(config.core_size, torch.Size(shape).numel())
                for head, shape in shapes.items()
            }
        )

    def op_layer(self) -> nn.Linear:
        """Return the layer before the logits of the operations."""
        layer = self.heads[f"head_{OP_HEAD}"]
        assert isinstance(layer, nn.Linear)
        return layer

    def argument_bias(self, head: str) -> Tensor:
        """Return a view of the constant part of an argument's logits, [ops or 1, slots or 1, choices]."""
        layer = self.heads[f"head_{head}"]
        assert isinstance(layer, nn.Linear)
        return layer.bias.view(self._shapes[head])

    def policy_layers(self) -> tuple[nn.Linear, ...]:
        """Return every layer: each is the last before its logits."""
        return tuple(layer for layer in self.heads.values() if isinstance(layer, nn.Linear))

    def forward(self, core_ND: Tensor, encoded: Encoded, mask: ActionMask) -> ActionLogits:
        """Return the logits of N rows, cut to as many slots and blueprints as the masks have.

        Raises:
            ConfigError: If the masks have more of them than the network was built for.
        """
        del encoded
        tables = {
            head: self.heads[f"head_{head}"](core_ND).view(len(core_ND), *shape)
            for head, shape in self._shapes.items()
        }
        op, slot = tables.pop("op"), tables.pop(SLOT_HEAD, None)
        blueprint = tables.pop(BLUEPRINT_HEAD, None)
        if slot is not None and mask.slot is not None:
            num_slots = mask.slot.shape[-1]
            _check_fits("flat_slots", num_slots, self._num_slots)
            slot = slot[..., :num_slots]
            tables = {head: table[:, :, :num_slots] for head, table in tables.items()}
            if blueprint is not None and mask.blueprint is not None:
                num_blueprints = mask.blueprint.shape[-1]
                _check_fits("flat_blueprints", num_blueprints, self._num_blueprints)
                blueprint = blueprint[:, :num_slots, :num_blueprints]
        return ActionLogits(op=op, slot=slot, blueprint=blueprint, arguments=tables)


def _check_fits(name: str, got: int, allowed: int) -> None:
    if got > allowed:
        noun = name.removeprefix("flat_")
        raise ConfigError(
            f"an observation with {got} {noun}, the flat network was built for network.{name}={allowed}: "
            f"build it for {got}, or use kind='growth', which takes any number"
        )
