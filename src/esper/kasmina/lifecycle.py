"""The state machine of a slot, and the only writer of a stage.

```
germinate          DORMANT > GERMINATED                     builds nothing: the model hands in the module
advance            GERMINATED > TRAINING > BLENDING > PROBATIONARY, each through its gate
fossilize          PROBATIONARY > FOSSILIZED                through G4 and G5
cull               live > CULLED, at once at alpha 0, else when the ramp down to 0 has ended
tick               every slot, every epoch: clocks, automatic moves, CULLED > EMBARGOED > RESETTING > DORMANT
```
Every move obeys `TRANSITIONS`; a refused one raises and changes nothing. The one listed exception is
`restore`, which puts a saved record back after a load or a rollback. What entering a stage does to the slot
is the table `_ENTRY_EFFECTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from esper.kasmina.blending import AlphaRamp, Seed
from esper.kasmina.config import LifecycleConfig
from esper.kasmina.gates import GateResult, QualityGates
from esper.kasmina.seed_state import SeedState
from esper.kasmina.slot import SeedSlot
from esper.leyline import (
    Action,
    AlphaCurve,
    AlphaRetargeted,
    Event,
    GateEvaluated,
    IllegalTransitionError,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedStage,
    StageChanged,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where the host stands."""

    epoch: int
    """Decision intervals finished."""
    batch: int
    """Batches finished since the run began."""
    batches_per_epoch: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """A seed that the model has built and checked, ready to be planted."""

    seed: Seed
    build_seed: int
    num_params: int
    flops_per_item: int


@final
class Lifecycle:
    """Moves slots along the transition table; returns what happened as events."""

    def __init__(self, config: LifecycleConfig, gates: QualityGates) -> None:
        """Bind the settings and the gates that guard each move."""
        self.config = config
        self.gates = gates

    # ------------------------------------------------------------------ moves on request

    def germinate(self, slot: SeedSlot, action: Action, birth: Birth, clock: Clock) -> list[Event]:
        """Plant a built seed: DORMANT > GERMINATED through G0.

        Raises:
            IllegalTransitionError: If the slot is not DORMANT; nothing was changed.
        """
        state = slot.state
        gate = self.gates.check_germination(state, fits=True)
        events = [self._ask(state, gate, clock, "germinate")]
        state.num_germinations += 1
        state.seed_id = f"{state.slot}#{state.num_germinations}"
        state.blueprint = action.blueprint
        state.blend, state.curve = action.blend, action.curve
        state.tempo_epochs, state.alpha_target = action.tempo_epochs, action.alpha_target
        state.birth_batch, state.build_seed = clock.batch, birth.build_seed
        state.num_params, state.flops_per_item = birth.num_params, birth.flops_per_item
        state.cull_reason = None
        slot.seed = birth.seed
        events += self._move(slot, SeedStage.GERMINATED, clock, "germinated")
        events.append(
            SeedGerminated(
                epoch=clock.epoch,
                slot=state.slot,
                seed_id=state.seed_id,
                blueprint=str(state.blueprint),
                blend=state.blend.value,
                num_params=birth.num_params,
                flops_per_item=birth.flops_per_item,
            )
        )
        return events

    def advance(self, slot: SeedSlot, clock: Clock, reason: str = "advance") -> list[Event]:
        """Move to the next stage of the success path short of FOSSILIZED, through its gate.

        Raises:
            IllegalTransitionError: If the gate refuses or the stage has no such successor.
        """
        state = slot.state
        checks: Mapping[SeedStage, tuple[Callable[[SeedState], GateResult], SeedStage]] = {
            SeedStage.GERMINATED: (self.gates.check_training, SeedStage.TRAINING),
            SeedStage.TRAINING: (self.gates.check_blending, SeedStage.BLENDING),
            SeedStage.BLENDING: (self.gates.check_probation, SeedStage.PROBATIONARY),
        }
        if state.stage not in checks or state.is_cull_pending:
            raise _illegal(state, "advance")
        check, target = checks[state.stage]
        asked = self._ask(state, check(state), clock, "advance")
        return [asked, *self._move(slot, target, clock, reason)]

    def fossilize(self, slot: SeedSlot, clock: Clock) -> list[Event]:
        """Keep the seed for good: PROBATIONARY > FOSSILIZED through G4 and G5.

        Raises:
            IllegalTransitionError: If a gate refuses.
        """
        state = slot.state
        if state.stage is not SeedStage.PROBATIONARY or state.is_cull_pending:
            raise _illegal(state, "fossilize")
        events = [
            self._ask(state, self.gates.check_stability(state), clock, "fossilize"),
            self._ask(state, self.gates.check_fossilization(state), clock, "fossilize"),
        ]
        return [*events, *self._move(slot, SeedStage.FOSSILIZED, clock, "kept"), _tell_kept(state, clock)]

    def cull(
        self,
        slot: SeedSlot,
        clock: Clock,
        reason: str,
        *,
        tempo_epochs: int = 0,
        curve: AlphaCurve = AlphaCurve.LINEAR,
    ) -> list[Event]:
        """Remove the seed: at once at alpha 0 or with tempo 0, else after alpha has ramped down to 0.

        Raises:
            IllegalTransitionError: If no live seed is here.
        """
        state = slot.state
        if not state.stage.is_live:
            raise _illegal(state, "cull")
        if state.alpha == 0.0 or tempo_epochs == 0:
            return self._remove(slot, clock, reason)
        state.is_cull_pending = True
        state.cull_reason = reason
        return [self._ramp(slot, clock, 0.0, tempo_epochs, curve)]

    def retarget(self, slot: SeedSlot, action: Action, clock: Clock) -> list[Event]:
        """Give alpha a new target; the stage stays.

        Raises:
            IllegalTransitionError: If the seed is not in BLENDING or PROBATIONARY.
        """
        state = slot.state
        if state.stage not in (SeedStage.BLENDING, SeedStage.PROBATIONARY) or state.is_cull_pending:
            raise _illegal(state, "set alpha of")
        state.alpha_target = action.alpha_target
        return [self._ramp(slot, clock, action.alpha_target, action.tempo_epochs, action.curve)]

    def move_by_hand(self, slot: SeedSlot, target: SeedStage, clock: Clock) -> list[Event]:
        """Move along the success path to a stage without asking a gate; the table is obeyed all the same.

        Raises:
            IllegalTransitionError: If the stage does not lie ahead, or alpha is not at 1 yet.
        """
        state, ahead = slot.state, _stages_ahead(slot.state.stage)
        if state.is_cull_pending or not state.stage.is_live or target not in ahead:
            raise _illegal(state, f"move to {target.value}")
        is_past_ramp = not target.is_isolated and target is not SeedStage.BLENDING
        if is_past_ramp and (state.ramp is not None or state.alpha < 1.0):
            raise _illegal(state, f"move to {target.value}", f"alpha is {state.alpha:.3g} of 1")
        steps = ahead[: ahead.index(target) + 1]
        events = [event for stage in steps for event in self._move(slot, stage, clock, "by hand")]
        return [*events, _tell_kept(state, clock)] if target is SeedStage.FOSSILIZED else events

    # ------------------------------------------------------------------ moves by the clock

    def begin_epoch(self, slot: SeedSlot, clock: Clock) -> list[Event]:
        """Before training: a germinated seed starts to train, where that is automatic."""
        if slot.state.stage is SeedStage.GERMINATED and self.config.is_germinated_automatic:
            return self.advance(slot, clock, "automatic")
        return []

    def tick(self, slot: SeedSlot, clock: Clock) -> list[Event]:
        """After measuring, for EVERY slot: advance its clocks and make the moves that time alone makes."""
        state = slot.state
        state.epochs_in_stage += 1
        if state.stage.has_seed:
            state.seed_age_epochs += 1
        if state.is_cull_pending and state.ramp is None and state.alpha == 0.0:
            return self._remove(slot, clock, str(state.cull_reason))
        if state.stage.is_cooldown:
            return self._cool_down(slot, clock)
        if state.is_cull_pending:
            return []
        if state.stage is SeedStage.BLENDING and self.config.is_blending_automatic:
            return self._advance_if_ready(slot, clock)
        if state.stage is SeedStage.TRAINING and self.config.is_training_automatic:
            return self._advance_if_ready(slot, clock)
        timeout = self.config.probation_timeout_epochs
        if state.stage is SeedStage.PROBATIONARY and timeout is not None and state.epochs_in_stage >= timeout:
            return self.cull(slot, clock, f"timeout after {timeout} epochs on probation", tempo_epochs=1)
        return []

    def restore(self, slot: SeedSlot, state: SeedState, seed: Seed | None) -> None:
        """Put a saved record and its module back: the one move that does not follow the table.

        Raises:
            ValueError: If the record says that a seed lives here and none was handed in, or the reverse.
        """
        if state.stage.has_seed != (seed is not None):
            raise ValueError(f"slot {state.slot!r}: stage {state.stage.value} does not match its module")
        slot.state = state
        slot.seed = seed
        slot.forget_records()
        slot.set_alpha(state.alpha)

    # ------------------------------------------------------------------ inside

    def _advance_if_ready(self, slot: SeedSlot, clock: Clock) -> list[Event]:
        if self.gates.refuse_advance(slot.state) is not None:
            return []
        return self.advance(slot, clock, "automatic")

    def _cool_down(self, slot: SeedSlot, clock: Clock) -> list[Event]:
        state = slot.state
        if state.stage is SeedStage.CULLED:
            return self._move(slot, SeedStage.EMBARGOED, clock, "cooling down")
        if state.stage is SeedStage.EMBARGOED and state.epochs_in_stage >= self.config.embargo_epochs:
            return self._move(slot, SeedStage.RESETTING, clock, "embargo over")
        if state.stage is SeedStage.RESETTING and state.epochs_in_stage >= self.config.reset_epochs:
            return self._move(slot, SeedStage.DORMANT, clock, "free again")
        return []

    def _remove(self, slot: SeedSlot, clock: Clock, reason: str) -> list[Event]:
        state = slot.state
        culled = SeedCulled(
            epoch=clock.epoch,
            slot=state.slot,
            seed_id=str(state.seed_id),
            blueprint=str(state.blueprint),
            num_params=state.num_params,
            age_epochs=state.seed_age_epochs,
            reason=reason,
            contribution=None if state.contribution is None else state.contribution.mean,
        )
        moved = self._move(slot, SeedStage.CULLED, clock, reason)
        state.cull_reason = reason
        return [*moved, culled]

    def _ramp(self, slot: SeedSlot, clock: Clock, target: float, tempo: int, curve: AlphaCurve) -> Event:
        state = slot.state
        state.tempo_epochs, state.curve = tempo, curve
        state.ramp = _build_ramp(state.alpha, target, state, clock)
        return AlphaRetargeted(
            epoch=clock.epoch,
            slot=state.slot,
            seed_id=str(state.seed_id),
            alpha=state.alpha,
            target=target,
            tempo_epochs=tempo,
            curve=curve.value,
        )

    def _ask(self, state: SeedState, gate: GateResult, clock: Clock, verb: str) -> Event:
        if not gate.is_passed:
            raise _illegal(state, verb, gate.reason)
        return GateEvaluated(
            epoch=clock.epoch,
            slot=state.slot,
            seed_id=state.seed_id or "",
            gate=gate.gate,
            is_passed=True,
            passed=gate.passed,
            failed=(),
            measured=gate.measured,
        )

    def _move(self, slot: SeedSlot, target: SeedStage, clock: Clock, reason: str) -> list[Event]:
        state = slot.state
        if not state.stage.can_become(target):
            raise _illegal(state, f"move to {target.value}")
        old, seed_id = state.stage, state.seed_id
        state.previous_stage = old
        state.epochs_in_previous_stage = state.epochs_in_stage
        state.epochs_in_stage = 0
        state.stage = target
        state.record_stage(target, clock.epoch)
        _ENTRY_EFFECTS.get(target, _enter_quietly)(slot, clock)
        slot.update_mode()
        return [
            StageChanged(
                epoch=clock.epoch,
                slot=state.slot,
                seed_id=seed_id,
                old=old.value,
                new=target.value,
                reason=reason,
            )
        ]


def _tell_kept(state: SeedState, clock: Clock) -> Event:
    estimate = state.contribution
    return SeedFossilized(
        epoch=clock.epoch,
        slot=state.slot,
        seed_id=str(state.seed_id),
        blueprint=str(state.blueprint),
        num_params=state.num_params,
        age_epochs=state.seed_age_epochs,
        contribution=None if estimate is None else estimate.mean,
        contribution_error=None if estimate is None else estimate.standard_error,
        credit=state.credit,
    )


def _build_ramp(start: float, target: float, state: SeedState, clock: Clock) -> AlphaRamp:
    return AlphaRamp(
        start_value=start,
        target=target,
        start_batch=clock.batch,
        num_batches=max(1, state.tempo_epochs * clock.batches_per_epoch),
        curve=state.curve,
    )


def _stages_ahead(stage: SeedStage) -> list[SeedStage]:
    """Return the stages of the success path after one, in order."""
    later = stage.successors[:1]
    return [*later, *_stages_ahead(later[0])] if later else []


def _enter_quietly(slot: SeedSlot, clock: Clock) -> None:
    del slot, clock


def _enter_training(slot: SeedSlot, clock: Clock) -> None:
    slot.state.birth_batch = clock.batch


def _enter_blending(slot: SeedSlot, clock: Clock) -> None:
    state = slot.state
    state.clear_measurements()
    state.gate_metric_at_blend_start = state.gate_metric_now
    state.metric_at_stage_start = state.metric_now
    state.ramp = _build_ramp(0.0, state.alpha_target, state, clock)
    slot.forget_records()


def _enter_probation(slot: SeedSlot, clock: Clock) -> None:
    del clock
    slot.state.clear_measurements()
    slot.state.metric_at_stage_start = slot.state.metric_now


def _enter_cull(slot: SeedSlot, clock: Clock) -> None:
    del clock
    slot.seed = None
    slot.state.clear_seed()
    slot.set_alpha(0.0)
    slot.forget_records()


_ENTRY_EFFECTS: Mapping[SeedStage, Callable[[SeedSlot, Clock], None]] = MappingProxyType(
    {
        SeedStage.TRAINING: _enter_training,
        SeedStage.BLENDING: _enter_blending,
        SeedStage.PROBATIONARY: _enter_probation,
        SeedStage.CULLED: _enter_cull,
    }
)
"""Stage -> what entering it does to the slot; a stage without an entry does nothing."""


def _illegal(state: SeedState, verb: str, detail: str | None = None) -> IllegalTransitionError:
    legal = ", ".join(stage.value for stage in state.stage.successors) or "none"
    pending = " (a cull is under way)" if state.is_cull_pending else ""
    why = f": {detail}" if detail else ""
    return IllegalTransitionError(
        f"cannot {verb} slot {state.slot!r} in stage {state.stage.value}{pending}{why}; "
        f"legal next stages: {legal}"
    )
