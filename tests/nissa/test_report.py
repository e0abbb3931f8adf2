"""The report of a run directory: one text, one picture, on finished and on damaged runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import RedFlagRaised, RolledBack, RunDirectoryError, SharpnessMeasured
from esper.nissa import read_run, render_report, write_report
from esper.nissa.analytics.document import render_section
from esper.nissa.analytics.run_document import build_reading
from esper.nissa.reader import BadLine
from nissa.sample_run import numbered, run_events, write_run


def test_a_finished_run_has_a_text_and_a_picture(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(run_events()))
    paths = write_report(tmp_path)
    text = paths.markdown.read_text(encoding="utf-8")
    assert paths.picture.read_bytes().startswith(b"\x89PNG")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# Growth run: digits",
        "## Slots",
        "## Blueprints",
        "## Compute by kind",
        "## Seeds",
        "## Decisions",
        "## Lifecycle",
    ]
    assert f"]({paths.picture.name})" in text
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("| ---"):
            assert lines[number - 2] == ""  # a table needs a blank line before it


def test_a_report_is_a_function_of_the_log(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(run_events()))
    first = write_report(tmp_path).markdown.read_bytes()
    assert write_report(tmp_path).markdown.read_bytes() == first


def test_damage_is_named_in_the_report(tmp_path: Path) -> None:
    events = list(run_events())
    back = RolledBack(
        epoch=1, verdict="diverged", reason="loss", restored_epoch=1, blamed_slot=None, rollback_count=1
    )
    write_run(tmp_path, numbered([*events[:40], back]))
    path = tmp_path / "events-0.jsonl"
    lines = path.read_bytes().splitlines()
    lines[3] = b"rubbish"
    path.write_bytes(b"\n".join(lines) + b"\ntorn")
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "1 event files end in a torn line" in text
    assert "events-0.jsonl, line 4 could not be read" in text
    assert "## Rollbacks" in text


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(run_events()))
    log = replace(
        read_run(tmp_path),
        bad_lines=tuple(BadLine(file="f", line=i, problem="") for i in range(25)),
        num_superseded=4,
    )
    section = build_reading(log)
    assert section is not None
    text = render_section(section)
    assert "5 more lines could not be read." in text
    assert "4 records were superseded" in text
    assert text.strip() in render_report(log)


def test_a_folder_without_events_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError):
        write_report(tmp_path)


def test_what_diagnostics_came_to_is_told_with_every_red_flag(tmp_path: Path) -> None:
    sharp = [
        SharpnessMeasured(epoch=epoch, sharpness=float(epoch), loss=1.0, sigma=0.01, num_draws=3, num_items=9)
        for epoch in (5, 10)
    ]
    flags = [RedFlagRaised(epoch=10, name="sharp_loss", value=10.0, threshold=1.0, where="a|b")] * 102
    write_run(tmp_path, numbered([*run_events(), *sharp, *flags]))
    text = render_report(read_run(tmp_path))
    measured, part = text.split("## Diagnostics")[1].split("## Red flags")
    assert "| 10 | Sharpness is 10.000" in measured
    assert "Sharpness is 5.000" not in measured
    part = part.split("\n## ")[0]
    assert part.count("sharpness is 10.00") == 100
    assert "(a\\|b)" in part
    assert "2 earlier ones" in part
