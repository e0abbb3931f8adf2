"""The table of the fault battery: what tests recorded, set beside the claims."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import battery_table
from battery_claims import CLAIMS
from battery_table import Row, build_page, build_table, is_whole, merge, read_rows, render_rows

ROW = Row(
    id="T07",
    test="tests/a.py::test_bits[0]",
    n=150,
    failures=0,
    worst_s=0.25,
    tier="P",
    outcome="passed",
    note="",
    machine="2 CPUs",
)


def line_of(rows: list[Row], claim: str = "T07") -> str:
    return next(line for line in build_table(rows).splitlines() if line.startswith(f"| {claim} "))


def test_the_page_equals_the_kept_rows() -> None:
    text = battery_table.PAGE.read_text(encoding="utf-8")
    kept = read_rows(battery_table.KEPT) if battery_table.KEPT.exists() else []
    assert text == build_page(text, kept), "run `make generate`"
    assert render_rows(kept) == (battery_table.KEPT.read_text(encoding="utf-8") if kept else "")


def test_claims_are_numbered_and_each_is_in_the_table() -> None:
    assert list(CLAIMS) == [f"T{number:02d}" for number in range(1, 51)]
    table = build_table([])
    for claim in CLAIMS.values():
        assert table.count(f"| {claim.id} | {claim.text} |") == 1
        assert set(claim.tier) <= set("PNG")
        assert claim.text


def test_the_cases_of_a_claim_are_added_and_its_worst_time_is_the_longest() -> None:
    rows = [ROW, replace(ROW, test="tests/a.py::test_bits[1]", n=50, worst_s=1.0)]
    assert line_of(rows).endswith("| `tests/a.py::test_bits` | 200 | 0 | 1.00 s | passed |")


@pytest.mark.parametrize("broken", [replace(ROW, failures=1), replace(ROW, outcome="failed")])
def test_one_broken_case_breaks_the_claim_and_the_run(broken: Row) -> None:
    rows = [replace(ROW, test="other"), broken]
    assert "**failed**" in line_of(rows)
    assert not is_whole(rows)
    assert is_whole([ROW])


def test_what_was_not_run_and_what_cannot_be_are_said() -> None:
    assert line_of([]).endswith("| - | - | - | - | not run |")
    assert line_of([], "T28").endswith("not tested here: needs two GPUs or more |")
    skipped = replace(ROW, outcome="skipped", n=0, worst_s=None, note="needs a GPU")
    assert line_of([skipped]).endswith("| - | - | - | not tested here: needs a GPU |")
    assert line_of([ROW, replace(skipped, test="b")]).endswith("| 150 | 0 | 0.25 s | passed; needs a GPU |")


def test_kept_rows_of_other_claims_and_tiers_stay() -> None:
    night = replace(ROW, tier="N", test="long")
    other = replace(ROW, id="T01")
    assert merge([ROW, night, other], [replace(ROW, n=7)]) == [night, other, replace(ROW, n=7)]


def test_of_repeated_runs_of_a_test_the_last_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(render_rows([ROW]) + render_rows([replace(ROW, n=3)]), encoding="utf-8")
    assert read_rows(path) == [replace(ROW, n=3)]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"id": "T07"}', json.dumps(asdict(replace(ROW, id="T99")))], ids=str
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(render_rows([ROW]) + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: "):
        read_rows(path)


def test_a_run_is_kept_with_its_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, kept, rows = tmp_path / "page.md", tmp_path / "kept.jsonl", tmp_path / "rows.jsonl"
    page.write_text(f"# Title\n{battery_table.BEGIN}\n{battery_table.END}\n", encoding="utf-8")
    monkeypatch.setattr(battery_table, "PAGE", page)
    monkeypatch.setattr(battery_table, "KEPT", kept)
    rows.write_text(render_rows([ROW]), encoding="utf-8")
    assert battery_table.main([str(rows)]) == 0
    assert not kept.exists()
    rows.write_text(render_rows([replace(ROW, failures=2)]), encoding="utf-8")
    assert battery_table.main([str(rows), "--keep"]) == 1
    assert "**failed**" in page.read_text(encoding="utf-8")
    assert "a claim of the battery broke" in capsys.readouterr().err
    assert battery_table.main(["--check"]) == 0
    kept.write_text(render_rows([ROW]), encoding="utf-8")
    assert battery_table.main(["--check"]) == 1
