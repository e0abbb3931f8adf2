"""Tables of float64 columns: None to NaN, numbers over units, and the scales of the feature table at once.

What `esper.tamiyo.batch_encoding` is made of; knows numbers and scales, and no field of an observation.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from esper.leyline import FEATURE_BOUND, FeatureScale, FeatureSpec

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[np.generic]]
"""Name -> [rows] or [rows, width], floats or flags."""
Numbers = Mapping[str, Floats]
"""Name -> [rows]; NaN = not measured."""
Pairs = Mapping[str, tuple[Floats, Floats]]
"""Name -> numbers and the units that they are divided by, [rows] each."""
_T = TypeVar("_T", bound=np.generic)


class SlotPlaces(NamedTuple):
    """Where N slots of E hosts stand in [E, S]."""

    slot_mask: NDArray[np.bool_]
    """[E, S]: a real slot is there; in order of rows these are the N slots."""
    blueprint_mask: NDArray[np.bool_]
    """[E, B]: the host has so many blueprints."""
    host_of: NDArray[np.int64]
    """[N]."""
    depth: Floats
    """[N] 1 + place in the host."""

    def spread(self, rows: NDArray[_T]) -> NDArray[_T]:
        """Return rows [N, ...] as [E, S, ...], zeros where no slot is."""
        table = np.zeros((*self.slot_mask.shape, *rows.shape[1:]), dtype=rows.dtype)
        table[self.slot_mask] = rows
        return table


class FeatureScales(NamedTuple):
    """How the columns of a group become features."""

    names: tuple[str, ...]
    """Of the features, in order."""
    width: int
    logarithmic: NDArray[np.int64]
    """Places of the columns on a logarithmic scale."""
    low: Floats
    """[width]."""
    high: Floats


def build_scales(features: Sequence[FeatureSpec]) -> FeatureScales:
    """Return the scales of a group of the feature table, column by column."""
    scales = [spec.scale for spec in features for _ in range(spec.width)]
    bounds = {FeatureScale.SYMLOG: (-FEATURE_BOUND, FEATURE_BOUND), FeatureScale.SIGNED: (-1.0, 1.0)}
    low, high = np.array([bounds.get(scale, (0.0, 1.0)) for scale in scales]).T
    logarithmic = np.array([place for place, scale in enumerate(scales) if scale is FeatureScale.SYMLOG])
    for array in (low, high, logarithmic):
        array.setflags(write=False)
    return FeatureScales(tuple(spec.name for spec in features), len(scales), logarithmic, low, high)


def scale_columns(scales: FeatureScales, columns: Columns) -> NDArray[np.float32]:
    """Return [rows, width] features; a number that is not finite becomes 0."""
    assert set(columns) == set(scales.names), f"{set(columns) ^ set(scales.names)}"
    ordered = [columns[name] for name in scales.names]
    table = np.concatenate(
        [column if column.ndim == 2 else column[:, None] for column in ordered], axis=1, dtype=np.float64
    )
    assert table.shape[1] == scales.width, f"{table.shape[1]} columns, the table has {scales.width}"
    table[~np.isfinite(table)] = 0.0
    raw = table[:, scales.logarithmic]
    logarithms = np.fromiter(map(math.log1p, np.abs(raw).ravel().tolist()), np.float64, raw.size)
    table[:, scales.logarithmic] = np.copysign(logarithms.reshape(raw.shape), raw)
    return np.clip(table, scales.low, scales.high).astype(np.float32)


def divide(pairs: Pairs) -> dict[str, Floats]:
    """Return each number over its unit."""
    tops, units = (np.stack(parts) for parts in zip(*pairs.values(), strict=True))
    return dict(zip(pairs, compute_ratio(tops, units), strict=True))


def compute_ratio(tops: Floats, units: Floats | float) -> Floats:
    """Return tops / units; NaN where either is not finite or the unit is not positive.

    A quotient of finite numbers that is too large for a float is the largest float: it is clipped later, and
    is no missing measurement.
    """
    with np.errstate(all="ignore"):
        quotient = tops / units
    largest = np.copysign(sys.float_info.max, quotient)
    quotient = np.where(np.isfinite(quotient), quotient, largest)
    is_known = np.isfinite(tops) & np.isfinite(units) & (np.asarray(units) > 0.0)
    return np.where(is_known, quotient, np.nan)


def one_hot(places: Sequence[int], width: int) -> Floats:
    """Return [rows, width] with a 1 at each place; all 0 where it is -1."""
    table = np.zeros((width + 1, width))
    np.fill_diagonal(table, 1.0)
    return table[np.array(places, dtype=np.int64)]


def name_columns(names: Sequence[str], rows: Sequence[tuple[float | None, ...]]) -> Numbers:
    """Return the columns of a table of rows by name."""
    return dict(zip(names, to_table(rows, len(names)).T, strict=True))


def to_table(rows: Sequence[tuple[float | None, ...]], width: int) -> Floats:
    """Return [rows, width]; None becomes NaN, a whole number too large for a float infinite."""
    try:
        table = np.array(rows, dtype=np.float64)
    except OverflowError:
        table = np.array([[_as_float(value) for value in row] for row in rows], dtype=np.float64)
    return table.reshape(len(rows), width)


def _as_float(value: float | None) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        return math.copysign(math.inf, 1.0 if value is not None and value > 0 else -1.0)
