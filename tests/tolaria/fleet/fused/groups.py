"""Hosts of one group with seeds in every mode, for tests of the parts of a fused interval."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from esper.kasmina import SlotMode
from esper.leyline import Action, BlendForm, Decision, LifecycleOp
from esper.tolaria import HostRun
from esper.tolaria.fleet.fused.stack import HostStack
from tolaria.fleet.fused.double_hosts import Kind, cnn, do, grow, make_host_parts

BLUEPRINTS = ("conv_small", "norm", "noop")
LIVES: dict[tuple[int, int], Action] = {
    (0, 0): grow("block1", "conv_small", tempo=3),
    (0, 1): grow("block1", "conv_small", BlendForm.GATE),
    (0, 2): grow("block2", "norm", tempo=3),
    (0, 3): grow("block1", "conv_small", tempo=3),
    (1, 0): do(LifecycleOp.ADVANCE, "block1"),
    (1, 2): do(LifecycleOp.ADVANCE, "block2"),
    (1, 3): do(LifecycleOp.ADVANCE, "block1"),
    (2, 0): grow("block3", "conv_small"),
    (2, 2): grow("block1", "conv_small"),
}
"""After two intervals and a beginning: block1 OPEN INCUBATING INCUBATING OPEN; block2 - - OPEN -;
block3 INCUBATING in host 0."""
MODES = {
    "block1": (SlotMode.OPEN, SlotMode.INCUBATING, SlotMode.INCUBATING, SlotMode.OPEN),
    "block2": (SlotMode.SILENT, SlotMode.SILENT, SlotMode.OPEN, SlotMode.SILENT),
    "block3": (SlotMode.INCUBATING, SlotMode.SILENT, SlotMode.SILENT, SlotMode.SILENT),
}


def build_group(build_host: Callable[[], nn.Module] | None = None, num_hosts: int = 4) -> list[HostRun]:
    """Return hosts at the beginning of their third interval, each trained by itself until then."""
    host = cnn("group") if build_host is None else build_host
    build, _ = Kind(parts=lambda: make_host_parts(host, blueprints=BLUEPRINTS)).builder()
    runs = [build(instance) for instance in range(num_hosts)]
    for place, run in enumerate(runs):
        for epoch in range(3):
            assert not run.apply(Decision(action=LIVES.get((epoch, place), Action()))).is_refused
            if epoch < 2:
                run.train_epoch()
        run.begin_interval()
        run.bench.model.update_alphas(run.clock.batch)
    return runs


def stack_of(runs: list[HostRun]) -> HostStack:
    """Return the stack of a group."""
    return HostStack(runs[0].bench.model)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
