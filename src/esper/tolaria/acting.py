"""One decision carried out on a host run, or refused: then everything is as if it had waited.

```
1) ask          is it legal, does it fit?       -> else refused, nothing was tried; waiting is not asked about
2) plant        a germination is tried           -> memory runs out, on any rank: taken back on all, refused
3) carry out    anything else, once no rank refuses
4) tell         the decision with its fate, then what happened
```
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Protocol

from esper.kasmina import Clock, SeedState, is_allocation_failure
from esper.leyline import (
    MEMORY_REFUSAL,
    WAIT,
    Action,
    ActionResult,
    Decision,
    Event,
    LifecycleOp,
    Observation,
    derive_seed,
    refuse_action,
)
from esper.tolaria.host_events import describe_decision
from esper.tolaria.host_ranks import HostRanks
from esper.tolaria.offers import refuse_blend
from esper.tolaria.shared_state import describe_shared
from esper.tolaria.snapshot import RunState


class ActingRun(RunState, Protocol):
    """What of a host run a decision is carried out on; `HostRun` is its implementation."""

    run_seed: int
    instance: int
    ranks: HostRanks

    @property
    def clock(self) -> Clock:
        """Epochs and batches finished."""

    def observe(self) -> Observation:
        """Return everything a policy may look at now."""

    def emit(self, events: Sequence[Event]) -> None:
        """Send events on."""


def act(run: ActingRun, decision: Decision) -> ActionResult:
    """Carry out a decision; one that is illegal, or for which memory runs out on any rank, is refused."""
    bench, ranks = run.bench, run.ranks
    run.event_count += 1
    path = ("seed", run.instance, run.event_count, bench.governor.rollback_count)
    build_seed = derive_seed(run.run_seed, *path)
    decision = ranks.announce(decision, bench.space, (run.epoch, run.event_count, build_seed))
    action = decision.action
    is_waiting = action.op is LifecycleOp.WAIT
    refusal = None if is_waiting else _refuse(run, action)
    before: SeedState | None = None
    if refusal is None and action.op is LifecycleOp.GERMINATE:
        before = copy.deepcopy(bench.model.slot(str(action.slot)).state)
    events: list[Event] = []

    def plant() -> str | None:
        """A germination can be taken back, so it is tried before ranks vote; anything else is done after."""
        return None if before is None else _carry_out(run, action, build_seed, events)

    # Waiting draws and changes nothing, and most decisions are to wait.
    with nullcontext() if is_waiting else bench.rng.installed():
        refusal = ranks.vote(refusal, plant)
        if refusal is None and before is None and not is_waiting:
            _carry_out(run, action, build_seed, events)
    if refusal is not None and before is not None:
        # Here, because until the error is gone its frames hold what was built of the seed.
        bench.take_back(str(action.slot), before)
    result = ActionResult(requested=action, effective=WAIT if refusal else action, refusal=refusal)
    told: Sequence[Event] = () if refusal else events
    run.emit([describe_decision(decision, refusal, run.epoch), *told])
    if result.effective is not WAIT:
        ranks.share_seed(None if before is None else bench.model.slot(str(action.slot)).seed)
        ranks.check("event", partial(describe_shared, run))
    return result


def _refuse(run: ActingRun, action: Action) -> str | None:
    return refuse_action(action, run.observe()) or refuse_blend(run.bench.model, action)


def _carry_out(run: ActingRun, action: Action, build_seed: int, events: list[Event]) -> str | None:
    """Add what happened to `events`; return why not if memory ran out."""
    bench = run.bench
    try:
        events += bench.model.apply_action(action, run.clock, build_seed=build_seed)
        bench.follow_topology()
    except (MemoryError, RuntimeError) as error:
        refusal = describe_exhausted(action, error)
        if refusal is None:
            raise
        return refusal
    return None


def describe_exhausted(action: Action, error: BaseException) -> str | None:
    """Return why a seed was refused for which memory ran out; None if the error was anything else."""
    if action.op is not LifecycleOp.GERMINATE or not is_allocation_failure(error):
        return None
    why = (str(error).splitlines() or [""])[0] or type(error).__name__
    what = f"{action.blueprint!r} in {action.slot!r}"
    return f"{MEMORY_REFUSAL}: {what} could not be built, the allocator said: {why}"
