"""What each telemetry profile costs: the same run under each of them, an epoch of each in turn.

    python benchmarks/telemetry.py OUT.jsonl [--hosts digits photos] [--epochs 150] [--device cpu]

    digits    the preset's CNN on the digits: steps of a few milliseconds, where every call counts
    photos    a CNN of 32, 64 and 128 channels on 400 made-up images of 3 x 32 x 32

Policy, decisions and numbers are the same under every profile, and the script stops if a validation loss
differs in a single bit. Events go to JSON lines, as in a user's run. The order within a round is turned by
one each time. Escalation is off, so that each column is one profile. About two minutes on one quiet core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from esper.data import ArraySplit, TaskData
from esper.leyline import EventSink, TaskSpec
from esper.nissa import PROFILE_NAMES, TelemetryConfig, build_hub
from esper.runtime.assemble import Assembly, assemble
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import build_preset
from esper.runtime.tasks import load_task

HOSTS = ("digits", "photos")
EPOCHS = {"digits": 150, "photos": 10}
BLOCK_EPOCHS = 5
"""Epochs that are added up before a ratio is taken: sharpness is measured once in so many."""
_NUM_IMAGES = 400


def make_photos() -> TaskData:
    """Return made-up images: what they show does not matter for what a step costs."""
    generator = torch.Generator().manual_seed(0)

    def make(count: int, name: str) -> ArraySplit:
        images = torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
        targets = torch.randint(10, (count,), generator=generator)
        return ArraySplit(inputs=images, targets=targets, source=f"photos/{name}")

    return TaskData(
        name="photos",
        train=make(_NUM_IMAGES, "train"),
        validation=make(_NUM_IMAGES // 4, "validation"),
        test=make(_NUM_IMAGES // 4, "test"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        class_names=tuple("abcdefghij"),
        licence="none",
        credit="made in memory",
        citation="none",
    )


def build_case(host: str, epochs: int, device: str) -> tuple[ExperimentConfig, tuple[TaskSpec, TaskData]]:
    """Return settings and data of a host."""
    config = build_preset("digits" if host == "digits" else "cifar10")
    task, data = load_task(config.task) if host == "digits" else (None, make_photos())
    if task is None:
        task = replace(load_task(build_preset("digits").task)[0], name="photos", input_shape=(3, 32, 32))
        config = replace(config, model=replace(config.model, base_channels=32, num_blocks=3))
    trained = replace(config.host, epochs=epochs, device=device)
    return replace(config, host=trained, policy="heuristic", num_threads=1), (task, data)


def run_epoch(assembly: Assembly) -> tuple[float, float, float]:
    """Decide and train one epoch; return wall seconds, CPU seconds and the validation loss."""
    run = assembly.host_run
    wall, cpu = time.perf_counter(), time.process_time()
    run.apply(assembly.policy.decide(run.observe()))
    outcome = run.train_epoch()
    if run.bench.validation[0].is_cuda:
        torch.cuda.synchronize()
    assert outcome is not None
    return time.perf_counter() - wall, time.process_time() - cpu, outcome.validation_loss


def measure(host: str, epochs: int, device: str) -> list[dict[str, object]]:
    """Return one row per profile."""
    config, loaded = build_case(host, epochs, device)
    columns: dict[str, list[tuple[float, float, float]]] = {name: [] for name in PROFILE_NAMES}
    with ExitStack() as stack:
        assemblies = {}
        for name in PROFILE_NAMES:
            telemetry = TelemetryConfig(profile=name, escalation_epochs=0, progress="none")
            sink = open_log(stack, telemetry)
            assemblies[name] = assemble(replace(config, telemetry=telemetry), sink, loaded=loaded)
        for epoch in range(epochs):
            turn = epoch % len(PROFILE_NAMES)
            for name in (*PROFILE_NAMES[turn:], *PROFILE_NAMES[:turn]):
                columns[name].append(run_epoch(assemblies[name]))
            if len({columns[name][-1][2] for name in PROFILE_NAMES}) > 1:
                sys.exit(f"{host}, epoch {epoch}: validation losses differ between profiles")
        model = assemblies["minimal"].host_run.bench.model
        num_batches = assemblies["minimal"].host_run.bench.batches.num_batches
    return [
        {
            "host": host,
            "profile": name,
            "host_params": model.host_params,
            "num_batches": num_batches,
            "block_epochs": BLOCK_EPOCHS,
            "wall": [round(wall, 6) for wall, _, _ in columns[name]],
            "cpu": [round(cpu, 6) for _, cpu, _ in columns[name]],
            "device": device,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        for name in PROFILE_NAMES
    ]


def open_log(stack: ExitStack, telemetry: TelemetryConfig) -> EventSink:
    """Return a hub that writes JSON lines into a directory that goes away."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="esper-telemetry-")))
    hub = build_hub(telemetry, run_id="telemetry", stream=sys.stderr, environ=os.environ, directory=folder)
    stack.callback(hub.close)
    return hub


def show(rows: Sequence[dict[str, object]]) -> None:
    """Print the time of all epochs over that under minimal."""
    base = rows[0]
    for row in rows:
        ratios = []
        for clock in ("wall", "cpu"):
            mine, other = row[clock], base[clock]
            assert isinstance(mine, list)
            assert isinstance(other, list)
            ratios.append(statistics.median(a / b for a, b in zip(mine, other, strict=True)))
        print(f"{row['host']:<8} {row['profile']:<11} wall {ratios[0]:.3f}  CPU {ratios[1]:.3f}", flush=True)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--hosts", nargs="+", choices=HOSTS, default=HOSTS)
    parser.add_argument("--epochs", type=int, help=f"a multiple of {BLOCK_EPOCHS}; default: {EPOCHS}")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for host in given.hosts:
        rows += measure(host, given.epochs or EPOCHS[host], given.device)
        show(rows[-len(PROFILE_NAMES) :])
        text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
