"""The tables of docs/performance.md on a machine's ceilings, its hosts' floors, and mixed precision.

```
operations floor   3 x FLOPs of one forward pass x items of a batch / fastest matrix product
bytes floor        2 x bytes that autograd keeps / fastest copy of a working set that holds them
attention          time of bf16, and of bf16 cast to float32 and back, over that of float32 beside it
gain               time without over time with mixed precision, epochs side by side; below 1.05 it is none
difference         of the final metric, paired by seed, with a 95 % t interval
```
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from performance_rows import Row, Spread, compute_spread, numbers, pair_ratios
from study_rows import estimate_interval, number, show_table

LEAST_GAIN = 1.05
MIB = 2**20


def build_rates(rows: Sequence[Row]) -> str:
    """Return what the kernels reach, by size."""
    lines = []
    for kind, size in dict.fromkeys((str(row["kind"]), number(row, "size")) for row in rows):
        found = {
            str(row["dtype"]): compute_spread([rate / 1e9 for rate in numbers(row["rates"])])
            for row in rows
            if row["kind"] == kind and row["size"] == size
        }
        plain, half = found["float32"], found.get("bf16")
        is_product = kind == "product"
        lines.append(
            {
                "kernel": kind,
                "size": f"{size:.0f} x {size:.0f}" if is_product else f"{size / MIB:g} MiB",
                "float32": f"{plain.show(1)} {'GFLOP/s' if is_product else 'GB/s'}",
                "bf16": "-" if half is None else f"{half.show(1)} GFLOP/s",
                "bf16 over float32": "-" if half is None else f"{half.median / plain.median:.2f}",
            }
        )
    return show_table(lines)


def build_floors(rows: Sequence[Row], ceilings: Sequence[Row]) -> str:
    """Return the two floors of every host beside what a batch takes, without mixed precision."""
    peak, lines = find_peak(ceilings, "float32"), []
    for name, runs in group_by_host(rows).items():
        row = runs[0]
        flops, kept = number(row, "flops_per_item"), number(row, "kept_bytes_per_batch")
        items, copied = number(row, "batch_size"), find_copy_rate(ceilings, kept)
        operations = 3 * flops * items / peak * 1e3
        moved = 2 * kept / copied * 1e3
        taken = batch_milliseconds(runs, "off").median
        lines.append(
            {
                "host": name,
                "operations": f"3 x {flops / 1e6:.3f} MFLOP x {items:.0f} / {peak / 1e9:.1f} GFLOP/s "
                f"= {operations:.3f} ms",
                "bytes": f"2 x {kept / 1e6:.2f} MB / {copied / 1e9:.1f} GB/s = {moved:.3f} ms",
                "a batch takes": f"{taken:.2f} ms",
                "over the higher floor": f"{taken / max(operations, moved):.1f}",
            }
        )
    return show_table(lines)


def find_peak(ceilings: Sequence[Row], dtype: str) -> float:
    """Return the FLOP/s of the fastest product of a type: the median over rounds at its best size."""
    found = [row for row in ceilings if row["kind"] == "product" and row["dtype"] == dtype]
    return max(statistics.median(numbers(row["rates"])) for row in found)


def find_copy_rate(ceilings: Sequence[Row], num_bytes: float) -> float:
    """Return the bytes per second of a copy whose working set is the smallest that holds so many."""
    found = sorted((row for row in ceilings if row["kind"] == "copy"), key=lambda row: number(row, "size"))
    fitting = [row for row in found if number(row, "size") >= num_bytes] or found[-1:]
    return statistics.median(numbers(fitting[0]["rates"]))


def build_times(rows: Sequence[Row]) -> str:
    """Return what every host gains in time."""
    lines = []
    for name, runs in group_by_host(rows).items():
        for mode in list_modes(runs):
            training, whole = (compute_gain(runs, mode, f"{what}_seconds") for what in ("train", "epoch"))
            lines.append(
                {
                    "host": name,
                    "parameters": f"{number(runs[0], 'params'):,.0f}",
                    "amp": mode,
                    "ms per batch, off": f"{batch_milliseconds(runs, 'off').median:.2f}",
                    "ms per batch, amp": f"{batch_milliseconds(runs, mode).median:.2f}",
                    "gain, training": training.show(),
                    "gain, whole epoch": whole.show(),
                    "pairs": str(len(list_seconds(runs, mode, "train_seconds"))),
                    "verdict": judge(training),
                }
            )
    return show_table(lines)


def judge(gain: Spread) -> str:
    """Say whether time was gained: by half of the pairs at least, and by five hundredths."""
    if gain.median >= LEAST_GAIN:
        return "gain"
    return "loss" if gain.median <= 1.0 / LEAST_GAIN else "no gain"


def build_metrics(rows: Sequence[Row]) -> str:
    """Return what mixed precision does to the final metric, beside what another seed does."""
    lines = []
    for name, runs in group_by_host(rows).items():
        plain = metrics_by_seed(runs, "off")
        spread = statistics.stdev(plain.values()) if len(plain) > 1 else math.nan
        for mode in list_modes(runs):
            mixed = metrics_by_seed(runs, mode)
            difference = estimate_interval([mixed[seed] - plain[seed] for seed in sorted(plain)])
            lines.append(
                {
                    "host": name,
                    "amp": mode,
                    "metric": metric_name(runs[0]),
                    "off, mean over seeds": f"{statistics.fmean(plain.values()):.4f}",
                    "off, standard deviation over seeds": f"{spread:.4f}",
                    "amp less off, paired": difference.show(),
                    "mean difference over deviation": f"{abs(difference.mean) / spread:.2f}",
                    "seeds": str(len(plain)),
                }
            )
    return show_table(lines)


def build_attention(rows: Sequence[Row]) -> str:
    """Return in which precision attention is fastest, by shape."""
    lines = []
    for shape in dict.fromkeys(tuple(numbers(row["shape"])) for row in rows):
        seconds = {str(row["way"]): numbers(row["seconds"]) for row in rows if row["shape"] == list(shape)}
        plain = seconds["float32"]
        names = ("items", "heads", "positions", "size of a head")
        lines.append(
            {
                **{name: f"{value:.0f}" for name, value in zip(names, shape, strict=True)},
                "float32, ms": f"{statistics.median(plain) * 1e3:.2f}",
                "bf16 over float32": compute_spread(pair_ratios(seconds["bf16"], plain)).show(),
                "cast to float32, over float32": compute_spread(pair_ratios(seconds["cast"], plain)).show(),
            }
        )
    return show_table(lines)


def metric_name(row: Row) -> str:
    """Name the metric as it is counted inside: higher is better."""
    name = str(row["metric_name"])
    return "-loss, nats" if name == "perplexity" else name


def group_by_host(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of every host, in the order of the file's first of each.

    Raises:
        ValueError: If a host, seed and mode stands twice, or a seed lacks a mode that another has.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["host"]), []).append(row)
    for name, runs in groups.items():
        keys = [(row["seed"], row["amp"]) for row in runs]
        seeds, modes = {seed for seed, _ in keys}, {mode for _, mode in keys}
        if len(keys) != len(set(keys)) or len(keys) != len(seeds) * len(modes):
            raise ValueError(
                f"{name}: expected each of {len(seeds)} seeds once under each of {sorted(map(str, modes))}"
            )
    return groups


def list_modes(runs: Sequence[Row]) -> list[str]:
    """Return the precisions of a host but "off"."""
    return [mode for mode in dict.fromkeys(str(row["amp"]) for row in runs) if mode != "off"]


def list_seconds(runs: Sequence[Row], mode: str, field: str) -> list[float]:
    """Return a host's times under one precision, seed after seed."""
    chosen = sorted((row for row in runs if row["amp"] == mode), key=lambda row: number(row, "seed"))
    return [second for row in chosen for second in numbers(row[field])]


def batch_milliseconds(runs: Sequence[Row], mode: str) -> Spread:
    """Return the milliseconds of one training batch."""
    scale = 1e3 / number(runs[0], "batches")
    return compute_spread([scale * second for second in list_seconds(runs, mode, "train_seconds")])


def compute_gain(runs: Sequence[Row], mode: str, field: str) -> Spread:
    """Return time without over time with mixed precision, epoch by epoch."""
    return compute_spread(pair_ratios(list_seconds(runs, "off", field), list_seconds(runs, mode, field)))


def metrics_by_seed(runs: Sequence[Row], mode: str) -> Mapping[int, float]:
    """Return seed -> final metric."""
    return {int(number(row, "seed")): number(row, "metric") for row in runs if row["amp"] == mode}
