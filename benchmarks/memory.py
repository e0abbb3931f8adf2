"""Memory of growing hosts: what recomputing seeds costs and saves, and how far off the estimate is.

python benchmarks/memory.py OUT.json [EPOCHS]

time   digits, a seed in every slot, an epoch without and one with `seed_checkpointing` in turn, CPU seconds;
       the two stay equal bit for bit, and the script stops if they do not
peak   the same host, wide, in a process of its own: how far training lifts the largest resident set above
       the one with host and seeds in place, against what was estimated for it
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from esper.leyline import Action, Decision, LifecycleOp
from esper.runtime.assemble import assemble
from esper.runtime.presets import build_preset
from esper.tolaria import HostRun, MemoryNeed, estimate_need

MODES = ("off", "on")
SIZES = ((8, 64), (64, 512), (64, 1024), (128, 1024))
"""Channels of the first block, items per batch; the first shows what a process takes anyway."""


def build(mode: str, channels: int = 8, batch_size: int = 64) -> HostRun:
    """Return a run with a seed in every slot, about to incubate."""
    config = build_preset("digits")
    gates = replace(
        config.host.gates, min_incubation_epochs=1, min_gradient_ratio=0.0, is_evidence_required=False
    )
    measuring = replace(config.host.measuring, chunk_items=64)
    host = replace(
        config.host,
        batch_size=batch_size,
        seed_checkpointing=mode,
        gates=gates,
        measuring=measuring,
    )
    model = replace(config.model, base_channels=channels)
    run = assemble(replace(config, host=host, model=model, policy="never", num_threads=1)).host_run
    for slot_id in run.bench.model.slot_ids:
        act(run, Action(op=LifecycleOp.GERMINATE, slot=slot_id, blueprint="conv_heavy", tempo_epochs=8))
    return run


def act(run: HostRun, action: Action) -> None:
    """Carry out one action, or stop with the refusal."""
    result = run.apply(Decision(action=action, reason="benchmark"))
    if result.refusal is not None:
        raise SystemExit(result.refusal)


def open_seeds(run: HostRun) -> None:
    """Let every seed blend from here."""
    for slot_id in run.bench.model.slot_ids:
        act(run, Action(op=LifecycleOp.ADVANCE, slot=slot_id))


def measure_time(num_epochs: int) -> dict[str, object]:
    """Return CPU seconds per epoch of both ways and their ratios, incubating and blending apart."""
    runs = {mode: build(mode) for mode in MODES}
    report: dict[str, object] = {}
    for phase in ("incubating", "blending"):
        seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
        for _ in range(num_epochs):
            for mode, run in runs.items():
                started = time.process_time()
                run.train_epoch()
                seconds[mode].append(time.process_time() - started)
        plain, again = (run.bench.model.state()[0] for run in runs.values())
        if any(not torch.equal(tensor, again[name]) for name, tensor in plain.items()):
            raise SystemExit(f"{phase}: recomputed seeds learned something else")
        ratios = [on / off for off, on in zip(seconds["off"], seconds["on"], strict=True)]
        report[phase] = {
            "seconds": {mode: statistics.median(values) for mode, values in seconds.items()},
            "ratio": statistics.median(ratios),
            "quartiles": statistics.quantiles(ratios, n=4),
        }
        for run in runs.values():
            if phase == "incubating":
                open_seeds(run)
    return report


def read_resident() -> int:
    """Return the resident set in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def sum_needs(run: HostRun, mode: str) -> int:
    """Return what was estimated for one batch of host and seeds beyond what stands before it."""
    model = run.bench.model
    needs: list[MemoryNeed] = [estimate_need(model.host, model.input_shape, run.config)]
    of_seeds = []
    for slot in model.each_slot():
        if slot.seed is not None:
            slot.seed.is_recomputed = False
            of_seeds.append(estimate_need(slot.seed, slot.spec.shape, run.config))
            slot.seed.is_recomputed = mode == "on"
    activations = [need.activations for need in of_seeds]
    return (
        needs[0].activations
        + (max(activations) if mode == "on" else sum(activations))
        + sum(need.gradients + need.optimizer for need in (*needs, *of_seeds))
    )


def measure_peak(mode: str, channels: int, batch_size: int) -> dict[str, object]:
    """Return estimate and truth in bytes for two batches of blending seeds."""
    run = build(mode, channels, batch_size)
    stop_after = iter((False, True))
    for slot in run.bench.model.each_slot():
        run.bench.model.lifecycle.begin_epoch(slot, run.clock)
        slot.state.epochs_in_stage, slot.state.gradient_ratio = 1, 1.0
    open_seeds(run)
    for slot in run.bench.model.each_slot():
        slot.set_alpha(0.5)
        slot.state.ramp = None
    estimated, before = sum_needs(run, mode), read_resident()
    run.train_epoch(lambda: next(stop_after))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "mode": mode,
        "channels": channels,
        "batch": batch_size,
        "estimated": estimated,
        "grew": peak - before,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("epochs", type=int, nargs="?", default=20)
    parser.add_argument("--peak", nargs=3, metavar=("MODE", "CHANNELS", "BATCH"))
    arguments = parser.parse_args()
    if arguments.peak:
        mode, channels, batch_size = arguments.peak
        arguments.output.write_text(
            json.dumps(measure_peak(mode, int(channels), int(batch_size))), encoding="utf-8"
        )
        return
    peaks = []
    for channels, batch_size in SIZES:
        for mode in MODES:
            words = ["--peak", mode, str(channels), str(batch_size)]
            subprocess.run([sys.executable, __file__, str(arguments.output), *words], check=True)
            peaks.append(json.loads(arguments.output.read_text(encoding="utf-8")))
            print(peaks[-1])
    report = {"peak": peaks, "time": measure_time(arguments.epochs)}
    print(json.dumps(report["time"], indent=1))
    arguments.output.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
