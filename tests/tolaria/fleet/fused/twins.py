"""The same hosts in two fleets: one after another, which is the oracle, and as one program."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import final

import torch
from torch import Tensor

from esper.leyline import Action, Decision, EpochOutcome, Observation
from esper.tamiyo import RandomPolicy
from esper.tolaria import Fleet, HostRun, SerialFleet
from esper.tolaria.fleet.fused import FusedFleet
from tolaria.fleet.fused.double_hosts import Kind

RELATIVE = 1e-9
ABSOLUTE = 1e-12
"""For what cancels out: a bias in front of a norm has a gradient of rounding alone."""
FRACTION = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
"""A number in a text: a reason may quote a loss with all its digits."""
CLOCK_FIELDS = ("seconds",)

Script = Mapping[tuple[int, int], Action]
"""(epoch, place) -> action; WAIT where there is none."""
AnyFleet = Fleet[list[Observation]]
Chooser = Callable[[int, Observation], Decision]


@final
class Twins:
    """Two fleets that get the same decisions."""

    def __init__(
        self,
        kind: Kind,
        instances: Sequence[int],
        *,
        min_rows: int = 2,
        is_watched: bool | None = None,
    ) -> None:
        """Build both."""
        serial, self.serial_sink = kind.builder()
        fused, self.fused_sink = kind.builder()
        self.serial = SerialFleet(serial, instances, encode=list)
        self.fused = FusedFleet(fused, instances, encode=list, min_rows=min_rows, is_watched=is_watched)
        self.done: list[Action] = []
        """Accepted actions other than WAIT."""

    def step(self, script: Script | None = None, *, choose: Sequence[Chooser] = ()) -> list[EpochOutcome]:
        """Decide for each fleet, act, train an interval and compare everything.

        Args:
            script: What is done; hosts without an entry wait.
            choose: Deciders in its place, one a fleet, each shown its own fleet's observations.
        """
        epochs = [run.epoch for run in self.serial.runs]
        decisions = []
        fleets: tuple[AnyFleet, ...] = (self.serial, self.fused)
        for index, fleet in enumerate(fleets):
            seen = fleet.observations()
            decisions.append(
                [choose[index](place, seen[place]) for place in range(len(seen))]
                if choose
                else [
                    Decision(action=(script or {}).get((epoch, place), Action()))
                    for place, epoch in enumerate(epochs)
                ]
            )
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


def expect_bit_equal(left: HostRun, right: HostRun) -> None:
    """Assert that two hosts have the same state to the bit."""
    mine, other = left.state(), right.state()
    assert mine.state == other.state
    assert list(mine.tensors) == list(other.tensors)
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in mine.tensors.items())


def draw_decisions(num_hosts: int, seed: int) -> Callable[[], Chooser]:
    """Return what makes choosers that draw the same legal actions from the same observations."""

    def start() -> Chooser:
        policies = [RandomPolicy(seed * 1000 + place) for place in range(num_hosts)]
        return lambda place, seen: policies[place].decide(seen)

    return start


def expect_same(what: str, left: object, right: object, relative: float = RELATIVE) -> None:
    """Assert that two structures agree: counts, names, truth values exactly, numbers within a tolerance."""
    different = list(_differences(what, left, right, relative))
    assert not different, "\n".join(different[:20])


def _differences(where: str, left: object, right: object, relative: float) -> Iterator[str]:
    parts = _take_apart(left), _take_apart(right)
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        yield from _compare_tensors(where, left.detach(), right.detach(), relative)
    elif parts[0] is not None and parts[1] is not None:
        if type(left) is not type(right) or set(parts[0]) != set(parts[1]):
            yield f"{where}: {sorted(map(str, set(parts[0]) ^ set(parts[1])))} in one alone"
        for name, part in parts[0].items():
            if name in parts[1]:
                yield from _differences(f"{where}[{name}]", part, parts[1][name], relative)
    elif not _is_same(left, right, relative):
        yield f"{where}: {left!r} and {right!r}"


def _take_apart(value: object) -> dict[object, object] | None:
    """Return the parts of a record, mapping or sequence by name; None for what has none."""
    if is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in fields(value))
        return {name: getattr(value, name) for name in names if name not in CLOCK_FIELDS}
    if isinstance(value, Mapping):
        return dict(value)
    return dict(enumerate(value)) if isinstance(value, list | tuple) else None


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


def _is_same(left: object, right: object, relative: float) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return _is_close(left, right, relative)
    if isinstance(left, str) and isinstance(right, str) and left != right:
        numbers = [[float(found) for found in FRACTION.findall(text)] for text in (left, right)]
        return FRACTION.sub("", left) == FRACTION.sub("", right) and all(
            _is_close(a, b, relative) for a, b in zip(*numbers, strict=True)
        )
    return left == right


def _is_close(left: float, right: float, relative: float) -> bool:
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    return math.isclose(left, right, rel_tol=relative, abs_tol=ABSOLUTE)
