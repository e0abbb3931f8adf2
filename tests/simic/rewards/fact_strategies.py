"""Hypothesis strategies for steps: broken ones that hold any number, and stage paths that are legal."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import strategies as st

from builders import make_budgets, make_observation, make_report
from esper.leyline import (
    TRANSITIONS,
    Action,
    ActionResult,
    LifecycleOp,
    Observation,
    SeedStage,
    Verdict,
    VerdictKind,
)
from esper.simic.rewards.facts import StepFacts
from simic.rewards.scripted_host import HORIZON, KINDS, ScriptedHost
from strategies import WILD_FLOATS, wild_observations


def make_facts(
    before: Observation,
    after: Observation,
    *,
    op: LifecycleOp = LifecycleOp.WAIT,
    slot: str | None = None,
    is_failure: bool = False,
    is_last: bool = False,
    never: tuple[float, float] = (0.5, 0.5),
) -> StepFacts:
    """Return one step; `never` is the metric of the host that never grows before and after it."""
    action = Action(op=op, slot=slot)
    return StepFacts(
        before=before,
        after=after,
        result=ActionResult(requested=action, effective=action),
        verdict=Verdict(kind=VerdictKind.DIVERGED) if is_failure else Verdict(),
        is_last=is_last,
        never_metric_before=never[0],
        never_metric_after=never[1],
    )


@st.composite
def wild_facts(draw: st.DrawFn) -> StepFacts:
    """Steps whose every number may be anything."""
    return make_facts(
        draw(wild_observations()),
        draw(wild_observations()),
        op=draw(st.sampled_from(LifecycleOp)),
        slot=draw(st.sampled_from((None, "a", "b", "nowhere"))),
        is_failure=draw(st.booleans()),
        is_last=draw(st.booleans()),
        never=(draw(WILD_FLOATS), draw(WILD_FLOATS)),
    )


@st.composite
def stage_paths(draw: st.DrawFn) -> list[Observation]:
    """Two or more observations of the same slots, each a legal move (or none) of every slot from the last."""
    names = ("a", "b", "c")[: draw(st.integers(1, 3))]
    stages = [draw(st.sampled_from(SeedStage)) for _ in names]
    path = []
    for _ in range(draw(st.integers(2, 25))):
        pending = [stage.is_live and draw(st.booleans()) for stage in stages]
        path.append(make_stages(names, stages, pending))
        stages = [
            draw(st.sampled_from((stage, *sorted(TRANSITIONS[stage], key=lambda s: s.value))))
            for stage in stages
        ]
    return path


def make_stages(
    names: Sequence[str], stages: Sequence[SeedStage], pending: Sequence[bool] | None = None
) -> Observation:
    """Return an observation of slots in these stages; `pending` says whose seed is on its way out."""
    flags = [False] * len(names) if pending is None else pending
    return make_observation(
        *(
            make_report(name, stage, is_cull_pending=flag)
            for name, stage, flag in zip(names, stages, flags, strict=True)
        ),
        budgets=make_budgets(),
    )


@st.composite
def scripted_episodes(draw: st.DrawFn, *, with_bombs: bool = True) -> list[StepFacts]:
    """Whole episodes of a scripted host under any actions, refused ones and failures included."""
    host = ScriptedHost(horizon=draw(st.integers(1, HORIZON)))
    kinds = [name for name, kind in KINDS.items() if with_bombs or not kind.is_bomb]
    # One drawn number decides all actions: drawing each would cost more than the episode.
    choices = random.Random(draw(st.integers(0, 2**32)))
    ops = [op for op in LifecycleOp for _ in range(1 if op is LifecycleOp.CULL else 3)]
    episode = []
    while not host.is_over:
        slot, kind = choices.choice(host.slot_names), choices.choice(kinds)
        episode.append(host.step(Action(op=choices.choice(ops), slot=slot, blueprint=kind)))
    return episode
