"""How stale a stored memory is: what the row would remember, had today's network read its past; and how full.

A row that is cut in mid-episode begins its next rollout with a memory that older weights computed (checks A20
and C10). Whole episodes per row, as the presets have them, never meet this; shorter rollouts do, and then
the next update scores from a memory that its own network would not have had (R2D2: Kapturowski et al. 2019).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from esper.simic.interfaces import ActorCritic
from esper.simic.rollout_buffer import RolloutBatch
from esper.tamiyo import Memory
from esper.tolaria import Autocast

DRIFT_METRIC = "rollout/memory_drift"
SATURATED = 0.95
"""Size from which a hidden unit, which is within -1 and 1, counts as shut at an end of its range."""


class MemoryDrift(NamedTuple):
    """Squared norms over some rows; those of several ranks add up.

    Example:
        MemoryDrift(apart=0.01, whole=1.0).relative == 0.1
    """

    apart: float
    whole: float

    @property
    def relative(self) -> float | None:
        """|h_stored - h_recomputed| / |h_stored|; 0 = not stale at all, None = no row goes on."""
        return (self.apart / self.whole) ** 0.5 if self.whole > 0 else None


class MemoryUse(NamedTuple):
    """Sums over the units of some rows' memories; those of several ranks add up."""

    hidden_squares: float
    cell_squares: float
    num_saturated: float
    num_units: float

    def describe(self) -> dict[str, float]:
        """Return the metrics; nothing where there is no memory, or it holds a number that is not finite."""
        count = self.num_units
        if count <= 0 or not math.isfinite(self.hidden_squares + self.cell_squares):
            return {}
        return {
            "rollout/memory_rms": (self.hidden_squares / count) ** 0.5,
            "rollout/cell_rms": (self.cell_squares / count) ** 0.5,
            "rollout/memory_saturation": self.num_saturated / count,
        }


def measure_use(memory: Memory) -> MemoryUse:
    """Return how much of its range a memory uses.

    Args:
        memory: [L, E, D] after the last step of a rollout.
    """
    hidden, cell = memory.hidden.double(), memory.cell.double()
    sums = torch.stack([hidden.square().sum(), cell.square().sum(), (hidden.abs() > SATURATED).sum()])
    hidden_squares, cell_squares, num_saturated = sums.tolist()  # sync: one a round
    return MemoryUse(hidden_squares, cell_squares, num_saturated, float(hidden.numel()))


def measure_drift(
    network: ActorCritic, batch: RolloutBatch, stored: Memory, goes_on: Tensor, autocast: Autocast
) -> MemoryDrift:
    """Return the squared norms of h_stored - h_recomputed and of h_stored over the rows that go on.

    Norms are over hidden and cell states of all those rows.

    Args:
        network: After the update.
        batch: The rollout that the stored memory was computed in.
        stored: [L, E, D] after its last step, by the weights before the update.
        goes_on: [E] bool, rows whose episode continues in the next rollout.
        autocast: The learner's.
    """
    rows = goes_on.nonzero().flatten().to(stored.hidden.device)
    if len(rows) == 0:
        return MemoryDrift(0.0, 0.0)
    part = batch.select(rows)
    memory, starts = part.memory, part.steps.episode_start
    with torch.no_grad(), autocast.context():
        for step in range(starts.shape[1]):
            inputs = {name: tensor[:, step] for name, tensor in part.inputs.items()}
            memory = network.act(inputs, memory, starts[:, step], is_greedy=True).memory
    old, new = stored.select(rows), memory
    apart = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(old, new, strict=True))
    whole = sum(float(a.double().square().sum()) for a in old)
    return MemoryDrift(apart, whole)
