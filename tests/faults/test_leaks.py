"""Seeds come and go, thousands of them: nothing of them is left in the process."""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from battery_rows import BatteryRecord
from esper.kasmina import LifecycleConfig
from esper.leyline import Action, Decision, LifecycleOp, SeedStage
from esper.tolaria import EpochProgress, HostRun
from tolaria.small_run import ListSink, germinate, make_config, make_parts, make_run

BLUEPRINTS = ("conv_light", "depthwise", "norm", "conv_small")
COOLDOWN = 3
MAX_BYTES_PER_CYCLE = 1024


class Forgetful(ListSink):
    """Keeps no event."""

    def emit(self, event: object) -> None:
        """Drop it."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a process holds beside memory."""

    moments: int
    groups: int
    modules: int
    hooks: int
    tensors: int
    threads: int
    files: int

    def grown_since(self, before: Belongings) -> Belongings:
        """Return these; of what the whole process holds, leavings of other tests may go away meanwhile."""
        return replace(
            self,
            tensors=max(self.tensors, before.tensors),
            threads=max(self.threads, before.threads),
            files=max(self.files, before.files),
        )


def count_belongings(run: HostRun) -> Belongings:
    """Count everything that a seed brings along."""
    gc.collect()
    model, held = run.bench.model, run.bench.optimizer._optimizer
    assert len(held.state) == sum(p.requires_grad for p in model.parameters())
    modules = list(model.modules())
    hooks = [
        len(hooked)
        for module in modules
        for hooked in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    ]
    return Belongings(
        moments=len(held.state),
        groups=len(held.param_groups),
        modules=len(modules),
        hooks=sum(hooks),
        tensors=sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
        threads=threading.active_count(),
        files=len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - one call and no open folder
    )


def read_resident_bytes() -> int:
    """Return the resident set size of this process."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def live_and_die(run: HostRun, cycle: int) -> None:
    """One seed: planted, trained in isolation and, in every second life, with influence, then culled."""
    model, slot_id = run.bench.model, f"block{1 + cycle % 3}"
    slot = model.slot(slot_id)
    assert not run.apply(Decision(action=germinate(slot_id, BLUEPRINTS[cycle % 4]))).is_refused
    model.begin_epoch(run.clock)
    train_one_batch(run)
    if cycle % 2:
        slot.state.gradient_ratio, slot.state.epochs_in_stage = 1.0, 9
        model.lifecycle.advance(slot, run.clock)
        slot.set_alpha(0.5)
        train_one_batch(run)
    assert not run.apply(Decision(action=Action(op=LifecycleOp.CULL, slot=slot_id))).is_refused
    for _ in range(COOLDOWN):
        run.epoch += 1
        model.tick(run.clock)
    run.bench.follow_topology()
    assert slot.state.stage is SeedStage.DORMANT


def train_one_batch(run: HostRun) -> None:
    """Train on one batch, as the loop does."""
    run.bench.follow_topology()
    run.bench.runner.begin()
    batch = run.bench.batches.row(0, 0, 0)
    run.bench.runner.train_batch(batch, run.clock.batch, run.progress)
    run.progress = EpochProgress()


def live_through(num_cycles: int, look: Callable[[int], None]) -> None:
    """Let that many seeds live and die; `look` is called after each."""
    life = LifecycleConfig(embargo_epochs=1, reset_epochs=1, min_cull_age_epochs=0)
    config = replace(make_config(epochs=10**6), lifecycle=life)
    run = make_run(config, make_parts(sink=Forgetful()))
    train_one_batch(run)
    for cycle in range(12):  # each slot with each blueprint once: caches are warm then
        live_and_die(run, cycle)
    before = count_belongings(run)
    for cycle in range(num_cycles):
        live_and_die(run, cycle)
        look(cycle)
    assert count_belongings(run).grown_since(before) == before


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.battery("T39")
def test_two_hundred_seeds_leave_nothing_behind(battery: BatteryRecord) -> None:
    live_through(200, lambda cycle: None)
    battery.record(n=200)


def compute_slope(samples: list[tuple[int, int]]) -> float:
    """Return the median slope over all pairs (Theil-Sen), bytes per cycle."""
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2))


@pytest.mark.fault
@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.battery("T39")
def test_five_thousand_seeds_leave_nothing_behind_and_memory_stays(battery: BatteryRecord) -> None:
    num_cycles, samples = 5000, []

    def look(cycle: int) -> None:
        if cycle >= num_cycles // 5 and cycle % 20 == 0:
            samples.append((cycle, read_resident_bytes()))

    started = time.monotonic()
    live_through(num_cycles, look)
    slope = compute_slope(samples)
    note = f"resident memory {slope:+.0f} bytes per cycle over the last 80 %"
    battery.record(n=num_cycles, worst_s=time.monotonic() - started, note=note)
    assert slope < MAX_BYTES_PER_CYCLE


def test_the_slope_of_a_leak_is_found() -> None:
    leak = [(cycle, 10**8 + 2000 * cycle + 50 * (cycle % 7)) for cycle in range(0, 400, 20)]
    assert compute_slope(leak) == pytest.approx(2000, rel=0.01)
