"""How long a run stands still for a checkpoint: waited for, or written beside training, in turn.

    python benchmarks/save_stall.py OUT.json [--small-epochs 60] [--large-epochs 30] [--root DIR]

    none     no checkpoint: what an epoch costs anyway
    waited   one after every epoch, and training waits for the disk (checkpoint.is_asynchronous = false)
    beside   one after every epoch, written while the next epoch trains

Two sizes on digits: the preset under its heuristic, and a host of 256 channels that never grows, with 256
training rows, whose checkpoint has 13 MiB. One host run goes through the ways epoch by epoch (none waited
beside none ...). A stall is the time inside the saver, snapshot and flush of the event log included. Because
a save beside training takes processor time from the epoch after it, that epoch is measured, too. Wall time
counts here: a stall is waiting. Ratios are of medians; run it alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

import torch

from esper.nissa import EventHub, build_hub
from esper.runtime.assemble import Assembly, assemble
from esper.runtime.experiment import CheckpointConfig, ExperimentConfig
from esper.runtime.presets import build_preset
from esper.runtime.run_attempt import LateSink
from esper.runtime.run_saver import Place, RunSaver, Snapshot
from esper.tolaria import StateRecord

WAYS = ("none", "waited", "beside")
SIZES = {"digits": (8, None, "heuristic"), "large": (256, 256, "never")}
"""Name -> channels of the host's first block, training rows (None = all), policy."""
WARM_UP_EPOCHS = 3


@dataclass(slots=True)
class Way:
    """What was measured of one way of saving, seconds."""

    stalls: list[float] = field(default_factory=list)
    next_epochs: list[float] = field(default_factory=list)


def build_config(size: tuple[int, int | None, str], epochs: int) -> ExperimentConfig:
    config = build_preset("digits")
    channels, num_rows, policy = size
    return replace(
        config,
        num_threads=1,
        policy=policy,
        task=replace(config.task, num_train_rows=num_rows),
        model=replace(config.model, base_channels=channels),
        host=replace(config.host, epochs=WARM_UP_EPOCHS + epochs),
        telemetry=replace(config.telemetry, progress="none"),
    )


def capture(assembly: Assembly) -> Snapshot:
    record = assembly.host_run.state()
    state = {"run": record.state, "policy": dict(assembly.policy.state())}
    return Snapshot(
        StateRecord(tensors=record.tensors, state=state),  # type: ignore[arg-type]
        assembly.host_run.bench.model.topology_hash(),
    )


def train_epoch(assembly: Assembly) -> float:
    started = time.perf_counter()
    assembly.host_run.apply(assembly.policy.decide(assembly.host_run.observe()))
    assembly.host_run.train_epoch()
    return time.perf_counter() - started


def measure(size: tuple[int, int | None, str], epochs: int, root: Path) -> dict[str, object]:
    config, sink = build_config(size, epochs), LateSink()
    assembly = assemble(config, sink)
    hub = build_hub(config.telemetry, run_id="stall", stream=sys.stderr, environ={}, directory=root)
    sink.target = hub
    savers = {way: build_saver(root / way, hub, way) for way in WAYS[1:]}
    found = {way: Way() for way in WAYS}
    for _ in range(WARM_UP_EPOCHS):
        train_epoch(assembly)
    for way, _ in zip(cycle(WAYS), range(epochs), strict=False):
        place = Place(assembly.host_run.epoch)
        started = time.perf_counter()
        if way in savers:
            savers[way].save_later(place, lambda: capture(assembly))
        found[way].stalls.append(time.perf_counter() - started)
        found[way].next_epochs.append(train_epoch(assembly))
        if way in savers:  # finds it saved already; waits for it, so that no save reaches into the next way
            savers[way].save_now(place, lambda: capture(assembly))
    for saver in savers.values():
        saver.close(epochs)
    hub.close()
    num_bytes = sum(file.stat().st_size for file in (root / "waited" / savers["waited"].names[0]).iterdir())
    return {"checkpoint_bytes": num_bytes} | {way: summarise(found[way]) for way in WAYS}


def build_saver(root: Path, hub: EventHub, way: str) -> RunSaver:
    return RunSaver(root, hub, CheckpointConfig(is_asynchronous=way == "beside"), kind="stall")


def summarise(way: Way) -> dict[str, dict[str, float]]:
    return {"stall": compute_spread(way.stalls), "next_epoch": compute_spread(way.next_epochs)}


def compute_spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles, milliseconds."""
    low, _, high = statistics.quantiles(values, n=4)
    return {
        name: 1e3 * value
        for name, value in (("median", statistics.median(values)), ("low", low), ("high", high))
    }


def print_size(name: str, result: dict[str, object]) -> None:
    print(f"\n{name}: checkpoint of {int(str(result['checkpoint_bytes'])) / 2**20:.2f} MiB")
    print(f"  {'way':8s}{'stall, ms':>26s}{'next epoch, ms':>32s}{'both over none':>18s}")
    for way in WAYS:
        stall, following = (result[way][key] for key in ("stall", "next_epoch"))  # type: ignore[index]
        base = result["none"]["next_epoch"]["median"]  # type: ignore[index]
        ratio = (stall["median"] + following["median"]) / base
        print(f"  {way:8s}{show(stall):>26s}{show(following):>32s}{ratio:18.3f}")
    stalls = [result[way]["stall"]["median"] for way in WAYS[1:]]  # type: ignore[index]
    print(f"  stall waited / beside: {stalls[0] / stalls[1]:.1f}")


def show(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--small-epochs", type=int, default=60)
    parser.add_argument("--large-epochs", type=int, default=30)
    parser.add_argument("--root", type=Path, help="folder on the disk to measure; default: the system's own")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, object] = {}
    for (name, size), epochs in zip(SIZES.items(), (given.small_epochs, given.large_epochs), strict=True):
        with tempfile.TemporaryDirectory(dir=given.root) as folder:
            result = measure(size, epochs, Path(folder))
        results[name] = result
        print_size(name, result)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
