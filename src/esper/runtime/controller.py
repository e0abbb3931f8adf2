"""`esper.Controller`: growth in a training loop of one's own, by three calls.

```
controller = esper.Controller(grown, optimizer, scheduler)
for epoch in range(30):
    controller.act()                                   before an interval
    for batch in loader: ...; controller.step(loss)    after each optimizer.step()
    controller.observe(evaluate=evaluate)              after it
```
Resolves names (policies, metrics) and tells events as sentences; what it does stands in
`esper.tolaria.LoopController`.
"""

from __future__ import annotations

from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import torch
from torch.optim.lr_scheduler import LRScheduler

from esper.kasmina import LifecycleConfig
from esper.leyline import (
    ConfigError,
    DecisionMade,
    EventSink,
    SlotOutcome,
    TamiyoPolicy,
)
from esper.runtime.growable import Growable
from esper.runtime.loop_policy import resolve_policy
from esper.runtime.metric_names import name_metric
from esper.tolaria import (
    CheckpointStore,
    GuestOptimizer,
    LoopConfig,
    LoopController,
    StateRecord,
    add_extra,
    capture_loop,
    checkpoint_name,
    refuse_foreign,
    restore_loop,
    split_extra,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from esper.kasmina import BlueprintRegistry, BlueprintSpec
    from esper.runtime.loop_events import LoopEvent
    from esper.tolaria import LoopLoss


@runtime_checkable
class Scaler(Protocol):
    """What of `torch.amp.GradScaler` is needed."""

    def get_scale(self) -> float:
        """Return the present factor on the loss."""

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide gradients by it."""


@final
class Controller:
    """Grows a model in your own loop.

    Example:
        controller = esper.Controller(grown, optimizer, policy="heuristic")
    """

    def __init__(  # noqa: PLR0913 - each is a fact about somebody else's loop
        self,
        grown: Growable,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | Sequence[LRScheduler] | None = None,
        *,
        policy: TamiyoPolicy | str | None = None,
        metric: str = "loss",
        higher_is_better: bool | None = None,
        metric_scale: float | None = None,
        epochs: int | None = None,
        keep_threshold: float = 0.0,
        accumulation: int = 1,
        scaler: Scaler | None = None,
        loss_fn: LoopLoss | None = None,
        config: LoopConfig | None = None,
        sink: EventSink | None = None,
    ) -> None:
        """Take over the growth of a model; from here on the optimiser's groups follow it.

        Args:
            grown: From `esper.grow`.
            optimizer: Yours, over the model's parameters; made before or after `grow`.
            scheduler: Every learning-rate scheduler on it.
            policy: Who decides; None = as told to `grow`.
            metric: Name of the metric in what `observe` is given.
            higher_is_better: Its direction; None = as its name says.
            metric_scale: A difference that is large, in its units, > 0; None = five points of a share such as
                accuracy, else a tenth of the first value observed.
            epochs: Intervals that the loop runs; None = not known.
            keep_threshold: Smallest contribution worth keeping, in units of the metric, >= 0.
            accumulation: Backward passes per optimiser step, >= 1.
            scaler: The loop's `torch.amp.GradScaler`, if it has one.
            loss_fn: (what the model returns, targets, ...) -> scalar. With it seeds incubate by their true
                loss, in a pass of their own, and not by the residual objective; the loop then takes its loss
                from `controller.loss(outputs, targets, ...)`.
            config: Every setting at once, in the place of metric, higher_is_better, metric_scale, epochs,
                keep_threshold and accumulation, and of what `grow` was told of blueprints and budget.
            sink: Where events go beside being returned.

        Raises:
            ConfigError: If optimiser or schedulers cannot follow growth, a name is unknown, or the model has
                a controller already.
        """
        _check_parts(grown, optimizer, scaler)
        plan = grown.plan
        _refuse_both(config, (metric, higher_is_better, metric_scale, epochs, keep_threshold, accumulation))
        settings = config or LoopConfig(
            metric=name_metric(metric, higher_is_better, metric_scale),
            blueprints=plan.blueprints,
            budget=plan.budget,
            is_scale_known=metric_scale is not None or name_metric(metric, higher_is_better).is_higher_better,
            horizon=epochs,
            keep_threshold=keep_threshold,
            accumulation=accumulation,
            seed=plan.seed,
            lifecycle=LifecycleConfig(incubation="residual" if loss_fn is None else "shadow"),
        )
        schedulers = (scheduler,) if isinstance(scheduler, LRScheduler) else tuple(scheduler or ())
        if grown.controller is not None:
            raise ConfigError("this model has a controller already: close() it before the next takes over")
        self._grown, self._optimizer, self._scaler, self._reason = grown, optimizer, scaler, ""
        named = _find_named(grown.model.registry, settings.blueprints)
        decider = resolve_policy(plan.policy if policy is None else policy, plan.seed, named)
        guest = GuestOptimizer(
            optimizer,
            schedulers,
            newborn_warmup_batches=settings.newborn_warmup_batches,
            host_parameters=grown.model.host_parameters(),
        )
        try:
            self._loop = LoopController(
                grown.model,
                optimizer,
                guest,
                decider,
                settings,
                sink=sink,
                read_scale=(lambda: 1.0) if scaler is None else scaler.get_scale,
                loss_fn=loss_fn,
            )
        except Exception:
            guest.close()
            raise
        grown.attach(self._loop)
        grown.narrator.begin(horizon=settings.horizon)

    def act(self) -> list[LoopEvent]:
        """Let the policy decide and grow the model; call it before an interval trains.

        Returns:
            What happened, in sentences; empty when it waited.

        Raises:
            ConfigError: If the last interval was not ended by `observe`.
        """
        events = self._loop.act()
        for event in events:
            if isinstance(event, DecisionMade):
                self._reason = event.reason + (f"; refused: {event.refusal}" if event.refusal else "")
        return self._tell(events)

    def loss(self, outputs: object, *targets: object) -> Tensor:
        """Return `loss_fn(outputs, *targets)`; in its backward pass seeds that incubate learn, too.

        Args:
            outputs: What the grown model returned in training, as it is.
            targets: Whatever `loss_fn` takes beside it.

        Raises:
            ConfigError: If the controller has no `loss_fn`, or it cannot be asked again for a seed.
        """
        return self._loop.compute_loss(outputs, targets)

    def step(self, loss: Tensor | float | None = None) -> None:
        """Remember a batch's loss; the clock itself is the optimiser's own steps.

        Args:
            loss: Its mean over the batch's items, as a scalar.

        Raises:
            ConfigError: If it is no scalar.
        """
        if loss is not None and not _is_scalar(loss):
            found = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss)
            raise ConfigError(f"step() was given {found}: expected the batch's loss, one number")
        self._loop.step(loss)

    def observe(
        self, metrics: object = None, *, evaluate: Callable[[Growable], object] | None = None
    ) -> list[LoopEvent]:
        """End an interval.

        Args:
            metrics: Of the validation set: a number, or a mapping with the metric's name; None = asked for.
            evaluate: Called with the grown model, once as it is and once per live seed without it; returns
                the same kind of thing, best a tensor [N] with one number per item, always of the same items
                in the same order. Needed for keeping seeds: without it none can show what it is worth.

        Raises:
            ConfigError: If there is neither, the metric is not in it, or no optimiser step was made.
        """
        if evaluate is None:
            return self._tell(self._loop.observe(metrics))
        if not callable(evaluate):
            raise ConfigError(
                f"evaluate is a {type(evaluate).__name__}: expected a function of the grown model; numbers "
                "that are there already are the first argument"
            )
        return self._tell(self._loop.observe(metrics, evaluate=lambda: evaluate(self._grown)))

    def follow(self, scheduler: LRScheduler) -> None:
        """Keep one more scheduler in step with the optimiser's groups; call it when one is made later.

        Raises:
            ConfigError: If it cannot live with groups that come and go.
        """
        self._loop.guest.follow(scheduler)

    def unscale(self) -> None:
        """Unscale gradients under the loop's GradScaler, so that a seed's overflow skips the seed alone.

        Call it between backward and clipping, in the place of `scaler.unscale_(optimizer)`.

        Raises:
            ConfigError: If the controller was given no scaler.
        """
        if self._scaler is None:
            raise ConfigError("unscale() without a scaler: pass scaler= to esper.Controller")
        self._loop.drop_faulty()
        self._scaler.unscale_(self._optimizer)

    @property
    def reason(self) -> str:
        """Why the policy last did what it did, also when it waited; "" before it was asked."""
        return self._reason

    @property
    def epoch(self) -> int:
        """Intervals finished."""
        return self._loop.epoch

    @property
    def steps(self) -> int:
        """Optimiser steps so far."""
        return self._loop.batch

    @property
    def flops(self) -> Mapping[str, int]:
        """FLOPs spent so far by kind, measuring and culled seeds included."""
        return self._loop.ledger.totals()

    def gradients(self) -> Mapping[str, SlotOutcome]:
        """Return what the gradients of this interval have shown of each seed so far."""
        return self._loop.totals.outcomes()

    def cull(self, slot_id: str, reason: str) -> list[LoopEvent]:
        """Remove the seed of a slot at once, if one lives there."""
        return self._tell(self._loop.tell(self._loop.model.cull_live(self._loop.clock, reason, (slot_id,))))

    def finish(self) -> list[LoopEvent]:
        """End at the horizon: what was not kept goes, and norms get the statistics of what is left."""
        return self._tell(self._loop.finish())

    def capture(self, extra: StateRecord | None = None) -> StateRecord:
        """Copy the whole state.

        Args:
            extra: What the loop itself must remember; comes back from `restore`.
        """
        return add_extra(capture_loop(self._loop), extra)

    def restore(self, record: StateRecord) -> StateRecord:
        """Go back to a captured state; what was spent stays spent, and random streams go on.

        Returns:
            The `extra` of the capture.
        """
        own, extra = split_extra(record)
        restore_loop(self._loop, own, is_rollback=True)
        return extra

    def save(self, folder: str | Path, extra: StateRecord | None = None) -> Path:
        """Save model, optimiser, schedulers, policy, clocks and random streams; no pickle.

        Args:
            folder: Made if it does not exist; the two newest saves are kept in it.
            extra: What the loop itself must remember; comes back from `load`.

        Returns:
            The folder of this save.

        Raises:
            EsperError: If something of the loop is no plain data, or the disk refuses.
        """
        root = Path(folder)
        if root.exists() and not root.is_dir():
            raise ConfigError(f"folder={str(root)!r} is a file: name a folder to save in")
        root.mkdir(parents=True, exist_ok=True)
        loop = self._loop
        name = checkpoint_name(loop.epoch, loop.batch - loop.interval_start)
        record = self.capture(extra)
        return _open_store(root).save(name, record, topology_hash=loop.model.topology_hash()).path

    def load(self, folder: str | Path) -> StateRecord:
        """Go on where `save` left off: model, optimiser and controller made as before, then this.

        Args:
            folder: What `save` was given; the newest whole save in it is taken.

        Returns:
            The `extra` of the save; empty if there was none.

        Raises:
            CheckpointError: If there is none, or it belongs to another model, optimiser or scheduler.
        """
        own, extra = split_extra(_open_store(Path(folder)).load().record)
        restore_loop(self._loop, own, is_rollback=False)
        return extra

    def close(self) -> None:
        """Let go of model and optimiser; both stay as they are."""
        self._loop.close()
        self._grown.detach()

    def _tell(self, events: Sequence[object]) -> list[LoopEvent]:
        told = self._grown.narrator.tell(events)  # type: ignore[arg-type]
        return [event for event in told if event.text]


def _is_scalar(loss: object) -> bool:
    if isinstance(loss, torch.Tensor):
        return loss.numel() == 1
    return isinstance(loss, Real) and not isinstance(loss, bool)  # NumPy's numbers are among them


def _check_parts(grown: object, optimizer: object, scaler: object) -> None:
    if not isinstance(grown, Growable):
        raise ConfigError(
            f"Controller() grows what esper.grow returns, got {type(grown).__name__}: grow it first"
        )
    if isinstance(optimizer, torch.optim.Optimizer):
        refuse_foreign(optimizer, grown.model.host_parameters())
    if scaler is not None and not isinstance(scaler, Scaler):
        raise ConfigError(f"scaler is a {type(scaler).__name__}: expected a torch.amp.GradScaler")


def _find_named(registry: BlueprintRegistry, names: Sequence[str]) -> list[BlueprintSpec]:
    """Return what is offered by its own name, not by that of a family."""
    return [registry.get(name) for name in names if name in registry.ids]


def _refuse_both(config: LoopConfig | None, given: tuple[object, ...]) -> None:
    if config is not None and given != ("loss", None, None, None, 0.0, 1):
        raise ConfigError(
            "Controller() was given config= and metric, epochs, keep_threshold or accumulation beside it: "
            "say it in one of the two"
        )


def _open_store(root: Path) -> CheckpointStore:
    return CheckpointStore(root, kind="loop", esper_version=version("esper-lite"))
