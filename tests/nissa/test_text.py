"""Names cannot steer a terminal, and numbers read well."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.nissa.text import (
    BLOCKS,
    PLAIN_LEVELS,
    clean_text,
    draw_sparkline,
    format_count,
    format_estimate,
    format_flops,
    format_metric,
    format_number,
    format_percent,
    format_seconds,
)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("conv_light", "conv_light"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07shown", "shown"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("a\r\nb\tc", "a b c"),
        ("bell\x07\x00", "bell"),
        ("\u202eevil", "evil"),
        ("\ud800x", "\ufffdx"),
        ("\x1b]unfinished", ""),
        ("\x1bc", ""),
    ],
)
def test_control_sequences_are_stripped(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@given(st.text(st.characters(codec=None, categories=("Cc", "Cf", "Cs", "L", "Zl"))))
def test_cleaned_text_holds_no_control_and_can_be_written(text: str) -> None:
    cleaned = clean_text(text)
    cleaned.encode()
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in cleaned)
    assert clean_text(cleaned) == cleaned


def test_accuracies_are_per_cent_and_other_metrics_are_not() -> None:
    assert format_metric("accuracy", 0.942) == "94.2 %"
    assert format_metric("train_accuracy", 1.0) == "100.0 %"
    assert format_metric("loss", 0.231) == "0.231"
    assert format_percent(math.nan) == "nan"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.5, "0.500"),
        (1e-5, "1e-05"),
        (12345.0, "1.23e+04"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_show_three_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_estimates_show_their_error() -> None:
    assert format_estimate(0.0123, 0.0041) == "+0.0123 +- 0.0041"
    assert format_estimate(-0.0123, None) == "-0.0123"
    assert format_estimate(None, None) == "not measured"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (21.2, "21 s"),
        (59.6, "1 min 00 s"),
        (200.0, "3 min 20 s"),
        (7500.0, "2 h 05 min"),
        (3599.9, "1 h 00 min"),
    ],
)
def test_times_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_counts_and_flops() -> None:
    assert format_count(1_204) == "1,204"
    assert format_flops(950) == "950 FLOPs"
    assert format_flops(12_300_000_000) == "12.3 GFLOPs"
    assert format_flops(5 * 10**18) == "5e+03 PFLOPs"


def test_a_sparkline_goes_from_the_lowest_level_to_the_highest() -> None:
    assert draw_sparkline([float(number) for number in range(8)], width=20) == BLOCKS
    assert draw_sparkline([3.0, 1.0, 2.0], width=3, levels="abc") == "cab"
    assert draw_sparkline([1.0, 1.0], width=3, levels="abc") == "aa"
    assert draw_sparkline([0.0, None, math.nan, 1.0], width=4, levels="ab") == "a  b"
    assert draw_sparkline([None], width=4) == " "
    assert draw_sparkline([], width=4) == ""


def test_a_long_curve_is_averaged_in_pieces() -> None:
    assert draw_sparkline([0.0, 2.0, 10.0, 12.0, 4.0, 8.0], width=3, levels="abc") == "acb"


@given(st.lists(st.none() | st.floats()), st.integers(1, 40), st.sampled_from([BLOCKS, PLAIN_LEVELS]))
def test_a_sparkline_is_as_long_as_its_curve_and_no_wider_than_its_place(
    values: list[float | None], width: int, levels: str
) -> None:
    drawn = draw_sparkline(values, width=width, levels=levels)
    assert len(drawn) == min(width, len(values))
    assert set(drawn) <= {*levels, " "}
