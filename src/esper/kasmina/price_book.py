"""FLOPs that were counted before: what is alike costs alike, and a count takes as long as many batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import final

_MAX_ENTRIES = 4096


@final
class PriceBook:
    """Counts by the facts that they follow from; the least recently used goes first.

    Example:
        PriceBook().look_up(("conv", (3, 8, 8)), lambda: count_flops(conv, (3, 8, 8)))
    """

    def __init__(self, max_entries: int = _MAX_ENTRIES) -> None:
        """Start empty.

        Args:
            max_entries: Counts kept at once, >= 1.
        """
        self._counts: OrderedDict[Hashable, int] = OrderedDict()
        self._max_entries = max_entries

    def __len__(self) -> int:
        """Return how many counts are kept."""
        return len(self._counts)

    def look_up(self, facts: Hashable, count: Callable[[], int]) -> int:
        """Return the count of these facts, counting if it is not kept.

        Args:
            facts: All that the count depends on.
            count: Counts; what it raises is passed on, and nothing is kept.
        """
        if facts not in self._counts:
            self._counts[facts] = count()
            if len(self._counts) > self._max_entries:
                self._counts.popitem(last=False)
        self._counts.move_to_end(facts)
        return self._counts[facts]
