"""What a grown network is made of, one row per slot, and what a growth changed.

Text for a terminal, a table for a notebook, plain data for a file: all three of one record. No history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import final

from esper.kasmina.attachments import find_targets
from esper.kasmina.model import MorphogeneticModel
from esper.leyline import Estimate, JsonValue

_HEADER = ("path", "feature", "stage", "blueprint", "alpha", "params", "FLOPs", "contribution")
_MAX_COLUMNS = 100
_NARROWEST = 10
"""Characters to which a column of words is shortened at most."""
_NUM_WORDS = 4
"""Leading columns that are words and start at the left; numbers end at the right."""


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
    """A grown network in numbers: `print(summary)` for a table, a notebook shows one by itself.

    Example:
        Summary(rows=(...), host_params=76_000, added_params=9_312, host_flops=2_000_000, added_flops=24_000)
    """

    rows: tuple[SlotRow, ...]
    """In forward order."""
    host_params: int
    """Trainable parameters of the host alone."""
    added_params: int
    """Of every seed that lives now."""
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
        """Return an aligned table of at most 100 columns, and the totals under it."""
        lines = _align([_HEADER, *(_cells(row) for row in self.rows)])
        rule = "-" * max(map(len, lines))
        return "\n".join((lines[0], rule, *lines[1:], rule, *self._totals()))

    def _repr_html_(self) -> str:
        """Return a table for notebooks, everything escaped."""
        head = "".join(f"<th>{escape(name)}</th>" for name in _HEADER)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row)) + "</tr>"
            for row in self.rows
        )
        totals = "".join(f"<p>{escape(line)}</p>" for line in self._totals())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{totals}"

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "slots": [_row_to_dict(row) for row in self.rows],
            "host_params": self.host_params,
            "added_params": self.added_params,
            "num_params": self.num_params,
            "host_flops": self.host_flops,
            "added_flops": self.added_flops,
            "flops_per_item": self.flops_per_item,
        }

    def _totals(self) -> tuple[str, str]:
        return (
            _total("parameters", self.host_params, self.added_params),
            _total("FLOPs/item", self.host_flops, self.added_flops),
        )


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

    @property
    def changed(self) -> tuple[tuple[SlotRow, SlotRow], ...]:
        """Slots in which stage, blueprint, alpha or size differ: (before, after)."""
        pairs = zip(self.before.rows, self.after.rows, strict=True)
        return tuple((old, new) for old, new in pairs if _content(old) != _content(new))

    def __str__(self) -> str:
        """Return such as "+9,312 parameters (+1.4 %), +1.2 % FLOPs" and a line for each changed slot."""
        total = (
            f"{self.added_params:+,} parameters ({_relative(self.added_params, self.before.num_params)}), "
            f"{_relative(self.added_flops, self.before.flops_per_item)} FLOPs"
        )
        return "\n".join((total, *(_describe_change(old, new) for old, new in self.changed)))

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "added_params": self.added_params,
            "added_flops": self.added_flops,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "changed": [new.slot for _, new in self.changed],
        }


def summarize(model: MorphogeneticModel) -> Summary:
    """Return what a grown network is made of now; the model is left as it is.

    Example:
        >>> [row.stage for row in summarize(model).rows]
        ['DORMANT', 'DORMANT']
    """
    paths = {module: path for path, module in model.host.named_modules()}
    targets = find_targets(model.host)
    rows = []
    for slot in model.each_slot():
        state = slot.state
        row = SlotRow(
            slot=slot.slot_id,
            path=slot.slot_id if slot.spec.pair is not None else paths[targets[slot.slot_id]],
            arrangement=slot.tap.arrangement.value,
            shape=slot.spec.shape,
            stage=state.stage.value,
            blueprint=state.blueprint,
            alpha=state.alpha,
            num_params=state.num_params,
            flops_per_item=state.flops_per_item,
            contribution=state.contribution,
        )
        rows.append(row)
    return Summary(
        rows=tuple(rows),
        host_params=model.host_params,
        added_params=model.added_params,
        host_flops=model.host_flops,
        added_flops=model.added_flops,
    )


def diff(before: Summary, after: Summary) -> SummaryDiff:
    """Return what changed between two summaries of one network.

    Raises:
        ValueError: If they are of hosts with other slots.

    Example:
        >>> before = summarize(model)
        >>> diff(before, before).after == before
        True
    """
    slots = [[row.slot for row in summary.rows] for summary in (before, after)]
    if slots[0] != slots[1]:
        raise ValueError(f"summaries of two networks: slots {slots[0]} and {slots[1]}")
    return SummaryDiff(before=before, after=after)


def _cells(row: SlotRow) -> tuple[str, ...]:
    size = "x".join(map(str, row.shape))
    has_seed = row.blueprint is not None
    return (
        row.path,
        f"{row.arrangement} {size}",
        row.stage,
        row.blueprint or "-",
        f"{row.alpha:.2f}" if has_seed else "-",
        _show_count(row.num_params) if has_seed else "-",
        _show_count(row.flops_per_item) if has_seed else "-",
        _show_estimate(row.contribution),
    )


def _show_count(count: int) -> str:
    """Return a count in full below ten million, above it with three digits and a letter."""
    if count < 10_000_000:
        return f"{count:,}"
    exponent = min(len(str(count)) - 1, 17) // 3
    return f"{count / 1000**exponent:.3g}{' KMGTP'[exponent]}"


def _show_estimate(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.mean:+.4f} +- {estimate.standard_error:.4f}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with columns one above the other; words are shortened where the line would be too long."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    spare = _MAX_COLUMNS - 2 * (len(widths) - 1)
    for column in (3, 0, 1):  # blueprint, path, feature: told by their beginning, or a path by its end
        too_wide = max(0, sum(widths) - spare)
        widths[column] = max(min(widths[column], _NARROWEST), widths[column] - too_wide)
    return ["  ".join(_fit(cell, widths, place) for place, cell in enumerate(row)).rstrip() for row in rows]


def _fit(cell: str, widths: Sequence[int], place: int) -> str:
    width = widths[place]
    if place >= _NUM_WORDS:
        return cell.rjust(width)
    if len(cell) <= width:
        return cell.ljust(width)
    # The end of a path says most.
    return f"..{cell[2 - width :]}" if place == 0 else f"{cell[: width - 2]}.."


def _total(what: str, host: int, added: int) -> str:
    factor = f", {(host + added) / host:.3f} x the host" if host else ""
    return f"{what}: host {host:,}, added {added:,}, now {host + added:,}{factor}"


def _relative(change: int, base: int) -> str:
    return f"{100.0 * change / base:+.1f} %" if base else f"{change:+,}"


def _content(row: SlotRow) -> tuple[object, ...]:
    return row.stage, row.blueprint, row.alpha, row.num_params, row.flops_per_item


def _describe_change(old: SlotRow, new: SlotRow) -> str:
    """Return such as "stages.1: DORMANT > BLENDING, conv_light, alpha 0.00 > 0.50, +9,312 parameters"."""
    parts = [old.stage if old.stage == new.stage else f"{old.stage} > {new.stage}"]
    if old.blueprint != new.blueprint:
        parts.append(f"{old.blueprint} > {new.blueprint}" if old.blueprint else str(new.blueprint))
    elif new.blueprint is not None:
        parts.append(new.blueprint)
    if old.alpha != new.alpha:
        parts.append(f"alpha {old.alpha:.2f} > {new.alpha:.2f}")
    if old.num_params != new.num_params:
        parts.append(f"{new.num_params - old.num_params:+,} parameters")
    return f"{new.path}: {', '.join(parts)}"


def _row_to_dict(row: SlotRow) -> dict[str, JsonValue]:
    known = row.contribution
    return {
        "slot": row.slot,
        "path": row.path,
        "arrangement": row.arrangement,
        "shape": list(row.shape),
        "stage": row.stage,
        "blueprint": row.blueprint,
        "alpha": row.alpha,
        "num_params": row.num_params,
        "flops_per_item": row.flops_per_item,
        "contribution": None if known is None else known.mean,
        "contribution_standard_error": None if known is None else known.standard_error,
    }
