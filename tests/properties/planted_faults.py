"""Small faults for gates, lifecycle, rewards, advantages and the loss; the table is `planted_faults.toml`.

Each is what a hand might slip to: an operator, a bound, a sign, a term, a discount, a clamp. The tests of the
file that it is planted into must fail; `test_planted_faults` sees to it, `fault_planter` plants.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import final

from source_tree import SRC

TABLE = Path(__file__).with_suffix(".toml")

TESTS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "kasmina/gates.py": ("kasmina/test_gates.py",),
        "kasmina/lifecycle.py": ("kasmina/test_lifecycle.py", "kasmina/test_lifecycle_events.py"),
        "simic/rewards/contribution.py": ("simic/rewards/test_contribution.py",),
        "simic/rewards/costs.py": ("simic/rewards/test_costs.py",),
        "simic/rewards/gain.py": ("simic/rewards/test_gain.py",),
        "simic/rewards/levels.py": ("simic/rewards/test_levels.py",),
        "simic/rewards/loss.py": ("simic/rewards/test_loss.py",),
        "simic/rewards/modes.py": ("simic/rewards/test_modes.py",),
        "simic/rewards/rubric.py": ("simic/rewards/test_rubric.py",),
        "simic/rewards/shaping.py": ("simic/rewards/test_shaping.py",),
        "simic/advantages.py": ("simic/test_advantages.py",),
        "simic/ppo_loss.py": ("simic/test_ppo_loss.py",),
    }
)
"""Source file -> its own tests; no others are asked."""

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lifecycle": tuple(file for file in TESTS_OF if file.startswith("kasmina/")),
        "rewards": tuple(file for file in TESTS_OF if file.startswith("simic/rewards/")),
        "learning": ("simic/advantages.py", "simic/ppo_loss.py"),
    }
)
"""Name -> files that one process plants into."""


@final
@dataclass(frozen=True, slots=True)
class PlantedFault:
    """One change of one source file.

    Example:
        PlantedFault("simic/advantages.py", "a return is its advantage", "advantage + value", "advantage")
    """

    file: str
    what: str
    """What the code does then; unique in its file."""
    old: str
    """Text that stands in the file exactly once."""
    new: str

    def plant(self) -> str:
        """Return the source with the fault in it.

        Raises:
            ValueError: If the text to be changed does not stand there exactly once.
        """
        text = read_source(self.file)
        if text.count(self.old) != 1:
            found = f"{self.old!r} stands there {text.count(self.old)} times"
            raise ValueError(f"{self.file}, {self.what!r}: {found}, must be once")
        return text.replace(self.old, self.new)


def read_faults() -> tuple[PlantedFault, ...]:
    """Return the table, file by file."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(
        PlantedFault(file, what, old, new)
        for file, rows in table.items()
        for what, (old, new) in rows.items()
    )


def read_source(file: str) -> str:
    """Return the text of a source file, named from the package on."""
    return path_of(file).read_text(encoding="utf-8")


def path_of(file: str) -> Path:
    """Return where a source file lies."""
    return SRC / "esper" / file
