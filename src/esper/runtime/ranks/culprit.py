"""Which rank the others wait for, from two looks at all heartbeats. Imports no torch.

A collective that failed says an address at best, and often that of a rank which only waited. So the evidence
is, strongest first: no heartbeat at all; a beat that stands still; a rank that left; a rank that goes on
beating but entered fewer collectives than this one. A rank whose own collective failed is a witness and
never blamed by what it did; if there are only witnesses, what they said counts. If they blame nobody, a rank
that entered this collective only between the two looks is the one that was waited for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, final

from esper.runtime.ranks.heartbeat import FAILED, LEFT, NOBODY, Pulse, read_pulse


@final
class _Evidence(IntEnum):
    """Strongest first."""

    MISSING = 0
    SILENT = 1
    LEFT = 2
    BEHIND = 3


_REASONS = (
    "",
    "its heartbeat stopped, too: the process is stopped, held in a call, or dead",
    "it left",
    "its heartbeat goes on: its main thread is stuck or slow",
)


class _Suspicion(NamedTuple):
    """Compared in this order: the least is the culprit."""

    evidence: _Evidence
    counter: int
    rank: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RankFinding:
    """Whom the heartbeats blame.

    Example:
        RankFinding(rank=1, phase="rollout", step=7, reason="it left: MemoryError", counters=(41, 40))
    """

    rank: int | None
    """None if nobody stands out."""
    phase: str
    """What the rank was doing; empty if it never started or is None."""
    step: int
    reason: str
    counters: tuple[int | None, ...]
    """Collectives entered, by rank; None where there is no heartbeat."""

    def describe(self) -> str:
        """Return one line for a person; it names no rank but the culprit."""
        entered = ", ".join("-" if count is None else str(count) for count in self.counters)
        tail = f"({self.reason}; collectives entered, by rank: {entered})"
        if self.rank is None:
            return f"a collective failed, and no rank stands out {tail}"
        if not self.phase:
            return f"rank {self.rank} never started {tail}"
        return f"rank {self.rank} stopped answering in phase {self.phase} of step {self.step} {tail}"


def find_culprit(folder: Path, own: Pulse, *, world_size: int, pause: Callable[[], None]) -> RankFinding:
    """Look at all heartbeats twice and say whom the others wait for.

    Args:
        folder: Where all ranks publish.
        own: What this rank says about itself now; it lives, so that only others are suspects.
        world_size: Number of ranks.
        pause: Called between the two looks; it waits until any living rank has published again.
    """
    others = [rank for rank in range(world_size) if rank != own.rank]
    before = {rank: read_pulse(folder, rank, own.session) for rank in others}
    pause()
    now = {rank: read_pulse(folder, rank, own.session) for rank in others}
    suspicions = [
        suspicion
        for rank in others
        if (suspicion := _suspect(rank, before[rank], now[rank], own)) is not None
    ]
    everybody = {**now, own.rank: own}
    if suspicions:
        evidence, _, rank = min(suspicions)
        return _describe(rank, evidence, everybody)
    finding = _ask_witnesses(everybody)
    late = [pulse for rank in others if (pulse := _find_late(before[rank], now[rank], own)) is not None]
    if finding.rank is not None or not late:
        return finding
    latest = min(late, key=lambda pulse: (pulse.counter, pulse.rank))
    return replace(
        finding,
        rank=latest.rank,
        phase=latest.phase,
        step=latest.step,
        reason="it came after the others had given up",
    )


def find_dead(folder: Path, own: Pulse, *, world_size: int, pause: Callable[[], None]) -> RankFinding | None:
    """Look at all heartbeats twice and name a rank that is gone or stopped; None if all live.

    Outside of collectives a rank that is merely slow is no suspect; one whose own collective failed is a sign
    that somebody else is gone.

    Args:
        folder: Where all ranks publish.
        own: What this rank says about itself now.
        world_size: Number of ranks.
        pause: Called between the two looks; it waits until any living rank has published again.
    """
    finding = find_culprit(folder, replace(own, counter=0), world_size=world_size, pause=pause)
    is_failing = any(
        isinstance(pulse := read_pulse(folder, rank, own.session), Pulse) and pulse.state == FAILED
        for rank in range(world_size)
        if rank != own.rank
    )
    return finding if finding.rank is not None or is_failing else None


def _suspect(rank: int, before: Pulse | str, now: Pulse | str, own: Pulse) -> _Suspicion | None:
    if isinstance(now, str):
        return _Suspicion(_Evidence.MISSING, -1, rank)
    if now.state == FAILED:
        return None
    if now.state == LEFT:
        return _Suspicion(_Evidence.LEFT, now.counter, rank)
    if isinstance(before, Pulse) and before.beat == now.beat:
        return _Suspicion(_Evidence.SILENT, now.counter, rank)
    if now.counter < own.counter:
        return _Suspicion(_Evidence.BEHIND, now.counter, rank)
    return None


def _find_late(before: Pulse | str, now: Pulse | str, own: Pulse) -> Pulse | None:
    """Return what a rank was doing at the first look, if it entered this collective only after that."""
    if isinstance(before, str) or isinstance(now, str) or before.state == FAILED:
        return None
    return before if before.counter < own.counter <= now.counter else None


def _describe(rank: int, evidence: _Evidence, everybody: Mapping[int, Pulse | str]) -> RankFinding:
    pulse = everybody[rank]
    if isinstance(pulse, str):
        return RankFinding(rank=rank, phase="", step=0, reason=pulse, counters=_count(everybody))
    reason = _REASONS[evidence] + (f": {pulse.reason}" if evidence is _Evidence.LEFT else "")
    return RankFinding(
        rank=rank, phase=pulse.phase, step=pulse.step, reason=reason, counters=_count(everybody)
    )


def _ask_witnesses(everybody: Mapping[int, Pulse | str]) -> RankFinding:
    """Blame whom the first witness blames, which may be this rank, come too late; else compare operations."""
    pulses = [pulse for _, pulse in sorted(everybody.items()) if isinstance(pulse, Pulse)]
    for witness in pulses:
        blamed = everybody.get(witness.suspect)
        if witness.suspect != NOBODY and isinstance(blamed, Pulse):
            return RankFinding(
                rank=blamed.rank,
                phase=blamed.phase,
                step=blamed.step,
                reason="the others gave up waiting for it",
                counters=_count(everybody),
            )
    entered: dict[str, list[int]] = defaultdict(list)
    for pulse in pulses:
        entered[pulse.operation].append(pulse.rank)
    table = ", ".join(f"{name} by {ranks}" for name, ranks in entered.items())
    reason = (
        f"different collectives were entered: {table}" if len(entered) > 1 else "all beat and none is behind"
    )
    return RankFinding(rank=None, phase="", step=0, reason=reason, counters=_count(everybody))


def _count(everybody: Mapping[int, Pulse | str]) -> tuple[int | None, ...]:
    return tuple(
        pulse.counter if isinstance(pulse, Pulse) else None for _, pulse in sorted(everybody.items())
    )
