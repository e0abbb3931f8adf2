"""One slot: the seed's module, its record, and what happens to the host's feature as it passes.

The slot's forward plan says what this pass needs beyond the stage: alpha overrides of a counterfactual, a
substituted feature, recording for incubation. The plan belongs to the model and is set for one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from esper.kasmina.blending import Seed, apply_blend
from esper.kasmina.blueprints.spec import SlotSpec
from esper.kasmina.isolation import pass_straight_through
from esper.kasmina.seed_state import SeedState
from esper.leyline import SeedStage


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPlan:
    """What one forward pass does at the slots beyond what their stages say.

    Example:
        ForwardPlan(overrides={"block2": 0.0})   # the counterfactual "without the seed in block2"
    """

    overrides: Mapping[str, float] = field(default_factory=dict)
    """Slot -> alpha for this pass; 0 skips the seed."""
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

    def __init__(self, spec: SlotSpec) -> None:
        """Make an empty slot for features of `spec`."""
        super().__init__()
        self.spec = spec
        self.state = SeedState(slot=spec.slot_id)
        self.seed: Seed | None = None
        self.plan = NORMAL_PLAN
        self.is_straight_through = False
        self.records_gradient = False
        self.features: Tensor | None = None
        self.feature_gradient: Tensor | None = None
        self.captured: Tensor | None = None
        self.watched: Tensor | None = None
        self.register_buffer("alpha_mirror", torch.zeros((), device=spec.device), persistent=False)

    @property
    def slot_id(self) -> str:
        """The slot's id."""
        return self.spec.slot_id

    def set_alpha(self, alpha: float) -> None:
        """Set the master alpha and the 0-dim buffer that compiled code reads."""
        self.state.alpha = alpha
        self.alpha_mirror.fill_(alpha)

    def follow_ramp(self, batch: int) -> None:
        """Move alpha to its place at the batch clock; a finished ramp is dropped."""
        ramp = self.state.ramp
        if ramp is None:
            return
        self.set_alpha(ramp.alpha_at(batch))
        if ramp.is_finished_at(batch):
            self.state.ramp = None

    def on_host_output(self, module: nn.Module, args: tuple[object, ...], output: Tensor) -> Tensor | None:
        """Forward hook on the host's module: return the changed feature, or None to leave it as it is."""
        del module, args
        plan, slot_id = self.plan, self.spec.slot_id
        if plan is not NORMAL_PLAN:
            if slot_id in plan.substitutes:
                return plan.substitutes[slot_id]
            if slot_id in plan.captures:
                self.captured = output
            if plan.is_watching:
                return self._watch(output)
        if self.seed is None:
            return None
        return self._forward_seed(self.seed, output)

    def pass_through(self, h: Tensor) -> Tensor:
        """Return the feature after this slot under the present plan (used to restart a pass here)."""
        if self.seed is None:
            return h
        changed = self._forward_seed(self.seed, h)
        return h if changed is None else changed

    def _forward_seed(self, seed: Seed, h: Tensor) -> Tensor | None:
        if self.plan.is_exporting:
            residual: Tensor = seed(h)
            return h + residual if self.state.alpha == 1.0 else h + self.state.alpha * residual
        override = self.plan.overrides.get(self.spec.slot_id)
        if override is not None:
            if override == 0.0:
                return None
            alpha = torch.full_like(self.alpha_mirror, override)
            return apply_blend(h, seed(_plain(h)), alpha)
        if self.state.stage is SeedStage.TRAINING and self.plan.is_recording:
            return self._record(seed, h)
        if not self.state.stage.affects_output or self.state.alpha == 0.0:
            return None
        return apply_blend(h, seed(_plain(h)), self.alpha_mirror)

    def _record(self, seed: Seed, h: Tensor) -> Tensor | None:
        features = h.detach()
        if self.is_straight_through:
            return pass_straight_through(h, seed(_plain(features)))
        self.features = features
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


def _plain(h: Tensor) -> Tensor:
    """Return h in plain contiguous layout.

    Group norm's backward on the CPU crashes on channels-last input that needs no gradient (torch 2.13), and
    a seed's input is exactly that while it incubates.
    """
    return h.contiguous()
