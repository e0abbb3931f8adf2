"""The rows of all banks of a group side by side in memory, clipped and stepped by one update.

```
values   | host rows [R, P] | rows of seed bank 1 [G, Q] | of bank 2 | ...   one tensor, banks are views
row of   | 0 0 0 1 1 1 ..   | R R R+1 R+1 ..             | ...
```
A bank by itself costs as many small operations as all of them together, whatever its size, and a group has a
bank for every kind of seed in every slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch

from esper.tolaria.fleet.fused.bank import (
    ADAM_EPSILON,
    CLIP_EPSILON,
    ParameterBank,
    step_adam,
    step_sgd,
)

if TYPE_CHECKING:
    from torch import Tensor

_LARGE_PART = 16_384
"""Values of a bank, on average, from which rows are spread bank by bank; measured on one CPU core."""


@final
class UpdateArena:
    """Steps the K rows of several banks at once; row k counts through the banks in their order."""

    def __init__(self, banks: Sequence[ParameterBank]) -> None:
        """Move the banks' weights and moments side by side; the banks see them where they are then.

        Args:
            banks: At least one, of one optimiser's settings.
        """
        self.banks = tuple(banks)
        first = banks[0]
        device = first.values.device
        self._config = first.config
        self._values = torch.cat([bank.values.detach().reshape(-1) for bank in banks])
        self._moments = {
            key: torch.cat([bank.moments[key].reshape(-1) for bank in banks]) for key in first.moments
        }
        self._steps = torch.cat([bank.steps for bank in banks])
        self._num_updates = torch.cat([bank.num_updates for bank in banks])
        self._sizes = [bank.num_rows * bank.num_values for bank in self.banks]
        # Filling a bank's part by rows costs a call per bank, but is the faster one where parts are large.
        self._is_gathered = sum(self._sizes) < _LARGE_PART * len(self._sizes)
        widths = torch.tensor(
            [bank.num_values for bank in banks for _ in range(bank.num_rows)], device=device
        )
        self.roots = widths.clamp(min=1).double().sqrt()
        """[K] square root of the number of values of each row, float64."""
        self._row_of = torch.repeat_interleave(torch.arange(len(widths), device=device), widths)
        decays = [bank.decay.expand(bank.num_rows, -1).reshape(-1) for bank in banks]
        self._decay = torch.cat(decays)
        self._has_decay = bool(self._decay.any())
        self._hand_out()

    def compute_norms(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the L2 norm of each row's gradient, [K]; not finite where the gradient is not.

        Args:
            gradients: Per bank [G, P].
        """
        pairs = zip(self.banks, gradients, strict=True)
        return torch.cat([bank.compute_norms(gradient) for bank, gradient in pairs])

    def split(self, rows: Tensor) -> list[Tensor]:
        """Return the part [G] of each bank of what goes over all rows [K]."""
        return list(rows.split_with_sizes([bank.num_rows for bank in self.banks]))

    def is_sound(self, largest: float) -> Tensor:
        """Return [K] whether each row's weights and moments are finite and their L2 norm below `largest`."""
        return torch.cat([bank.is_sound(largest) for bank in self.banks])

    def write_back(self) -> None:
        """Copy all weights and moments to where they came from."""
        counts = torch.stack((self._num_updates.double(), self._steps)).tolist()  # sync: once an interval
        first = 0
        for bank in self.banks:
            last = first + bank.num_rows
            bank.write_back(moved=counts[0][first:last], steps=counts[1][first:last])
            first = last

    def update(
        self, gradients: Sequence[Tensor], norms: Tensor, is_due: Tensor | None, rates: Tensor
    ) -> None:
        """Clip and step the rows that are due.

        Args:
            gradients: Per bank [G, P]; what they hold in rows that are not due does not matter.
            norms: [K] from `compute_norms`.
            is_due: [K] bool; None = all, which spares the masks, a third of an update.
            rates: [K] learning rates, float64 as schedules give them.
        """
        clip = self._config.clip_norm
        factor = torch.where(norms > clip, clip / (norms + CLIP_EPSILON), 1.0)
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).mul_(self._spread(factor))
        due = None if is_due is None else self._spread(is_due)
        if due is not None:
            flat = torch.where(due, flat, 0.0)
        count = 1 if is_due is None else is_due
        self._steps += count
        self._num_updates += count
        decay = self._decay if self._has_decay else None
        with torch.no_grad():
            if self._config.name == "sgd":
                rate = self._spread(rates.to(flat.dtype))
                step_sgd(self._config, self._values, self._moments, flat, rate=rate, decay=decay, due=due)
            else:
                low, high = self._config.betas
                count = self._steps.clamp(min=1.0)
                rate = rates if is_due is None else torch.where(is_due, rates, 0.0)
                root = (1.0 - high**count).sqrt()
                step_adam(
                    self._config,
                    self._values,
                    self._moments,
                    flat,
                    rate=self._spread(rate.to(flat.dtype)),
                    step=self._spread((rate * root / (1.0 - low**count)).to(flat.dtype)),
                    floor=self._spread((ADAM_EPSILON * root).to(flat.dtype)),
                    decay=decay,
                    due=due,
                )

    def _spread(self, rows: Tensor) -> Tensor:
        """Return what is said of each row [K] at each of its values [N]."""
        if self._is_gathered:
            return rows.index_select(0, self._row_of)  # several times as fast as rows[row_of]
        out = rows.new_empty(len(self._row_of))
        parts = zip(self.banks, out.split_with_sizes(self._sizes), self.split(rows), strict=True)
        for bank, part, own in parts:
            part.view(bank.num_rows, bank.num_values).copy_(own.unsqueeze(1))
        return out

    def _hand_out(self) -> None:
        """Let every bank look at its part of what lies here."""
        values = self._values.split_with_sizes(self._sizes)
        moments = {key: moment.split_with_sizes(self._sizes) for key, moment in self._moments.items()}
        steps, counts = self.split(self._steps), self.split(self._num_updates)
        for place, bank in enumerate(self.banks):
            own = {key: parts[place] for key, parts in moments.items()}
            bank.adopt(values[place], own, steps[place], counts[place])
