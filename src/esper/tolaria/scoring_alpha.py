"""How far a live seed should be open: its loss at four alphas on held-out items, and a parabola through it.

Statistics of norms are re-estimated per setting, as in every counterfactual: under those of the network as
it is, another alpha would be charged for the normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from esper.kasmina import MorphogeneticModel
from esper.tolaria.measuring import Evaluator, Setting

PROBED_ALPHAS = (0.0, 0.25, 0.5, 1.0)
"""Denser near 0, where a young seed is."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaProbe:
    """One seed's losses and what they predict."""

    losses: tuple[float, ...]
    """Mean loss at each of `PROBED_ALPHAS`, less the loss of the network as it is."""
    best_alpha: float
    """Where the parabola is lowest in [0, 1]."""
    predicted_gain: float
    """Its fall from alpha 0 to there, >= 0, in units of the loss."""
    curvature: float
    """Its second derivative."""


def fit_alpha_probe(losses: Sequence[float]) -> AlphaProbe | None:
    """Return the least-squares parabola of losses at `PROBED_ALPHAS`; None if one is not finite."""
    if not all(math.isfinite(loss) for loss in losses):
        return None
    powers = torch.tensor([[1.0, alpha, alpha**2] for alpha in PROBED_ALPHAS], dtype=torch.float64)
    values = torch.tensor(losses, dtype=torch.float64)
    _, slope, bend = torch.linalg.solve(powers.T @ powers, powers.T @ values).tolist()
    candidates = [0.0, 1.0]
    if bend > 0.0:
        candidates.append(min(1.0, max(0.0, -slope / (2.0 * bend))))
    best = min(candidates, key=lambda alpha: slope * alpha + bend * alpha**2)
    return AlphaProbe(
        losses=tuple(losses),
        best_alpha=best,
        predicted_gain=max(0.0, -(slope * best + bend * best**2)),
        curvature=2.0 * bend,
    )


def probe_alphas(
    model: MorphogeneticModel,
    evaluator: Evaluator,
    slots: Sequence[str],
    calibration: Tensor,
    items: tuple[Tensor, Tensor],
) -> tuple[dict[str, AlphaProbe], int]:
    """Probe every named slot's seed, the others staying as they are.

    Args:
        model: In any mode; left as it was.
        evaluator: One whose gate metric is minus the loss.
        slots: Slots with a seed.
        calibration: Training inputs [M, ...] for the statistics of each setting.
        items: Held-out inputs [N, ...] and targets.

    Returns:
        Probes by slot, without those whose losses are not finite, and the FLOPs spent.
    """
    if not slots:
        return {}, 0
    settings = [Setting(slot=slot, alpha=alpha) for slot in slots for alpha in PROBED_ALPHAS]
    differences, bill = evaluator.compute_differences(model, settings, calibration, items)
    rises = [float(difference.double().mean()) for difference in differences]
    count = len(PROBED_ALPHAS)
    fitted = {slot: fit_alpha_probe(rises[i * count : (i + 1) * count]) for i, slot in enumerate(slots)}
    probes = {slot: probe for slot, probe in fitted.items() if probe is not None}
    return probes, bill.calibration + bill.counterfactual
