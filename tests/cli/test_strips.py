from __future__ import annotations

from esper.cli.strips import LETTERS, draw_strip, name_letters
from esper.leyline import SeedStage
from esper.nissa import StageSpan


def _span(stage: str, start: int, end: int) -> StageSpan:
    return StageSpan(stage=stage, start_epoch=start, end_epoch=end, seed_id=None)


_LIFE = (_span("DORMANT", 0, 2), _span("GERMINATED", 2, 2), _span("TRAINING", 2, 5), _span("CULLED", 5, 6))


def test_every_stage_has_a_letter_of_its_own() -> None:
    assert set(LETTERS) == {stage.value for stage in SeedStage}
    assert len(set(LETTERS.values())) == len(LETTERS)


def test_with_room_every_epoch_is_one_letter_and_the_future_is_blank() -> None:
    assert draw_strip(_LIFE, num_epochs=10, width=40) == "..tttx"


def test_a_narrow_strip_shows_what_fills_most_of_each_piece() -> None:
    assert draw_strip(_LIFE, num_epochs=6, width=3) == ".tx"
    assert draw_strip(_LIFE, num_epochs=6, width=2) == ".t"


def test_nothing_lived_is_nothing_drawn() -> None:
    assert draw_strip((), num_epochs=5, width=10) == ""
    assert draw_strip(_LIFE, num_epochs=0, width=10) == ""


def test_a_stage_of_another_version_is_a_question_mark() -> None:
    assert draw_strip((_span("SLEEPING", 0, 2),), num_epochs=2, width=9) == "??"


def test_only_letters_that_occur_are_explained() -> None:
    assert name_letters(["..tt", ".F"]) == ". dormant  t training  F fossilized"
