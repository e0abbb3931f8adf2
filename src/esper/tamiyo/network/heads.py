"""Heads of a growing host's joint action: pointers over slots and blueprints, so that any number will do.

```
core ---------------------> op
core + op > query . slot tokens ----------------> slot given op
core + slot > query . blueprint tokens ---------> blueprint given slot
core + op + slot -------------------------------> arguments given op and slot
```
Shapes: N rows, O operations, S slots, B blueprints, T units of a token, D units of the core.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from esper.leyline import ConfigError
from esper.tamiyo.action_layout import BLUEPRINT_HEAD, SLOT_HEAD, ActionLayout
from esper.tamiyo.distributions import ActionLogits, ActionMask
from esper.tamiyo.network.config import NetworkConfig
from esper.tamiyo.network.encoder import Encoded
from esper.tamiyo.network.layers import build_mlp


@final
class GrowthHeads(nn.Module):
    """Logits of every conditional at once."""

    def __init__(self, layout: ActionLayout, config: NetworkConfig) -> None:
        """Build the layers.

        Raises:
            ConfigError: If the actions have no slots or no blueprints.
        """
        super().__init__()
        if SLOT_HEAD not in layout.uses or BLUEPRINT_HEAD not in layout.uses:
            raise ConfigError(
                f"network.kind='growth': needs actions with slots and blueprints, these have {layout.heads}; "
                "use kind='flat'"
            )
        core, token = config.core_size, config.token_size
        self._argument_sizes = dict(layout.argument_sizes)
        self.op = build_mlp(core, config.hidden_size, len(layout.op_names))
        self.core_context = nn.Linear(core, token)
        self.slot_context = nn.Linear(token, token)
        self.ops = nn.Embedding(len(layout.op_names), token)
        self.slot_query = nn.Linear(token, token)
        self.slot_key = nn.Linear(token, token)
        self.blueprint_query = nn.Linear(token, token)
        self.blueprint_key = nn.Linear(token, token)
        self.arguments = nn.Linear(token, sum(self._argument_sizes.values()))

    def op_layer(self) -> nn.Linear:
        """Return the last layer before the logits of the operations."""
        last = self.op[-1]
        assert isinstance(last, nn.Linear)
        return last

    def argument_bias(self, head: str) -> Tensor:
        """Return a view of the constant part of an argument's logits, [choices]."""
        biases = torch.split(self.arguments.bias, list(self._argument_sizes.values()))
        named: dict[str, Tensor] = dict(zip(self._argument_sizes, biases, strict=True))
        return named[head]

    def policy_layers(self) -> tuple[nn.Linear, ...]:
        """Return the last layer before each logit: weak at first, so that a new policy is nearly uniform."""
        return self.op_layer(), self.slot_query, self.blueprint_query, self.arguments

    def forward(self, core_ND: Tensor, encoded: Encoded, mask: ActionMask) -> ActionLogits:
        """Return the logits of N rows; sizes follow the tokens, `mask` is not read."""
        del mask
        slots_NST, blueprints_NSBT = encoded.slots, encoded.blueprints
        assert slots_NST is not None
        assert blueprints_NSBT is not None
        scale = 1.0 / math.sqrt(slots_NST.shape[-1])
        context_NT = self.core_context(core_ND)
        by_op_NOT = context_NT[:, None] + self.ops.weight[None]
        by_slot_NST = context_NT[:, None] + self.slot_context(slots_NST)
        slot_query = self.slot_query(torch.relu(by_op_NOT))
        slot = torch.einsum("not,nst->nos", slot_query, self.slot_key(slots_NST)) * scale
        blueprint_query = self.blueprint_query(torch.relu(by_slot_NST))
        blueprint_key = self.blueprint_key(blueprints_NSBT)
        blueprint = torch.einsum("nst,nsbt->nsb", blueprint_query, blueprint_key) * scale
        by_both = torch.relu(by_slot_NST[:, None] + self.ops.weight[None, :, None])
        tables = self.arguments(by_both).split(list(self._argument_sizes.values()), dim=-1)
        return ActionLogits(
            op=self.op(core_ND),
            slot=slot,
            blueprint=blueprint,
            arguments=dict(zip(self._argument_sizes, tables, strict=True)),
        )
