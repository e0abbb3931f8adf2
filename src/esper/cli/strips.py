"""The life of a slot as one line of letters, one per stage, on an axis of epochs. Pure text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

from esper.leyline import SeedStage
from esper.nissa import StageSpan

LETTERS: Mapping[str, str] = MappingProxyType(
    {
        SeedStage.DORMANT.value: ".",
        SeedStage.GERMINATED.value: "g",
        SeedStage.TRAINING.value: "t",
        SeedStage.BLENDING.value: "b",
        SeedStage.PROBATIONARY.value: "p",
        SeedStage.FOSSILIZED.value: "F",
        SeedStage.CULLED.value: "x",
        SeedStage.EMBARGOED.value: "e",
        SeedStage.RESETTING.value: "r",
    }
)
"""Stage -> its letter; a capital is for good."""
_UNKNOWN = "?"


def draw_strip(spans: Sequence[StageSpan], *, num_epochs: int, width: int) -> str:
    """Return a slot's stages over `num_epochs` epochs as at most `width` letters; blanks are not lived yet.

    A letter is the stage that fills most of its piece of the axis; of equals the later one, so that a seed
    that was just removed is seen.

    Args:
        spans: Of the slot, in order.
        num_epochs: Of the whole axis, >= 0.
        width: In characters, >= 1.
    """
    num_columns = min(width, num_epochs)
    edges = [place * num_epochs / num_columns for place in range(num_columns + 1)] if num_columns else []
    return "".join(_find_letter(spans, low, high) for low, high in pairwise(edges)).rstrip()


def name_letters(strips: Iterable[str]) -> str:
    """Return what the letters of some strips stand for, in one line."""
    there = set().union(*strips)
    return "  ".join(f"{letter} {stage.lower()}" for stage, letter in LETTERS.items() if letter in there)


def _find_letter(spans: Sequence[StageSpan], low: float, high: float) -> str:
    found, most = " ", 0.0
    for span in spans:
        shared = min(high, span.end_epoch) - max(low, span.start_epoch)
        if shared > 0 and shared >= most:
            found, most = LETTERS.get(span.stage, _UNKNOWN), shared
    return found
