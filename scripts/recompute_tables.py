"""The tables of docs/results.md, recomputed from the committed rows.

    python scripts/recompute_tables.py            write them
    python scripts/recompute_tables.py --check    exit 1 if the page differs

The page holds pairs of marker lines, `<!-- table:NAME -->` and `<!-- /table -->`; between them goes the table
of benchmarks/results/NAME.jsonl, and NAME begins with growth_ or incubation_. A growth table takes seeds 0 to
9 and the test split, an incubation table seeds from 1000 on and validation. Differences are paired by seed,
with a 95 % t interval.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

Row = Mapping[str, object]

ROOT = Path(__file__).resolve().parent.parent
CLAIM_SEEDS = 10
FIRST_TUNING_SEED = 1000
MARKED = re.compile(r"(<!-- table:(\w+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
GROWTH_ARMS: tuple[str, ...] = ("never", "heuristic", "random", "static_final_epochs", "static_final_flops")
INCUBATION_ARMS: tuple[str, ...] = ("shadow", "residual", "straight_through")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95 % t interval; the bounds are None for a single value."""

    mean: float
    half_width: float | None


def estimate_interval(differences: Sequence[float]) -> Interval:
    """Return mean and half width t(0.975, n - 1) s / sqrt(n) of n >= 1 paired differences."""
    count = len(differences)
    mean = statistics.fmean(differences)
    if count < 2:
        return Interval(mean=mean, half_width=None)
    quantile = float(stats.t.ppf(0.975, count - 1))
    return Interval(mean=mean, half_width=quantile * statistics.stdev(differences) / count**0.5)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file.

    Raises:
        ValueError: If a key (arm, learning rate, seed) stands twice, or rows follow two protocols.
    """
    rows: list[Row] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    keys = [(row["arm"], row["learning_rate"], row["seed"]) for row in rows]
    doubled = sorted({str(key) for key in keys if keys.count(key) > 1})
    if doubled:
        raise ValueError(f"{path}: rows with the same arm, learning rate and seed: {', '.join(doubled)}")
    protocols = {str(row["protocol_hash"]) for row in rows}
    if len(protocols) > 1:
        raise ValueError(f"{path}: rows of different settings: protocols {', '.join(sorted(protocols))}")
    return rows


def number(row: Row, name: str) -> float:
    """Return a numeric field."""
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"row of arm {row['arm']}, seed {row['seed']}: {name} = {value!r} is not a number")
    return float(value)


def by_seed(rows: Sequence[Row], arm: str) -> dict[int, Row]:
    """Return an arm's rows by seed."""
    return {int(number(row, "seed")): row for row in rows if row["arm"] == arm}


def show_mean(rows: Mapping[int, Row], field: str, form: str) -> str:
    """Return the mean of a field over an arm's rows."""
    return format(statistics.fmean(number(row, field) for row in rows.values()), form)


def show_difference(rows: Mapping[int, Row], base: Mapping[int, Row], field: str) -> str:
    """Return the mean paired difference of a field over the seeds that both arms have."""
    seeds = sorted(set(rows) & set(base))
    if not seeds or rows is base:
        return "-"
    interval = estimate_interval([number(rows[seed], field) - number(base[seed], field) for seed in seeds])
    if interval.half_width is None:
        return f"{interval.mean:+.4f} (one seed)"
    low, high = interval.mean - interval.half_width, interval.mean + interval.half_width
    return f"{interval.mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def show_median_seconds(rows: Mapping[int, Row]) -> str:
    """Return the median wall clock of an arm's runs in seconds."""
    return f"{statistics.median(number(row, 'seconds') for row in rows.values()):.1f}"


def show_gflops(rows: Mapping[int, Row]) -> str:
    """Return the mean of an arm's FLOPs in units of 1e9."""
    return f"{statistics.fmean(number(row, 'flops_total') for row in rows.values()) / 1e9:.2f}"


def mean_of_blends(rows: Mapping[int, Row], field: str, form: str, *, is_size: bool) -> str:
    """Return the mean of a field over every blend of every row; "-" where none blended."""
    values: list[float] = []
    for row in rows.values():
        blends = row["blends"]
        assert isinstance(blends, list)
        values += [float(blend[field]) for blend in blends if blend[field] is not None]
    sizes = [abs(value) for value in values] if is_size else values
    return format(statistics.fmean(sizes), form) if sizes else "-"


def growth_cells(rows: Mapping[int, Row], base: Mapping[int, Row]) -> dict[str, str]:
    """Return the cells of one arm of a growth table."""
    kept = statistics.fmean(_count(row, "fossils") for row in rows.values())
    births, culls = show_mean(rows, "num_germinated", ".1f"), show_mean(rows, "num_culled", ".1f")
    return {
        "seeds": str(len(rows)),
        "test accuracy": show_mean(rows, "test_accuracy", ".4f"),
        "against never, paired": show_difference(rows, base, "test_accuracy"),
        "test loss": show_mean(rows, "test_loss", ".4f"),
        "parameters": show_mean(rows, "params_total", ".0f"),
        "GFLOP": show_gflops(rows),
        "epochs": show_mean(rows, "epochs", ".1f"),
        "seconds": show_median_seconds(rows),
        "germinated / culled / kept": f"{births} / {culls} / {kept:.1f}",
        "failed": str(sum(row["failure"] is not None for row in rows.values())),
    }


def incubation_cells(rows: Mapping[int, Row], base: Mapping[int, Row]) -> dict[str, str]:
    """Return the cells of one objective of an incubation table."""
    return {
        "seeds": str(len(rows)),
        "validation accuracy": show_mean(rows, "validation_accuracy", ".4f"),
        "against shadow, paired": show_difference(rows, base, "validation_accuracy"),
        "validation loss": show_mean(rows, "validation_loss", ".4f"),
        "loss against shadow, paired": show_difference(rows, base, "validation_loss"),
        "loss jump, first alpha": mean_of_blends(rows, "loss_rise_first_alpha", ".1e", is_size=True),
        "loss jump, full alpha": mean_of_blends(rows, "loss_rise_full_alpha", ".4f", is_size=True),
        "shadow gain": mean_of_blends(rows, "shadow_gain", "+.4f", is_size=False),
        "GFLOP": show_gflops(rows),
        "seconds": show_median_seconds(rows),
        "failed": str(sum(row["failure"] is not None for row in rows.values())),
    }


def _count(row: Row, name: str) -> int:
    value = row[name]
    assert isinstance(value, list)
    return len(value)


def build_table(name: str, rows: Sequence[Row]) -> str:
    """Return one table per learning rate as Markdown.

    Raises:
        ValueError: If the name tells of no known study.
    """
    study, _, task = name.partition("_")
    if study == "growth":
        arms, cells, used = GROWTH_ARMS, growth_cells, [r for r in rows if number(r, "seed") < CLAIM_SEEDS]
    elif study == "incubation":
        arms, cells = INCUBATION_ARMS, incubation_cells
        used = [row for row in rows if number(row, "seed") >= FIRST_TUNING_SEED]
    else:
        raise ValueError(f"table {name!r}: the name must begin with growth_ or incubation_")
    if not used:
        return f"{task}: no rows yet.\n"
    rates = sorted({number(row, "learning_rate") for row in used})
    parts = []
    for rate in rates:
        of_rate = [row for row in used if number(row, "learning_rate") == rate]
        parts.append(build_rate_table(task, rate, of_rate, arms, cells))
    return "\n".join(parts)


def build_rate_table(
    task: str,
    rate: float,
    rows: Sequence[Row],
    arms: Sequence[str],
    cells: Callable[[Mapping[int, Row], Mapping[int, Row]], dict[str, str]],
) -> str:
    """Return title and table of one learning rate; the first arm is the base of the differences."""
    of_arm = {arm: found for arm in arms if (found := by_seed(rows, arm))}
    base = of_arm.get(arms[0], {})
    table = [{"arm": arm, **cells(found, base)} for arm, found in of_arm.items()]
    # A claim needs every arm on every seed.
    is_claim = min(len(found) for found in of_arm.values()) >= CLAIM_SEEDS and len(of_arm) == len(arms)
    split = "tuning seeds, validation" if arms is INCUBATION_ARMS else "test"
    title = f"**{task}**, learning rate {rate:g} ({split}{'' if is_claim else ', smoke'})"
    heads = list(table[0])
    lines = [title, "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(line.values()) + " |" for line in table]
    return "\n".join(lines) + "\n"


def rewrite(page: str, results: Path) -> str:
    """Return the page with every marked table recomputed.

    Raises:
        ValueError: If a rows file has no place on the page, or rows are refused.
    """
    names = [match[1] for match in MARKED.findall(page)]
    homeless = sorted({path.stem for path in results.glob("*.jsonl")} - set(names))
    if homeless:
        raise ValueError(f"{results}: no marker on the page for {', '.join(homeless)}")

    def fill(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.jsonl"
        table = build_table(match[2], read_rows(path) if path.exists() else [])
        # Blank lines, because Markdown takes a line right below a comment for a part of it.
        return f"{match[1]}\n{table}\n{match[4]}"

    return MARKED.sub(fill, page)


def main() -> int:
    """Write the page, or compare."""
    parser = argparse.ArgumentParser(description="Recompute the tables of the results page.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    present = arguments.page.read_text(encoding="utf-8")
    wanted = rewrite(present, arguments.results)
    if present == wanted:
        return 0
    if arguments.check:
        print(f"{arguments.page} differs from its rows: run scripts/recompute_tables.py", file=sys.stderr)
        return 1
    arguments.page.write_text(wanted, encoding="utf-8")
    print(f"wrote {arguments.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
