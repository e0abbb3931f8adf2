"""Policies without judgement: one that never grows, and one that visits every kind of operation fast."""

from __future__ import annotations

from typing import final

from esper.leyline import (
    Action,
    Decision,
    LifecycleOp,
    Observation,
    SeedStage,
    SlotReport,
    refuse_action,
    refuse_op,
)
from esper.tamiyo.masks import choosable_ops, growable_blueprints
from esper.tamiyo.memory import read_bool, read_keys, read_optional_text


@final
class NeverGrow:
    """Always waits: the host alone, the arm that growth must beat."""

    def decide(self, observation: Observation) -> Decision:
        """Answer WAIT."""
        del observation
        return Decision(reason="wait: this policy never grows")

    def reset(self) -> None:
        """Do nothing: there is no memory."""

    def state(self) -> dict[str, object]:
        """Return an empty memory."""
        return {}

    def restore(self, state: dict[str, object]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If the memory is another policy's.
        """
        read_keys("never", state, ())


@final
class ForcedCyclePolicy:
    """For a dry run: one seed through the whole success path and one cull, as fast as legality allows.

    The cull comes in another slot than the kept seed, or before it where the host has one slot. It takes the
    smallest blueprints and the shortest ramps, uses legal operations only, and judges nothing: a seed that
    its gates never let through stays on probation.
    """

    def __init__(self) -> None:
        """Start with both still to do."""
        self.reset()

    def reset(self) -> None:
        """Forget the present host."""
        self._kept_slot: str | None = None
        self._has_kept = False
        self._has_culled = False

    def decide(self, observation: Observation) -> Decision:
        """Answer with the next step of the cycle that is legal."""
        if not observation.slots:
            return Decision(reason="wait: the host has no slot")
        slots = observation.slots
        if len(slots) == 1:
            path = self._keep_step(slots[0]) if self._has_culled else self._cull_step(slots[0])
            return self._answer([path], observation)
        kept = self._choose_kept(observation)
        steps = [] if self._has_kept else [self._keep_step(kept)]
        if not self._has_culled:
            others = [report for report in slots if report.slot != kept.slot]
            steps += [self._cull_step(report) for report in _order_for_cull(others, observation)]
        return self._answer(steps, observation)

    def _choose_kept(self, observation: Observation) -> SlotReport:
        """Return the slot of the success path: the first one that could germinate when it was chosen."""
        if self._kept_slot is None:
            able = [r for r in observation.slots if LifecycleOp.GERMINATE in choosable_ops(r, observation)]
            if not able:
                return observation.slots[0]
            self._kept_slot = able[0].slot
        return observation.slot(self._kept_slot)

    def _keep_step(self, report: SlotReport) -> tuple[SlotReport, LifecycleOp]:
        if report.stage is SeedStage.PROBATIONARY:
            return report, LifecycleOp.FOSSILIZE
        if report.stage is SeedStage.BLENDING and report.alpha_target < 1.0 and not report.is_ramping:
            return report, LifecycleOp.SET_ALPHA
        return report, LifecycleOp.ADVANCE if report.stage.is_live else LifecycleOp.GERMINATE

    def _cull_step(self, report: SlotReport) -> tuple[SlotReport, LifecycleOp]:
        return report, LifecycleOp.CULL if report.stage.is_live else LifecycleOp.GERMINATE

    def _answer(self, steps: list[tuple[SlotReport, LifecycleOp]], observation: Observation) -> Decision:
        """Take the first legal step; without one, say what the first waits for."""
        for report, op in steps:
            action = _build_action(report, op, observation)
            if refuse_action(action, observation) is None:
                self._has_kept = self._has_kept or op is LifecycleOp.FOSSILIZE
                self._has_culled = self._has_culled or op is LifecycleOp.CULL
                return Decision(action=action, reason=f"forced cycle: {op.value} in {report.slot}")
        if not steps and self._has_kept and self._has_culled:
            return Decision(reason="wait: the forced cycle is complete")
        if not steps:
            return Decision(reason="wait: no other slot can take a seed that may be culled")
        report, op = steps[0]
        refusal = refuse_op(op, report, observation) or f"no blueprint fits {report.slot!r}"
        return Decision(reason=f"wait: {refusal}")

    def state(self) -> dict[str, object]:
        """Return the memory as plain data."""
        return {
            "kept_slot": self._kept_slot,
            "has_kept": self._has_kept,
            "has_culled": self._has_culled,
        }

    def restore(self, state: dict[str, object]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed; nothing is changed then.
        """
        read_keys("cycle", state, ("kept_slot", "has_kept", "has_culled"))
        kept_slot = read_optional_text(state, "kept_slot")
        has_kept, has_culled = read_bool(state, "has_kept"), read_bool(state, "has_culled")
        self._kept_slot, self._has_kept, self._has_culled = kept_slot, has_kept, has_culled


def _order_for_cull(others: list[SlotReport], observation: Observation) -> list[SlotReport]:
    """Return the slot that holds the seed to be culled, if one does, else those that could take one."""
    live = [report for report in others if report.stage.is_live]
    return live[:1] or [r for r in others if LifecycleOp.GERMINATE in choosable_ops(r, observation)][:1]


def _build_action(report: SlotReport, op: LifecycleOp, observation: Observation) -> Action:
    costs = observation.space.descriptors.get(report.slot, {})
    names = growable_blueprints(report, observation) if op is LifecycleOp.GERMINATE else ()
    smallest = min(names, key=lambda name: costs[name].num_params) if names else None
    return Action(op=op, slot=report.slot, blueprint=smallest, tempo_epochs=1)
