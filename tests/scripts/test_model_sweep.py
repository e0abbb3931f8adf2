"""Other people's models grow: ten families here, all of them by `make models`; and the page of its rows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import model_sweep
from model_families import FAMILIES, SMALL_FAMILIES
from model_sweep import Row, build_page, read_rows, run_family

PASSED = Row(
    family="a",
    model="a_tiny",
    size=64,
    params=1000,
    slots=2,
    path="stages.0",
    feature="nchw 8x4x4",
    blueprint="conv_light",
    seed_params=100,
    steps=200,
    loss=(1.4, 0.5),
    effect=0.2,
    difference=2e-7,
    seconds=3.0,
    machine="m",
)
FAILED = Row(family="b", model="b_tiny", size=64, failed_at="grow", reason="HostError: a | b", machine="m")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_FAMILIES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_strangers_model_grows_and_leaves_as_what_it_was(name: str) -> None:
    (family,) = (family for family in FAMILIES if family.name == name)
    row = run_family(family, steps=20)
    assert row.failed_at == "", row.reason
    assert row.difference is not None
    assert row.difference <= model_sweep.TOLERANCE
    assert row.effect > 0.0
    assert row.seed_params > 0


def test_there_are_sixty_families_each_once_and_at_most_three_do_not_pass() -> None:
    names = [family.name for family in FAMILIES]
    assert names == sorted(set(names))
    rows = read_rows(model_sweep.ROWS)
    assert {row.family for row in rows} <= set(names)
    assert len(rows) >= 60
    assert sum(bool(row.failed_at) for row in rows) <= 3
    assert all(row.steps == model_sweep.STEPS for row in rows if not row.failed_at)


def test_the_page_equals_its_rows() -> None:
    text = model_sweep.PAGE.read_text(encoding="utf-8")
    assert text == build_page(text, read_rows(model_sweep.ROWS)), "run `make models`"


def test_a_page_has_a_line_for_each_family_and_says_what_failed_and_why() -> None:
    page = build_page(f"{model_sweep.BEGIN}\n{model_sweep.END}\n", [PASSED, FAILED])
    assert "1 of 2 families pass. Not run yet: beit, " in page
    assert "| a | `a_tiny` | 64 | 1,000 | `stages.0` (1 of 2) | nchw 8x4x4 | conv_light | +100 |" in page
    assert "| b | `b_tiny` | grow | HostError: a / b |" in page


def test_what_a_family_raises_is_its_row() -> None:
    row = run_family(replace(FAMILIES[0], model="no_such_model"), steps=1)
    assert row.failed_at == "build"
    assert "no_such_model" in row.reason


@pytest.mark.parametrize("text", ["{}", "not json", '{"family": "a", "modle": "b"}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: not a row of the sweep"):
        read_rows(path)


def test_rows_come_back_as_they_were_and_a_second_one_of_a_family_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    line = json.dumps(asdict(PASSED)) + "\n"
    path.write_text(line, encoding="utf-8")
    (row,) = read_rows(path)
    assert row == PASSED
    path.write_text(line * 2, encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: a second row of a"):
        read_rows(path)
