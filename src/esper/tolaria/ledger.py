"""The FLOPs bill of a host run: training, incubation, measuring, culled seeds. What was spent stays spent.

Convention: 2 FLOPs per multiply-add; training costs 3 forwards, 2 where the input needs no gradient or the
weights are frozen. Plain validation is the same in every arm of a comparison: reported, not in the total.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from esper.leyline import JsonValue

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
    """
    passes = 1 + (0 if weights_frozen else 1) + (1 if input_needs_grad else 0)
    return passes * forward_flops


@final
class FlopsLedger:
    """Adds up FLOPs by kind and slot; entries are never taken back."""

    def __init__(self) -> None:
        """Start at zero."""
        self._entries: dict[tuple[str, str], int] = {}

    def charge(self, kind: str, slot: str | None, flops: int) -> None:
        """Add to the bill.

        Raises:
            ValueError: If the kind is unknown or the amount negative.
        """
        if kind not in FLOP_KINDS:
            raise ValueError(f"FLOP kind {kind!r}: known are {', '.join(FLOP_KINDS)}")
        if flops < 0:
            raise ValueError(f"FLOPs are never taken back, got {flops} for {kind!r}")
        key = (kind, slot or "")
        self._entries[key] = self._entries.get(key, 0) + flops

    @property
    def total(self) -> int:
        """Everything but plain validation."""
        return sum(flops for (kind, _), flops in self._entries.items() if kind != _NOT_COUNTED)

    def totals(self) -> dict[str, int]:
        """Return FLOPs by kind, every kind listed."""
        sums = dict.fromkeys(FLOP_KINDS, 0)
        for (kind, _), flops in self._entries.items():
            sums[kind] += flops
        return sums

    def of_slot(self, slot: str) -> int:
        """Return what the seeds of a slot have cost so far, culled ones included."""
        return sum(flops for (_, name), flops in self._entries.items() if name == slot)

    def state(self) -> dict[str, JsonValue]:
        """Return plain data; amounts as text, because JSON readers lose integers above 2**53."""
        return {f"{kind}{_SEPARATOR}{slot}": str(flops) for (kind, slot), flops in self._entries.items()}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned."""
        self._entries = {}
        for key, flops in state.items():
            kind, _, slot = key.partition(_SEPARATOR)
            self._entries[(kind, slot)] = int(str(flops))
