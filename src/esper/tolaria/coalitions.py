"""What fossils are worth together and each by itself: every subset of them is measured, the rest shared out.

```
list coalitions   all 2^k subsets of k fossils; beyond MAX_EXACT those along random orders
measure           each on statistics of that very network, per validation item
share             Shapley value per item; mean and standard error over items, and over orders where sampled
```
A contribution asks what a seed is worth to those that are there. Two seeds that do the same work have none
each, and two that need each other count twice; the Shapley value shares what all of them bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from esper.kasmina import norms_with_statistics
from esper.leyline import ConfigError, Estimate, SeedStage
from esper.tolaria.measuring import MeasuringBill, estimate_mean
from esper.tolaria.parts import Workbench
from esper.tolaria.shapley import compute_shapley_values, list_prefixes, sample_orders

MAX_EXACT = 8
"""Most fossils of which all subsets are measured: 2^8 networks."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CoalitionValue:
    """One subset of the fossils, the others switched off."""

    slots: tuple[str, ...]
    """Slots whose fossils are on, in the order of the network."""
    metric: float
    """Gate metric, mean per item, higher is better."""
    standard_error: float
    """Of that mean, over items."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FossilShare:
    """One fossil's share of what all of them bring."""

    slot: str
    seed_id: str
    blueprint: str
    shapley: Estimate
    """Mean over validation items, with the standard error over items."""
    sampling_error: float
    """Standard error of the mean over sampled orders; 0 where every subset was measured."""
    alone: float
    """Metric with this fossil alone minus metric with none."""
    last: float
    """Metric with all minus metric with all but this one: its contribution."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CoalitionReport:
    """The coalitions that were measured, and what follows from them."""

    shares: tuple[FossilShare, ...]
    """One per fossil, in the order of the network; empty where nothing was kept."""
    values: tuple[CoalitionValue, ...]
    """By size, then in the order of the network: all 2^k of them if exact."""
    num_orders: int | None
    """Random orders drawn; None = exact."""
    seed: int
    """Of these orders."""
    num_items: int
    """Validation items."""
    num_calibration_items: int
    """Training items behind the statistics of each setting; 0 where no norm keeps any."""
    bill: MeasuringBill


def measure_coalitions(
    bench: Workbench, *, num_items: int | None = None, num_orders: int = 64, seed: int = 0
) -> CoalitionReport:
    """Measure the subsets of a network's fossils on validation items, and charge the workbench's ledger.

    Seeds in flight stay as they are in every setting.

    Args:
        bench: Of a host run; its network is as before afterwards.
        num_items: Validation items, the first ones, >= 2; None = those that contributions are measured on.
        num_orders: Random orders where there are more than `MAX_EXACT` fossils, >= 2.
        seed: From which these orders follow.

    Raises:
        ConfigError: If a number is too small.

    Example:
        A fresh host has no fossils: the empty subset is the only one.

        >>> coalitions = measure_coalitions(host_run().bench, num_items=32)
        >>> len(coalitions.shares), [value.slots for value in coalitions.values], coalitions.num_items
        (0, [()], 32)
    """
    if num_orders < 2 or (num_items is not None and num_items < 2):
        wrong = f"orders={num_orders}" if num_orders < 2 else f"items={num_items}"
        raise ConfigError(f"coalitions: {wrong}: must be >= 2, e.g. 64")
    slots = tuple(s.slot_id for s in bench.model.each_slot() if s.state.stage is SeedStage.FOSSILIZED)
    given = bench.gate_items if num_items is None else bench.validation
    meter = _Meter(bench, slots, (given[0][:num_items], given[1][:num_items]))
    is_exact = len(slots) <= MAX_EXACT
    if is_exact:
        worth = torch.stack([meter.measure(mask) for mask in range(1 << len(slots))])
        shares, sampling = compute_shapley_values(worth), torch.zeros(len(slots), dtype=torch.float64)
    else:
        shares, sampling = _sample(meter, len(slots), num_orders, seed)
    return CoalitionReport(
        shares=_share_out(bench, meter, shares, sampling),
        values=meter.values(),
        num_orders=None if is_exact else num_orders,
        seed=seed,
        num_items=meter.num_items,
        num_calibration_items=meter.num_calibration_items,
        bill=meter.bill,
    )


@final
class _Meter:
    """Measures coalitions of the fossils in `slots` once each, by bit mask, and adds up the bill."""

    def __init__(self, bench: Workbench, slots: Sequence[str], items: tuple[Tensor, Tensor]) -> None:
        self._bench = bench
        self.slots = tuple(slots)
        self._items = items
        self._known: dict[int, Tensor] = {}
        self.num_items = len(items[1])
        self.num_calibration_items = len(bench.calibration) if norms_with_statistics(bench.model) else 0
        self.bill = MeasuringBill(calibration=0, counterfactual=0)

    def measure(self, mask: int) -> Tensor:
        """Return [N] float64 on the CPU: the gate metric of every item with just these fossils on."""
        if mask not in self._known:
            bench = self._bench
            absent = {slot: 0.0 for bit, slot in enumerate(self.slots) if not mask >> bit & 1}
            found = bench.evaluator.measure_items(bench.model, absent, bench.calibration, self._items)
            self._known[mask] = found.double().cpu()
            self._charge(tuple(absent))
        return self._known[mask]

    def values(self) -> tuple[CoalitionValue, ...]:
        """Return every coalition measured so far, by size."""
        rows = []
        for mask in sorted(self._known, key=lambda mask: (mask.bit_count(), _players(mask))):
            estimate = estimate_mean(self._known[mask])
            rows.append(
                CoalitionValue(
                    slots=tuple(self.slots[player] for player in _players(mask)),
                    metric=estimate.mean,
                    standard_error=estimate.standard_error,
                )
            )
        return tuple(rows)

    def _charge(self, absent: tuple[str, ...]) -> None:
        model = self._bench.model
        left_out = sum(model.slot(slot).state.flops_per_item for slot in absent)
        per_item = model.forward_flops - left_out
        spent = MeasuringBill(
            calibration=per_item * self.num_calibration_items, counterfactual=per_item * self.num_items
        )
        self._bench.ledger.charge("calibration", None, spent.calibration)
        self._bench.ledger.charge("counterfactual", None, spent.counterfactual)
        self.bill = MeasuringBill(
            calibration=self.bill.calibration + spent.calibration,
            counterfactual=self.bill.counterfactual + spent.counterfactual,
        )


def _sample(meter: _Meter, num_players: int, num_orders: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return shares [k, N] averaged over random orders, and their standard errors [k] over these orders."""
    total = torch.zeros(num_players, meter.num_items, dtype=torch.float64)
    means = torch.zeros(num_orders, num_players, dtype=torch.float64)
    for row, order in enumerate(sample_orders(num_players, num_orders, seed)):
        masks = list_prefixes(order)
        for player, before, after in zip(order, masks, masks[1:], strict=False):
            gained = meter.measure(after) - meter.measure(before)
            total[player] += gained
            means[row, player] = gained.mean()
    return total / num_orders, means.std(dim=0, unbiased=True) / num_orders**0.5


def _share_out(bench: Workbench, meter: _Meter, shares: Tensor, sampling: Tensor) -> tuple[FossilShare, ...]:
    num_players = len(shares)
    everyone, found = (1 << num_players) - 1, []
    for player, state in enumerate(s.state for s in bench.model.each_slot() if s.slot_id in meter.slots):
        others = everyone & ~(1 << player)
        found.append(
            FossilShare(
                slot=state.slot,
                seed_id=state.seed_id or "",
                blueprint=state.blueprint or "",
                shapley=estimate_mean(shares[player]),
                sampling_error=float(sampling[player]),
                alone=float((meter.measure(1 << player) - meter.measure(0)).mean()),
                last=float((meter.measure(everyone) - meter.measure(others)).mean()),
            )
        )
    return tuple(found)


def _players(mask: int) -> tuple[int, ...]:
    return tuple(player for player in range(mask.bit_length()) if mask >> player & 1)
