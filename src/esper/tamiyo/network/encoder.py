"""From a growing host's observation to what core and heads need: sets of slots and blueprints of any size.

```
blueprints + family > token of each blueprint > mean over those on offer -+
slots + family -----> token of each slot <--------------------------------+-- global
                      attention among slots > mean and maximum over slots > with global: input of the core
```
Shapes: N rows, S slots, B blueprints, C units of the core's input, T units of a token.
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from esper.leyline import BLUEPRINT_FEATURES, GLOBAL_FEATURES, SLOT_FEATURES, feature_width
from esper.tamiyo.actor_critic import PolicyInputs
from esper.tamiyo.network.config import NetworkConfig
from esper.tamiyo.network.layers import FamilyEmbedding, SlotAttention, build_mlp, masked_max, masked_mean

GROWTH_INPUTS = (
    "global",
    "slots",
    "blueprints",
    "slot_families",
    "blueprint_families",
    "slot_exists",
    "blueprint_exists",
)
"""Names of the inputs that describe a growing host, masks left out."""


class Encoded(NamedTuple):
    """An observation as vectors."""

    core: Tensor
    """[N, C]."""
    slots: Tensor | None = None
    """[N, S, T], 0 where there is no slot; None where the encoder knows no slots."""
    blueprints: Tensor | None = None
    """[N, S, B, T], 0 where there is no blueprint."""

    def to(self, dtype: torch.dtype) -> Encoded:
        """Return the same in another floating dtype."""
        return Encoded(
            self.core.to(dtype),
            None if self.slots is None else self.slots.to(dtype),
            None if self.blueprints is None else self.blueprints.to(dtype),
        )


@final
class GrowthEncoder(nn.Module):
    """Encodes hosts with any number of slots and blueprints; weights are shared over slots.

    Example:
        encoded = GrowthEncoder(NetworkConfig(), num_families=12)(inputs)
    """

    input_names = GROWTH_INPUTS

    def __init__(self, config: NetworkConfig, *, num_families: int) -> None:
        """Build the layers.

        Args:
            config: Sizes.
            num_families: Blueprint families that have a vector of their own.
        """
        super().__init__()
        hidden, token, family = config.hidden_size, config.token_size, config.family_size
        self.families = FamilyEmbedding(num_families, family)
        self.globals = build_mlp(feature_width(GLOBAL_FEATURES), hidden, hidden)
        self.blueprints = build_mlp(feature_width(BLUEPRINT_FEATURES) + family, token, token)
        self.slots = build_mlp(feature_width(SLOT_FEATURES) + family, 2 * token, token)
        self.offers_to_slots = nn.Linear(token, token)
        self.global_to_slots = nn.Linear(hidden, token)
        self.attention = nn.ModuleList(
            SlotAttention(token, config.attention_heads) for _ in range(config.attention_layers)
        )
        self.merge = build_mlp(hidden + 2 * token, hidden, hidden)

    def forward(self, inputs: PolicyInputs) -> Encoded:
        """Encode N rows.

        Args:
            inputs: The tensors named by `input_names`, [N, ...]; floats in the dtype of the weights.
        """
        slot_exists, blueprint_exists = inputs["slot_exists"], inputs["blueprint_exists"]
        global_NC: Tensor = self.globals(inputs["global"])
        offers = torch.cat([inputs["blueprints"], self.families(inputs["blueprint_families"])], dim=-1)
        offers = offers.masked_fill(~blueprint_exists[..., None], 0.0)
        blueprints_NSBT = self.blueprints(offers).masked_fill(~blueprint_exists[..., None], 0.0)
        slots = torch.cat([inputs["slots"], self.families(inputs["slot_families"])], dim=-1)
        # Zeroed before the first layer too: what padding holds must not reach a gradient either.
        tokens = self.slots(slots.masked_fill(~slot_exists[..., None], 0.0))
        tokens = tokens + self.offers_to_slots(masked_mean(blueprints_NSBT, blueprint_exists))
        tokens = tokens + self.global_to_slots(torch.relu(global_NC))[:, None]
        tokens_NST = tokens.masked_fill(~slot_exists[..., None], 0.0)
        for layer in self.attention:
            tokens_NST = layer(tokens_NST, slot_exists)
        pooled = (masked_mean(tokens_NST, slot_exists), masked_max(tokens_NST, slot_exists))
        core_NC = self.merge(torch.cat([torch.relu(global_NC), *pooled], dim=-1))
        return Encoded(core_NC, tokens_NST, blueprints_NSBT)
