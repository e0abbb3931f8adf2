"""One solver for all tests of the growth toy: building it takes longer than asking it."""

from __future__ import annotations

import pytest

from esper.simic.toys.growth_optimum import GrowToySolver


@pytest.fixture(scope="session")
def solver() -> GrowToySolver:
    """The graph of reachable states."""
    return GrowToySolver()
