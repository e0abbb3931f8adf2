"""The contract that every reward term keeps, ours or a user's, as a check that anyone can run.

```
range      finite and within the range of its spec, on any observation, broken measurements included
idle       0 on every step of a host that never grows, unless the spec says otherwise
same       equal facts and equal memory give an equal value and an equal memory
memory     plain JSON data without NaN: saved and loaded between any two steps, it changes nothing
```
What a term raises is not caught, so that its own traceback leads to the line.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import final

from esper.leyline import (
    WAIT,
    Action,
    ActionResult,
    ActionSpace,
    Budgets,
    ConfigError,
    Estimate,
    LifecycleOp,
    MetricSpec,
    Observation,
    SeedStage,
    SlotReport,
    TrainingSignals,
    Verdict,
    VerdictKind,
)
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.rubric import RANGE_TOLERANCE, RewardTerm, TermMemory

_HORIZON = 8
_SLOTS = ("first", "second")
_LIFE = (
    SeedStage.DORMANT,
    SeedStage.GERMINATED,
    SeedStage.TRAINING,
    SeedStage.BLENDING,
    SeedStage.PROBATIONARY,
    SeedStage.PROBATIONARY,
    SeedStage.FOSSILIZED,
    SeedStage.FOSSILIZED,
    SeedStage.FOSSILIZED,
)
"""Stage of the first slot after 0 to 8 intervals."""
_NUMBERS = (math.nan, math.inf, -math.inf, 1e300, -1e300, 0.0)
_COUNTS = (0, -1, 10**400)


def check_reward_term(term: RewardTerm) -> tuple[str, ...]:
    """Run the whole contract; return what was broken, nothing if it is kept.

    Args:
        term: Any term; its spec says which range it promises.

    Example:
        >>> from esper.simic.rewards.modes import build_terms
        >>> term = build_terms(RewardConfig(), discount=1.0)["governor"].term
        >>> check_reward_term(term)
        ()
    """
    failures: dict[str, None] = {}
    for name, episode in (
        ("a host that never grows", _build_episode(grows=False)),
        ("a host that grows", _build_episode(grows=True)),
        ("broken measurements", list(_build_broken_episode())),
    ):
        is_idle = name == "a host that never grows" and not term.spec.pays_without_growth
        for failure in _Trial(term, is_idle=is_idle).run(episode):
            failures[f"{name}: {failure}"] = None
    return tuple(failures)


def require_reward_term(term: RewardTerm) -> RewardTerm:
    """Return a term that keeps the contract.

    Raises:
        ConfigError: If it does not; every failure is named.

    Example:
        >>> from esper.simic.rewards.modes import build_terms
        >>> term = build_terms(RewardConfig(), discount=1.0)["governor"].term
        >>> require_reward_term(term) is term
        True
    """
    if failures := check_reward_term(term):
        raise ConfigError(f"reward term {term.spec.name!r} breaks its contract: " + "; ".join(failures))
    return term


@final
class _Trial:
    """One term over one episode."""

    def __init__(self, term: RewardTerm, *, is_idle: bool) -> None:
        self._term = term
        self._is_idle = is_idle

    def run(self, episode: Sequence[StepFacts]) -> Iterator[str]:
        """Yield what was broken; the first failure ends the episode."""
        memory: TermMemory = {}
        for facts in episode:
            twin = copy.deepcopy(memory)
            value, again = self._term.compute(facts, memory), self._term.compute(facts, twin)
            if failure := self._judge_value(value):
                yield failure
                return
            if again != value:
                yield f"gives {value:g} and then {again:g} for the same facts and memory"
                return
            try:
                text = json.dumps(memory, allow_nan=False, sort_keys=True)
                twin_text = json.dumps(twin, allow_nan=False, sort_keys=True)
            except (TypeError, ValueError) as error:
                yield f"its memory is no plain JSON data: {error}"
                return
            if text != twin_text:
                yield "leaves two different memories after the same step"
                return
            memory = json.loads(text)

    def _judge_value(self, value: float) -> str | None:
        spec = self._term.spec
        if not spec.low - RANGE_TOLERANCE <= value <= spec.high + RANGE_TOLERANCE:
            return f"gives {value}, its range is [{spec.low:g}, {spec.high:g}]"
        if self._is_idle and abs(value) > RANGE_TOLERANCE:
            return f"gives {value:g} although nothing was grown; if it means to, say so in its spec"
        return None


def _build_episode(*, grows: bool) -> list[StepFacts]:
    """An ordinary episode of 8 intervals; one that grows keeps a good seed in the first slot."""
    states = [_build_observation(epoch, grows=grows) for epoch in range(_HORIZON + 1)]
    never = [_compute_never_metric(epoch) for epoch in range(_HORIZON + 1)]
    ops = {1: LifecycleOp.GERMINATE, 3: LifecycleOp.ADVANCE, 6: LifecycleOp.FOSSILIZE} if grows else {}
    return [
        StepFacts(
            before=states[epoch - 1],
            after=states[epoch],
            result=_build_result(ops.get(epoch, LifecycleOp.WAIT)),
            verdict=Verdict(),
            is_last=epoch == _HORIZON,
            never_metric_before=never[epoch - 1],
            never_metric_after=never[epoch],
        )
        for epoch in range(1, _HORIZON + 1)
    ]


def _build_result(op: LifecycleOp) -> ActionResult:
    action = WAIT if op is LifecycleOp.WAIT else Action(op=op, slot=_SLOTS[0], blueprint="seed")
    return ActionResult(requested=action, effective=action)


def _compute_never_metric(epoch: int) -> float:
    return 0.8 * epoch / (epoch + 1)


def _build_observation(epoch: int, *, grows: bool) -> Observation:
    stage = _LIFE[epoch] if grows else SeedStage.DORMANT
    gain = 0.03 if grows and stage.affects_output else 0.0
    metric = _compute_never_metric(epoch) + gain
    seed = SlotReport(
        slot=_SLOTS[0],
        layout="flat",
        num_channels=8,
        stage=stage,
        epochs_in_stage=1,
        seed_age_epochs=epoch if stage.has_seed else 0,
        seed_id="first#1" if stage.has_seed else None,
        num_params=100 if stage.has_seed else 0,
        contribution=_measure(gain) if stage.affects_output else None,
        credit=gain if stage.affects_output else None,
        fossilize_refusal=None if stage is SeedStage.PROBATIONARY else "not in probation",
    )
    return _observe(
        signals=TrainingSignals(
            epoch=epoch, validation_loss=1.0 - metric, metric=metric, has_history=epoch > 0
        ),
        slots=(seed, SlotReport(slot=_SLOTS[1], layout="flat", num_channels=8)),
        budgets=Budgets(
            horizon_epochs=_HORIZON,
            epochs_left=_HORIZON - epoch,
            host_params=1000,
            added_params=seed.num_params,
            flops_spent=1000 * epoch + (100 * epoch if grows else 0),
            never_grow_flops=1000 * _HORIZON,
        ),
    )


def _build_broken_episode() -> Iterator[StepFacts]:
    """Every number at once not finite, huge or zero, in every stage; operations and failures take turns."""
    turns = itertools.cycle(itertools.product(LifecycleOp, (False, True)))
    cases = itertools.product(_NUMBERS, _COUNTS, SeedStage)
    for (number, count, stage), (op, fails) in zip(cases, turns, strict=False):
        state = _build_broken_observation(number, count, stage)
        yield StepFacts(
            before=state,
            after=state,
            result=_build_result(op),
            verdict=Verdict(kind=VerdictKind.NON_FINITE) if fails else Verdict(),
            is_last=fails,
            never_metric_before=-number,
            never_metric_after=-number,
        )


def _build_broken_observation(number: float, count: int, stage: SeedStage) -> Observation:
    seed = SlotReport(
        slot=_SLOTS[0],
        layout="flat",
        num_channels=count,
        stage=stage,
        epochs_in_stage=count,
        seed_age_epochs=count,
        seed_id="first#1" if stage.has_seed else None,
        num_params=count,
        flops_per_item=count,
        alpha=number,
        contribution=Estimate(mean=number, standard_error=abs(number), num_items=count),
        credit=number,
        shadow_gain=Estimate(mean=number, standard_error=abs(number), num_items=count),
        gradient_ratio=number,
        gradient_norm=number,
        fossilize_refusal=None,
    )
    return _observe(
        signals=TrainingSignals(
            epoch=count,
            train_loss=number,
            validation_loss=number,
            train_metric=number,
            metric=number,
            loss_delta=number,
            metric_delta=number,
            best_loss=number,
            best_metric=number,
            has_history=True,
        ),
        slots=(seed,),
        budgets=Budgets(
            horizon_epochs=count,
            epochs_left=count,
            host_params=count,
            added_params=count,
            flops_spent=count,
            never_grow_flops=count,
        ),
    )


def _observe(signals: TrainingSignals, slots: tuple[SlotReport, ...], budgets: Budgets) -> Observation:
    return Observation(
        signals=signals,
        slots=slots,
        budgets=budgets,
        space=ActionSpace(slot_ids=_SLOTS, blueprint_ids=(), descriptors={}),
        metric=MetricSpec(name="accuracy", is_higher_better=True, scale=0.05),
    )


def _measure(mean: float) -> Estimate:
    return Estimate(mean=mean, standard_error=0.001, num_items=1000)
