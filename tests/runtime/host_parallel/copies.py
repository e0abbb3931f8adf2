"""Copies of one small host run on ranks that are threads, and what became of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from esper.kasmina import Clock
from esper.leyline import Action, Event, ExitCode, LifecycleOp
from esper.runtime.host_parallel.agreed_stop import AgreedStop
from esper.runtime.host_parallel.host_copies import HostCopies
from esper.runtime.ranks.channel import Channel
from esper.runtime.run_stop import RunStop, TimeLimit
from esper.runtime.shutdown import StopSignal
from esper.tolaria import HostRun, HostRunConfig, OptimizerConfig, StateRecord
from runtime.ranks.thread_ranks import run_ranks
from tolaria.small_run import ListSink, make_config, make_parts, make_task

if TYPE_CHECKING:
    from torch import Tensor

ResultT = TypeVar("ResultT")


@dataclass
class LocalSignal:
    """Signals of one process that a test sends: what `RunStop` asks of a `StopSignal`."""

    code: ExitCode = ExitCode.OK
    has_save_request: bool = False

    def __call__(self) -> bool:
        return self.code is not ExitCode.OK

    @property
    def exit_code(self) -> ExitCode:
        return self.code

    def take_save_request(self) -> bool:
        has_request, self.has_save_request = self.has_save_request, False
        return has_request


def local_stop(signal: LocalSignal, max_hours: float | None = None) -> RunStop:
    """Return what one process knows about stopping."""
    return RunStop(cast("StopSignal", signal), TimeLimit(max_hours))


@dataclass
class Copy:
    """One rank's part."""

    rank: int
    run: HostRun
    channel: Channel
    ranks: HostCopies
    stop: AgreedStop
    signal: LocalSignal
    sink: ListSink = field(default_factory=ListSink)


class _InTurns:
    """A model's `apply_action`, one rank at a time where it builds a seed, once all have come.

    Ranks are threads here: they share the process's stream, which every run borrows on entry and from which
    seeds are built. All ranks must come.
    """

    def __init__(
        self, apply: Callable[..., list[Event]], lock: threading.Lock, gate: threading.Barrier
    ) -> None:
        self._apply, self._lock, self._gate = apply, lock, gate

    def __call__(self, action: Action, clock: Clock, *, build_seed: int) -> list[Event]:
        if action.op is not LifecycleOp.GERMINATE:
            return self._apply(action, clock, build_seed=build_seed)
        self._gate.wait()
        with self._lock:
            return self._apply(action, clock, build_seed=build_seed)


def config_of(*, batch_size: int = 32, optimizer: str = "sgd", incubation: str = "shadow") -> HostRunConfig:
    """Return settings of a short life."""
    rate = 0.05 if optimizer == "sgd" else 0.005
    return replace(
        make_config(incubation=incubation),
        batch_size=batch_size,
        optimizer=OptimizerConfig(name=optimizer, learning_rate=rate),
    )


def run_copies(
    folder: Path,
    world_size: int,
    work: Callable[[Copy], ResultT],
    config: HostRunConfig | None = None,
    *,
    norm: str = "group",
    is_ordered: bool = False,
) -> list[ResultT | Exception]:
    """Build one copy of the same run per rank, do the same on all, return what each returned or raised."""
    lock, gate = threading.Lock(), threading.Barrier(world_size, timeout=120)

    def work_as(channel: Channel) -> ResultT:
        signal, sink = LocalSignal(), ListSink()
        stop = AgreedStop(local_stop(signal))
        ranks = HostCopies(channel, stop, sink, is_ordered=is_ordered)
        parts = replace(make_parts(sink=sink, norm=norm), ranks=ranks)
        with lock:
            run = HostRun(make_task(), config or config_of(), parts, run_seed=5)
        model = run.bench.model
        object.__setattr__(model, "apply_action", _InTurns(model.apply_action, lock, gate))
        return work(Copy(channel.place.rank, run, channel, ranks, stop, signal, sink))

    return run_ranks(folder, world_size, work_as)


def results(found: list[ResultT | Exception]) -> list[ResultT]:
    """Return what the ranks returned; the first error of one is raised."""
    for result in found:
        if isinstance(result, Exception):
            raise result
    return [result for result in found if not isinstance(result, Exception)]


def saved_tensors(record: StateRecord) -> dict[str, Tensor]:
    """Return the tensors of a state without streams of random numbers."""
    return {name: x for name, x in record.tensors.items() if "rng." not in name}


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Return the largest absolute difference between two sets of tensors of the same names."""
    assert list(left) == list(right)
    return max(float((left[n].double() - right[n].double()).abs().max()) for n in left if left[n].numel())


def without_reasons(events: list[Event]) -> list[str]:
    """Return an event log as text, notices left out."""
    return [repr(event) for event in events if event.kind != "Notice"]
