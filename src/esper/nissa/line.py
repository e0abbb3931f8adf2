"""One line for a person, and how it should look. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final


@final
class Tone(Enum):
    """How a line should look."""

    PLAIN = "plain"
    GROWTH = "growth"
    """A seed moved on."""
    KEPT = "kept"
    LOST = "lost"
    WARNING = "warning"
    """Shown even when the console is quiet."""
    END = "end"
    """The last line; shown even when the console is quiet."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line for a person, without a line end."""

    text: str
    tone: Tone = Tone.PLAIN
