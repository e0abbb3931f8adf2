"""What `esper.grow` returns: somebody's model with slots beside it, and the verbs by which it grows by hand.

```
grown(x)                     the host's own forward, seeds included
grown["stages.1"]            one slot: germinate, blend, fossilize, cull
grown.summary()  .export()   what it has become, and the plain module that leaves
```
Holds the grown model and hands on; decides nothing. A controller, once there is one, is told of every move,
so that the optimiser follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from torch import nn

from esper.kasmina import (
    Clock,
    Exported,
    GrowthPoint,
    Inputs,
    MorphogeneticModel,
    Summary,
    export_grafted,
    summarize,
)
from esper.leyline import (
    Action,
    AlphaCurve,
    BlendForm,
    ConfigError,
    Event,
    IllegalTransitionError,
    LifecycleOp,
    SeedStage,
    TamiyoPolicy,
    UnknownNameError,
    derive_seed,
    suggest,
)
from esper.runtime.loop_events import LoopEvent, LoopNarrator
from esper.tolaria import Budget, LoopController

if TYPE_CHECKING:
    from collections.abc import Sequence


_COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthPlan:
    """What `grow` was told and a controller will need."""

    policy: TamiyoPolicy | str
    """A policy, or what a command line calls one."""
    blueprints: tuple[str, ...]
    budget: Budget
    seed: int


@final
class Growable(nn.Module):
    """A model that can grow.

    Example:
        grown = esper.grow(model, at=["stages.*"], sample=images[:2])
        grown["stages.1"].germinate("conv_light")
    """

    def __init__(
        self, model: MorphogeneticModel, points: Sequence[GrowthPoint], sample: Inputs, plan: GrowthPlan
    ) -> None:
        """Hold a grown model; use `esper.grow`."""
        super().__init__()
        self.model = model
        self.points = tuple(points)
        self.sample = sample
        self.plan = plan
        self.narrator = LoopNarrator(host_params=model.host_params, slots=model.slot_ids)
        # In a tuple, because it holds this model and must not be taken for a part of it.
        self._controllers: tuple[LoopController, ...] = ()

    # ------------------------------------------------------------------ a module like the host

    @property
    def host(self) -> nn.Module:
        """The model that was given, untouched: its state-dict keys and its forward are its own."""
        return self.model.host

    def forward(self, *args: object, **kwargs: object) -> object:
        """Run the host with its seeds on the host's own arguments; returns what the host returns."""
        return self.model(*args, **kwargs)

    def compile(self, *, mode: str = "default") -> None:
        """Compile the host's forward, hooks included, anew for each topology.

        Args:
            mode: Of `torch.compile`: "default", "reduce-overhead", "max-autotune".

        Raises:
            UnknownNameError: If there is no such mode.
        """
        if mode not in _COMPILE_MODES:
            raise UnknownNameError("mode", mode, _COMPILE_MODES)
        self.model.compile_host(mode)

    # ------------------------------------------------------------------ what it has become

    def summary(self) -> Summary:
        """Return a table of slots, stages, parameters, FLOPs and contributions; printable, and as HTML."""
        return summarize(self.model)

    def export(self, *, merge: bool = False, allow_unfinished: bool = False) -> nn.Module:
        """Return the network as a plain module in eval mode, without hooks, slots or anything of esper.

        Args:
            merge: Fold seeds that are linear into the weights of their layers, where that is exact.
            allow_unfinished: Leave out seeds that are still in flight instead of refusing.

        Raises:
            ExportError: If a seed is in flight and may not be left out, or the copy differs on the sample.
        """
        return self.export_record(merge=merge, allow_unfinished=allow_unfinished).module

    def export_record(self, *, merge: bool = False, allow_unfinished: bool = False) -> Exported:
        """Return what `export` returns, with what was folded, what could not be, and each graft's code.

        Raises:
            ExportError: As `export`.
        """
        return export_grafted(self.model, self.sample, allow_unfinished=allow_unfinished, merge=merge)

    # ------------------------------------------------------------------ slots

    @property
    def slot_ids(self) -> tuple[str, ...]:
        """Ids of the slots, in forward order."""
        return self.model.slot_ids

    def __getitem__(self, slot_id: str) -> SlotHandle:
        """Return the handle of one slot.

        Raises:
            UnknownNameError: If there is no such slot.
        """
        if slot_id not in self.model.slot_ids:
            raise UnknownNameError("slot", slot_id, self.model.slot_ids)
        return SlotHandle(self, slot_id)

    @property
    def controller(self) -> LoopController | None:
        """What grows this model in a loop; None before there is one."""
        return self._controllers[0] if self._controllers else None

    def attach(self, controller: LoopController) -> None:
        """Let a controller follow every move from here on.

        Raises:
            ConfigError: If there is one already.
        """
        if self._controllers:
            raise ConfigError("this model has a controller already: close() it before another takes over")
        self._controllers = (controller,)

    def detach(self) -> None:
        """Forget the controller."""
        self._controllers = ()

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy takes along: everything but the controller, which belongs to one loop."""
        return self.__dict__ | {"_controllers": ()}


@final
class SlotHandle:
    """One slot, moved by hand. No gate is asked; the table of stages is obeyed all the same."""

    def __init__(self, grown: Growable, slot_id: str) -> None:
        """Address a slot of a grown model."""
        self._grown = grown
        self._slot = grown.model.slot(slot_id)

    def germinate(self, blueprint: str, *, blend: str = "add", seed: int | None = None) -> LoopEvent:
        """Plant a seed, and let it learn from the next batch on.

        Args:
            blueprint: Id, as `grown.model.registry.ids` lists them.
            blend: "add", "gate" or "valve".
            seed: Of its weights; None = drawn from the model's own seed.

        Raises:
            IllegalTransitionError: If the slot is not empty; lists what is legal.
            UnknownNameError: If blueprint or blend is unknown.
            ConfigError: If the blueprint does not fit here.
        """
        model, slot = self._grown.model, self._slot
        spec = model.registry.get(blueprint)
        if not spec.fits(slot.spec):
            fitting = model.registry.fitting(slot.spec)
            raise ConfigError(
                f"blueprint {blueprint!r} does not fit slot {slot.slot_id!r} ({slot.spec.layout.value} "
                f"{list(slot.spec.shape)}): {suggest(blueprint, fitting)}"
            )
        forms = {form.value: form for form in BlendForm}
        if blend not in forms:
            raise UnknownNameError("blend", blend, forms)
        action = Action(op=LifecycleOp.GERMINATE, slot=slot.slot_id, blueprint=blueprint, blend=forms[blend])
        number = slot.state.num_germinations
        build_seed = (
            derive_seed(self._grown.plan.seed, "hand", slot.slot_id, number) if seed is None else seed
        )
        events = model.apply_action(action, self._clock(), build_seed=build_seed)
        events += model.lifecycle.move_by_hand(slot, SeedStage.TRAINING, self._clock())
        told = self._tell(events)
        if self._grown.controller is None:
            told = replace(told, text=f"{told.text}; {_untrained(slot.slot_id)}")
        return told

    def blend(self, steps: int, shape: str = "linear") -> LoopEvent:
        """Let the seed into the network: alpha goes from 0 to 1.

        Args:
            steps: Optimiser steps that the ramp takes, >= 0; 0 = at once.
            shape: "linear", "cosine" or "sigmoid".

        Raises:
            IllegalTransitionError: If there is no seed that could blend in; lists what is legal.
            ConfigError: If steps are to be counted and no controller counts them.
        """
        curves = {curve.value: curve for curve in AlphaCurve}
        if shape not in curves:
            raise UnknownNameError("shape", shape, curves)
        if steps < 0:
            raise ConfigError(f"steps={steps}: must be >= 0")
        if steps and self._grown.controller is None:
            raise ConfigError(
                "nothing counts steps here: make esper.Controller(grown, optimizer) first, or blend(steps=0)"
            )
        slot, model, clock = self._slot, self._grown.model, self._clock()
        state, paced = slot.state, _pace(clock, steps)
        before = (state.curve, state.tempo_epochs, state.alpha_target)
        state.curve, state.tempo_epochs, state.alpha_target = curves[shape], 1, 1.0
        try:
            events = model.lifecycle.move_by_hand(slot, SeedStage.BLENDING, paced)
        except IllegalTransitionError:
            state.curve, state.tempo_epochs, state.alpha_target = before
            raise
        slot.follow_ramp(clock.batch if steps else clock.batch + 1)
        return self._tell(events)

    def fossilize(self) -> LoopEvent:
        """Keep the seed for good; its alpha must have arrived at 1.

        Raises:
            IllegalTransitionError: If it has not, or no seed is here; lists what is legal.
        """
        events = self._grown.model.lifecycle.move_by_hand(self._slot, SeedStage.FOSSILIZED, self._clock())
        return self._tell(events)

    def cull(self, steps: int = 0) -> LoopEvent:
        """Remove the seed, at once or after alpha has gone down to 0.

        Args:
            steps: Optimiser steps that the way down takes, >= 0.

        Raises:
            IllegalTransitionError: If no live seed is here; lists what is legal.
        """
        clock = self._clock()
        events = self._grown.model.lifecycle.cull(
            self._slot, _pace(clock, steps), "by hand", tempo_epochs=1 if steps else 0
        )
        return self._tell(events)

    @property
    def stage(self) -> str:
        """Name of the present stage."""
        return self._slot.state.stage.value

    @property
    def alpha(self) -> float:
        """Present alpha, in [0, 1]."""
        return self._slot.state.alpha

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Return the seed's parameters, for an optimiser; empty without a seed."""
        return tuple(parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> tuple[tuple[str, nn.Parameter], ...]:
        """Return the seed's parameters with their names in the grown model; empty without a seed."""
        return tuple(self._grown.model.seed_parameters(self._slot.slot_id).items())

    def __repr__(self) -> str:
        """Return the slot's id, stage and alpha."""
        return f"SlotHandle({self._slot.slot_id!r}, {self.stage}, alpha {self.alpha:.3g})"

    def _clock(self) -> Clock:
        controller = self._grown.controller
        return Clock(epoch=0, batch=0, batches_per_epoch=1) if controller is None else controller.clock

    def _tell(self, events: Sequence[Event]) -> LoopEvent:
        controller = self._grown.controller
        if controller is not None:
            controller.tell(events)
        # Of what happened on the way the last sentence says what was done.
        return [event for event in self._grown.narrator.tell(events) if event.text][-1]


def _untrained(slot_id: str) -> str:
    return (
        "no controller trains it yet: make esper.Controller(grown, optimizer), "
        f"or give grown[{slot_id!r}].parameters() to the optimiser"
    )


def _pace(clock: Clock, steps: int) -> Clock:
    """Return a clock on which one interval is a number of steps."""
    return Clock(epoch=clock.epoch, batch=clock.batch, batches_per_epoch=max(1, steps))
