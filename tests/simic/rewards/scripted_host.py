"""A host without a network: seeds have a true worth, and every number that a reward sees follows from it.

The life of a seed, legality and the horizon are those of the real thing; metric, loss, contributions, credit,
parameters and FLOPs are formulas. What a scripted policy deserves is therefore known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from builders import ACCURACY, make_space
from esper.leyline import (
    WAIT,
    Action,
    ActionResult,
    ActionSpace,
    Budgets,
    Estimate,
    LifecycleOp,
    Observation,
    SeedStage,
    SlotReport,
    TrainingSignals,
    Verdict,
    VerdictKind,
    refuse_action,
)
from esper.simic.rewards.config import RewardConfig
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.modes import build_rubric
from esper.simic.rewards.rubric import RewardBreakdown, RewardState

HORIZON = 24
HOST_PARAMS = 1000
DISCOUNT = 0.995
CHANCE_LOSS = math.log(10)
Policy = Callable[[Observation], Action]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedKind:
    """What a seed of one blueprint does to the host."""

    worth: float = 0.0
    """Metric that it adds at full alpha."""
    contribution: float | None = None
    """What its counterfactual shows; None = its worth."""
    scar: float = 0.0
    """Metric that is lost when it is removed, healing by half each interval: the host depended on it."""
    swing: float = 0.0
    """Metric and contribution go up by this and down by this in turn."""
    params: int = 100
    is_bomb: bool = False
    """Breaks the host when it is blended in."""


KINDS: Mapping[str, SeedKind] = {
    "good": SeedKind(worth=0.06),
    "better": SeedKind(worth=0.09),
    "null": SeedKind(),
    "ransom": SeedKind(worth=0.0, contribution=0.12, scar=0.12),
    "ransom_harmful": SeedKind(worth=-0.02, contribution=0.12, scar=0.12),
    "harmful": SeedKind(worth=-0.08),
    "boaster": SeedKind(worth=-0.01, contribution=9.0, scar=0.02),
    "swinging": SeedKind(swing=0.06),
    "bomb": SeedKind(worth=0.06, is_bomb=True),
}


@dataclass(slots=True)
class _Slot:
    name: str
    stage: SeedStage = SeedStage.DORMANT
    blueprint: str | None = None
    age: int = 0
    in_stage: int = 0
    alpha: float = 0.0
    blend_metric: float = 0.0
    births: int = 0

    @property
    def kind(self) -> SeedKind:
        assert self.blueprint is not None
        return KINDS[self.blueprint]

    def move(self, stage: SeedStage) -> None:
        self.stage, self.in_stage = stage, 0
        if not stage.has_seed:
            self.blueprint, self.age, self.alpha = None, 0, 0.0


_NEXT_IN_COOLDOWN = {
    SeedStage.CULLED: SeedStage.EMBARGOED,
    SeedStage.EMBARGOED: SeedStage.RESETTING,
    SeedStage.RESETTING: SeedStage.DORMANT,
}


@dataclass(slots=True)
class ScriptedHost:
    """One episode."""

    slot_names: tuple[str, ...] = ("a", "b")
    horizon: int = HORIZON
    epoch: int = 0
    metric: float = 0.0
    loss: float = CHANCE_LOSS
    flops: int = 0
    scar: float = 0.0
    slots: list[_Slot] = field(default_factory=list)
    is_over: bool = False
    space: ActionSpace = field(init=False)

    def __post_init__(self) -> None:
        self.slots = [_Slot(name) for name in self.slot_names]
        self.space = make_space(
            self.slot_names, [(name, "conv", kind.params) for name, kind in KINDS.items()]
        )

    def step(self, action: Action) -> StepFacts:
        """Act, train an interval, measure."""
        assert not self.is_over
        before = self.observe()
        refusal = refuse_action(action, before)
        result = ActionResult(requested=action, effective=WAIT if refusal else action, refusal=refusal)
        self._apply(result.effective)
        self._train()
        fails = any(s.stage is SeedStage.BLENDING and s.kind.is_bomb for s in self.slots)
        self.epoch += 1
        self.is_over = fails or self.epoch == self.horizon
        if self.is_over:
            self._remove_unkept()
        if not fails:
            self._measure()
        return StepFacts(
            before=before,
            after=self.observe(),
            result=result,
            verdict=Verdict(kind=VerdictKind.DIVERGED) if fails else Verdict(),
            is_last=self.is_over,
            never_metric_before=compute_never_metric(self.epoch - 1),
            never_metric_after=compute_never_metric(self.epoch),
        )

    def observe(self) -> Observation:
        """What a policy sees."""
        added = sum(slot.kind.params for slot in self.slots if slot.stage.has_seed)
        return Observation(
            signals=TrainingSignals(
                epoch=self.epoch,
                validation_loss=self.loss,
                metric=self.metric,
                has_history=self.epoch > 0,
            ),
            slots=tuple(self._report(slot) for slot in self.slots),
            budgets=Budgets(
                horizon_epochs=self.horizon,
                epochs_left=self.horizon - self.epoch,
                host_params=HOST_PARAMS,
                added_params=added,
                flops_spent=self.flops,
                never_grow_flops=3 * HOST_PARAMS * self.horizon,
                shortest_lifecycle_epochs=6,
                min_cull_age_epochs=2,
            ),
            space=self.space,
            metric=ACCURACY,
            chance_loss=CHANCE_LOSS,
            num_validation_items=360,
        )

    def _apply(self, action: Action) -> None:
        if action.op is LifecycleOp.WAIT:
            return
        slot = next(slot for slot in self.slots if slot.name == action.slot)
        if action.op is LifecycleOp.GERMINATE:
            slot.move(SeedStage.GERMINATED)
            slot.blueprint = action.blueprint
            slot.births += 1
        elif action.op is LifecycleOp.ADVANCE:
            slot.move(SeedStage.BLENDING)
            slot.blend_metric = self.metric
        elif action.op is LifecycleOp.FOSSILIZE:
            slot.move(SeedStage.FOSSILIZED)
        elif action.op is LifecycleOp.CULL:
            self._remove(slot)

    def _remove(self, slot: _Slot) -> None:
        self.scar += slot.alpha * slot.kind.scar
        slot.move(SeedStage.CULLED)

    def _remove_unkept(self) -> None:
        for slot in self.slots:
            if slot.stage.is_live:
                self._remove(slot)

    def _train(self) -> None:
        self.scar *= 0.5
        self.flops += 3 * HOST_PARAMS
        for slot in self.slots:
            slot.in_stage += 1
            if slot.stage is SeedStage.GERMINATED:
                slot.move(SeedStage.TRAINING)
            if slot.stage.has_seed:
                slot.age += 1
                self.flops += 3 * slot.kind.params
            if slot.stage is SeedStage.BLENDING:
                slot.alpha = min(1.0, slot.alpha + 0.5)
                if slot.alpha == 1.0 and slot.in_stage > 2:
                    slot.move(SeedStage.PROBATIONARY)
            elif slot.stage.is_cooldown and slot.in_stage > 1:
                slot.move(_NEXT_IN_COOLDOWN[slot.stage])

    def _measure(self) -> None:
        sign = 1.0 if self.epoch % 2 == 0 else -1.0
        gain = sum(s.alpha * (s.kind.worth + sign * s.kind.swing) for s in self.slots if s.stage.has_seed)
        self.metric = compute_never_metric(self.epoch) + gain - self.scar
        self.loss = CHANCE_LOSS * (1.0 - self.metric)

    def _report(self, slot: _Slot) -> SlotReport:
        if not slot.stage.has_seed:
            return SlotReport(
                slot=slot.name, layout="2d", num_channels=8, stage=slot.stage, epochs_in_stage=slot.in_stage
            )
        contribution = credit = None
        if slot.stage.affects_output:
            sign = 1.0 if self.epoch % 2 == 0 else -1.0
            shown = slot.kind.worth if slot.kind.contribution is None else slot.kind.contribution
            mean = slot.alpha * (shown + sign * slot.kind.swing)
            contribution = Estimate(mean=mean, standard_error=0.002, num_items=360)
            credit = min(mean, self.metric - slot.blend_metric)
        is_ready = slot.stage is SeedStage.PROBATIONARY and slot.in_stage >= 2
        is_worth = contribution is not None and contribution.lower() > 0.0 and (credit or 0.0) > 0.0
        return SlotReport(
            slot=slot.name,
            layout="2d",
            num_channels=8,
            stage=slot.stage,
            epochs_in_stage=slot.in_stage,
            seed_age_epochs=slot.age,
            seed_id=f"{slot.name}#{slot.births}",
            blueprint=slot.blueprint,
            num_params=slot.kind.params,
            alpha=slot.alpha,
            contribution=contribution,
            contribution_age_epochs=0,
            credit=credit,
            advance_refusal=None if slot.stage is SeedStage.TRAINING and slot.in_stage >= 2 else "too early",
            fossilize_refusal=None if is_ready and is_worth else "not shown to help",
        )


def compute_never_metric(epoch: int) -> float:
    """Metric of the host that never grows: a learning curve, 0 at the start."""
    return 0.0 if epoch == 0 else 0.7 * (1.0 - math.exp(-(epoch + 1) / 6.0))


@dataclass(slots=True)
class Gardener:
    """Germinates given seeds once each, blends them, and leaves probation to a rule.

    `plan` names (slot, blueprint) pairs in order; `on_probation` answers for a seed that is measured.
    """

    plan: Sequence[tuple[str, str]]
    on_probation: Callable[[SlotReport], Action]
    is_repeating: bool = False
    begun: int = 0

    def __call__(self, observation: Observation) -> Action:
        for report in observation.slots:
            if report.advance_refusal is None:
                return Action(op=LifecycleOp.ADVANCE, slot=report.slot)
            if report.stage is SeedStage.PROBATIONARY:
                action = self.on_probation(report)
                if action.op is not LifecycleOp.WAIT and refuse_action(action, observation) is None:
                    return action
        if self.begun >= len(self.plan) and not self.is_repeating:
            return WAIT
        slot, blueprint = self.plan[self.begun % len(self.plan)]
        action = Action(op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint)
        if refuse_action(action, observation) is not None:
            return WAIT
        self.begun += 1
        return action


def keep(report: SlotReport) -> Action:
    """Keep it as soon as the gates allow."""
    return Action(op=LifecycleOp.FOSSILIZE, slot=report.slot)


def cull(report: SlotReport) -> Action:
    """Remove it."""
    return Action(op=LifecycleOp.CULL, slot=report.slot)


def hold(report: SlotReport) -> Action:
    """Leave it where it is."""
    return WAIT


def never(observation: Observation) -> Action:
    """Grow nothing."""
    return WAIT


def grow(*blueprints: str) -> Gardener:
    """Grow these, one per slot, and keep each."""
    return Gardener(list(zip(("a", "b"), blueprints, strict=False)), keep)


def cull_in_incubation(observation: Observation) -> Action:
    """Germinate null seeds wherever possible and cull them as soon as that is allowed."""
    for report in observation.slots:
        if report.stage is SeedStage.TRAINING and report.seed_age_epochs >= 2:
            return Action(op=LifecycleOp.CULL, slot=report.slot)
    free = [report.slot for report in observation.slots if report.stage is SeedStage.DORMANT]
    return Action(op=LifecycleOp.GERMINATE, slot=free[0], blueprint="null") if free else WAIT


def play(policy: Policy, host: ScriptedHost | None = None) -> list[StepFacts]:
    """Return the steps of an episode."""
    host = ScriptedHost() if host is None else host
    episode = []
    while not host.is_over:
        episode.append(host.step(policy(host.observe())))
    return episode


DEFAULTS = RewardConfig()


def pay(episode: Sequence[StepFacts], mode: str, config: RewardConfig = DEFAULTS) -> list[RewardBreakdown]:
    """Return what each step of an episode earns in a mode; all else is as in `config`."""
    state = RewardState(build_rubric(replace(config, mode=mode), discount=DISCOUNT))
    return [state.compute(facts) for facts in episode]


def sum_up(rewards: Sequence[RewardBreakdown], discount: float = DISCOUNT) -> float:
    """Return the discounted return, as a learner sees it."""
    return math.fsum(reward.total * discount**step for step, reward in enumerate(rewards))


def sum_shares(rewards: Sequence[RewardBreakdown], term: str) -> float:
    """Return the undiscounted sum of one share."""
    return math.fsum(reward.terms[term] for reward in rewards)


def earn(policy: Policy, mode: str) -> float:
    """Return the discounted return of a policy on a fresh host."""
    return sum_up(pay(play(policy), mode))
