"""Figures as bytes: the same for the same figure, without pyplot, with amounts that can be read."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from esper.nissa.analytics.drawing import _short, label_amount, label_metric, new_figure, save_figure, shorten


def test_the_same_figure_is_the_same_bytes_and_valid_xml() -> None:
    def draw() -> bytes:
        figure = new_figure(3, 2)
        axes = figure.subplots()
        axes.plot([1, 2, 3], [0.1, 0.5, 0.2])
        label_amount(axes, "parameters")
        label_metric(axes, "accuracy")
        return save_figure(figure, "svg").data

    first = draw()
    assert first == draw()
    root = ET.fromstring(first)  # our own bytes
    assert root.tag.endswith("svg")
    assert b"<script" not in first
    assert b"<text" not in first  # letters are outlines, so that no font is missing


def test_a_png_is_a_png() -> None:
    image = save_figure(new_figure(1, 1), "png")
    assert (image.media_type, image.data[:4]) == ("image/png", b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1204, "1.204k"), (12_300_000, "12.3M"), (2e18, "2000P"), (-1500, "-1.5k")],
)
def test_amounts_are_short(value: float, text: str) -> None:
    assert _short(value) == text


def test_names_are_cut_and_drawable() -> None:
    assert shorten("a\x1b[31mb\u4e2d") == "ab?"
    assert len(shorten("x" * 99)) == 60
