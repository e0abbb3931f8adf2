from __future__ import annotations

import json
import sys

import pytest

from esper.cli.output import (
    Table,
    flatten_record,
    render_plain,
    report_error,
    report_note,
    write_json,
    write_table,
    write_text,
)

TABLE = Table(title="Runs", columns=("name", "state"), rows=(("a", "running"), ("longer", "x")))


def test_plain_tables_are_aligned_and_have_no_trailing_blanks() -> None:
    assert render_plain(TABLE) == "Runs\nname    state\na       running\nlonger  x\n"


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


def test_json_is_one_document_and_non_finite_numbers_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": "\u00e9"}})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": None, "b": [None, 1.5], "c": {"d": "\u00e9"}}
    assert out.isascii()


def test_notes_and_errors_go_to_stderr_as_single_lines(capsys: pytest.CaptureFixture[str]) -> None:
    report_note("a\nb")
    report_error("c\nd")
    assert capsys.readouterr() == ("", "a b\nesper: error: c d\n")


def test_text_ends_with_one_line_end(capsys: pytest.CaptureFixture[str]) -> None:
    write_text("a\n\n")
    assert capsys.readouterr().out == "a\n"


def test_records_become_dotted_rows_without_empty_values() -> None:
    rows = flatten_record(
        {
            "n": 12345,
            "f": 0.5,
            "ok": True,
            "no": False,
            "none": None,
            "": "",
            "l": [1, {"x": 1.0}],
            "m": {"k": "v"},
        }
    )
    assert rows == (
        ("n", "12,345"),
        ("f", "0.5"),
        ("ok", "yes"),
        ("no", "no"),
        ("l", '1, {"x": 1.0}'),
        ("m.k", "v"),
    )


def test_an_empty_list_is_left_out() -> None:
    assert flatten_record({"l": []}) == ()
