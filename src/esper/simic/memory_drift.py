"""How stale a stored memory is: what the row would remember, had today's network read its past.

A row that is cut in mid-episode begins its next rollout with a memory that older weights computed (checks A20
and C10). Whole episodes per row, as the presets have them, never meet this; shorter rollouts do, and then
the next update scores from a memory that its own network would not have had (R2D2: Kapturowski et al. 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor

from esper.simic.interfaces import ActorCritic
from esper.simic.rollout_buffer import RolloutBatch
from esper.tamiyo import Memory
from esper.tolaria import Autocast

DRIFT_METRIC = "rollout/memory_drift"


def measure_drift(
    network: ActorCritic, batch: RolloutBatch, stored: Memory, goes_on: Tensor, autocast: Autocast
) -> float | None:
    """Return |h_stored - h_recomputed| / |h_stored| over the rows that go on; None if there is none.

    Norms are over hidden and cell states of all those rows; 0 = not stale at all.

    Args:
        network: After the update.
        batch: The rollout that the stored memory was computed in.
        stored: [L, E, D] after its last step, by the weights before the update.
        goes_on: [E] bool, rows whose episode continues in the next rollout.
        autocast: The learner's.
    """
    rows = goes_on.nonzero().flatten().to(stored.hidden.device)
    if len(rows) == 0:
        return None
    part = batch.select(rows)
    memory, starts = part.memory, part.steps.episode_start
    with torch.no_grad(), autocast.context():
        for step in range(starts.shape[1]):
            inputs = {name: tensor[:, step] for name, tensor in part.inputs.items()}
            memory = network.act(inputs, memory, starts[:, step], is_greedy=True).memory
    old, new = stored.select(rows), memory
    apart = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(old, new, strict=True))
    whole = sum(float(a.double().square().sum()) for a in old)
    return (apart / whole) ** 0.5 if whole > 0 else 0.0
