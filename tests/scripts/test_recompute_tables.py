"""The page of results equals its rows, and a difference is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recompute_tables import rewrite

PAGE = "words\n\n<!-- table:incubation_toy -->\n\nold\n\n<!-- /table -->\nmore words\n"


def write_rows(folder: Path, name: str) -> None:
    row = {
        "arm": "shadow",
        "seed": 1000,
        "learning_rate": 0.1,
        "protocol_hash": "p",
        "validation_accuracy": 0.9,
        "validation_loss": 0.2,
        "flops_total": 1_000_000_000,
        "seconds": 2.0,
        "failure": None,
        "blends": [{"loss_rise_first_alpha": 0.001, "loss_rise_full_alpha": -0.01}],
    }
    (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    write_rows(tmp_path, "incubation_toy")
    page = rewrite(PAGE, tmp_path)
    assert page.startswith("words\n\n<!-- table:incubation_toy -->\n")
    assert page.endswith("<!-- /table -->\nmore words\n")
    assert "| shadow | 1 | 0.9000 | - |" in page
    assert "old" not in page
    assert rewrite(page, tmp_path) == page


def test_an_altered_number_makes_the_page_differ(tmp_path: Path) -> None:
    write_rows(tmp_path, "incubation_toy")
    page = rewrite(PAGE, tmp_path)
    altered = page.replace("0.9000", "0.9900")
    assert altered != page
    assert rewrite(altered, tmp_path) == page


def test_rows_without_a_place_on_the_page_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, "incubation_other")
    with pytest.raises(ValueError, match="no marker on the page for incubation_other"):
        rewrite(PAGE, tmp_path)
