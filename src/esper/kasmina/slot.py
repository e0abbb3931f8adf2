"""One slot: the seed's module, its record, and what happens to the host's feature as it passes.

The slot's forward plan says what this pass needs beyond the stage: alpha overrides of a counterfactual, a
substituted feature, recording for incubation. The plan belongs to the model and is set for one call.
What the stage means for a forward pass is one of three modes, so that compiled code, which is guarded by what
it read, stays valid while alpha moves and while a seed passes from stage to stage at work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import final

import torch
from torch import Tensor, nn

from esper.kasmina.blending import Seed, apply_blend
from esper.kasmina.blueprints.spec import SlotSpec
from esper.kasmina.seed_state import SeedState
from esper.kasmina.tap import CANONICAL, Tap
from esper.leyline import HostError, SeedStage

Teacher = Callable[[Tensor, Tensor], Tensor]
"""(feature, residual) -> the feature bit for bit; in the backward pass the residual gets its gradient."""


@final
class SlotMode(Enum):
    """What a slot does to a feature in an ordinary pass."""

    SILENT = "silent"
    """Nothing: no seed, or one that does not affect the output now."""
    INCUBATING = "incubating"
    """The output stays; a seed may learn from what passes."""
    OPEN = "open"
    """The seed's residual is added."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPlan:
    """What one forward pass does at the slots beyond what their stages say.

    Example:
        ForwardPlan(overrides={"block2": 0.0})   # the counterfactual "without the seed in block2"
    """

    overrides: Mapping[str, float] = field(default_factory=dict)
    """Slot -> alpha for this pass; 0 skips the seed."""
    is_cut: bool = False
    """Whether overridden slots cut the graph: gradients reach their seeds, and nothing before them."""
    substitutes: Mapping[str, Tensor] = field(default_factory=dict)
    """Slot -> feature that replaces everything up to and including the slot."""
    is_recording: bool = False
    """Whether slots that incubate keep the feature (and its gradient) for their own loss."""
    is_exporting: bool = False
    """Whether a graph is being traced: seeds enter as plain arithmetic, without casts or buffers."""
    captures: frozenset[str] = frozenset()
    """Slots that keep the feature as it arrives, for passes that start there."""
    is_watching: bool = False
    """Whether every slot keeps the feature as it leaves, as a point that gradients can be asked for."""


NORMAL_PLAN = ForwardPlan()


@final
class SeedSlot(nn.Module):
    """A place where a seed can live. Empty, it owns no parameter and returns the host's output itself."""

    alpha_mirror: Tensor

    def __init__(self, spec: SlotSpec, tap: Tap | None = None) -> None:
        """Make an empty slot for features of `spec`.

        Args:
            spec: What passes, as seeds see it.
            tap: Where it is in the module's output; None = the output is the feature, axes as in `spec`.
        """
        super().__init__()
        self.spec = spec
        self.tap = Tap(arrangement=CANONICAL[spec.layout]) if tap is None else tap
        self.state = SeedState(slot=spec.slot_id)
        self.seed: Seed | None = None
        self.mode = SlotMode.SILENT
        self.plan = NORMAL_PLAN
        self.teacher: Teacher | None = None
        """Where set, an incubating seed learns in the host's own backward pass, through this."""
        self.is_always_taught = False
        """Whether it does so in every pass with gradients, not in recorded ones alone."""
        self.records_gradient = False
        self.features: Tensor | None = None
        self.feature_gradient: Tensor | None = None
        self.captured: Tensor | None = None
        self.entering: Tensor | None = None
        """In a slot that spans two layers: the first one's input, from its call to the second one's."""
        self.recorded_input: Tensor | None = None
        """What the seed takes beside recorded or captured features, where it is not the feature itself."""
        self.watched: Tensor | None = None
        self.register_buffer("alpha_mirror", torch.zeros((), device=spec.device), persistent=False)

    @property
    def slot_id(self) -> str:
        """The slot's id."""
        return self.spec.slot_id

    @property
    def is_open(self) -> bool:
        """Whether the seed is blended into the host's pass now."""
        return self.mode is SlotMode.OPEN

    def set_alpha(self, alpha: float) -> None:
        """Set the master alpha and the 0-dim buffer that compiled code reads."""
        self.state.alpha = alpha
        self.alpha_mirror.fill_(alpha)
        self.update_mode()

    def update_mode(self) -> None:
        """Derive the mode from seed, stage and alpha; called by whatever changes one of them."""
        mode = SlotMode.SILENT
        if self.seed is not None and self.state.stage is SeedStage.TRAINING:
            mode = SlotMode.INCUBATING
        elif self.seed is not None and self.state.stage.affects_output and self.state.alpha != 0.0:
            mode = SlotMode.OPEN
        if mode is not self.mode:  # asked first: a module's attribute is slow to set
            self.mode = mode

    def follow_ramp(self, batch: int) -> None:
        """Move alpha to its place at the batch clock; a finished ramp is dropped."""
        ramp = self.state.ramp
        if ramp is None:
            return
        self.set_alpha(ramp.alpha_at(batch))
        if ramp.is_finished_at(batch):
            self.state.ramp = None

    def on_pair_input(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Forward pre-hook on the first of two layers: keep its input until the second has run."""
        del module
        if self.mode is SlotMode.SILENT and self.plan is NORMAL_PLAN:
            return
        given = args[0] if args else next(iter(kwargs.values()))
        # No check of the kind: a tracer hands over what stands for a tensor.
        self.entering = self.tap.arrangement.to_canonical(given)  # type: ignore[arg-type]

    def on_host_output(self, module: nn.Module, args: tuple[object, ...], output: object) -> object | None:
        """Forward hook on the host's module: return the changed output, or None to leave it as it is."""
        del module, args
        if self.mode is SlotMode.SILENT and self.plan is NORMAL_PLAN:
            return None
        h = self.tap.take(output)
        try:
            changed = self._change(h)
        finally:
            if self.entering is not None:
                self.entering = None
        return None if changed is None else self.tap.put(output, changed)

    def _change(self, h: Tensor) -> Tensor | None:
        plan, slot_id = self.plan, self.spec.slot_id
        if plan is not NORMAL_PLAN:
            if slot_id in plan.substitutes:
                return plan.substitutes[slot_id]
            if slot_id in plan.captures:
                self.captured = h
                self.recorded_input = self.entering
            if plan.is_watching:
                return self._watch(h)
        return None if self.seed is None else self._forward_seed(self.seed, h)

    def pass_through(self, h: Tensor) -> Tensor:
        """Return the feature after this slot under the present plan (used to restart a pass here)."""
        if self.seed is None:
            return h
        changed = self._forward_seed(self.seed, h)
        return h if changed is None else changed

    def _forward_seed(self, seed: Seed, h: Tensor) -> Tensor | None:
        if self.plan.is_exporting:
            residual: Tensor = seed(self._input_of_seed(h))
            return h + residual if self.state.alpha == 1.0 else h + self.state.alpha * residual
        override = self.plan.overrides.get(self.spec.slot_id)
        if override is not None:
            if override == 0.0:
                return None
            alpha = torch.full_like(self.alpha_mirror, override)
            taken = _plain(self._input_of_seed(h))
            if self.plan.is_cut:
                h, taken = h.detach(), taken.detach()
            return apply_blend(h, seed(taken), alpha)
        if self.mode is SlotMode.INCUBATING:
            return self._incubate(seed, h)
        if self.mode is SlotMode.SILENT:
            return None
        return apply_blend(h, seed(_plain(self._input_of_seed(h))), self.alpha_mirror)

    def _input_of_seed(self, h: Tensor) -> Tensor:
        """Return what the seed takes: the feature, or what went into the first of two layers.

        Raises:
            HostError: If the second of two layers was called in a pass that did not call the first.
        """
        if self.spec.pair is None:
            return h
        if self.entering is None:
            raise HostError(
                f"slot {self.spec.slot_id!r}: {self.spec.pair.second.path!r} ran without "
                f"{self.spec.pair.first.path!r} before it in the same pass, as both did on the sample"
            )
        return self.entering

    def compute_residual(self, features: Tensor) -> Tensor:
        """Return what the seed makes of a recorded pass.

        Args:
            features: [B, ...] as recorded or captured; a slot that spans two layers takes what it recorded
                of the first one's input instead.
        """
        assert self.seed is not None
        taken = features if self.spec.pair is None else self.recorded_input
        assert taken is not None
        residual: Tensor = self.seed(_plain(taken))
        return residual

    def _incubate(self, seed: Seed, h: Tensor) -> Tensor | None:
        if self.teacher is not None:
            if self.plan.is_recording or (self.is_always_taught and torch.is_grad_enabled()):
                return self.teacher(h, seed(_plain(self._input_of_seed(h).detach())))
            return None
        if self.plan.is_recording:
            self.features = h.detach()
            if self.spec.pair is not None:
                self.recorded_input = self._input_of_seed(h).detach()
            if self.records_gradient and h.requires_grad:
                h.register_hook(self._keep_gradient)  # type: ignore[no-untyped-call]
        return None

    def _watch(self, h: Tensor) -> Tensor:
        leaving = self.pass_through(h)
        # A frozen host gives features without a gradient: the graph then begins here.
        self.watched = leaving if leaving.requires_grad else leaving.detach().requires_grad_()
        # A copy goes on, because what follows may work in place.
        return self.watched.clone()

    def _keep_gradient(self, gradient: Tensor) -> None:
        self.feature_gradient = gradient.detach()

    def forget_records(self) -> None:
        """Drop recorded features and gradients, so that no batch outlives its step."""
        # Looked at first: a module's attribute is slow to set, and most slots recorded nothing.
        if self.features is not None:
            self.features = None
        if self.feature_gradient is not None:
            self.feature_gradient = None
        if self.captured is not None:
            self.captured = None
        if self.watched is not None:
            self.watched = None
        if self.entering is not None:
            self.entering = None
        if self.recorded_input is not None:
            self.recorded_input = None

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy takes along: not the input of a pass that ended between two layers."""
        return self.__dict__ | {"entering": None}


def _plain(h: Tensor) -> Tensor:
    """Return h in plain contiguous layout.

    Group norm's backward on the CPU crashes on channels-last input that needs no gradient (torch 2.13), and
    a seed's input is exactly that while it incubates.
    """
    return h.contiguous()
