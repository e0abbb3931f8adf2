"""What mixed precision gains and costs, host by host: the time of an epoch, and the metric that comes of it.

    python benchmarks/precision.py benchmarks/precision.jsonl [--hosts NAME ...] [--seeds 1000-1004]

    off bf16 fp16   the same host, weights, batches and schedule under every `host.amp` that the device has;
                    fp16 only on an accelerator, because a CPU computes it in float32

One epoch of each in turn (off bf16 off bf16 ...), never grown, one thread, until the horizon; then the next
seed. The first epoch of every run warms up and is not in the times. The training split is cut so that an
epoch takes seconds, validation to 2,000 items. Where Fashion-MNIST is not installed, pictures of the same
shape are generated, and the rows say so. One row per host, seed and mode; a host and seed that has rows is
not run again. On a CPU the times are CPU seconds, because wall time measures the neighbours too; on an
accelerator they are wall seconds up to the moment at which it stands idle.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from study_queue import FIRST_TUNING_SEED, Row, append_row, parse_seeds, read_rows

from esper.data import ArraySplit, DeviceCache, TaskData, compute_channel_stats
from esper.kasmina import count_saved_bytes
from esper.leyline import DataError, TaskSpec, derive_seed
from esper.runtime.assemble import assemble
from esper.runtime.devices import resolve_device
from esper.runtime.experiment import ExperimentConfig, ModelConfig
from esper.runtime.presets import build_preset
from esper.runtime.tasks import load_task, task_spec
from esper.tolaria import HostRun

MODES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("off", "bf16"),
    "cuda": ("off", "bf16", "fp16"),
    "mps": ("off", "fp16"),
}
NUM_VALIDATION_ITEMS = 2000
GENERATED = "generated"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSize:
    """One host of the table."""

    name: str
    task: str
    model: ModelConfig
    num_train_rows: int | None = None
    """None = the task's own."""
    interval_batches: int | None = None
    epochs: int = 5


@dataclass(slots=True, kw_only=True)
class Way:
    """A host run under one precision and what its epochs took, in seconds."""

    run: HostRun
    train_seconds: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    """Training, validation and bookkeeping."""


def host_sizes() -> tuple[HostSize, ...]:
    """Return the hosts of the table; cnn 3, cnn 5 and transformer 32 are those of the presets."""
    digits, images, text = (build_preset(name).model for name in ("digits", "fashion_mnist", "austen"))
    rows = {5: 5_120, 8: 5_120, 16: 5_120, 32: 2_560, 64: 1_280}
    return (
        HostSize(name="cnn 3, 8x8", task="digits", model=digits, epochs=20),
        *(
            HostSize(
                name=f"cnn {base}, 28x28",
                task="fashion_mnist",
                model=replace(images, base_channels=base),
                num_train_rows=count,
            )
            for base, count in rows.items()
        ),
        HostSize(name="transformer 32", task="austen", model=text, interval_batches=40),
        HostSize(
            name="transformer 128",
            task="austen",
            model=replace(text, width=128, num_heads=4),
            interval_batches=20,
        ),
    )


def build_pictures(shape: tuple[int, int, int], num_items: int, part: str) -> ArraySplit:
    """Return uint8 pictures [N, H, W, C] of ten classes: one blurred pattern per class under heavy noise."""
    channels, height, width = shape
    shared = torch.Generator().manual_seed(derive_seed(0, GENERATED, "patterns"))
    own = torch.Generator().manual_seed(derive_seed(0, GENERATED, part))
    patterns = torch.rand(10, height, width, channels, generator=shared)
    labels = torch.randint(10, (num_items,), generator=own)
    noise = torch.rand(num_items, height, width, channels, generator=own)
    inputs = (255 * (0.3 * patterns[labels] + 0.7 * noise)).to(torch.uint8)
    return ArraySplit(inputs=inputs, targets=labels, source=f"{GENERATED}/{part}/{shape}/{num_items}")


def generate_images(name: str, num_train_rows: int) -> tuple[TaskSpec, TaskData]:
    """Return a task's facts with pictures of its shape in the place of its data."""
    spec = task_spec(name)
    channels, height, width = spec.input_shape
    counts = {"train": num_train_rows, "validation": NUM_VALIDATION_ITEMS, "test": NUM_VALIDATION_ITEMS}
    parts = {part: build_pictures((channels, height, width), count, part) for part, count in counts.items()}
    mean, std = compute_channel_stats(parts["train"])
    return spec, TaskData(
        name=GENERATED,
        **parts,
        mean=mean,
        std=std,
        class_names=tuple(f"pattern {label}" for label in range(spec.num_outputs)),
        licence="none needed",
        credit="Generated pictures.",
        citation="",
    )


def load(size: HostSize) -> tuple[TaskSpec, TaskData]:
    """Return a host's task with its data, validation cut.

    Raises:
        DataError: If the data is missing and cannot be stood in for, as texts cannot.
    """
    preset = build_preset(size.task)
    try:
        spec, data = load_task(replace(preset.task, num_train_rows=size.num_train_rows))
    except DataError:
        if size.num_train_rows is None:
            raise
        return generate_images(size.task, size.num_train_rows)
    part = data.validation
    if part.num_items > NUM_VALIDATION_ITEMS:
        rows = torch.arange(NUM_VALIDATION_ITEMS)
        data = replace(data, validation=part.rows(rows, f"{part.source}/first {NUM_VALIDATION_ITEMS}"))
    return spec, data


def configure(size: HostSize, seed: int, device: str) -> ExperimentConfig:
    """Return the experiment of one host and seed."""
    preset = build_preset(size.task)
    host = replace(
        preset.host, epochs=size.epochs, interval_batches=size.interval_batches, device=device, amp="off"
    )
    return replace(preset, model=size.model, host=host, policy="never", seed=seed, num_threads=1)


def read_clock(device: torch.device) -> float:
    """Return CPU seconds, or on an accelerator wall seconds once it stands idle."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def train_one_epoch(way: Way, clock: Callable[[], float]) -> None:
    """Train and validate once and note the times."""
    trained = 0.0

    def note_last_batch() -> bool:
        nonlocal trained
        if way.run.progress.batch == way.run.bench.batches.num_batches:
            trained = clock()
        return False

    started = clock()
    way.run.train_epoch(note_last_batch)
    ended = clock()
    way.train_seconds.append(trained - started)
    way.epoch_seconds.append(ended - started)


def measure(size: HostSize, seed: int, loaded: tuple[TaskSpec, TaskData], device: str) -> list[Row]:
    """Train one host under every precision in turn and return one row for each."""
    config, where = configure(size, seed, device), resolve_device(device)
    cache, ways = DeviceCache(), {}
    for mode in MODES[where.type]:
        experiment = replace(config, host=replace(config.host, amp=mode))
        ways[mode] = Way(run=assemble(experiment, loaded=loaded, cache=cache).host_run)
    metrics = dict.fromkeys(ways, 0.0)
    for _ in range(size.epochs):
        for way in ways.values():
            train_one_epoch(way, lambda: read_clock(where))
    for mode, way in ways.items():
        bench = way.run.bench
        metrics[mode] = bench.evaluator.evaluate(bench.model, *bench.validation).metric
    return [describe(size, seed, mode, way, metrics[mode], loaded) for mode, way in ways.items()]


def describe(
    size: HostSize, seed: int, mode: str, way: Way, metric: float, loaded: tuple[TaskSpec, TaskData]
) -> Row:
    """Return a run's row; the first epoch warmed up and is left out of the times."""
    spec, data = loaded
    run = way.run
    model, config = run.bench.model, run.config
    kept = count_saved_bytes(
        model.host, model.input_shape, batch_size=config.batch_size, dtype=model.input_dtype
    )
    return {
        "host": size.name,
        "task": size.task,
        "data": data.name,
        "metric_name": spec.metric.name,
        "seed": seed,
        "amp": mode,
        "device": str(run.bench.calibration.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "params": model.host_params,
        "flops_per_item": model.host_flops,
        "kept_bytes_per_batch": kept.total,
        "batch_size": config.batch_size,
        "batches": run.bench.batches.num_batches,
        "items": run.bench.batches.num_items,
        "epochs": size.epochs,
        "train_seconds": [round(seconds, 6) for seconds in way.train_seconds[1:]],
        "epoch_seconds": [round(seconds, 6) for seconds in way.epoch_seconds[1:]],
        "metric": metric,
    }


def main() -> int:
    """Run what has no row yet and say what each host came to."""
    parser = argparse.ArgumentParser(description="Time and metric of hosts under mixed precision, in turn.")
    parser.add_argument("out", type=Path, help="JSON lines, added to")
    parser.add_argument("--hosts", nargs="+", choices=[size.name for size in host_sizes()])
    parser.add_argument("--seeds", default=parse_seeds("1000-1004"), type=parse_seeds)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:<i>, mps or auto")
    given = parser.parse_args()
    if min(given.seeds) < FIRST_TUNING_SEED:
        parser.error(f"--seeds: a setting is chosen on seeds from {FIRST_TUNING_SEED} on")
    done = {(row["host"], row["seed"]) for row in read_rows(given.out)}
    for size in host_sizes():
        seeds = [seed for seed in given.seeds if (size.name, seed) not in done]
        if not seeds or (given.hosts and size.name not in given.hosts):
            continue
        try:
            loaded = load(size)
        except DataError as error:
            print(f"{size.name} left out: {error}", file=sys.stderr)
            continue
        for seed in seeds:
            for row in measure(size, seed, loaded, given.device):
                append_row(given.out, row)
                print(
                    f"{size.name:<18} {seed} {row['amp']:<5} {row['train_seconds']} {row['metric']:.4f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
