"""Rows of several rollouts as one, and a rollout as named tensors that travel between ranks.

Shapes: E rows, T steps, H heads, L layers and D units of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esper.simic.advantages import RowSteps
from esper.simic.interfaces import Bootstrap
from esper.simic.rollout_buffer import RolloutBatch
from esper.tamiyo import Memory

_INPUT, _STEPS, _MEMORY, _BOOTSTRAP = "inputs/", "steps/", "memory/", "bootstrap/"
_COLUMNS = ("actions", "log_probs", "value", "num_valid", "mask_hash")
_UNTIMED = f"{_BOOTSTRAP}last_value"
_IDLE = frozenset(f"{_STEPS}{name}" for name in RowSteps._fields) | {f"{_BOOTSTRAP}next_value"}
"""What is 0 in a row that has ended; everything else repeats its last step, as a collector leaves it."""


def join_batches(batches: Sequence[RolloutBatch]) -> RolloutBatch:
    """Return the rows of all below each other; shorter ones idle to the end of the longest.

    Args:
        batches: One or more, of the same inputs.

    Raises:
        ValueError: If there is none.
    """
    if not batches:
        raise ValueError("no batch: joining needs at least one")
    num_steps = max(batch.actions.shape[1] for batch in batches)
    parts = [_prolong(pack_batch(batch), num_steps) for batch in batches]
    return unpack_batch(
        {
            name: torch.cat([part[name] for part in parts], dim=1 if name.startswith(_MEMORY) else 0)
            for name in parts[0]
        }
    )


def pack_batch(batch: RolloutBatch) -> dict[str, Tensor]:
    """Return every tensor of a batch under a name of its own."""
    named = {_INPUT + name: tensor for name, tensor in batch.inputs.items()}
    named |= {name: getattr(batch, name) for name in _COLUMNS}
    for prefix, record in ((_STEPS, batch.steps), (_MEMORY, batch.memory), (_BOOTSTRAP, batch.bootstrap)):
        named |= {prefix + name: tensor for name, tensor in record._asdict().items()}
    return named


def unpack_batch(named: Mapping[str, Tensor]) -> RolloutBatch:
    """Return the batch that `pack_batch` took apart.

    Raises:
        KeyError: If a tensor is missing.
    """
    return RolloutBatch(
        inputs={k.removeprefix(_INPUT): tensor for k, tensor in named.items() if k.startswith(_INPUT)},
        **{name: named[name] for name in _COLUMNS},
        steps=RowSteps(*(named[_STEPS + name] for name in RowSteps._fields)),
        memory=Memory(*(named[_MEMORY + name] for name in Memory._fields)),
        bootstrap=Bootstrap(*(named[_BOOTSTRAP + name] for name in Bootstrap._fields)),
    )


def _prolong(named: Mapping[str, Tensor], num_steps: int) -> dict[str, Tensor]:
    longer = dict(named)
    for name, tensor in named.items():
        missing = num_steps - tensor.shape[1] if tensor.dim() > 1 and not name.startswith(_MEMORY) else 0
        if name == _UNTIMED or missing == 0:
            continue
        last = tensor[:, -1:]
        filling = torch.zeros_like(last) if name in _IDLE else last
        longer[name] = torch.cat([tensor, filling.expand(-1, missing, *tensor.shape[2:])], dim=1)
    return longer
