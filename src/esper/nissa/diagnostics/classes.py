"""A classifier class by class: who is mistaken for whom. Collected on the device, read once."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_CLASSES = 256
"""With more of them a table of classes says nothing to a person."""


class ClassFacts(NamedTuple):
    """What a split came to by class."""

    num_items: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    loss: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Row = true class, column = guess."""

    @property
    def spread(self) -> float:
        """Standard deviation of accuracy over classes that have items; 0 for fewer than two."""
        known = [value for value in self.accuracy if value is not None]
        if len(known) < 2:
            return 0.0
        mean = sum(known) / len(known)
        return float((sum((value - mean) ** 2 for value in known) / len(known)) ** 0.5)


@final
class ClassMeter:
    """Collects guesses and losses of a split, chunk by chunk."""

    def __init__(self, num_classes: int) -> None:
        """Start empty.

        Args:
            num_classes: K, at most 256.
        """
        self._num_classes = num_classes
        self._confusion: Tensor | None = None
        self._losses: Tensor | None = None

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Take one chunk.

        Args:
            outputs: [N, K] logits.
            targets: [N] int64 classes.
        """
        count, scores = self._num_classes, outputs.detach().float()
        places = targets * count + scores.argmax(dim=1)
        # Not bincount, which reads the device to size its answer.
        cells = torch.zeros(count * count, dtype=torch.int64, device=scores.device)
        cells.index_add_(0, places, torch.ones_like(places))
        losses = torch.zeros(count, device=scores.device)
        losses.index_add_(0, targets, F.cross_entropy(scores, targets, reduction="none"))
        self._confusion = cells if self._confusion is None else self._confusion + cells
        self._losses = losses if self._losses is None else self._losses + losses

    def clear(self) -> None:
        """Forget what was collected."""
        self._confusion = self._losses = None

    def read(self) -> ClassFacts | None:
        """Return what was collected and start anew; None = nothing was."""
        if self._confusion is None or self._losses is None:
            return None
        count = self._num_classes
        cells, losses = self._confusion.tolist(), self._losses.tolist()  # sync: once an epoch
        self.clear()
        confusion = tuple(
            tuple(int(n) for n in cells[row * count : (row + 1) * count]) for row in range(count)
        )
        totals = tuple(sum(row) for row in confusion)
        return ClassFacts(
            num_items=totals,
            accuracy=tuple(
                confusion[place][place] / total if total else None for place, total in enumerate(totals)
            ),
            loss=tuple(
                float(loss) / total if total else None for loss, total in zip(losses, totals, strict=True)
            ),
            confusion=confusion,
        )
