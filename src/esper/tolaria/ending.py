"""The end of a host's life: what was not kept goes, before the network that leaves is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from esper.kasmina import Clock
from esper.leyline import Event
from esper.tolaria.parts import Workbench


class EndingRun(Protocol):
    """What of a host run its end needs; `HostRun` is its implementation."""

    @property
    def bench(self) -> Workbench:
        """Everything around the host."""

    @property
    def clock(self) -> Clock:
        """Epochs and batches finished."""

    def emit(self, events: Sequence[Event]) -> None:
        """Send events on."""


def remove_unkept(run: EndingRun) -> None:
    """Cull every live seed; harmless when repeated.

    Statistics of norms are re-estimated where a seed that affected the output was culled, because they
    belonged to the network with it.
    """
    bench = run.bench
    affected = any(s.state.stage.is_live and s.state.alpha > 0.0 for s in bench.model.each_slot())
    run.emit(bench.model.cull_live(run.clock, "horizon"))
    bench.follow_topology()
    if affected:
        bench.evaluator.refresh_statistics(bench.model, bench.calibration)
