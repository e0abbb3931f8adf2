"""What a task minimises and how an item is scored; float32 at least, whatever the forward pass used.

Knows outputs and targets only: no model, no slot, no optimiser.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from esper.leyline import LossKind, TaskSpec


@final
class Objective:
    """Loss for training, and loss and metric per item for measuring; without label smoothing.

    Example:
        losses, metrics = Objective(LossKind.CLASSIFICATION).per_item(logits, classes)
    """

    def __init__(self, kind: LossKind) -> None:
        """Choose the kind."""
        self.kind = kind

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, a float32 scalar with gradient; it is the mean of `per_item`'s losses.

        Args:
            outputs: [B, K] logits, [B, T, V] logits, or [B, ...] values; any floating dtype.
            targets: [B] or [B, T] int64 classes, or values of the outputs' shape.

        Raises:
            ValueError: If the shapes do not belong together.
        """
        self._check_shapes(outputs, targets)
        scores = widen(outputs)
        if self.kind is LossKind.REGRESSION:
            return F.mse_loss(scores, targets.to(scores.dtype))
        if self.kind is LossKind.LANGUAGE_MODEL:
            return F.cross_entropy(scores.flatten(0, 1), targets.flatten())
        return F.cross_entropy(scores, targets)

    def per_item(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loss [B], metric [B]), float32 without gradient; the metric is higher-is-better.

        Classification: accuracy 0 or 1. Regression: minus the item's mean squared error. Language: minus the
        item's mean token loss.

        Args:
            outputs: As for `loss`.
            targets: As for `loss`.

        Raises:
            ValueError: If the shapes do not belong together.
        """
        losses = self.losses(outputs.detach(), targets)
        if self.kind is LossKind.CLASSIFICATION:
            return losses, _score_classes(outputs.detach(), targets)
        return losses, -losses

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each item, [B], with gradient; `loss` is their mean.

        Args:
            outputs: As for `loss`.
            targets: As for `loss`.

        Raises:
            ValueError: If the shapes do not belong together.
        """
        self._check_shapes(outputs, targets)
        scores = widen(outputs)
        if self.kind is LossKind.CLASSIFICATION:
            return F.cross_entropy(scores, targets, reduction="none")
        if self.kind is LossKind.REGRESSION:
            return (scores - targets.to(scores.dtype)).square().flatten(1).mean(dim=1)
        tokens = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
        return tokens.view(targets.shape).mean(dim=1)

    def row_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each item of R batches, [R, B], with gradient.

        Args:
            outputs: [R, B, K], [R, B, T, V] or [R, B, ...]; as for `loss` behind the first axis.
            targets: [R, B] or [R, B, ...].

        Raises:
            ValueError: If the shapes do not belong together.
        """
        if self.kind is not LossKind.CLASSIFICATION:
            return self.losses(outputs.flatten(0, 1), targets.flatten(0, 1)).view(outputs.shape[:2])
        self._check_shapes(outputs.flatten(0, 1), targets.flatten(0, 1))
        # Classes on the second axis: that kernel is several times as fast as that of the flattened rows.
        return F.cross_entropy(widen(outputs).mT, targets, reduction="none")

    def row_metrics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the metric of each item of R batches, [R, B], float32 without gradient.

        Args:
            outputs: As for `row_losses`.
            targets: As for `row_losses`.
        """
        if self.kind is LossKind.CLASSIFICATION:
            return (outputs.detach().argmax(dim=-1) == targets).to(torch.float32)
        return -self.row_losses(outputs.detach(), targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the metric of `per_item` alone, [B]; classification is spared a second loss.

        Args:
            outputs: As for `loss`.
            targets: As for `loss`.

        Raises:
            ValueError: If the shapes do not belong together.
        """
        if self.kind is not LossKind.CLASSIFICATION:
            return self.per_item(outputs, targets)[1]
        self._check_shapes(outputs, targets)
        return _score_classes(outputs.detach(), targets)

    def _check_shapes(self, outputs: Tensor, targets: Tensor) -> None:
        # Broadcasting would turn [B, 1] against [B] into a [B, B] loss without a word.
        if self.kind is LossKind.REGRESSION:
            expected, is_right = tuple(outputs.shape), outputs.dim() >= 2 and outputs.shape == targets.shape
        else:
            num_dims = 2 if self.kind is LossKind.CLASSIFICATION else 3
            expected = tuple(outputs.shape[:-1])
            is_right = outputs.dim() == num_dims and tuple(targets.shape) == expected
        if not is_right:
            raise ValueError(
                f"{self.kind.value} objective: outputs {tuple(outputs.shape)} need targets {expected}, "
                f"got {tuple(targets.shape)}"
            )


def widen(outputs: Tensor) -> Tensor:
    """Return outputs in float32, or as they are where they are wider."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _score_classes(scores: Tensor, targets: Tensor) -> Tensor:
    return (scores.argmax(dim=1) == targets).to(torch.float32)


def input_dtype(task: TaskSpec) -> torch.dtype:
    """Return the type of a task's inputs as a host gets them: int64 tokens for language, else float32.

    Example:
        >>> from esper.runtime.tasks import task_spec
        >>> input_dtype(task_spec("digits"))
        torch.float32
    """
    return torch.int64 if task.loss is LossKind.LANGUAGE_MODEL else torch.float32


def build_objective(task: TaskSpec) -> Objective:
    """Return the objective of a task.

    Example:
        >>> from esper.runtime.tasks import task_spec
        >>> type(build_objective(task_spec("digits"))).__name__
        'Objective'
    """
    return Objective(task.loss)
