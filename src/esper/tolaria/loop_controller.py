"""Growth in a training loop that somebody else runs: the same steps as a host run, in their order.

```
act       between intervals   policy decides, lifecycle moves, the optimiser follows      events
step      after a batch       remembers the loss; the clock is the optimiser's own steps
observe   after an interval   their metrics, their evaluation with each seed off           events
```
Ramps, warm-ups and what seeds learn hang on hooks of the optimiser's step, so that they hold whatever the
loop does in between: accumulation, scalers, clipping. Seeds incubate in the loop's own backward pass: by the
residual lesson, or, where a loss function is handed over, by their true loss. Knows no data.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from esper.kasmina import Clock, Lifecycle, MorphogeneticModel, QualityGates, find_incubating
from esper.leyline import (
    WAIT,
    Action,
    ActionResult,
    ConfigError,
    Decision,
    Event,
    EventSink,
    LifecycleOp,
    Notice,
    NullSink,
    Observation,
    SeedStage,
    TamiyoPolicy,
    TrainingSignals,
    derive_seed,
    refuse_action,
)
from esper.tolaria.acting import describe_exhausted
from esper.tolaria.guest_lessons import ShadowLessons, check_lesson
from esper.tolaria.guest_measuring import GuestMeasurer, read_values
from esper.tolaria.guest_steps import before_step
from esper.tolaria.host_events import describe_decision
from esper.tolaria.input_recorder import InputRecorder
from esper.tolaria.interval_totals import IntervalTotals
from esper.tolaria.ledger import FlopsLedger
from esper.tolaria.loop_facts import (
    UNSEEN,
    build_budgets,
    build_loop_outcome,
    charge_evaluation,
    charge_measuring,
)
from esper.tolaria.offers import build_action_space, keep_affordable, list_offers, refuse_blend
from esper.tolaria.signals import SignalTracker
from esper.tolaria.steps import build_epoch_event, build_slot_events, record_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.tolaria.guest_lessons import LoopLoss
    from esper.tolaria.guest_optimizer import GuestOptimizer
    from esper.tolaria.loop_config import LoopConfig

_SHARE_OF_FIRST = 0.1


@final
class LoopController:
    """Grows one model in somebody else's loop.

    Example:
        controller = LoopController(model, optimizer, guest, policy, config)
        for epoch in range(30):
            controller.act()
            for batch in loader: ...; optimizer.step(); controller.step(loss)
            controller.observe({"loss": loss}, evaluate=evaluate)
    """

    def __init__(  # noqa: PLR0913 - the parts of somebody else's loop
        self,
        model: MorphogeneticModel,
        optimizer: torch.optim.Optimizer,
        guest: GuestOptimizer,
        policy: TamiyoPolicy,
        config: LoopConfig,
        *,
        sink: EventSink | None = None,
        read_scale: Callable[[], float] = lambda: 1.0,
        loss_fn: LoopLoss | None = None,
    ) -> None:
        """Hook into the optimiser's steps and the model's passes; nothing grows yet.

        Args:
            model: Grown from the host that the loop trains; seeds that live in it already are followed.
            optimizer: The loop's own, over the host's parameters.
            guest: What follows it.
            policy: Decides at every `act`.
            config: Metric, budget, gates.
            sink: Where events go beside being returned.
            read_scale: Returns the loss scale of the next backward pass; asked while a seed incubates.
            loss_fn: What `compute_loss` computes; given exactly where seeds incubate by "shadow".

        Raises:
            ConfigError: If there is a loss function and no use for it, or the other way round.
        """
        check_lesson(config, loss_fn)
        self.model, self.guest, self.policy, self.config = model, guest, policy, config
        self._optimizer = optimizer
        self._sink: EventSink = NullSink() if sink is None else sink
        self._space = build_action_space(model, list_offers(model, model.registry, config.blueprints))
        self.scale = config.metric.scale if config.is_scale_known else 0.0
        """A difference of the metric that is large; 0 = not known before the first interval."""
        self.adopt_scale(self.scale)
        self.recorder = InputRecorder(config.calibration_items)
        self.measurer = GuestMeasurer(config.metric, self.recorder)
        self.ledger = FlopsLedger()
        self.signals = TrainingSignals()
        self.epoch = 0
        """Intervals finished."""
        self.interval_start = 0
        """Optimiser steps at the end of the last interval."""
        self.interval_batches = 0
        """Length of the last interval, in optimiser steps; 0 = none was finished yet."""
        self.event_count = 0
        """Decisions so far; part of the random path of seeds."""
        self.totals = IntervalTotals()
        self._lesson_weight = torch.full((), model.incubation.residual_weight / config.accumulation)
        model.teach_in_loop(self._lesson_weight if loss_fn is None else None)
        policy.reset()
        self._read_scale = read_scale
        self._lessons = None if loss_fn is None else ShadowLessons(model, self.recorder, loss_fn, read_scale)
        self._handles = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            model.register_forward_pre_hook(self.recorder, with_kwargs=True),
            model.register_forward_pre_hook(self._lessons.watch if self._lessons else self._before_pass),
        )
        self._has_warned = False
        try:
            self.follow_topology()
        except Exception:
            self.close()
            raise

    # ------------------------------------------------------------------ the loop's three calls

    def act(self) -> list[Event]:
        """Ask the policy and carry its decision out, or refuse it; call before an interval trains.

        Returns:
            What happened: the decision, and the moves it and the clock made.

        Raises:
            ConfigError: If steps were made since the last interval began that no `observe` ended.
        """
        if self.batch > self.interval_start:
            raise ConfigError(
                f"act() after {self.batch - self.interval_start} steps that no observe() has ended: "
                "the order is act, train, observe"
            )
        if self._lessons is not None:
            self._lessons.begin_interval()
        decision = self.policy.decide(self.look())
        _, events = self.carry_out(decision)
        events += self.model.begin_epoch(self.clock)
        self.follow_topology()
        return events

    def compute_loss(self, outputs: object, rest: Sequence[object]) -> Tensor:
        """Return the loop's loss, in whose backward pass incubating seeds learn, too (`ShadowLessons.join`).

        Raises:
            ConfigError: If there is no loss function, or it is of another kind.
        """
        if self._lessons is None:
            raise ConfigError("loss() without a loss function: pass loss_fn= to esper.Controller")
        return self._lessons.join(outputs, rest)

    def step(self, loss: Tensor | float | None = None) -> None:
        """Remember the mean loss of a batch; the clock itself is the optimiser's own steps."""
        if loss is not None:
            self.totals.add_loss(loss)

    def observe(self, metrics: object = None, *, evaluate: Callable[[], object] | None = None) -> list[Event]:
        """End an interval: measure the seeds, let every clock tick, and remember what the policy will see.

        Args:
            metrics: Of the validation set now: a number, one per item [N], or a mapping with the metric's
                name (and "loss", if there is one). None = `evaluate` is asked.
            evaluate: Evaluates the network as it is when it is called, on the same items every time, and
                returns the same kind of thing. Without it no seed can be shown to be worth keeping.

        Returns:
            What happened: measurements, and the moves that time alone makes.

        Raises:
            ConfigError: If there is neither, no step was made, or the metric is not in what is returned.
        """
        if metrics is None and evaluate is None:
            raise ConfigError("observe() needs metrics, or evaluate= to ask for them")
        if self.batch == self.interval_start:
            raise ConfigError(
                "observe() without an optimiser step since the last one: the controller counts the steps of "
                "the optimiser it was given, so train with that one, in between"
            )
        if self._lessons is not None:
            self._lessons.check_used()
        if metrics is None and evaluate is not None:
            with torch.no_grad():
                metrics = evaluate()
        reading = read_values(metrics, self.config.metric)
        charge_evaluation(self)
        measured = {} if evaluate is None else self.measurer.measure(self.model, evaluate)
        if measured:
            charge_measuring(self)
        self.interval_batches = self.batch - self.interval_start
        if not self.scale:
            self.adopt_scale(_SHARE_OF_FIRST * abs(reading.mean) or self.config.metric.scale)
        outcome = build_loop_outcome(self, reading, measured)
        for slot in self.model.each_slot():
            record_outcome(
                slot, outcome.slots.get(slot.slot_id), metric=outcome.metric, gate_metric=outcome.metric
            )
        events = self._emit(
            [
                build_epoch_event(self.model, self.ledger, outcome),
                *build_slot_events(self.model, outcome.slots, outcome.epoch),
                *self._warn_unseen(outcome.num_train_items),
            ]
        )
        self.epoch += 1
        self.interval_start = self.batch
        self.totals = IntervalTotals()
        events += self._emit(self.model.tick(self.clock))
        self.follow_topology()
        self.signals = self.tracker.update(outcome)
        return events

    # ------------------------------------------------------------------ what a policy sees and does

    @property
    def batch(self) -> int:
        """Optimiser steps so far."""
        return self.guest.num_steps

    @property
    def clock(self) -> Clock:
        """Intervals and steps finished; the last interval's length stands for those to come."""
        length = self.interval_batches or self.config.newborn_warmup_batches or 1
        return Clock(epoch=self.epoch, batch=self.batch, batches_per_epoch=length)

    @property
    def learning_rate(self) -> float:
        """Of the optimiser's first group, now."""
        return float(self._optimizer.param_groups[0]["lr"])

    def look(self) -> Observation:
        """Return everything that a policy may look at now."""
        model, config = self.model, self.config
        return Observation(
            signals=self.signals,
            slots=model.reports(),
            budgets=build_budgets(self, self._space.tempo_ids),
            space=keep_affordable(self._space, model, config.budget),
            metric=replace(config.metric, scale=self.scale or config.metric.scale),
        )

    def carry_out(self, decision: Decision) -> tuple[ActionResult, list[Event]]:
        """Carry out a decision, or refuse it: then everything is as if it had waited."""
        self.event_count += 1
        action = decision.action
        refusal = refuse_action(action, self.look()) or refuse_blend(self.model, action)
        events: list[Event] = []
        if refusal is None and action.op is not LifecycleOp.WAIT:
            refusal, events = self._apply(action)
        result = ActionResult(requested=action, effective=WAIT if refusal else action, refusal=refusal)
        return result, self._emit([describe_decision(decision, refusal, self.epoch), *events])

    def tell(self, events: Sequence[Event]) -> list[Event]:
        """Take events of a move that was made by hand: the optimiser follows, the sink is told."""
        self.follow_topology()
        return self._emit(events)

    def adopt_scale(self, scale: float) -> None:
        """Make a difference of the metric the unit of every threshold that is one; 0 = as configured."""
        config, self.scale = self.config, scale
        factor = scale / config.metric.scale if scale and not config.is_scale_known else 1.0
        gates = replace(config.gates, max_metric_drop=config.gates.max_metric_drop * factor)
        threshold = config.tracker.plateau_threshold * factor
        self.tracker = SignalTracker(replace(config.tracker, plateau_threshold=threshold))
        quality = QualityGates(gates, keep_threshold=config.keep_threshold)
        self.model.lifecycle = Lifecycle(config.lifecycle, quality)

    def follow_topology(self) -> None:
        """Add groups for new seeds, drop those of seeds that are gone, hold those on their way out."""
        guest = self.guest
        for slot in self.model.each_slot():
            state, known = slot.state, slot.slot_id in guest.seed_slots
            if not state.stage.has_seed:
                if known:
                    guest.remove_seed(slot.slot_id)
                continue
            if not known:
                guest.add_seed(
                    slot.slot_id,
                    self.model.seed_parameters(slot.slot_id),
                    reference=self._reference(slot.slot_id),
                    birth_batch=state.birth_batch,
                )
                state.has_optimizer_entries = True
            guest.set_birth(slot.slot_id, state.birth_batch)
            guest.set_frozen(slot.slot_id, state.is_cull_pending)
            if state.stage is SeedStage.FOSSILIZED:
                guest.fossilize(slot.slot_id)

    def drop_faulty(self) -> None:
        """Drop the gradients of seeds that are not finite; under a loss scaler call it before `unscale_`.

        Without a scaler nothing has to be called: it is done before every step.
        """
        self.totals.add_gradients(self.guest.drop_faulty(1.0 / self._read_scale()))

    def finish(self) -> list[Event]:
        """Cull every live seed; norms get statistics of what is left where one affected the output."""
        affected = any(s.state.stage.is_live and s.state.alpha > 0.0 for s in self.model.each_slot())
        events = self.tell(self.model.cull_live(self.clock, "horizon"))
        if affected:
            self.measurer.refresh_statistics(self.model)
        return events

    def close(self) -> None:
        """Let go of optimiser and host; the model stays as it has grown."""
        for handle in self._handles:
            handle.remove()
        self.guest.close()

    # ------------------------------------------------------------------ hooks

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        return before_step(self._look_at_gradients, optimizer, args, kwargs)

    def _look_at_gradients(self) -> None:
        if any(slot.state.stage.is_trained for slot in self.model.each_slot()):
            self.totals.add_gradients(self.guest.drop_faulty())

    def _after_step(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        del optimizer, args, kwargs
        self.model.update_alphas(self.batch)

    def _before_pass(self, module: nn.Module, args: object) -> None:
        """Let what seeds learn carry the loss's factors: its scale, and its share of one step."""
        del module, args
        if torch.compiler.is_compiling() or not find_incubating(self.model):
            return
        weight = self.model.incubation.residual_weight * self._read_scale() / self.config.accumulation
        self._lesson_weight.fill_(weight)

    # ------------------------------------------------------------------ inside

    def _apply(self, action: Action) -> tuple[str | None, list[Event]]:
        """Carry a legal action out; memory that runs out over a new seed refuses the seed, not the loop."""
        slot = None if action.slot is None else self.model.slot(action.slot)
        before = None if slot is None else copy.deepcopy(slot.state)
        seed = derive_seed(self.config.seed, "seed", 0, self.event_count)
        try:
            events = self.model.apply_action(action, self.clock, build_seed=seed)
            self.follow_topology()
            return None, events
        except (MemoryError, RuntimeError) as error:
            refusal = describe_exhausted(action, error)
            if refusal is None or slot is None or before is None:
                raise
        # Here, because until the error is gone its frames hold what was built of the seed.
        self.model.lifecycle.restore(slot, before, None)
        self.follow_topology()
        return refusal, []

    def _warn_unseen(self, num_items: int) -> list[Event]:
        if num_items or self._has_warned:
            return []
        self._has_warned = True
        return [Notice(epoch=self.epoch + 1, text=UNSEEN)]

    def _reference(self, slot_id: str) -> nn.Parameter | None:
        """Return a parameter of the module at a slot: its group says how a seed there is trained."""
        module = self.model.host.get_submodule(self.model.path(slot_id))
        return next((p for p in module.parameters() if p.requires_grad), None)

    def _emit(self, events: Sequence[Event]) -> list[Event]:
        for event in events:
            self._sink.emit(event)
        return list(events)
