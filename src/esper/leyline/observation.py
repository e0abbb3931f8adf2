"""Everything a policy may look at: signals, slot reports, budgets and the action space. Never a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from esper.leyline.actions import ActionSpace
from esper.leyline.outcomes import MetricSpec
from esper.leyline.reports import SlotReport
from esper.leyline.signals import TrainingSignals


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """What is left to spend, and the rules that bound when a seed may be born or removed."""

    horizon_epochs: int
    epochs_left: int
    host_params: int
    """Parameters of the host alone (>= 1)."""
    added_params: int = 0
    """Parameters of all seeds that live now, fossils included."""
    max_added_params: int | None = None
    """None = unlimited."""
    host_flops_per_item: int = 1
    """Forward FLOPs per sample of the host alone (>= 1)."""
    added_flops_per_item: int = 0
    flops_spent: int = 0
    """Everything in the ledger so far that counts, measuring included."""
    never_grow_flops: int = 1
    """What the same host would have spent by the horizon without growth (>= 1)."""
    max_live_seeds: int | None = None
    """Live seeds (fossils excluded) allowed at once; None = as many as there are slots."""
    shortest_lifecycle_epochs: int = 0
    """Intervals that the fastest legal lifecycle needs; germination is illegal with fewer left."""
    min_cull_age_epochs: int = 1
    """A seed younger than this may not be culled by a policy."""
    memory_bytes_left: int | None = None
    """Bytes that a new seed may take; None = ample, or nothing is known about it."""
    is_sequential: bool = False
    """If True, no germination while any seed is GERMINATED or TRAINING."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One host at one decision point."""

    signals: TrainingSignals
    slots: tuple[SlotReport, ...]
    """In forward order; same order as `space.slot_ids`."""
    budgets: Budgets
    space: ActionSpace
    metric: MetricSpec
    chance_loss: float = 1.0
    """Loss of a uniform guess (> 0): the unit in which losses are encoded."""
    num_validation_items: int = 0

    def slot(self, slot_id: str) -> SlotReport:
        """Return the report of one slot.

        Raises:
            KeyError: If there is no such slot.
        """
        for report in self.slots:
            if report.slot == slot_id:
                return report
        raise KeyError(slot_id)
