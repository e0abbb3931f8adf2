"""Which rows of a stack run which seeds in a slot, as one call per kind of seed.

As a mixture of experts sends tokens to experts, a slot sends rows to the seeds that they hold: rows with the
same blueprint and blend form are taken out, run together with their own weights, blended in and put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from esper.kasmina import (
    RowPartition,
    SeedSlot,
    StackArrangement,
    StackContext,
    Stacked,
    blend_rows,
)
from esper.tolaria.fleet.fused.bank import ParameterBank

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeedBank:
    """Seeds of one kind in one slot."""

    slot_id: str
    bank: ParameterBank
    stacked: Stacked
    """The seed's residual."""
    slots: tuple[SeedSlot, ...]
    """[G] by row of the bank."""
    members: tuple[int, ...]
    """[G] row of the group, by row of the bank."""


@final
class SeedCall:
    """Some rows of a stack through seeds of one kind."""

    __slots__ = ("num_rows", "places", "rows", "seeds", "source")

    def __init__(self, source: SeedBank, places: Sequence[int], rows: Sequence[int]) -> None:
        """Name the rows.

        Args:
            source: Whose seeds.
            places: Rows of the stack.
            rows: As many: rows of the bank.
        """
        self.source = source
        self.places = tuple(places)
        self.num_rows = len(self.places)
        self.seeds = tuple(source.slots[row] for row in rows)
        device = source.bank.values.device
        is_whole = list(rows) == list(range(source.bank.num_rows))
        self.rows = None if is_whole else torch.tensor(list(rows), device=device)

    def compute_residual(self, features: Tensor, *, is_frozen: bool = False) -> Tensor:
        """Return what the seeds make of features of these rows alone."""
        weights = self.source.bank.weights(self.rows, is_frozen=is_frozen)
        out: Tensor = self.source.stacked(features, weights, StackContext(num_rows=self.num_rows))
        return out


@final
class SlotCalls:
    """Everything that happens to a stack of rows in one slot."""

    def __init__(
        self,
        calls: Sequence[SeedCall],
        num_rows: int,
        arrangement: StackArrangement,
        *,
        alphas: Sequence[Sequence[float] | None] | None = None,
    ) -> None:
        """Plan the calls.

        Args:
            calls: Rows of different calls differ.
            num_rows: R of the stack that comes in.
            arrangement: How features lie in the slot.
            alphas: Per call, [rows] in place of the seeds' own; None = their own, asked at every pass.
        """
        self.calls = tuple(calls)
        self.num_rows = num_rows
        self._arrangement = arrangement
        self._forced = (None,) * len(self.calls) if alphas is None else tuple(alphas)
        self._alphas: dict[int, Tensor] = {}
        taken = [place for call in self.calls for place in call.places]
        kept = sorted(set(range(num_rows)) - set(taken))
        self._is_whole = len(self.calls) == 1 and taken == list(range(num_rows))
        groups = [call.places for call in self.calls]
        device = self.calls[0].source.bank.values.device if self.calls else torch.device("cpu")
        self._partition = RowPartition([*groups, kept] if kept else groups, arrangement, device)

    def run(self, h: Tensor, *, is_frozen: bool = False) -> Tensor:
        """Return the feature behind the slot.

        Args:
            h: As the segment before made it.
            is_frozen: Whether the seeds' weights get no gradient.
        """
        if not self.calls:
            return h
        if self._is_whole:
            return self._blend(0, h, is_frozen=is_frozen)
        taken = self._partition.split(h)
        parts = [
            self._blend(index, part, is_frozen=is_frozen)
            for index, part in enumerate(taken[: len(self.calls)])
        ]
        return self._partition.join([*parts, *taken[len(self.calls) :]])

    def forget_alphas(self) -> None:
        """Ask the seeds for their alphas again in the next pass."""
        self._alphas.clear()

    def _blend(self, index: int, h: Tensor, *, is_frozen: bool) -> Tensor:
        call = self.calls[index]
        if index not in self._alphas:
            forced = self._forced[index]
            values = [slot.state.alpha for slot in call.seeds] if forced is None else forced
            dtype = call.seeds[0].alpha_mirror.dtype
            self._alphas[index] = torch.tensor(values, dtype=dtype, device=h.device)
        residual = call.compute_residual(h, is_frozen=is_frozen)
        return blend_rows(h, residual, self._alphas[index], self._arrangement, call.num_rows)
