"""What a grown network is made of, one row per slot, and what a growth changed.

Text for a terminal, a table for a notebook, plain data for a file: all three from one record. Knows no history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from esper.kasmina.model import MorphogeneticModel
from esper.leyline import Estimate, JsonValue


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRow:
    """One slot as it is now."""

    slot: str
    path: str
    """Of the module whose output passes here."""
    arrangement: str
    """Order of the feature's axes in the model, such as "nchw"."""
    shape: tuple[int, ...]
    """One item's feature as seeds see it."""
    stage: str
    blueprint: str | None
    alpha: float
    num_params: int
    """Trainable parameters of the seed; 0 without one."""
    flops_per_item: int
    """Forward FLOPs per item of the seed; 0 without one."""
    contribution: Estimate | None
    """Fall of the metric without the seed, with its standard error; None = not measured."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A grown network in numbers: `print(summary)` for a table, a notebook shows one by itself."""

    rows: tuple[SlotRow, ...]
    """In forward order."""
    host_params: int
    """Trainable parameters of the host alone."""
    added_params: int
    host_flops: int
    """Forward FLOPs per item of the host alone."""
    added_flops: int
    """Of the seeds that affect the output now."""

    @property
    def num_params(self) -> int:
        """Trainable parameters now."""
        return self.host_params + self.added_params

    @property
    def flops_per_item(self) -> int:
        """Forward FLOPs per item now."""
        return self.host_flops + self.added_flops

    def __str__(self) -> str:
        """Return an aligned table of at most 100 columns."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """Return a table for notebooks, everything escaped."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        raise NotImplementedError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryDiff:
    """What a growth changed: `str(diff)` is one line for the totals and one for every slot that differs."""

    before: Summary
    after: Summary

    @property
    def added_params(self) -> int:
        """Trainable parameters more than before; may be negative."""
        return self.after.num_params - self.before.num_params

    @property
    def added_flops(self) -> int:
        """Forward FLOPs per item more than before; may be negative."""
        return self.after.flops_per_item - self.before.flops_per_item

    def __str__(self) -> str:
        """Return such as "+9,312 parameters (+1.4 %), +1.2 % FLOPs" and the slots that changed."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        raise NotImplementedError


def summarize(model: MorphogeneticModel) -> Summary:
    """Return what a grown network is made of now; the model is left as it is."""
    raise NotImplementedError


def diff(before: Summary, after: Summary) -> SummaryDiff:
    """Return what changed between two summaries of one network.

    Raises:
        ValueError: If they are of hosts with other slots.
    """
    raise NotImplementedError
