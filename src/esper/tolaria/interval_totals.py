"""What one interval of somebody else's loop showed: losses, and gradients of host and seeds step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import Tensor

from esper.tolaria.epoch import SlotTotals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.leyline import JsonValue, SlotOutcome
    from esper.tolaria.group_flags import GroupFlags

_MAX_RATIO = 10.0


@final
class IntervalTotals:
    """Sums since the last interval ended; losses stay on their device until they are asked for."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._loss_sum: Tensor | float = 0.0
        self.num_losses = 0
        self._norm_sum = 0.0
        self._num_steps = 0
        self.num_faulty = 0
        """Steps in which the host's own gradient was not finite."""
        self._slots: dict[str, SlotTotals] = {}

    def add_loss(self, loss: Tensor | float) -> None:
        """Take the loss of one batch."""
        value = loss.detach().float() if isinstance(loss, Tensor) else float(loss)
        self._loss_sum = self._loss_sum + value
        self.num_losses += 1

    def add_gradients(self, flags: GroupFlags) -> None:
        """Take what one step's gradients showed."""
        host = flags.host
        if flags.is_host_faulty:
            self.num_faulty += 1
            return
        self._norm_sum += host.norm
        self._num_steps += 1
        for slot, flag in flags.seeds.items():
            totals = self._slots.setdefault(slot, SlotTotals())
            if flag.is_faulty:
                totals.num_skipped += 1
            elif flag.has_gradient:
                totals.norm += flag.norm
                totals.ratio += min(_MAX_RATIO, flag.rms / host.rms) if host.rms > 0.0 else 1.0
                totals.num_batches += 1

    def mean_loss(self) -> float | None:
        """Return the mean loss; None if none was told."""
        if not self.num_losses:
            return None
        return float(self._loss_sum) / self.num_losses

    @property
    def host_gradient_norm(self) -> float:
        """Mean L2 norm over the steps in which it was looked at; 0 if in none."""
        return self._norm_sum / max(1, self._num_steps)

    def outcomes(self) -> dict[str, SlotOutcome]:
        """Return what gradients showed of each seed."""
        return {slot: totals.outcome() for slot, totals in self._slots.items()}

    def state(self) -> dict[str, JsonValue]:
        """Return plain data."""
        return {
            "loss_sum": float(self._loss_sum),
            "num_losses": self.num_losses,
            "norm_sum": self._norm_sum,
            "num_steps": self._num_steps,
            "num_faulty": self.num_faulty,
            "slots": {
                slot: [totals.ratio, totals.norm, totals.num_batches, totals.num_skipped]
                for slot, totals in self._slots.items()
            },
        }

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned."""
        self._loss_sum, self._norm_sum = float(str(state["loss_sum"])), float(str(state["norm_sum"]))
        self.num_losses, self._num_steps, self.num_faulty = (
            int(str(state[name])) for name in ("num_losses", "num_steps", "num_faulty")
        )
        saved = state["slots"]
        assert isinstance(saved, dict)
        self._slots = {
            slot: SlotTotals(ratio=ratio, norm=norm, num_batches=count, num_skipped=skipped)
            for slot, (ratio, norm, count, skipped) in saved.items()
        }
