"""The document of one host run: what stands in it, and what only where it happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from esper.leyline import Event, RedFlagRaised
from esper.nissa import build_run_document, read_run, render_markdown
from esper.nissa.analytics.document import FigureBlock, render_section
from esper.nissa.analytics.run_document import MAX_COALITIONS, MAX_RED_FLAGS, build_red_flags, build_shares
from nissa.sample_run import numbered, run_events, write_run
from nissa.test_coalitions import TABLE


def flag(epoch: int) -> Event:
    return RedFlagRaised(epoch=epoch, name="sharp_loss", value=10.0, threshold=1.0, advice="a wider batch")


def test_a_run_has_its_figures_in_order(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(run_events()))
    document = build_run_document(read_run(tmp_path), TABLE)
    assert [figure.name for figure in document.figures] == ["timeline", "costs", "contributions", "subsets"]
    assert [section.title for section in document.sections] == [
        "Slots",
        "Blueprints",
        "Compute by kind",
        "Seeds",
        "Shapley values",
        "Decisions",
        "Lifecycle",
    ]


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    start = next(iter(run_events()))
    write_run(tmp_path, numbered([start]))
    document = build_run_document(read_run(tmp_path))
    assert [figure.name for figure in document.figures] == ["timeline"]
    assert "ended: unfinished" in render_markdown(document, {})


def test_shapley_values_stand_with_their_errors() -> None:
    text = render_section(build_shares(TABLE))
    assert "| block2#1 | conv_light | +0.0200 | 0.0040 | exact | +0.0210 | +0.0190 |" in text
    assert "every one of 2 subsets" in text
    assert "| none | 0.9000 | 0.0100 |" in text


def test_sampled_values_say_so_and_long_lists_are_cut() -> None:
    values = TABLE.values[:1] * (MAX_COALITIONS + 3)
    shares = (replace(TABLE.shares[0], sampling_error=0.001),)
    text = render_section(build_shares(replace(TABLE, num_orders=64, values=values, shares=shares)))
    assert "subsets along 64 random orders" in text
    assert "| 0.0040 | 0.0010 |" in text
    assert "3 more subsets are in the file." in text
    assert [
        block for block in build_shares(replace(TABLE, shares=())).blocks if isinstance(block, FigureBlock)
    ] == []
    assert "minus the loss" in render_section(build_shares(replace(TABLE, metric_name="loss")))


def test_red_flags_are_told_in_words_with_what_helps() -> None:
    assert build_red_flags(tuple(run_events())) is None
    section = build_red_flags([flag(3)])
    assert section is not None
    text = render_section(section)
    assert "| epoch | red flag | what helps |" in text
    assert "sharpness is 10.00" in text
    assert text.count("a wider batch") == 1


def test_the_newest_red_flags_are_listed() -> None:
    section = build_red_flags([flag(epoch) for epoch in range(MAX_RED_FLAGS + 2)])
    assert section is not None
    text = render_section(section)
    assert "| 1 |" not in text
    assert "2 earlier ones are in the event file." in text
