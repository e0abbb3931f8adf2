"""`esper.fit`: a training loop of ours around a model of somebody else's.

```
each interval (an epoch, or a number of batches)
  act        the policy decides, the optimiser follows
  train      batches: forward, loss, backward, clip, step, scheduler
  judge      validation; a host that fails goes back to its last good state, the seed to blame is culled
  observe    each seed is measured by the same validation without it
  save       everything, so that the next call goes on bit for bit
```
Built on `esper.Controller`: whatever can be done here can be done in a loop of one's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from esper.leyline import ConfigError, TamiyoPolicy, suggest
from esper.runtime.fit_batches import BatchReader, Loss, Metric
from esper.runtime.fit_checks import (
    check_functions,
    check_places,
    choose_metrics,
    make_optimizer,
    make_schedulers,
)
from esper.runtime.fit_config import FitConfig
from esper.runtime.fit_loop import FitLoop, FitResult, IntervalReport
from esper.runtime.growable import Growable
from esper.tolaria import Autocast

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler

Named = Iterable[tuple[str, nn.Parameter]]
"""Parameters by name, as `named_parameters` gives them."""


def fit(  # noqa: PLR0913 - each is a fact about somebody else's training
    grown: Growable,
    train: Iterable[object],
    validation: Iterable[object],
    *,
    optimizer: torch.optim.Optimizer | Callable[[Named], torch.optim.Optimizer],
    loss: Loss | None = None,
    epochs: int | None = None,
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    metric: str = "loss",
    higher_is_better: bool | None = None,
    policy: TamiyoPolicy | str | None = None,
    callbacks: Sequence[Callable[[IntervalReport], object]] = (),
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    config: FitConfig | None = None,
    **settings: object,
) -> FitResult:
    """Train a model and let it grow.

    Args:
        grown: From `esper.grow`, on the device where it is to be trained.
        train: Loader of (inputs, targets) or of mappings; gone through once per epoch.
        validation: Loader of the same kind that gives the same batches in the same order every time.
        optimizer: Makes the optimiser of named parameters, or is one.
        loss: (outputs, targets) -> scalar; None = the model returns its own under "loss".
        epochs: Passes over the training loader; None = ten.
        scheduler: Makes a learning-rate scheduler of the optimiser.
        metrics: More of them by name, each (outputs, targets) -> one number, or one per item.
        metric: The one by which seeds are judged: "loss", "accuracy", or one of `metrics`.
        higher_is_better: Its direction; None = as its name says.
        policy: Who decides; None = as told to `grow`.
        callbacks: Called with each interval's report; one that returns "stop" ends the training.
        folder: Where to save after each interval; None = nowhere.
        resume: Whether to go on from what the folder holds, if it holds something.
        progress: Whether to write a line per interval and event to standard error.
        config: Every setting at once, in the place of `epochs` and `settings`.
        settings: Fields of `FitConfig`: interval_batches, accumulation, clip_norm, amp, ...

    Returns:
        What happened; the model itself has grown in place.

    Raises:
        ConfigError: If a setting, loader, loss or metric does not fit.
        GovernorGaveUpError: If training still fails after the allowed number of rollbacks.
        CheckpointError: If the folder holds another training.

    Example:
        >>> from esper import grow
        >>> net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> grown = grow(net, sample=torch.zeros(2, 6), at=["1"])
        >>> batches = [(torch.zeros(8, 6), torch.zeros(8, dtype=torch.long))]
        >>> result = fit(grown, batches, batches, loss=nn.CrossEntropyLoss(), epochs=2, progress=False,
        ...              optimizer=lambda named: torch.optim.SGD(named, lr=0.1))
        >>> type(result).__name__
        'FitResult'
    """
    if not isinstance(grown, Growable):
        raise ConfigError(f"fit() trains what esper.grow returns, got {type(grown).__name__}: grow it first")
    plan = _choose_settings(config, epochs, settings)
    check_functions(loss, scheduler, metrics, callbacks)
    check_places(validation, folder)
    known = choose_metrics(metric, metrics)
    made = make_optimizer(optimizer, grown.named_parameters())
    loop = FitLoop(
        grown=grown,
        train=train,
        validation=validation,
        optimizer=made,
        schedulers=make_schedulers(scheduler, made),
        reader=BatchReader(loss, known, _device_of(grown), Autocast(_device_of(grown), plan.amp)),
        config=plan,
        metric=(metric, higher_is_better),
        policy=policy,
        say=_say if progress else _say_nothing,
    )
    with loop:
        return loop.run(callbacks, None if folder is None else Path(folder), resume=resume)


def _choose_settings(config: FitConfig | None, epochs: int | None, settings: dict[str, object]) -> FitConfig:
    names = [field.name for field in fields(FitConfig)]
    for name in settings:
        if name not in names:
            raise ConfigError(f"fit() has no setting {name!r}: {suggest(name, names)}")
    if config is None:
        return FitConfig(epochs=10 if epochs is None else epochs, **settings)  # type: ignore[arg-type]
    if settings or epochs is not None:
        given = ", ".join([*(["epochs"] if epochs is not None else []), *settings])
        raise ConfigError(f"fit() was given config= and {given} beside it: say it in one of the two")
    return config


def _device_of(grown: Growable) -> torch.device:
    return next((p.device for p in grown.parameters()), torch.device("cpu"))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _say_nothing(text: str) -> None:
    del text
