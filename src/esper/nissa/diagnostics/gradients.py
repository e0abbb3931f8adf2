"""Gradients of an epoch: norms per layer, what vanishes, what explodes, and one number for all of it.

```
measured batch   norm of every gradient, on the device      no read
last of them     sizes of a sample of single numbers        no read
epoch            one read of all of it; the rest is arithmetic of plain floats
```
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

VANISHING_NORM = 1e-7
EXPLODING_NORM = 1e3
VANISHING_SHARE = 0.5
"""A layer vanishes if more than this share of its batches does."""
EXPLODING_SHARE = 0.01
NORM_VARIANCE = 10.0
SMALL_MEAN = 1e-5
LARGE_MEAN = 100.0
SAMPLE_SIZE = 4096
"""Single numbers from which quantiles are taken."""


class GradientFacts(NamedTuple):
    """What an epoch's gradients came to."""

    norms: Mapping[str, float]
    """Group -> mean L2 norm over the measured batches in which it had a gradient."""
    vanishing: tuple[str, ...]
    exploding: tuple[str, ...]
    quantiles: Mapping[float, float]
    num_batches: int


@final
class GradientMeter:
    """Collects norms on the device, batch by batch, and reads them once.

    Example:
        meter.add({"conv1": [weight, bias]}, scale=1.0)
        meter.read().norms["conv1"]
    """

    def __init__(self) -> None:
        """Start empty."""
        self._known: list[dict[str, float]] = []
        """Batches that were read already."""
        self._rows: list[tuple[tuple[tuple[str, int], ...], Tensor]] = []
        self._quantiles: dict[float, float] = {}
        self._sample: Tensor | None = None
        self._fractions: tuple[float, ...] = ()

    @property
    def num_batches(self) -> int:
        """Measured so far."""
        return len(self._known) + len(self._rows)

    def add(self, groups: Mapping[str, Sequence[nn.Parameter]], *, scale: float = 1.0) -> None:
        """Take the norms of one batch.

        Args:
            groups: Name -> parameters; those without a gradient count as none.
            scale: Factor that makes of the gradients what they stand for: 1 / loss scale.
        """
        gradients = {
            name: [p.grad for p in members if p.grad is not None] for name, members in groups.items()
        }
        sizes = tuple((name, len(found)) for name, found in gradients.items() if found)
        flat = [gradient for found in gradients.values() for gradient in found]
        if not flat:
            return
        norms = torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in flat])
        self._rows.append((sizes, norms if scale == 1.0 else norms * scale))

    def sample(
        self,
        groups: Mapping[str, Sequence[nn.Parameter]],
        fractions: Sequence[float],
        *,
        scale: float = 1.0,
    ) -> None:
        """Take quantiles of the size of single numbers: every k-th one, so that 4,096 at most are sorted."""
        found = [p.grad.flatten() for members in groups.values() for p in members if p.grad is not None]
        if not (found and fractions):
            return
        stride = max(1, math.ceil(sum(gradient.numel() for gradient in found) / SAMPLE_SIZE))
        sizes = torch.cat([gradient[::stride].float() for gradient in found])[:SAMPLE_SIZE].abs() * scale
        self._fractions = tuple(fractions)
        self._sample = torch.quantile(sizes, torch.tensor(self._fractions, device=sizes.device))

    def read(self) -> GradientFacts:
        """Return what was collected and start anew."""
        rows, quantiles = self.state()
        self.clear()
        return summarize_gradients(rows, quantiles)

    def clear(self) -> None:
        """Forget what was collected."""
        self._known, self._rows, self._quantiles = [], [], {}
        self._sample, self._fractions = None, ()

    def state(self) -> tuple[list[dict[str, float]], dict[float, float]]:
        """Return what was collected as plain floats: group norms by batch, and quantiles."""
        self._collect()
        return list(self._known), dict(self._quantiles)

    def restore(self, rows: Sequence[Mapping[str, float]], quantiles: Mapping[float, float]) -> None:
        """Put back what `state` returned."""
        self.clear()
        self._known, self._quantiles = [dict(row) for row in rows], dict(quantiles)

    def _collect(self) -> None:
        parts = [norms for _, norms in self._rows] + ([] if self._sample is None else [self._sample])
        if not parts:
            return
        values = torch.cat(parts).tolist()  # sync: once an epoch, and when a run is saved
        place = 0
        for sizes, _ in self._rows:
            row = {}
            for name, count in sizes:
                row[name] = math.hypot(*values[place : place + count])
                place += count
            self._known.append(row)
        self._quantiles |= dict(zip(self._fractions, values[place:], strict=True))
        self._rows, self._sample, self._fractions = [], None, ()


def summarize_gradients(
    rows: Sequence[Mapping[str, float]], quantiles: Mapping[float, float]
) -> GradientFacts:
    """Return what norms by batch and group came to.

    Args:
        rows: Per measured batch: group -> L2 norm.
        quantiles: Fraction -> size; handed on.
    """
    by_group: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, norm in row.items():
            by_group[name].append(norm)
    return GradientFacts(
        norms={name: sum(norms) / len(norms) for name, norms in by_group.items()},
        vanishing=tuple(
            name
            for name, norms in by_group.items()
            if sum(norm < VANISHING_NORM for norm in norms) > VANISHING_SHARE * len(norms)
        ),
        exploding=tuple(
            name
            for name, norms in by_group.items()
            if sum(not norm <= EXPLODING_NORM for norm in norms) > EXPLODING_SHARE * len(norms)
        ),
        quantiles=quantiles,
        num_batches=len(rows),
    )


def compute_health(norms: Sequence[float], *, num_vanishing: int, num_exploding: int) -> float:
    """Return gradient health in [0, 1]: 1 minus what is wrong, at least 0.

    ```
    1 - 0.2 per vanishing layer - 0.3 if a layer explodes - 0.1 if the norms' variance is over 10
      - 0.3 if their mean is under 1e-5 - 0.2 if it is over 100
    ```

    Args:
        norms: One per layer, at least one; not finite counts as exploding.
        num_vanishing: Layers that vanish.
        num_exploding: Layers that explode.
    """
    mean = sum(norms) / len(norms)
    # A product, not a power: that of a large float is refused, where this is infinite.
    squares = [(norm - mean) * (norm - mean) for norm in norms]
    variance = sum(squares) / len(norms) if math.isfinite(mean) else math.inf
    health = 1.0 - 0.2 * num_vanishing
    health -= 0.3 if num_exploding else 0.0
    health -= 0.1 if variance > NORM_VARIANCE else 0.0
    health -= 0.3 if mean < SMALL_MEAN else 0.0
    health -= 0.2 if not mean <= LARGE_MEAN else 0.0
    return min(1.0, max(0.0, health))


def group_by_layer(names: Mapping[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Return parameters by the module that owns them: "conv1.weight" and "conv1.bias" under "conv1".

    Args:
        names: Qualified name -> parameter; one at the top stands for itself.
    """
    groups: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in names.items():
        groups[name.rpartition(".")[0] or name].append(parameter)
    return dict(groups)
