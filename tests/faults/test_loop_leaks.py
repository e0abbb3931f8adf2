"""Seeds come and go in somebody else's loop, under their optimiser and scheduler: nothing of them is left."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from battery_rows import BatteryRecord
from esper.kasmina import build_seeded
from esper.runtime.api import grow
from esper.runtime.controller import Controller
from esper.runtime.growable import Growable
from esper.tolaria import LoopLoss
from faults.test_leaks import MAX_BYTES_PER_CYCLE, compute_slope, read_resident_bytes
from tolaria.loop_toys import TRAIN, Net

BLUEPRINTS = ("mlp", "mlp_small", "low_rank", "norm")
LESSONS = [pytest.param(None, id="residual"), pytest.param(F.cross_entropy, id="shadow")]
X, Y = TRAIN[0][:8], TRAIN[1][:8]


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a loop holds beside memory."""

    parameters: int
    moments: int
    groups: int
    rates: int
    modules: int
    hooks: int
    tensors: int
    threads: int

    def grown_since(self, before: Belongings) -> Belongings:
        """Return these; of what the whole process holds, leavings of other tests may go away meanwhile."""
        return replace(
            self,
            tensors=max(self.tensors, before.tensors),
            threads=max(self.threads, before.threads),
        )


class Loop:
    """A model, an AdamW, a scheduler and a controller; a seed's life is a few of their steps."""

    def __init__(self, loss_fn: LoopLoss | None) -> None:
        host = build_seeded(lambda: Net(norm=True), 0)
        self.grown: Growable = grow(host, sample=TRAIN[0][:2], at=["body", "neck"], policy="never")
        self.optimizer = torch.optim.AdamW(self.grown.named_parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0 / (1 + step))
        self.controller = Controller(self.grown, self.optimizer, self.scheduler, loss_fn=loss_fn)
        self.ask: LoopLoss = F.cross_entropy if loss_fn is None else self.controller.loss

    def live_and_die(self, cycle: int) -> None:
        """One seed: planted, trained in isolation and, in every second life, with influence, then culled."""
        slot = self.grown[("body", "neck")[cycle % 2]]
        slot.germinate(BLUEPRINTS[cycle % 4], blend="gate" if cycle % 3 == 0 else "add")
        self._train()
        if cycle % 2:
            slot.blend(steps=0)
            self._train()
        slot.cull()
        for _ in range(8):  # until the slot has cooled down
            self._train()
            self.controller.observe(1.0)
        assert slot.stage == "DORMANT"

    def count(self) -> Belongings:
        """Count everything that a seed brings along."""
        gc.collect()
        modules = list(self.grown.modules())
        return Belongings(
            parameters=sum(p.numel() for p in self.grown.parameters()),
            moments=len(self.optimizer.state),
            groups=len(self.optimizer.param_groups),
            rates=len(self.scheduler.base_lrs),
            modules=len(modules),
            hooks=sum(
                len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules
            ),
            tensors=sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
            threads=threading.active_count(),
        )

    def _train(self) -> None:
        self.optimizer.zero_grad()
        loss = self.ask(self.grown(X), Y)
        assert isinstance(loss, torch.Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.scheduler.step()


@pytest.mark.slow
@pytest.mark.parametrize("loss_fn", LESSONS)
@pytest.mark.battery("T39")
def test_two_hundred_seeds_in_somebody_elses_loop_leave_nothing_behind(
    battery: BatteryRecord, loss_fn: LoopLoss | None
) -> None:
    loop = Loop(loss_fn)
    for cycle in range(12):
        loop.live_and_die(cycle)
    before = loop.count()
    for cycle in range(200):
        loop.live_and_die(cycle)
    battery.record(n=200)
    assert loop.count().grown_since(before) == before


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loss_fn", LESSONS)
@pytest.mark.battery("T39")
def test_five_thousand_seeds_in_somebody_elses_loop_leave_nothing_and_memory_stays(
    battery: BatteryRecord, loss_fn: LoopLoss | None
) -> None:
    loop, sizes = Loop(loss_fn), []
    for cycle in range(500):
        loop.live_and_die(cycle)
    before = loop.count()
    for cycle in range(5000):
        loop.live_and_die(cycle)
        if cycle % 50 == 0:
            sizes.append((cycle, read_resident_bytes()))
    battery.record(n=5000)
    assert loop.count().grown_since(before) == before
    assert compute_slope(sizes) < MAX_BYTES_PER_CYCLE
