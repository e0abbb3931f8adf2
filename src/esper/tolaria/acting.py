"""One decision carried out on a host run, or refused: then everything is as if it had waited.

```
1) ask          is it legal, does it fit?       -> else refused, nothing was tried
2) carry out    lifecycle, then the optimiser   -> memory runs out: all of it is taken back, refused
3) tell         the decision with its fate, then what happened
```
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

from esper.kasmina import Clock, SeedState, is_allocation_failure
from esper.leyline import (
    MEMORY_REFUSAL,
    WAIT,
    Action,
    ActionResult,
    Decision,
    DecisionMade,
    Event,
    LifecycleOp,
    Observation,
    derive_seed,
    refuse_action,
)
from esper.tolaria.parts import Workbench


class ActingRun(Protocol):
    """What of a host run a decision is carried out on; `HostRun` is its implementation."""

    bench: Workbench
    run_seed: int
    instance: int
    epoch: int
    event_count: int

    @property
    def clock(self) -> Clock:
        """Epochs and batches finished."""

    def observe(self) -> Observation:
        """Return everything a policy may look at now."""

    def emit(self, events: Sequence[Event]) -> None:
        """Send events on."""


def act(run: ActingRun, decision: Decision) -> ActionResult:
    """Carry out a decision; one that is illegal, or for which memory runs out, is refused."""
    action = decision.action
    refusal = refuse_action(action, run.observe())
    events: list[Event] = []
    run.event_count += 1
    with run.bench.rng.installed():
        if refusal is None:
            events, refusal = _carry_out(run, action)
    result = ActionResult(requested=action, effective=WAIT if refusal else action, refusal=refusal)
    run.emit([_describe_decision(decision, refusal, run.epoch), *events])
    return result


def _carry_out(run: ActingRun, action: Action) -> tuple[list[Event], str | None]:
    """Return what happened, and why not if memory ran out."""
    bench = run.bench
    path = ("seed", run.instance, run.event_count, bench.governor.rollback_count)
    before: SeedState | None = None
    try:
        if action.op is LifecycleOp.GERMINATE:
            before = copy.deepcopy(bench.model.slot(str(action.slot)).state)
        seed = derive_seed(run.run_seed, *path)
        events = bench.model.apply_action(action, run.clock, build_seed=seed)
        bench.follow_topology()
    except (MemoryError, RuntimeError) as error:
        if action.op is not LifecycleOp.GERMINATE or not is_allocation_failure(error):
            raise
        why = (str(error).splitlines() or [""])[0] or type(error).__name__
    else:
        return events, None
    # Here, because until the error is gone its frames hold what was built of the seed.
    if before is not None:
        bench.take_back(str(action.slot), before)
    what = f"{action.blueprint!r} in {action.slot!r}"
    return [], f"{MEMORY_REFUSAL}: {what} could not be built, the allocator said: {why}"


def _describe_decision(decision: Decision, refusal: str | None, epoch: int) -> DecisionMade:
    action, evidence = decision.action, decision.evidence
    return DecisionMade(
        epoch=epoch,
        op=action.op.value,
        slot=action.slot,
        blueprint=action.blueprint,
        reason=decision.reason,
        confidence=decision.confidence,
        refusal=refusal,
        value=None if evidence is None else evidence.value,
        probabilities={} if evidence is None else evidence.probabilities,
        blend=action.blend.value,
        curve=action.curve.value,
        tempo_epochs=action.tempo_epochs,
        alpha_target=action.alpha_target,
    )
