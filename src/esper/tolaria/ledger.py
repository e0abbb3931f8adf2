"""The FLOPs bill of a host run: training, incubation, measuring, culled seeds. What was spent stays spent.

Convention: 2 FLOPs per multiply-add; training costs 3 forwards, 2 where the input needs no gradient or the
weights are frozen. Plain validation is the same in every arm of a comparison: reported, not in the total.
Knows amounts only: what a module costs is counted elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from esper.leyline import ForeignCheckpointError, JsonValue, suggest

FLOP_KINDS = (
    "host_train",
    "seed_train",
    "incubation",
    "calibration",
    "counterfactual",
    "probe",
    "validation",
)
"""Kinds of spending; all but "validation" count towards the total."""

_NOT_COUNTED = "validation"
_SEPARATOR = "|"


def train_flops(forward_flops: int, *, input_needs_grad: bool, weights_frozen: bool) -> int:
    """Return FLOPs of forward and backward for a module whose forward costs `forward_flops`.

    One forward, one pass for the weights unless they are frozen, one for the input if it needs a gradient.

    Args:
        forward_flops: Of one forward pass, 2 per multiply-add, >= 0.
        input_needs_grad: Whether a gradient flows on to what lies before the module.
        weights_frozen: Whether the module's own weights get no gradient.

    Example:
        >>> train_flops(100, input_needs_grad=True, weights_frozen=False)
        300
    """
    passes = 1 + (0 if weights_frozen else 1) + (1 if input_needs_grad else 0)
    return passes * forward_flops


@final
class FlopsLedger:
    """Adds up FLOPs by kind, slot and interval; entries are never taken back.

    Example:
        ledger.charge("seed_train", "block2", 3 * seed_flops * num_items)
        outcome_flops = ledger.close_interval()
    """

    def __init__(self) -> None:
        """Start at zero."""
        self._entries: dict[tuple[str, str], int] = {}
        self._interval_start = dict.fromkeys(FLOP_KINDS, 0)

    def charge(self, kind: str, slot: str | None, flops: int) -> None:
        """Add to the bill.

        Args:
            kind: One of `FLOP_KINDS`.
            slot: Whose seed it was spent on; None = the host or the whole network.
            flops: Amount, >= 0.

        Raises:
            ValueError: If the kind is unknown or the amount negative.
        """
        if kind not in FLOP_KINDS:
            raise ValueError(f"FLOP kind {kind!r}: {suggest(kind, FLOP_KINDS)}")
        if flops < 0:
            raise ValueError(f"FLOPs are never taken back, got {flops} for {kind!r}")
        key = (kind, slot or "")
        self._entries[key] = self._entries.get(key, 0) + flops

    @property
    def total(self) -> int:
        """Everything but plain validation."""
        return sum(flops for (kind, _), flops in self._entries.items() if kind != _NOT_COUNTED)

    def totals(self) -> dict[str, int]:
        """Return FLOPs by kind since the run began, every kind listed."""
        sums = dict.fromkeys(FLOP_KINDS, 0)
        for (kind, _), flops in self._entries.items():
            sums[kind] += flops
        return sums

    def of_slot(self, slot: str) -> int:
        """Return what the seeds of a slot have cost so far, culled ones included."""
        return sum(
            flops for (kind, name), flops in self._entries.items() if name == slot and kind != _NOT_COUNTED
        )

    def interval_totals(self) -> dict[str, int]:
        """Return FLOPs by kind since the interval began, every kind listed."""
        return {kind: flops - self._interval_start[kind] for kind, flops in self.totals().items()}

    def close_interval(self) -> dict[str, int]:
        """Return the interval's FLOPs by kind and begin the next one."""
        spent = self.interval_totals()
        self._interval_start = self.totals()
        return spent

    def state(self) -> dict[str, JsonValue]:
        """Return plain data; amounts as text, because JSON readers lose integers above 2**53."""
        return {
            "entries": {
                f"{kind}{_SEPARATOR}{slot}": str(flops) for (kind, slot), flops in self._entries.items()
            },
            "interval_start": {kind: str(flops) for kind, flops in self._interval_start.items()},
        }

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If a kind is unknown or an amount malformed; nothing is changed then.
        """
        entries: dict[tuple[str, str], int] = {}
        for key, flops in _read_amounts(state.get("entries")).items():
            kind, _, slot = key.partition(_SEPARATOR)
            if kind not in FLOP_KINDS:
                raise ForeignCheckpointError(f"saved FLOPs of kind {kind!r}: {suggest(kind, FLOP_KINDS)}")
            entries[(kind, slot)] = flops
        start = _read_amounts(state.get("interval_start"))
        if set(start) != set(FLOP_KINDS):
            raise ForeignCheckpointError(f"saved FLOPs at the interval's start list {sorted(start)}")
        self._entries, self._interval_start = entries, start


def _read_amounts(saved: JsonValue) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for key, flops in saved.items() if isinstance(saved, Mapping) else [("", saved)]:
        if not str(flops).isdecimal():
            raise ForeignCheckpointError(f"saved FLOPs {key!r} = {flops!r}: expected digits")
        amounts[key] = int(str(flops))
    return amounts
