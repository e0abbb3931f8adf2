"""Watches one host by its telemetry profile: looks at what training leaves, and tells it as events.

```
after_backward      gradients of the batches that the profile asks for         norms stay on the device
after_validation    guesses and losses by class                                they too
after_epoch         read > measure weights, sharpness, isolation > red flags > which profile is next
```
It is wired in one place, `assemble`. It draws from generators of its own and leaves weights, gradients,
buffers and modes to the bit as they were, so that a run is the same under every profile. Its passes are not
charged to the ledger, and run eager, outside compiled regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from esper.data import Batch
from esper.kasmina import ForwardPlan, MorphogeneticModel, SeedSlot, SlotMode, untouched_rng
from esper.leyline import (
    ClassesMeasured,
    EpochOutcome,
    Event,
    GradientsMeasured,
    HostProbe,
    JsonValue,
    LossKind,
    NullProbe,
    SharpnessMeasured,
    WeightsMeasured,
    derive_seed,
)
from esper.nissa import PROFILES, Escalation, Profile, TelemetryConfig, is_batch_measured
from esper.nissa.diagnostics.classes import MAX_CLASSES, ClassFacts, ClassMeter
from esper.nissa.diagnostics.gradients import (
    GradientFacts,
    GradientMeter,
    compute_health,
    group_by_layer,
)
from esper.nissa.diagnostics.isolation import measure_reach
from esper.nissa.diagnostics.sharpness import SIGMA, measure_sharpness
from esper.nissa.diagnostics.weights import measure_ranks, measure_weights
from esper.runtime.diagnosis_memory import SEED_PREFIX, FlagHistory, WeightBirths
from esper.tolaria import Autocast, HostRun

Probe = HostProbe[MorphogeneticModel, Batch]

_RECORDING = ForwardPlan(is_recording=True)
_HOST_PREFIX = "host."


def build_probe(config: TelemetryConfig, probe: Probe, *, has_sink: bool) -> Probe:
    """Return what looks at a host: a `Diagnosis` around another probe, or that one alone.

    Args:
        config: Names the profile.
        probe: Looks first.
        has_sink: Whether anybody is told.
    """
    profile = PROFILES[config.profile]
    if not (has_sink and profile.history_epochs):
        return probe
    return Diagnosis(profile, config.escalation_epochs, probe)


@final
class Diagnosis:
    """A probe that measures; `bind` it to its host run before the first batch.

    Example:
        diagnosis = Diagnosis(PROFILES["standard"], 5)
        run = HostRun(task, config, HostRunParts(..., probe=diagnosis), run_seed=0)
        diagnosis.bind(run)
    """

    def __init__(self, profile: Profile, escalation_epochs: int, inner: Probe | None = None) -> None:
        """Start without a host.

        Args:
            profile: The chosen one, not minimal.
            escalation_epochs: For how long a red flag raises it.
            inner: Another probe that looks first.
        """
        self._inner: Probe = NullProbe() if inner is None else inner
        self._escalation = Escalation(profile, escalation_epochs)
        self._gradients = GradientMeter()
        self._classes: ClassMeter | None = None
        self._births = WeightBirths()
        self._history = FlagHistory()
        self._run: HostRun | None = None
        self._layers: dict[str, list[nn.Parameter]] = {}

    @property
    def profile(self) -> Profile:
        """The one in force."""
        return self._escalation.profile

    def bind(self, run: HostRun) -> None:
        """Take the host run that this probe is part of, as it is born."""
        self._run = run
        named = run.bench.model.host_parameters()
        self._layers = group_by_layer({name.removeprefix(_HOST_PREFIX): each for name, each in named.items()})
        if run.task.loss is LossKind.CLASSIFICATION and run.task.num_outputs <= MAX_CLASSES:
            self._classes = ClassMeter(run.task.num_outputs)
        if self.profile.has_weights:
            self._births.note(self._layers, epoch=0)

    # ------------------------------------------------------------------ looking

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        """Take the norms of a batch that the profile asks for."""
        self._inner.after_backward(model, batch, batch_index)
        bench, profile = self._host.bench, self.profile
        if batch_index == 0:
            # What is left of an interval that was rolled back.
            self._gradients.clear()
            if profile.has_weights:
                self._births.note(self._seed_groups(model), epoch=self._host.epoch, ids=_seed_ids(model))
        num_batches = bench.batches.num_batches
        if not is_batch_measured(batch_index, num_batches, profile.gradient_batches):
            return
        groups, scale = self._layers | self._seed_groups(model), bench.scaler.inverse_scale
        self._gradients.add(groups, scale=scale)
        self._history.note_learners(_find_learners(model))
        if batch_index == num_batches - 1:
            self._gradients.sample(groups, profile.quantiles, scale=scale)

    def after_validation(self, outputs: object, targets: object) -> None:
        """Take guesses and losses of one chunk."""
        self._inner.after_validation(outputs, targets)
        if self.profile.has_classes and self._classes is not None:
            assert isinstance(outputs, Tensor)
            assert isinstance(targets, Tensor)
            self._classes.add(outputs, targets)

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Measure what is left to measure, tell all of it, and find red flags."""
        self._inner.after_epoch(model, outcome)
        run, profile = self._host, self.profile
        events: list[Event] = []
        gradients = self._gradients.read()
        leaks = self._measure_leaks(model, profile)
        told = _describe_gradients(gradients, leaks, outcome.epoch, profile.name)
        events += [] if told is None else [told]
        events += self._measure_weights(model, outcome.epoch, profile)
        classes = self._classes.read() if self._classes is not None else None
        events += [] if classes is None else [_describe_classes(classes, outcome.epoch, profile)]
        sharpness = self._measure_sharpness(model, outcome.epoch, profile)
        events += [] if sharpness is None else [sharpness]
        self._history.add(outcome, list(model.each_slot()), gradients, length=profile.history_epochs)
        flags = self._history.find_new(
            outcome,
            gradients=told,
            class_spread=None if classes is None else classes.spread,
            sharpness=None if sharpness is None else sharpness.sharpness,
        )
        raised = self._escalation.end_epoch(has_new_flag=bool(flags))
        if self.profile is not profile and not self.profile.has_weights:
            self._births.clear()
        run.emit([*events, *(flag.describe(outcome.epoch, self.profile.name, raised) for flag in flags)])

    # ------------------------------------------------------------------ memory

    def state(self) -> dict[str, JsonValue]:
        """Return history, escalation and what was measured of an interval that is not over.

        Weights to measure drift from are left out: they would double a checkpoint.
        """
        rows, quantiles = self._gradients.state()
        return {
            "inner": self._inner.state(),
            "epochs_left": self._escalation.epochs_left,
            "rows": [{name: norm.hex() for name, norm in row.items()} for row in rows],
            "quantiles": {fraction.hex(): value.hex() for fraction, value in quantiles.items()},
            "history": self._history.state(),
        }

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned; nothing = begin anew.

        Raises:
            ValueError: If a part is malformed.
        """
        if self._classes is not None:
            self._classes.clear()
        match state:
            case {
                "inner": dict(inner),
                "epochs_left": int(epochs_left),
                "rows": list(rows),
                "quantiles": dict(quantiles),
                "history": dict(history),
            }:
                self._inner.restore(inner)
                self._escalation.epochs_left = epochs_left
                self._gradients.restore(
                    [_read_floats(row) for row in rows],
                    {float.fromhex(name): value for name, value in _read_floats(quantiles).items()},
                )
                self._history.restore(history)
            case _ if not state:
                self._inner.restore({})
                self._escalation.epochs_left = 0
                self._gradients.clear()
                self._history = FlagHistory()
            case _:
                raise ValueError(f"the state of diagnostics has the parts {sorted(state)}")

    # ------------------------------------------------------------------ inside

    @property
    def _host(self) -> HostRun:
        if self._run is None:
            raise RuntimeError("a Diagnosis looks at nothing yet: bind() it to its host run first")
        return self._run

    def _seed_groups(self, model: MorphogeneticModel) -> dict[str, list[nn.Parameter]]:
        return {
            SEED_PREFIX + slot.slot_id: list(model.seed_parameters(slot.slot_id).values())
            for slot in model.each_slot()
            if slot.state.stage.is_trained
        }

    def _measure_weights(self, model: MorphogeneticModel, epoch: int, profile: Profile) -> list[Event]:
        if not profile.has_weights:
            return []
        groups = self._layers | self._seed_groups(model)
        self._births.note(groups, epoch=epoch, ids=_seed_ids(model))
        births, since = self._births.select(groups)
        norms, drift = measure_weights(groups, births)
        ranks = {}
        if profile.has_ranks:
            named: dict[str, Tensor] = dict(model.host_parameters())
            for slot in model.each_slot():
                named |= model.seed_parameters(slot.slot_id)
            ranks = {n.removeprefix(_HOST_PREFIX): rank for n, rank in measure_ranks(named).items()}
        return [
            WeightsMeasured(epoch=epoch, norms=norms, drift=drift, since_epoch=since, effective_ranks=ranks)
        ]

    def _measure_sharpness(
        self, model: MorphogeneticModel, epoch: int, profile: Profile
    ) -> SharpnessMeasured | None:
        if not profile.sharpness_every or epoch % profile.sharpness_every:
            return None
        run = self._host
        inputs, targets = (part[: profile.sharpness_items] for part in run.bench.validation)
        moved = dict(model.host_parameters())
        for slot in model.each_slot():
            moved |= model.seed_parameters(slot.slot_id) if slot.state.stage.affects_output else {}
        generator = torch.Generator(inputs.device)
        generator.manual_seed(derive_seed(run.run_seed, "sharpness", run.instance, epoch))
        with untouched_rng(inputs.device):
            facts = measure_sharpness(
                [parameter for parameter in moved.values() if parameter.is_floating_point()],
                lambda: run.bench.evaluator.compute_loss(model, inputs, targets),
                num_draws=profile.sharpness_draws,
                generator=generator,
            )
        return SharpnessMeasured(
            epoch=epoch,
            sharpness=facts.sharpness,
            loss=facts.loss,
            sigma=SIGMA,
            num_draws=profile.sharpness_draws,
            num_items=len(targets),
        )

    def _measure_leaks(self, model: MorphogeneticModel, profile: Profile) -> dict[str, float]:
        """Return slot -> norm of what passes between an isolated seed and the host; 0 = nothing does."""
        slots = [s for s in model.each_slot() if s.mode is SlotMode.INCUBATING and s.seed is not None]
        if not (profile.isolation_items and slots) or model.incubation.is_in_graph:
            return {}
        run = self._host
        inputs, targets = (part[: profile.isolation_items] for part in run.bench.validation)
        host = list(model.host_parameters().values())
        autocast = Autocast(inputs.device, run.config.amp)
        found: list[Tensor] = []
        with torch.enable_grad(), untouched_rng(inputs.device):
            with model.planned(_RECORDING):
                loss = run.bench.evaluator.compute_loss(model, inputs, targets)
            for slot in slots:
                into_seed = measure_reach(loss, list(model.seed_parameters(slot.slot_id).values()))
                with autocast.context():
                    residual = slot.compute_residual(_recorded(slot))
                found.append(into_seed + measure_reach(residual.float().square().sum(), host))
        model.forget_records()
        norms = torch.stack(found).tolist()  # sync: one for all seeds
        return {slot.slot_id: float(norm) for slot, norm in zip(slots, norms, strict=True)}


def _recorded(slot: SeedSlot) -> Tensor:
    assert slot.features is not None
    return slot.features


def _seed_ids(model: MorphogeneticModel) -> dict[str, str]:
    return {SEED_PREFIX + slot.slot_id: str(slot.state.seed_id) for slot in model.each_slot()}


def _find_learners(model: MorphogeneticModel) -> list[str]:
    """Return the slots whose seeds can learn now: not at alpha 0, not on their way out."""
    return [
        slot.slot_id
        for slot in model.each_slot()
        if slot.seed is not None
        and slot.mode is not SlotMode.SILENT
        and not slot.state.is_cull_pending
        and any(parameter.requires_grad for parameter in slot.seed.parameters())
    ]


def _describe_gradients(
    facts: GradientFacts, leaks: Mapping[str, float], epoch: int, profile: str
) -> GradientsMeasured | None:
    layers = {name: norm for name, norm in facts.norms.items() if not name.startswith(SEED_PREFIX)}
    if not layers:
        return None
    vanishing = tuple(name for name in facts.vanishing if name in layers)
    exploding = tuple(name for name in facts.exploding if name in layers)
    return GradientsMeasured(
        epoch=epoch,
        profile=profile,
        num_batches=facts.num_batches,
        health=compute_health(
            list(layers.values()), num_vanishing=len(vanishing), num_exploding=len(exploding)
        ),
        layers=layers,
        seeds={
            name.removeprefix(SEED_PREFIX): norm for name, norm in facts.norms.items() if name not in layers
        },
        vanishing=vanishing,
        exploding=exploding,
        quantiles={f"{fraction:.2f}": value for fraction, value in facts.quantiles.items()},
        leaks=leaks,
    )


def _describe_classes(facts: ClassFacts, epoch: int, profile: Profile) -> ClassesMeasured:
    return ClassesMeasured(
        epoch=epoch,
        num_items=facts.num_items,
        accuracy=facts.accuracy,
        loss=facts.loss,
        confusion=facts.confusion if profile.has_confusion else (),
    )


def _read_floats(row: JsonValue) -> dict[str, float]:
    if not isinstance(row, dict):
        raise ValueError(f"the state of diagnostics has {row!r} where norms are expected")
    return {str(name): float.fromhex(str(value)) for name, value in row.items()}
