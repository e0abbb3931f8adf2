"""The loop behind `esper.fit`, and what of it is saved beside the controller's own state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from esper.leyline import (
    ConfigError,
    EpochOutcome,
    ForeignCheckpointError,
    GovernorGaveUpError,
    JsonValue,
    TamiyoPolicy,
    Verdict,
    VerdictKind,
)
from esper.runtime.controller import Controller
from esper.runtime.fit_batches import BatchReader
from esper.runtime.growable import Growable
from esper.runtime.loop_events import LoopEvent
from esper.tolaria import Governor, StateRecord, find_blamed

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from torch.optim.lr_scheduler import LRScheduler

    from esper.runtime.fit_config import FitConfig


_BY_VALIDATION = (VerdictKind.COLLAPSED, VerdictKind.DIVERGED)
"""Verdicts that a validation loss alone leads to."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalReport:
    """One interval of `fit`."""

    interval: int
    """1 after the first."""
    train_loss: float
    metrics: Mapping[str, float]
    """Validation means, "loss" among them, as a reader expects them."""
    num_params: int
    """Trainable parameters after it."""
    events: tuple[LoopEvent, ...]
    """What grew, was kept or culled."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a call of `fit` did."""

    history: tuple[IntervalReport, ...]
    """Of this call; a resumed one starts where the last ended."""
    grown: Growable
    flops: Mapping[str, int]
    """Spent so far by kind, measuring and culled seeds included."""
    reader: BatchReader
    """What turned batches into losses and metrics."""

    def score(self, loader: Iterable[object]) -> dict[str, float]:
        """Return "loss" and every metric over another loader, for the model as it is now.

        Raises:
            ConfigError: If the loader gives nothing.
        """
        scores = self.reader.score(self.grown, loader)
        return {name: float(values.mean()) for name, values in scores.items()}

    @property
    def metrics(self) -> Mapping[str, float]:
        """Validation means of the last interval; empty if there was none."""
        return self.history[-1].metrics if self.history else {}


@final
class FitLoop:
    """One training; a context manager, so that hooks go when it ends however it ends."""

    def __init__(  # noqa: PLR0913 - what `fit` has resolved
        self,
        *,
        grown: Growable,
        train: Iterable[object],
        validation: Iterable[object],
        optimizer: torch.optim.Optimizer,
        schedulers: Sequence[LRScheduler],
        reader: BatchReader,
        config: FitConfig,
        metric: tuple[str, bool | None],
        policy: TamiyoPolicy | str | None,
        say: Callable[[str], None],
    ) -> None:
        """Bind the parts; nothing is trained yet."""
        self._grown, self._train, self._validation = grown, train, validation
        self._optimizer, self._schedulers, self._reader = optimizer, schedulers, reader
        self._config, self._say = config, say
        self._metric = metric[0]
        self._governor: Governor | None = None
        self._done = 0
        """Batches so far, rolled back where the model is."""
        self._batches: Iterator[object] | None = None
        self._epoch_stream = torch.get_rng_state()
        """torch's stream as the present pass over the loader began: its order follows from it."""
        self._scaler = torch.amp.GradScaler(_device_type(grown)) if config.amp == "fp16" else None
        self._per_epoch = _count_batches(train)
        self._controller = Controller(
            grown,
            optimizer,
            list(schedulers),
            policy=policy,
            metric=metric[0],
            higher_is_better=metric[1],
            epochs=self._num_intervals,
            accumulation=config.accumulation,
            scaler=self._scaler,
            loss_fn=reader.loss if config.incubation == "shadow" else None,
        )
        self._criterion = self._controller.loss if config.incubation == "shadow" else reader.loss

    def __enter__(self) -> FitLoop:
        """Return the loop."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take every hook off; the model stays as it has grown."""
        self._controller.close()

    def run(
        self, callbacks: Sequence[Callable[[IntervalReport], object]], folder: Path | None, *, resume: bool
    ) -> FitResult:
        """Train to the end, or until a callback says "stop".

        Raises:
            GovernorGaveUpError: If it fails again after the allowed number of rollbacks.
            CheckpointError: If there is something to resume and it does not fit.
        """
        if resume and folder is not None and folder.is_dir() and any(folder.iterdir()):
            self._restore(self._controller.load(folder))
        if self._governor is None:
            first = self._means(self._reader.score(self._grown, self._validation))
            self._governor = Governor(self._config.governor, chance_loss=max(first["loss"], 1e-12))
        last_good = self._capture()
        history: list[IntervalReport] = []
        while self._done < self._total:
            report = self._run_interval(last_good)
            # After a rollback, too: a second one must not bring the seed back that was culled for the first.
            last_good = self._capture()
            if report is None:
                continue
            history.append(report)
            answers = [callback(report) for callback in callbacks]
            is_stopped = "stop" in answers
            is_due = report.interval % self._config.save_every == 0 or self._done >= self._total
            if folder is not None and (is_due or is_stopped):
                self._controller.save(folder, self._position())
            if is_stopped:
                break
        if self._done >= self._total:
            for event in self._controller.finish():
                self._say(event.text)
        return FitResult(
            history=tuple(history), grown=self._grown, flops=self._controller.flops, reader=self._reader
        )

    # ------------------------------------------------------------------ one interval

    @property
    def _interval_batches(self) -> int:
        return self._config.interval_batches or self._per_epoch

    @property
    def _total(self) -> int:
        return self._config.epochs * self._per_epoch

    @property
    def _num_intervals(self) -> int:
        return max(1, -(-self._total // self._interval_batches))

    @property
    def _pace(self) -> list[JsonValue]:
        """What places in training are counted in: batches per epoch, per interval, per optimiser step."""
        return [self._per_epoch, self._interval_batches, self._config.accumulation]

    def _run_interval(self, last_good: StateRecord) -> IntervalReport | None:
        """Return the interval's report, or None if it was rolled back."""
        events = self._controller.act()
        train_loss = self._train_batches(min(self._interval_batches, self._total - self._done))
        scores = self._reader.score(self._grown, self._validation)
        means = self._means(scores)
        verdict = self._judge(train_loss, means)
        if verdict.is_failure:
            self._roll_back(verdict, last_good)
            return None
        events += self._controller.observe(
            scores, evaluate=lambda grown: self._reader.score(grown, self._validation)
        )
        report = IntervalReport(
            interval=self._controller.epoch,
            train_loss=train_loss,
            metrics=means,
            num_params=self._grown.model.num_params,
            events=tuple(events),
        )
        for event in events:
            self._say(event.text)
        if self._done >= self._total and not self._has_grown():
            self._say(f"nothing has grown: {self._controller.reason}")
        return report

    def _has_grown(self) -> bool:
        return any(slot.state.num_germinations for slot in self._grown.model.each_slot())

    def _train_batches(self, count: int) -> float:
        self._grown.train()
        losses: list[Tensor] = []
        for _ in range(count):
            loss = self._reader.train(self._grown, self._next_batch(), self._criterion)
            scaled = loss / self._config.accumulation
            scaled = scaled if self._scaler is None else self._scaler.scale(scaled)
            scaled.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            self._controller.step(loss)
            self._done += 1
            if self._done % self._config.accumulation == 0 or self._done % self._per_epoch == 0:
                self._step()
            if self._config.scheduler_every == "epoch" and self._done % self._per_epoch == 0:
                self._step_schedulers()
        return float(torch.stack(losses).mean())

    def _step(self) -> None:
        clip = self._config.clip_norm
        if self._scaler is not None:
            self._controller.unscale()
        if clip is not None:
            nn.utils.clip_grad_norm_(self._grown.parameters(), clip)
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._config.scheduler_every == "step":
            self._step_schedulers()

    def _step_schedulers(self) -> None:
        for scheduler in self._schedulers:
            scheduler.step()

    def _next_batch(self) -> object:
        if self._batches is None or self._done % self._per_epoch == 0:
            self._epoch_stream = torch.get_rng_state()
            self._batches = iter(self._train)
        try:
            return next(self._batches)
        except StopIteration:
            raise ConfigError(
                f"the training loader says it has {self._per_epoch} batches and gave fewer: it must be one "
                "that can be run through again"
            ) from None

    # ------------------------------------------------------------------ judge

    def _judge(self, train_loss: float, means: Mapping[str, float]) -> Verdict:
        assert self._governor is not None
        outcome = EpochOutcome(
            epoch=self._controller.epoch + 1,
            train_loss=train_loss,
            train_metric=0.0,
            validation_loss=means["loss"],
            metric=-means["loss"],
            num_batches=self._interval_batches,
            slots=self._controller.gradients(),
        )
        blamed = find_blamed(self._grown.model.reports(), outcome, (), set())
        verdict = self._governor.judge(outcome, blamed_slot=blamed)
        # Who fits the training rows has not broken down, however wrong about others: that is overfitting, and
        # going back would only repeat it.
        fits = train_loss < self._config.governor.learned_fraction * self._governor.chance_loss
        return Verdict() if fits and verdict.kind in _BY_VALIDATION else verdict

    def _roll_back(self, verdict: Verdict, last_good: StateRecord) -> None:
        assert self._governor is not None
        count = self._governor.count_rollback()
        if count > self._config.governor.max_rollbacks:
            raise GovernorGaveUpError(
                f"training failed again after {count - 1} rollbacks: {verdict.kind}, {verdict.reason}"
            )
        self._say(f"rolled back ({count}): {verdict.kind}, {verdict.reason}")
        self._restore(self._controller.restore(last_good))
        self._optimizer.zero_grad(set_to_none=True)
        if verdict.blamed_slot is not None:
            for event in self._controller.cull(verdict.blamed_slot, "rollback"):
                self._say(event.text)

    def _means(self, scores: Mapping[str, Tensor]) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in scores.items()}

    # ------------------------------------------------------------------ state

    def _capture(self) -> StateRecord:
        return self._controller.capture(self._position())

    def _position(self) -> StateRecord:
        state: dict[str, JsonValue] = {"done": self._done, "pace": self._pace}
        if self._governor is not None:
            state["governor"] = self._governor.state()
            state["chance_loss"] = self._governor.chance_loss
        if self._scaler is not None:
            state["scaler"] = dict(self._scaler.state_dict().items())
        return StateRecord(tensors={"epoch_stream": self._epoch_stream.clone()}, state=state)

    def _restore(self, position: StateRecord) -> None:
        """Stand where a save or snapshot stood: the present pass begun again, its batches passed over."""
        state = position.state
        if state.get("pace") != self._pace:
            raise ForeignCheckpointError(
                f"the saved training counts batches as {state.get('pace')}, this one as {self._pace} "
                "(batches per epoch, per interval, per step): go on with the same loader and settings"
            )
        self._done = int(str(state["done"]))
        if self._governor is None and "chance_loss" in state:
            self._governor = Governor(self._config.governor, chance_loss=float(str(state["chance_loss"])))
            saved = state["governor"]
            assert isinstance(saved, dict)
            self._governor.restore(saved, keep_rollback_count=False)
        if self._scaler is not None and isinstance(state.get("scaler"), dict):
            self._scaler.load_state_dict(state["scaler"])  # type: ignore[arg-type]
        self._batches = None
        within = self._done % self._per_epoch
        if within:
            now = torch.get_rng_state()
            torch.set_rng_state(position.tensors["epoch_stream"])
            self._epoch_stream = torch.get_rng_state()
            self._batches = iter(self._train)
            for _ in range(within):
                next(self._batches)
            torch.set_rng_state(now)


def _device_type(grown: Growable) -> str:
    return next((parameter.device.type for parameter in grown.parameters()), "cpu")


def _count_batches(loader: Iterable[object]) -> int:
    try:
        count = len(loader)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigError(
            f"the training loader, a {type(loader).__name__}, has no batches or no length: expected a "
            "DataLoader or a list of batches"
        )
    return count
