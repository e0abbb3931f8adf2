"""What a critic may know in training and a policy in the field cannot: the same host's life without growth.

A critic only has to judge what is left to come, and with the reward `gain` that is the final lead over the
never-grown host less the present one. Told the present lead it can leave the noise of validation out of the
advantages (an asymmetric critic; Pinto et al. 2018). The actor never sees these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esper.leyline import FEATURE_BOUND, Observation
from esper.simic.never_runs import NeverRun
from esper.tamiyo import NUM_PRIVILEGED


def build_privileged(observations: Sequence[Observation], never_runs: Sequence[NeverRun | None]) -> Tensor:
    """Return [E, 2] float32, each within +-`FEATURE_BOUND`, in scales of the metric.

    Columns: lead over the never-grown host now, and what that host will still gain until the horizon; both 0
    before the first interval.

    Args:
        observations: E of them.
        never_runs: Their never-grown lives; None for a row whose episode has ended, which is all 0.
    """
    rows = [
        [0.0] * NUM_PRIVILEGED if never is None else _describe(observation, never)
        for observation, never in zip(observations, never_runs, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float32).clamp(-FEATURE_BOUND, FEATURE_BOUND)


def _describe(observation: Observation, never: NeverRun) -> list[float]:
    signals, scale = observation.signals, observation.metric.scale
    if not signals.has_history:
        return [0.0] * NUM_PRIVILEGED
    level = never.metric(signals.epoch)
    return [(signals.metric - level) / scale, (never.metrics[-1] - level) / scale]
