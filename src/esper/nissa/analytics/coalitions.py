"""`coalitions.json` of a run: what every subset of its fossils is worth, and each one's Shapley value.

The file may come from elsewhere, so its size and every field are checked. Measuring is done elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from esper.leyline import DataError, JsonValue
from esper.nissa.codec import to_plain_tree
from esper.nissa.files import write_atomically

COALITIONS_NAME = "coalitions.json"
COALITIONS_VERSION = 1
"""Version of the file's format; another one is refused."""
_MAX_BYTES = 2**24


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CoalitionRow:
    """One subset of the fossils, the others switched off."""

    slots: tuple[str, ...]
    metric: float
    """Mean per item, higher is better."""
    standard_error: float
    """Over items."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ShapleyRow:
    """One fossil's share of what all of them bring, in units of the metric."""

    slot: str
    seed_id: str
    blueprint: str
    shapley: float
    standard_error: float
    """Over validation items."""
    sampling_error: float
    """Over sampled orders; 0 where every subset was measured."""
    alone: float
    """Metric with this fossil alone minus metric with none."""
    last: float
    """Metric with all minus metric with all but this one: its contribution."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CoalitionTable:
    """The file."""

    metric_name: str
    """What was measured per item: the task's metric, or "loss" (then its negative)."""
    checkpoint: str
    """Which checkpoint of the run was measured."""
    epoch: int
    """Epochs finished there."""
    num_orders: int | None
    """Random orders drawn; None = every subset was measured."""
    seed: int
    """Of the orders."""
    num_items: int
    """Validation items, the first ones."""
    num_calibration_items: int
    """Training items behind the normalisation statistics of each setting; 0 = no norm keeps any."""
    flops: Mapping[str, int]
    """Spent on measuring, by kind; not part of the run's own bill."""
    shares: tuple[ShapleyRow, ...]
    values: tuple[CoalitionRow, ...]

    @property
    def quantity(self) -> str:
        """What the values are, for a reader: a loss is turned around, so that higher is better."""
        return "minus the loss" if self.metric_name == "loss" else self.metric_name

    def to_json(self) -> dict[str, JsonValue]:
        """Return what the file holds; numbers that are not finite become null and are named."""
        tree = to_plain_tree({"format_version": COALITIONS_VERSION, **asdict(self)})
        value = dict(tree.value) if isinstance(tree.value, Mapping) else {}
        if tree.nonfinite:
            value["nonfinite"] = tree.nonfinite
        return value


def write_coalitions(run_dir: Path, table: CoalitionTable) -> Path:
    """Write the file into a run directory in one step and return its path.

    Raises:
        OSError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> told = {"metric_name": "loss", "checkpoint": "last", "epoch": 8, "num_orders": None, "seed": 0}
        >>> counts = {"num_items": 64, "num_calibration_items": 0, "flops": {}}
        >>> table = CoalitionTable(**told, **counts, shares=(), values=())
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_coalitions(folder, table).name, read_coalitions(folder) == table
        ('coalitions.json', True)
    """
    path = run_dir / COALITIONS_NAME
    text = json.dumps(table.to_json(), indent=2, allow_nan=False, ensure_ascii=True)
    write_atomically(path, (text + "\n").encode())
    return path


def read_coalitions(run_dir: Path) -> CoalitionTable | None:
    """Return the file of a run directory; None = there is none.

    Raises:
        DataError: If it is damaged, or of another version.

    Example:
        Of a run whose coalitions were never measured:

        >>> read_coalitions(run_dir) is None
        True
    """
    path = run_dir / COALITIONS_NAME
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        value = json.loads(data) if len(data) <= _MAX_BYTES else None
        return _parse(value)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:80]}); `esper coalitions RUN` "
            "measures it anew"
        ) from error


def _parse(value: JsonValue) -> CoalitionTable:
    record = _as_mapping(value)
    if record["format_version"] != COALITIONS_VERSION:
        raise ValueError(f"format {str(record['format_version'])[:20]!r}, expected {COALITIONS_VERSION}")
    orders = record["num_orders"]
    return CoalitionTable(
        metric_name=_text(record["metric_name"]),
        checkpoint=_text(record["checkpoint"]),
        epoch=_count(record["epoch"]),
        num_orders=None if orders is None else _count(orders),
        seed=_count(record["seed"]),
        num_items=_count(record["num_items"]),
        num_calibration_items=_count(record["num_calibration_items"]),
        flops={kind: _count(amount) for kind, amount in _as_mapping(record["flops"]).items()},
        shares=tuple(_parse_share(_as_mapping(row)) for row in _as_list(record["shares"])),
        values=tuple(_parse_value(_as_mapping(row)) for row in _as_list(record["values"])),
    )


def _parse_share(row: Mapping[str, JsonValue]) -> ShapleyRow:
    return ShapleyRow(
        slot=_text(row["slot"]),
        seed_id=_text(row["seed_id"]),
        blueprint=_text(row["blueprint"]),
        shapley=_number(row["shapley"]),
        standard_error=_number(row["standard_error"]),
        sampling_error=_number(row["sampling_error"]),
        alone=_number(row["alone"]),
        last=_number(row["last"]),
    )


def _parse_value(row: Mapping[str, JsonValue]) -> CoalitionRow:
    return CoalitionRow(
        slots=tuple(_text(slot) for slot in _as_list(row["slots"])),
        metric=_number(row["metric"]),
        standard_error=_number(row["standard_error"]),
    )


def _as_mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise TypeError("expected an object")
    return value


def _as_list(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return value


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value


def _count(value: JsonValue) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("expected a count")
    return value


def _number(value: JsonValue) -> float:
    """A number; null stands for one that was not finite."""
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("expected a number")
    return float(value)
