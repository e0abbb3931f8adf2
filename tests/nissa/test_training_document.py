"""The document of a policy's training: rounds, operations, signs of trouble; from its first event on."""

from __future__ import annotations

from pathlib import Path

from esper.nissa import build_training_document, read_run, render_markdown
from esper.nissa.analytics.training_document import MAX_ROUNDS
from nissa.sample_run import numbered, write_run
from nissa.sample_training import training_events


def told(tmp_path: Path, num_rounds: int, told_rounds: int | None = None) -> str:
    write_run(tmp_path, numbered(training_events(num_rounds, told_rounds)))
    return render_markdown(build_training_document(read_run(tmp_path)), {"rounds": "rounds.svg"})


def test_a_training_is_told_by_its_rounds(tmp_path: Path) -> None:
    text = told(tmp_path, 20)
    assert "# Training of a policy: digits" in text
    assert "20 of 20 rounds" in text
    assert "](rounds.svg)" in text
    assert "| mean of | rounds 1-5 | rounds 16-20 |" in text
    assert "| return | 0.030 | 0.180 |" in text
    assert "| hosts that failed | diverged 1 |" in text
    assert "| GERMINATE | 120 | 0.250 |" in text
    assert "| blind critic | 2 | 2-3 | 0.003 | 0.050 | check gamma |" in text
    assert "| 3 | environment 1 left out from step 4 on: the reward reached nan |" in text
    assert "| 20 | 400 | 2 | 0.200 |" in text


def test_a_training_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    text = told(tmp_path, 20, told_rounds=0)
    assert "No round has ended yet." in text
    assert "](rounds.svg)" not in text
    assert "ended: unfinished" in text


def test_a_long_training_lists_its_latest_rounds(tmp_path: Path) -> None:
    text = told(tmp_path, MAX_ROUNDS + 3)
    assert "3 earlier rounds are in the event file." in text
    assert "\n| 3 | 60 |" not in text
    assert "\n| 4 | 80 |" in text
