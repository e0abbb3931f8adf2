"""What `fit` does with a loader's batches: which part the model takes, what the loss is, what items score.

```
(inputs, targets)      loss(model(inputs), targets)        inputs: a tensor, a tuple, or a mapping by name
a mapping              model(**batch), and its own loss    as Hugging Face models return it
```
Scores are per item where the loss can be asked for that, else per batch: validation is run in the same order
every time, so batches pair as well as items do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from esper.kasmina import Inputs, call_host, to_device, untouched_rng
from esper.leyline import ConfigError

if TYPE_CHECKING:
    from esper.tolaria import Autocast

Loss = Callable[[object, object], Tensor]
"""(outputs, targets) -> scalar, with gradient."""
Metric = Callable[[object, object], object]
"""(outputs, targets) -> one number, or one per item [B]."""


def measure_accuracy(outputs: object, targets: object) -> Tensor:
    """Return 1 or 0 per item: whether the largest output is the target's class.

    Args:
        outputs: [B, K].
        targets: [B] whole numbers.

    Raises:
        ConfigError: If the shapes are others; says what to pass instead.
    """
    is_fit = (
        isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.dim() == targets.dim() + 1
    )
    if not is_fit:
        raise ConfigError(
            "metric 'accuracy' is known for outputs [B, K] with targets [B]: pass metrics={'accuracy': ...} "
            "with a function of outputs and targets"
        )
    assert isinstance(outputs, Tensor)
    assert isinstance(targets, Tensor)
    return _per_item((outputs.argmax(dim=1) == targets).float())


@final
class BatchReader:
    """Runs a model on a loader's batches, on one device, in one precision."""

    def __init__(
        self, loss: Loss | None, metrics: Mapping[str, Metric], device: torch.device, autocast: Autocast
    ) -> None:
        """Bind what is minimised and what is shown.

        Args:
            loss: None = the model returns its own, as `.loss` or under "loss".
            metrics: By name, beside "loss".
            device: Where batches go.
            autocast: Of the forward passes.
        """
        self._loss = loss
        self._metrics = metrics
        self._device = device
        self._autocast = autocast
        self._item_loss = _make_item_loss(loss)

    def train(self, model: nn.Module, batch: object, criterion: Loss) -> Tensor:
        """Return the batch's loss, a scalar with gradient.

        Args:
            model: In training mode.
            batch: As the training loader gives it.
            criterion: `loss`, or what asks it.

        Raises:
            ConfigError: If the batch has no targets and the model no loss.
        """
        inputs, targets = self._split(batch)
        with self._autocast.context():
            outputs = call_host(model, inputs)
        return criterion(outputs, targets)

    def loss(self, outputs: object, targets: object) -> Tensor:
        """Return the loss of what the model returned, a float32 scalar with gradient.

        Raises:
            ConfigError: If there is no loss function and the model returned no loss.
        """
        if self._loss is None:
            return _own_loss(outputs).float()
        return self._loss(_to_float(outputs), targets).float()

    def score(self, model: nn.Module, loader: Iterable[object]) -> dict[str, Tensor]:
        """Return "loss" and every metric over a loader, one number per item or per batch, [N] float64.

        torch's random stream stands afterwards where it stood.

        Raises:
            ConfigError: If the loader gives nothing.
        """
        found: dict[str, list[Tensor]] = {}
        model.eval()
        # A loader draws from torch's stream when it begins; the order of training must not hang on it.
        with torch.no_grad(), untouched_rng(torch.device("cpu")):
            for batch in loader:
                for name, values in self._score_batch(model, batch).items():
                    found.setdefault(name, []).append(values.detach().to("cpu", torch.float64))
        if not found:
            raise ConfigError(
                "the validation loader gave no batch: it must be one that can be run through again"
            )
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _score_batch(self, model: nn.Module, batch: object) -> dict[str, Tensor]:
        inputs, targets = self._split(batch)
        with self._autocast.context():
            outputs = call_host(model, inputs)
        plain = _to_float(outputs)
        if self._loss is None:
            scores = {"loss": _own_loss(outputs).reshape(1)}
        else:
            scores = {"loss": _per_item(self._item_loss(plain, targets))}
        for name, metric in self._metrics.items():
            scores[name] = _per_item(metric(plain, targets))
        return scores

    def _split(self, batch: object) -> tuple[Inputs, object]:
        if isinstance(batch, Mapping):
            moved = to_device(dict(batch), self._device)
            return moved, moved.get("labels") if isinstance(moved, dict) else None
        if isinstance(batch, tuple | list) and len(batch) == 2:
            inputs, targets = batch
            moved = to_device(inputs, self._device)
            return moved, to_device(targets, self._device)
        raise ConfigError(
            f"a loader gave {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
            + ": expected (inputs, targets), or a mapping of the model's arguments by name"
        )


def _own_loss(outputs: object) -> Tensor:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if not isinstance(loss, Tensor):
        raise ConfigError(
            f"the model returned {type(outputs).__name__} without a loss: pass loss= to fit, or batches with "
            "the labels that the model's own loss needs"
        )
    return loss.mean()


def _to_float(outputs: object) -> object:
    return outputs.float() if isinstance(outputs, Tensor) and outputs.is_floating_point() else outputs


def _make_item_loss(loss: Loss | None) -> Loss:
    """Return the loss without its mean over items, where it is a module of torch that can leave it out."""
    if loss is None:
        return lambda outputs, targets: torch.zeros(())
    if isinstance(loss, nn.Module) and getattr(loss, "reduction", None) == "mean":
        apart = copy.deepcopy(loss)
        setattr(apart, "reduction", "none")  # noqa: B010 - to a type checker it is a parameter or a module
        return apart
    return loss


def _per_item(values: object) -> Tensor:
    """Return one number per item [B]; a single number is that of the batch, [1]."""
    if not isinstance(values, Tensor):
        return torch.tensor([float(str(values))])
    return values.flatten(1).mean(dim=1) if values.dim() > 1 else values.reshape(-1)
