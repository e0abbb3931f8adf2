"""What `fit` was handed, looked at before anything is trained: each refusal names what it takes instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from esper.leyline import ConfigError, suggest
from esper.runtime.fit_batches import Metric, measure_accuracy

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler


_FORMS: Mapping[str, str] = MappingProxyType(
    {
        "loss": " (outputs, targets) -> scalar, such as nn.CrossEntropyLoss()",
        "scheduler": " that makes one of the optimiser, such as lambda optimizer: StepLR(optimizer, 10)",
    }
)


def check_functions(
    loss: object, scheduler: object, metrics: Mapping[str, object] | None, callbacks: Sequence[object]
) -> None:
    """Refuse what should be called and cannot be.

    Raises:
        ConfigError: Naming the argument.
    """
    named = {"loss": loss, "scheduler": scheduler}
    named |= {f"metrics[{name!r}]": metric for name, metric in (metrics or {}).items()}
    named |= {f"callbacks[{place}]": callback for place, callback in enumerate(callbacks)}
    for name, value in named.items():
        if value is not None and not callable(value):
            raise ConfigError(
                f"{name} is a {type(value).__name__}: expected a function{_FORMS.get(name, '')}"
            )


def check_places(validation: object, folder: str | Path | None) -> None:
    """Refuse a validation loader that cannot be run through, and a folder that is a file.

    Raises:
        ConfigError: Saying what was found.
    """
    if not isinstance(validation, Iterable):
        raise ConfigError(
            f"the validation loader is a {type(validation).__name__}: expected a DataLoader or a list of "
            "batches; without one no seed can be shown to be worth keeping"
        )
    if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
        raise ConfigError(f"folder={str(folder)!r} is a file: name a folder to save in")


def make_optimizer(
    optimizer: object, named_parameters: Iterable[tuple[str, torch.nn.Parameter]]
) -> torch.optim.Optimizer:
    """Return the optimiser that was given, or made by what was given.

    Raises:
        ConfigError: If it is neither.
    """
    made: object = optimizer(named_parameters) if callable(optimizer) else optimizer
    if not isinstance(made, torch.optim.Optimizer):
        what = "returned" if callable(optimizer) else "is"
        raise ConfigError(
            f"optimizer {what} {type(made).__name__}: expected a torch.optim.Optimizer, or a function that "
            "makes one, such as lambda named: torch.optim.AdamW(named, lr=1e-3)"
        )
    return made


def make_schedulers(
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None, optimizer: torch.optim.Optimizer
) -> tuple[LRScheduler, ...]:
    """Return the scheduler that a function makes, if there is one."""
    return () if scheduler is None else (scheduler(optimizer),)


def choose_metrics(metric: str, metrics: Mapping[str, Metric] | None) -> dict[str, Metric]:
    """Return what is measured beside the loss, by name.

    Raises:
        ConfigError: If the metric that seeds are judged by is not among them.
    """
    known = dict(metrics or {})
    if metric == "accuracy" and metric not in known:
        known["accuracy"] = measure_accuracy
    if metric != "loss" and metric not in known:
        raise ConfigError(f"metric={metric!r}: {suggest(metric, ['loss', 'accuracy', *known])}")
    return known
