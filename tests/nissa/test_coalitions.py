"""`coalitions.json` comes back as it was written; a damaged or foreign one is named, not guessed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import DataError, JsonValue
from esper.nissa import (
    COALITIONS_NAME,
    CoalitionRow,
    CoalitionTable,
    ShapleyRow,
    read_coalitions,
    write_coalitions,
)

SHARE = ShapleyRow(
    slot="block2",
    seed_id="block2#1",
    blueprint="conv_light",
    shapley=0.02,
    standard_error=0.004,
    sampling_error=0.0,
    alone=0.021,
    last=0.019,
)
TABLE = CoalitionTable(
    metric_name="accuracy",
    checkpoint="e0040-b00000",
    epoch=40,
    num_orders=None,
    seed=0,
    num_items=360,
    num_calibration_items=512,
    flops={"calibration": 10, "counterfactual": 20},
    shares=(SHARE,),
    values=(
        CoalitionRow(slots=(), metric=0.90, standard_error=0.01),
        CoalitionRow(slots=("block2",), metric=0.92, standard_error=0.01),
    ),
)


@pytest.mark.parametrize("table", [TABLE, replace(TABLE, num_orders=64, shares=(), values=())])
def test_a_table_comes_back_as_it_was_written(table: CoalitionTable, tmp_path: Path) -> None:
    path = write_coalitions(tmp_path, table)
    assert path == tmp_path / COALITIONS_NAME
    assert read_coalitions(tmp_path) == table
    assert [file.name for file in tmp_path.iterdir()] == [COALITIONS_NAME]


def test_numbers_that_are_not_finite_are_null_and_named(tmp_path: Path) -> None:
    table = replace(TABLE, shares=(replace(SHARE, shapley=math.nan),))
    record = table.to_json()
    assert record["nonfinite"]
    write_coalitions(tmp_path, table)
    found = read_coalitions(tmp_path)
    assert found is not None
    assert math.isnan(found.shares[0].shapley)


def test_no_file_is_no_table(tmp_path: Path) -> None:
    assert read_coalitions(tmp_path) is None


def _with(**changes: JsonValue) -> str:
    return json.dumps({**TABLE.to_json(), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        _with(format_version=2),
        _with(num_items="360"),
        _with(num_items=True),
        _with(num_items=-1),
        _with(flops=[]),
        _with(shares={"a": 1}),
        _with(shares=[1]),
        _with(values=[{"slots": [1], "metric": 0.5, "standard_error": 0.1}]),
        _with(values=[{"slots": [], "metric": "x", "standard_error": 0.1}]),
        _with(checkpoint=None),
    ],
)
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / COALITIONS_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"coalitions\.json is damaged") as caught:
        read_coalitions(tmp_path)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / COALITIONS_NAME).mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_coalitions(tmp_path)
