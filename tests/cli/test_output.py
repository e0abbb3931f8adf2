from __future__ import annotations

import json
import sys

import pytest

from esper.cli.output import (
    Table,
    render_plain,
    report_error,
    report_note,
    write_json,
    write_table,
    write_tables,
    write_text,
)

TABLE = Table(title="Runs", columns=("name", "state"), rows=(("a", "running"), ("longer", "x")))


def test_plain_tables_are_aligned_and_have_no_trailing_blanks() -> None:
    assert render_plain(TABLE) == "Runs\nname    state\na       running\nlonger  x\n"


def test_numbers_are_aligned_to_the_right() -> None:
    table = Table(title="T", columns=("a", "n"), rows=(("x", "1"), ("y", "1,000")), numbers=frozenset({"n"}))
    assert render_plain(table) == "T\na      n\nx      1\ny  1,000\n"


def test_tables_have_an_empty_line_between_them(capsys: pytest.CaptureFixture[str]) -> None:
    write_tables((TABLE, TABLE))
    assert capsys.readouterr().out == render_plain(TABLE) + "\n" + render_plain(TABLE)


def test_an_empty_table_says_so() -> None:
    assert render_plain(Table(title="Runs", columns=("name",), rows=(), empty="no runs")) == "Runs\nno runs\n"


def test_cells_cannot_steer_the_terminal() -> None:
    table = Table(title="T", columns=("c",), rows=(("\x1b[2Jhidden\nline",),))
    assert render_plain(table) == "T\nc\nhidden line\n"


def test_off_a_terminal_tables_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(TABLE)
    assert capsys.readouterr() == (render_plain(TABLE), "")


@pytest.mark.parametrize("rows", [(("[bold]a", "b"),), ()])
def test_on_a_terminal_tables_are_framed_and_markup_is_text(
    rows: tuple[tuple[str, str], ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write_table(Table(title="Runs", columns=("name", "state"), rows=rows))
    shown = capsys.readouterr().out
    assert "Runs" in shown
    assert ("[bold]a" in shown) is bool(rows)


@pytest.mark.parametrize("is_folded", [True, False])
def test_a_folded_table_cuts_no_word_on_a_narrow_terminal(
    is_folded: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    write_table(Table(title="T", columns=("c",), rows=(("x" * 40,),), is_folded=is_folded))
    assert (capsys.readouterr().out.count("x") == 40) is is_folded


@pytest.mark.parametrize("has_colour", [True, False])
def test_no_color_is_honoured_on_a_terminal(
    has_colour: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not has_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    write_table(Table(title="T", columns=("c",), rows=(("kept",), ("gone",)), colours={"kept": "green"}))
    assert ("\x1b[32mkept" in capsys.readouterr().out) is has_colour


def test_json_is_one_document_and_non_finite_numbers_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": "\u00e9"}})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": None, "b": [None, 1.5], "c": {"d": "\u00e9"}}
    assert out.isascii()


def test_notes_and_errors_go_to_stderr_and_no_line_of_one_looks_like_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report_note("a\nb")
    report_error("c\nesper: error: d\x1b[2J")
    assert capsys.readouterr() == ("", "a b\nesper: error: c\n  esper: error: d\n")


def test_text_ends_with_one_line_end(capsys: pytest.CaptureFixture[str]) -> None:
    write_text("a\n\n")
    assert capsys.readouterr().out == "a\n"


def test_an_error_that_repeats_a_page_keeps_its_beginning_and_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report_error("unknown policy '" + "x" * 5_000 + "': known: never")
    said = capsys.readouterr().err
    assert len(said) < 2_000
    assert said.startswith("esper: error: unknown policy 'xxx")
    assert said.endswith("xxx': known: never\n")
    assert " characters ...] " in said
    report_error("y" * 1_500)
    assert capsys.readouterr().err == "esper: error: " + "y" * 1_500 + "\n"
