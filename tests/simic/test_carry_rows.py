"""Rows of a rollout as plain data: what was packed comes back, and nothing else is taken."""

from __future__ import annotations

import pytest

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.simic.carry_rows import (
    ToldStep,
    pack_told,
    read_episode,
    read_quarantined,
    read_rows,
    unpack_told,
)
from esper.simic.rollout_buffer import FinishedEpisode, QuarantinedRow

STEPS: list[ToldStep] = [{"decision": {"epoch": place, "value": 0.1 + place}} for place in range(40)]


def test_what_was_told_comes_back_bit_for_bit_and_takes_less_room() -> None:
    packed = pack_told(STEPS)
    assert unpack_told(packed) == STEPS
    assert len(packed) < len(str(STEPS)) / 3
    assert packed.isascii()


def test_nothing_told_is_no_text() -> None:
    assert pack_told([]) == ""
    assert unpack_told("") == []


@pytest.mark.parametrize("text", ["~~~", "no such thing", pack_told(STEPS)[:-20], 7])
def test_a_text_that_is_damaged_is_refused(text: JsonValue) -> None:
    with pytest.raises(ForeignCheckpointError, match="what was told"):
        unpack_told(text)


def test_rows_that_are_no_list_are_refused() -> None:
    assert read_rows({"episodes": [1]}, "episodes") == [1]
    with pytest.raises(ForeignCheckpointError, match="episodes"):
        read_rows({"episodes": 3}, "episodes")


def test_episodes_and_quarantined_rows_are_read_or_refused() -> None:
    assert read_episode(["a", 1, 3, {}]) == FinishedEpisode("a", 1.0, 3, {})
    assert read_quarantined(["a", 1, 3, "why"]) == QuarantinedRow("a", 1, 3, "why")
    with pytest.raises(ForeignCheckpointError, match="malformed"):
        read_episode(["a"])
    with pytest.raises(ForeignCheckpointError, match="malformed"):
        read_quarantined(["a"])
