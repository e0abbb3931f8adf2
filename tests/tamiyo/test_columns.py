"""Tables of columns, against the same arithmetic one number at a time."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import GLOBAL_FEATURES, FeatureScale, FeatureSpec, feature_width
from esper.tamiyo.columns import (
    SlotPlaces,
    build_scales,
    compute_ratio,
    divide,
    name_columns,
    one_hot,
    scale_columns,
    to_table,
)
from esper.tamiyo.encoding import _ratio, _scale
from strategies import WILD_FLOATS

SCALES = (FeatureScale.FLAG, FeatureScale.FRACTION, FeatureScale.SIGNED, FeatureScale.SYMLOG)
SPECS = tuple(FeatureSpec(name=s.value, scale=s, meaning="any", width=1) for s in SCALES)


def same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


@given(st.lists(st.tuples(WILD_FLOATS, WILD_FLOATS), min_size=1, max_size=9))
def test_a_ratio_of_columns_is_that_of_each_pair(pairs: list[tuple[float, float]]) -> None:
    tops, units = np.array(pairs).T
    for found, (top, unit) in zip(compute_ratio(tops, units).tolist(), pairs, strict=True):
        assert same(found, _ratio(top, unit))
    assert set(divide({"a": (tops, units), "b": (units, tops)})) == {"a", "b"}


@given(st.lists(WILD_FLOATS, min_size=1, max_size=9))
def test_a_scaled_column_is_each_number_scaled(values: list[float]) -> None:
    table = scale_columns(build_scales(SPECS), {spec.name: np.array(values) for spec in SPECS})
    for row, value in zip(table, values, strict=True):
        assert row.tolist() == [np.float32(_scale(value, scale)) for scale in SCALES]


def test_the_scales_of_a_group_are_as_wide_as_its_table_and_cannot_be_written() -> None:
    scales = build_scales(GLOBAL_FEATURES)
    assert scales.width == len(scales.low) == len(scales.high) == feature_width(GLOBAL_FEATURES)
    assert not any(array.flags.writeable for array in (scales.low, scales.high, scales.logarithmic))


def test_none_becomes_nan_and_whole_numbers_beyond_floats_infinite() -> None:
    columns = name_columns(("a", "b"), [(None, 10**400), (True, -(10**400)), (2, 0.5)])
    assert columns["a"].tolist()[1:] == [1.0, 2.0]
    assert math.isnan(columns["a"][0])
    assert columns["b"].tolist() == [math.inf, -math.inf, 0.5]
    assert to_table([], 3).shape == (0, 3)


def test_a_place_of_minus_one_has_no_column() -> None:
    assert one_hot([1, -1, 0], 2).tolist() == [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]


def test_rows_are_spread_to_where_their_slots_stand() -> None:
    mask = np.array([[True, False], [True, True]])
    places = SlotPlaces(mask, np.ones((2, 1), dtype=np.bool_), mask.nonzero()[0], np.ones(3))
    assert places.spread(np.array([5, 6, 7])).tolist() == [[5, 0], [6, 7]]
