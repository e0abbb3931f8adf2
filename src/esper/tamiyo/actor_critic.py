"""What passes between a learned policy and whoever trains or asks it: named inputs, memory, answers.

Inputs of a growing host, by name (E rows, each also as [E, T, ...]; S slots, B blueprints, O operations):

```
global                [E, G] float32         slots                [E, S, F] float32
blueprints            [E, S, B, D] float32   slot_families        [E, S] int64
blueprint_families    [E, S, B] int64        slot_exists          [E, S] bool
blueprint_exists      [E, S, B] bool
mask_op               [E, O] bool            mask_slot            [E, O, S] bool
mask_blueprint        [E, S, B] bool
```
In training there may also be "privileged" [E, 2] float32, which only a critic reads.
Networks over a flat vector take "features" [E, D] float32 and those masks that their layout has heads for.
A mask is part of the observation that it was computed with and is stored with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

PolicyInputs = Mapping[str, Tensor]
"""Named tensors of E rows."""

MASK_OP, MASK_SLOT, MASK_BLUEPRINT = "mask_op", "mask_slot", "mask_blueprint"
PRIVILEGED = "privileged"
"""Input of critics that may know more than the actor; whoever deploys a policy does not have it."""
NUM_PRIVILEGED = 2
"""Its width."""


class Memory(NamedTuple):
    """State of the recurrent core, float32 whatever the autocast."""

    hidden: Tensor
    """[L, E, D]."""
    cell: Tensor
    """[L, E, D]."""

    def detach(self) -> Memory:
        """Return the same numbers outside any graph."""
        return Memory(self.hidden.detach(), self.cell.detach())

    def cleared(self, rows: Tensor) -> Memory:
        """Return the memory with zeros where `rows` [E] bool is True, NaN and infinities included."""
        where = rows[None, :, None]
        return Memory(self.hidden.masked_fill(where, 0.0), self.cell.masked_fill(where, 0.0))

    def select(self, rows: Tensor) -> Memory:
        """Return the memory of some rows, by index [N], contiguous."""
        return Memory(self.hidden[:, rows].contiguous(), self.cell[:, rows].contiguous())


class PolicyStep(NamedTuple):
    """One decision for E rows, outside any graph."""

    actions: Tensor
    """[E, H] int64; 0 in columns that the operation does not use."""
    log_probs: Tensor
    """[E, H] float32, 0 in those columns; their sum is the joint log-probability."""
    value: Tensor
    """[E] float32, in units of the normalised return."""
    num_valid: Tensor
    """[E] int64: legal joint actions; 1 = the step was forced."""
    memory: Memory
    """After the step."""
    shown: Mapping[str, Tensor] = MappingProxyType({})
    """Head -> [E, K] probabilities of its options along the path of the actions, for inspection."""


class SequenceEvaluation(NamedTuple):
    """E rows of T stored steps under the present weights."""

    log_probs: Tensor
    """[E, T, H] float32 of the stored actions, 0 in columns that the operation does not use."""
    active: Tensor
    """[E, T, H] bool: columns that it uses."""
    entropy: Tensor
    """[E, T, H] nats: conditional entropy of each head; their sum is the joint one."""
    values: Tensor
    """[E, T] float32, in units of the normalised return."""
    num_valid: Tensor
    """[E, T] int64."""
