"""How a host says where it can grow, and how a host whose forward is a chain lets its tail run alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

from esper.kasmina.blueprints.pair import PairPlan
from esper.kasmina.tap import CANONICAL, Arrangement, Tap
from esper.leyline import Layout

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionPoint:
    """A growth point: the output of one module.

    Example:
        InjectionPoint(slot_id="block1", path="block1", layout=Layout.MAP_2D, num_channels=8)
    """

    slot_id: str
    path: str
    """Dotted module path whose output is the slot's feature; called exactly once per forward."""
    layout: Layout
    num_channels: int
    arrangement: Arrangement | None = None
    """Order of the axes in the output; None = as seeds know it: nchw, nld or flat."""
    select: int | str | None = None
    """Where in a tuple, list or mapping the feature is; None = the output is the feature."""
    pair: PairPlan | None = None
    """Two layers that the slot spans, `path` being the second, as `kasmina.pairs` finds them; None = seeds
    take the feature itself."""

    @property
    def tap(self) -> Tap:
        """What takes the feature out of the output and puts it back."""
        return Tap(arrangement=self.arrangement or CANONICAL[self.layout], select=self.select)


@runtime_checkable
class HostProtocol(Protocol):
    """A module that declares its growth points; the declaration wins over any search by name."""

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        """Return the growth points, in any order."""


@runtime_checkable
class SegmentedHost(HostProtocol, Protocol):
    """A host whose forward is exactly the composition of its segments, in order.

    Each growth point's path is the name of a segment, so the tail after a slot can be run by itself.
    """

    def segments(self) -> tuple[tuple[str, nn.Module], ...]:
        """Return (module path, module) in forward order."""
