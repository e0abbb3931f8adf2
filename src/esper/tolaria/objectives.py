"""What a task minimises and how an item is scored; float32 whatever the precision of the forward pass."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from esper.leyline import LossKind, TaskSpec


@final
class Objective:
    """Loss for training, and loss and metric per item for measuring."""

    def __init__(self, kind: LossKind) -> None:
        """Choose the kind."""
        self.kind = kind

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, a float32 scalar with gradient.

        Args:
            outputs: [B, K] logits, [B, T, V] logits, or [B, D] values.
            targets: [B] or [B, T] int64 classes, or [B, D] values.
        """
        if self.kind is LossKind.REGRESSION:
            return F.mse_loss(outputs.float(), targets.float())
        if self.kind is LossKind.LANGUAGE_MODEL:
            return F.cross_entropy(outputs.float().flatten(0, 1), targets.flatten())
        return F.cross_entropy(outputs.float(), targets)

    def per_item(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loss [B], metric [B]) float32; the metric is higher-is-better.

        Classification: accuracy 0 or 1. Regression: minus the item's mean squared error. Language: minus the
        item's mean token loss.
        """
        scores = outputs.detach().float()
        if self.kind is LossKind.CLASSIFICATION:
            losses = F.cross_entropy(scores, targets, reduction="none")
            return losses, (scores.argmax(dim=1) == targets).to(torch.float32)
        if self.kind is LossKind.REGRESSION:
            losses = (scores - targets.float()).square().flatten(1).mean(dim=1)
            return losses, -losses
        tokens = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
        losses = tokens.view(targets.shape).mean(dim=1)
        return losses, -losses


def build_objective(task: TaskSpec) -> Objective:
    """Return the objective of a task."""
    return Objective(task.loss)
