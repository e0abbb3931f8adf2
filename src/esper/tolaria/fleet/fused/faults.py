"""What was bad in a batch of one host of a group, found out on that host alone.

The network is put back as it was before the batch, copied out of the stack, and looked at by the same code
that explains the faults of a host that trains by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from torch import Tensor

from esper.data import Batch
from esper.tolaria.epoch import EpochProgress
from esper.tolaria.fault_origin import FaultOrigin, find_bad_name
from esper.tolaria.fleet.fused.bank import ParameterBank
from esper.tolaria.group_flags import GroupFlag, GroupFlags
from esper.tolaria.optimizer_state import find_faulty
from esper.tolaria.reducer import HOST

if TYPE_CHECKING:
    from esper.tolaria.parts import Workbench


@final
@dataclass(frozen=True, slots=True, eq=False)
class RowGradient:
    """One owner's gradient in one batch, before clipping."""

    bank: ParameterBank
    row: int
    gradient: Tensor
    """[P]."""
    norm: float
    has_gradient: bool

    @property
    def is_faulty(self) -> bool:
        """Whether it is not finite."""
        return not math.isfinite(self.norm)

    def flag(self) -> GroupFlag:
        """Return what a host's own optimiser would have said of it."""
        named = self.bank.name_gradient(self.row, self.gradient) if self.has_gradient else {}
        rms = self.norm / math.sqrt(max(1, self.bank.num_values))
        faulty_name = find_faulty(self.norm, named)
        return GroupFlag(norm=self.norm, rms=rms, has_gradient=self.has_gradient, faulty_name=faulty_name)


def explain_faults(
    bench: Workbench,
    batch: Batch,
    gradients: Mapping[str, RowGradient],
    faults: dict[str, FaultOrigin],
    put_back: Callable[[], None],
    *,
    index: int,
    is_withheld: bool,
) -> None:
    """Add what was bad first to the faults of an interval; per group it is looked for once.

    Args:
        bench: The host's, with weights, moments and statistics as they are right after the batch's pass.
        batch: Inputs [B, ...] and targets of this host.
        gradients: Owner ("host" or a slot) -> its gradient.
        faults: Group -> what was found; added to.
        put_back: Puts the host's statistics back as they were before the batch.
        index: Batch in the interval.
        is_withheld: Whether the host learned nothing from the batch.
    """
    flags = {owner: gradient.flag() for owner, gradient in gradients.items()}
    of_group = GroupFlags(host=flags.pop(HOST), seeds=flags)
    if is_withheld and HOST not in faults:
        statistic = find_bad_name(bench.model.named_buffers())
        put_back()
        origin = bench.runner.explain_host(batch, of_group, statistic)
        faults[HOST] = replace(origin, batch=index)
    progress = EpochProgress(batch=index, faults=faults)
    bench.runner.explain_seeds(of_group, progress)
