"""The same hosts in two fleets: one after another, which is the oracle, and as one program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import final

import torch
from torch import Tensor

from esper.leyline import Action, Decision, EpochOutcome, Observation, Verdict
from esper.tamiyo import RandomPolicy
from esper.tolaria import HostRun, SerialFleet
from esper.tolaria.fleet.fused import FusedFleet
from tolaria.fleet.fused.double_hosts import Kind

RELATIVE = 1e-9
ABSOLUTE = 1e-12
"""For what cancels out: a bias in front of a norm has a gradient of rounding alone."""
CLOCK_FIELDS = ("seconds",)

Script = Mapping[tuple[int, int], Action]
"""(epoch, place) -> action; WAIT where there is none."""
Chooser = Callable[[int, Observation], Decision]


@final
class Twins:
    """Two fleets that get the same decisions."""

    def __init__(self, kind: Kind, instances: Sequence[int], *, min_rows: int = 2) -> None:
        """Build both."""
        serial, self.serial_sink = kind.builder()
        fused, self.fused_sink = kind.builder()
        self.serial = SerialFleet(serial, instances, encode=list)
        self.fused = FusedFleet(fused, instances, encode=list, min_rows=min_rows)
        self.done: list[Action] = []
        """Accepted actions other than WAIT."""

    def step(self, script: Script | None = None, *, choose: Chooser | None = None) -> list[EpochOutcome]:
        """Decide for each fleet on its own observations, act, train an interval and compare everything."""
        epochs = [run.epoch for run in self.serial.runs]
        decisions = []
        for fleet in (self.serial, self.fused):
            if choose is not None:
                made = [choose(place, seen) for place, seen in enumerate(fleet.observations())]
            else:
                made = [
                    Decision(action=(script or {}).get((epoch, place), Action()))
                    for place, epoch in enumerate(epochs)
                ]
            decisions.append(made)
        self.act(*decisions)
        return self.train()

    def act(self, serial: Sequence[Decision], fused: Sequence[Decision]) -> None:
        """Apply decisions that must be the same, and accepted."""
        expect_same("decision", serial, fused)
        results = self.serial.apply(serial), self.fused.apply(fused)
        expect_same("result", *results)
        assert not [result.refusal for result in results[0] if result.is_refused]
        self.done += [d.action for d in serial if d.action.slot is not None]

    def harm(self, place: int, harm: Callable[[HostRun], None]) -> None:
        """Do the same to one host of both fleets."""
        with torch.no_grad():
            for fleet in (self.serial, self.fused):
                harm(fleet.runs[place])

    def train(self) -> list[EpochOutcome]:
        """Train an interval in both and compare everything; return the outcomes of hosts that trained."""
        serial, fused = self.serial.train_epoch(), self.fused.train_epoch()
        expect_same("outcome", serial[0], fused[0])
        expect_same("verdict", serial[1], fused[1])
        self.compare()
        return [outcome for outcome in serial[0] if outcome is not None]

    def compare(self) -> None:
        """Compare states and events of every host."""
        expect_same("state", self.serial.state(), self.fused.state())
        expect_same("observation", self.serial.observations(), self.fused.observations())
        for instance, sink in self.serial_sink.of_host.items():
            expect_same("event", sink.events, self.fused_sink.of_host[instance].events)
        assert set(self.serial_sink.of_host) == set(self.fused_sink.of_host)


def draw_decisions(num_hosts: int, seed: int, *, germination_rate: float | None = None) -> Callable[[], Chooser]:
    """Return what makes choosers that draw the same legal actions from the same observations."""

    def start() -> Chooser:
        policies = [
            RandomPolicy(seed * 1000 + place, germination_rate=germination_rate) for place in range(num_hosts)
        ]
        return lambda place, seen: policies[place].decide(seen)

    return start


def expect_same(what: str, left: object, right: object, relative: float = RELATIVE) -> None:
    """Assert that two structures agree: text, counts and truth values exactly, numbers within a tolerance."""
    different = list(_differences(what, left, right, relative))
    assert not different, "\n".join(different[:20])


def _differences(where: str, left: object, right: object, relative: float) -> Iterator[str]:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        yield from _compare_tensors(where, left.detach(), right.detach(), relative)
    elif isinstance(left, float) and isinstance(right, float):
        if not _is_close(left, right, relative):
            yield f"{where}: {left!r} and {right!r}"
    elif is_dataclass(left) and not isinstance(left, type) and type(left) is type(right):
        for name in (field.name for field in fields(left) if field.name not in CLOCK_FIELDS):
            yield from _differences(f"{where}.{name}", getattr(left, name), getattr(right, name), relative)
    elif isinstance(left, Mapping) and isinstance(right, Mapping):
        if set(left) != set(right):
            yield f"{where}: {sorted(map(str, set(left) ^ set(right)))} in one alone"
        for key in left.keys() & right.keys():
            yield from _differences(f"{where}[{key}]", left[key], right[key], relative)
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            yield f"{where}: {len(left)} and {len(right)} entries"
        for place, pair in enumerate(zip(left, right, strict=False)):
            yield from _differences(f"{where}[{place}]", *pair, relative)
    elif left != right:
        yield f"{where}: {left!r} and {right!r}"


def _compare_tensors(where: str, left: Tensor, right: Tensor, relative: float) -> Iterator[str]:
    if left.shape != right.shape or left.dtype != right.dtype:
        yield f"{where}: {left.dtype}{list(left.shape)} and {right.dtype}{list(right.shape)}"
    elif not left.is_floating_point():
        if not torch.equal(left, right):
            yield f"{where}: whole numbers differ"
    else:
        scale = float(left.nan_to_num(0.0, 0.0, 0.0).abs().max()) if left.numel() else 0.0
        if not torch.allclose(left, right, rtol=0.0, atol=relative * scale + ABSOLUTE, equal_nan=True):
            yield f"{where}: differ by {float((left - right).abs().max()):.2e} of {scale:.2e}"


def _is_close(left: float, right: float, relative: float) -> bool:
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    return math.isclose(left, right, rel_tol=relative, abs_tol=ABSOLUTE)
