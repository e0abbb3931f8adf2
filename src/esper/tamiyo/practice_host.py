"""A host for trials of policies: stages answer to actions, the numbers are made up, nothing is trained.

It obeys the same tables of legality as a real host, so that whatever a policy asks for here is answered as it
would be there. Equal actions give equal observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import final

from esper.leyline import (
    HISTORY_LENGTH,
    WAIT,
    Action,
    ActionSpace,
    BlueprintDescriptor,
    Budgets,
    Estimate,
    LifecycleOp,
    MetricSpec,
    Observation,
    SeedStage,
    SlotReport,
    TrainingSignals,
    refuse_action,
)

_BLUEPRINTS = (
    BlueprintDescriptor(id="norm", family="norm", num_params=16, flops_per_item=2_048),
    BlueprintDescriptor(id="conv_light", family="conv", num_params=650, flops_per_item=83_200),
)
_COOLDOWN: Mapping[SeedStage, SeedStage] = MappingProxyType(
    {
        SeedStage.CULLED: SeedStage.EMBARGOED,
        SeedStage.EMBARGOED: SeedStage.RESETTING,
        SeedStage.RESETTING: SeedStage.DORMANT,
    }
)
_HOST_PARAMS = 1_000
_ITEM_FLOPS = 100_000
_ITEMS_PER_INTERVAL = 1_000
_INCUBATION = 2
"""Intervals in TRAINING, and in PROBATIONARY, before the gates of a practice host let a seed on."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PracticeHostKind:
    """What one practice host is like."""

    name: str
    slots: tuple[str, ...] = ("block1", "block2")
    gain: float = 0.02
    """What a fully blended seed adds to the metric; the gates never let a seed be kept that harms."""
    is_scored: bool = True
    """Whether slots carry scores of blueprints."""
    is_start_automatic: bool = True
    """Whether GERMINATED becomes TRAINING by itself, as it does unless a run is configured otherwise."""
    max_added_params: int | None = None
    fault_epoch: int | None = None
    """Interval in which the gradients of living seeds are faulty."""
    horizon_epochs: int = 24


PRACTICE_HOSTS = (
    PracticeHostKind(name="a host that seeds help"),
    PracticeHostKind(name="a host that seeds harm", gain=-0.02, fault_epoch=12),
    PracticeHostKind(
        name="a host of one slot, without scores, where newborn seeds wait for ADVANCE",
        slots=("block1",),
        is_scored=False,
        is_start_automatic=False,
    ),
    PracticeHostKind(name="a host without room to grow", max_added_params=0),
)
"""Together they show every stage, every refusal of a gate, and measurements that are missing."""


@dataclass(slots=True, kw_only=True)
class _Slot:
    path: list[SeedStage] = field(default_factory=lambda: [SeedStage.DORMANT])
    """Every stage so far; made up here, so that a real slot's stage has one writer only."""
    epochs_in_stage: int = 0
    epochs_in_previous_stage: int = 0
    age: int = 0
    num_seeds: int = 0
    seed: Action = WAIT
    """How the present seed was germinated."""
    alpha: float = 0.0
    alpha_target: float = 1.0
    tempo_epochs: int = 1
    is_cull_pending: bool = False

    @property
    def stage(self) -> SeedStage:
        return self.path[-1]

    def move(self, stage: SeedStage) -> None:
        self.path.append(stage)
        self.epochs_in_previous_stage, self.epochs_in_stage = self.epochs_in_stage, 0
        if not stage.has_seed:
            self.alpha, self.age, self.is_cull_pending = 0.0, 0, False


@final
class PracticeHost:
    """One life of a practice host.

    Example:
        host = PracticeHost(PRACTICE_HOSTS[0])
        while not host.is_finished:
            host.apply(policy.decide(host.observe()).action)
    """

    def __init__(self, kind: PracticeHostKind) -> None:
        """Begin before the first interval."""
        self._kind = kind
        self._epoch = 0
        self._slots = {name: _Slot() for name in kind.slots}
        self._metrics: list[float] = []

    @property
    def is_finished(self) -> bool:
        """Whether the horizon is reached."""
        return self._epoch >= self._kind.horizon_epochs

    @property
    def epoch(self) -> int:
        """Intervals finished."""
        return self._epoch

    def observe(self) -> Observation:
        """Return this decision point; every call builds a new, equal one."""
        costs = {blueprint.id: blueprint for blueprint in _BLUEPRINTS}
        return Observation(
            signals=self._build_signals(),
            slots=tuple(self._build_report(name, slot) for name, slot in self._slots.items()),
            budgets=self._build_budgets(),
            space=ActionSpace(
                slot_ids=self._kind.slots,
                blueprint_ids=tuple(costs),
                descriptors={name: dict(costs) for name in self._kind.slots},
            ),
            metric=MetricSpec(name="accuracy", is_higher_better=True, scale=0.05),
            chance_loss=2.302585,
            num_validation_items=1_000,
        )

    def apply(self, action: Action) -> None:
        """Do what is asked for, nothing if it is illegal, and let one interval pass."""
        is_legal = refuse_action(action, self.observe()) is None
        if is_legal and action.op is not LifecycleOp.WAIT and action.slot is not None:
            _operate(self._slots[action.slot], action)
        for slot in self._slots.values():
            _pass_interval(slot, self._kind)
        self._epoch += 1
        self._metrics.append(self._compute_metric())

    # ------------------------------------------------------------------ what is seen

    def _compute_metric(self) -> float:
        grown = sum(self._kind.gain * slot.alpha for slot in self._slots.values())
        return 0.8 * self._epoch / (self._epoch + 1) + grown

    def _build_signals(self) -> TrainingSignals:
        if not self._metrics:
            return TrainingSignals(learning_rate_fraction=1.0)
        losses = [1.0 - metric for metric in self._metrics]
        delta = self._metrics[-1] - self._metrics[-2] if self._epoch > 1 else 0.0
        return TrainingSignals(
            epoch=self._epoch,
            train_loss=losses[-1],
            validation_loss=losses[-1],
            train_metric=self._metrics[-1],
            metric=self._metrics[-1],
            loss_delta=delta,
            metric_delta=delta,
            best_loss=min(losses),
            best_metric=max(self._metrics),
            plateau_epochs=max(0, self._epoch - 4),
            is_host_stable=self._epoch > 1,
            host_gradient_norm=1.5,
            learning_rate_fraction=1.0 - self._epoch / self._kind.horizon_epochs,
            loss_history=tuple(losses[-HISTORY_LENGTH:]),
            metric_history=tuple(self._metrics[-HISTORY_LENGTH:]),
            has_history=True,
        )

    def _build_budgets(self) -> Budgets:
        kind, num_items = self._kind, self._epoch * _ITEMS_PER_INTERVAL
        living = [slot for slot in self._slots.values() if slot.stage.has_seed]
        costs = [_find_blueprint(slot) for slot in living]
        return Budgets(
            horizon_epochs=kind.horizon_epochs,
            epochs_left=kind.horizon_epochs - self._epoch,
            host_params=_HOST_PARAMS,
            added_params=sum(cost.num_params for cost in costs),
            max_added_params=kind.max_added_params,
            host_flops_per_item=_ITEM_FLOPS,
            added_flops_per_item=sum(cost.flops_per_item for cost in costs),
            flops_spent=3 * _ITEM_FLOPS * num_items,
            never_grow_flops=3 * _ITEM_FLOPS * _ITEMS_PER_INTERVAL * kind.horizon_epochs,
            shortest_lifecycle_epochs=6,
            min_cull_age_epochs=2,
        )

    def _build_report(self, name: str, slot: _Slot) -> SlotReport:
        report = SlotReport(
            slot=name,
            layout="2d",
            num_channels=8,
            stage=slot.stage,
            previous_stage=slot.path[-2] if len(slot.path) > 1 else None,
            epochs_in_stage=slot.epochs_in_stage,
            epochs_in_previous_stage=slot.epochs_in_previous_stage,
        )
        if slot.stage.has_seed:
            return self._describe_seed(report, slot)
        if slot.stage is SeedStage.DORMANT and self._kind.is_scored:
            return replace(
                report,
                blueprint_gains={"norm": 0.05, "conv_light": 0.3},
                gradient_energy=0.4,
                linear_share=0.5,
                saturation=0.7,
                scores_age_epochs=0,
            )
        return report

    def _describe_seed(self, report: SlotReport, slot: _Slot) -> SlotReport:
        kind, cost = self._kind, _find_blueprint(slot)
        gain = kind.gain * slot.alpha
        is_measured = slot.stage.affects_output and slot.epochs_in_stage > 0
        has_shadow = slot.stage is SeedStage.TRAINING and slot.epochs_in_stage > 0
        return replace(
            report,
            seed_age_epochs=slot.age,
            seed_id=f"{report.slot}#{slot.num_seeds}",
            blueprint=cost.id,
            family=cost.family,
            blend=slot.seed.blend.value,
            num_params=cost.num_params,
            flops_per_item=cost.flops_per_item,
            alpha=slot.alpha,
            alpha_target=slot.alpha_target,
            tempo_epochs=slot.tempo_epochs,
            is_ramping=slot.stage.affects_output and slot.alpha != slot.alpha_target,
            is_cull_pending=slot.is_cull_pending,
            contribution=_measure(gain, slot) if is_measured else None,
            contribution_age_epochs=0 if is_measured else None,
            credit=gain if is_measured else None,
            shadow_gain=_measure(kind.gain, slot) if has_shadow else None,
            shadow_gain_age_epochs=0 if has_shadow else None,
            gradient_ratio=1.0 if slot.age else None,
            gradient_norm=1.0 if slot.age else None,
            is_healthy=self._epoch != kind.fault_epoch,
            advance_refusal=_refuse_advance(slot, kind),
            fossilize_refusal=_refuse_fossilize(slot, gain),
        )


def _operate(slot: _Slot, action: Action) -> None:
    match action.op:
        case LifecycleOp.GERMINATE:
            slot.move(SeedStage.GERMINATED)
            slot.seed, slot.num_seeds = action, slot.num_seeds + 1
            slot.alpha_target, slot.tempo_epochs = action.alpha_target, action.tempo_epochs
        case LifecycleOp.ADVANCE if slot.stage is SeedStage.GERMINATED:
            slot.move(SeedStage.TRAINING)
        case LifecycleOp.ADVANCE:
            slot.move(SeedStage.BLENDING)
        case LifecycleOp.FOSSILIZE:
            slot.move(SeedStage.FOSSILIZED)
        case LifecycleOp.SET_ALPHA:
            slot.alpha_target, slot.tempo_epochs = action.alpha_target, action.tempo_epochs
        case LifecycleOp.CULL if slot.alpha > 0.0:  # it fades out first
            slot.is_cull_pending, slot.alpha_target = True, 0.0
            slot.tempo_epochs = action.tempo_epochs
        case LifecycleOp.CULL:
            slot.move(SeedStage.CULLED)


def _pass_interval(slot: _Slot, kind: PracticeHostKind) -> None:
    slot.epochs_in_stage += 1
    if slot.stage.has_seed:
        slot.age += 1
    if slot.stage in _COOLDOWN:
        slot.move(_COOLDOWN[slot.stage])
    elif slot.stage is SeedStage.GERMINATED and kind.is_start_automatic:
        slot.move(SeedStage.TRAINING)
    elif slot.stage in (SeedStage.BLENDING, SeedStage.PROBATIONARY):
        step, way = 1.0 / slot.tempo_epochs, slot.alpha_target - slot.alpha
        slot.alpha = slot.alpha_target if abs(way) <= step else slot.alpha + (step if way > 0 else -step)
        if slot.is_cull_pending and slot.alpha == 0.0:
            slot.move(SeedStage.CULLED)
        elif slot.stage is SeedStage.BLENDING and slot.alpha >= 1.0:  # full amplitude, as on a real host
            slot.move(SeedStage.PROBATIONARY)


def _refuse_advance(slot: _Slot, kind: PracticeHostKind) -> str | None:
    if slot.stage is SeedStage.GERMINATED and not kind.is_start_automatic:
        return None
    if slot.stage is not SeedStage.TRAINING:
        return f"{slot.stage.value} ends by itself"
    if slot.epochs_in_stage < _INCUBATION:
        return f"{slot.epochs_in_stage} epochs in TRAINING, needs {_INCUBATION}"
    return None


def _refuse_fossilize(slot: _Slot, gain: float) -> str | None:
    if slot.stage is not SeedStage.PROBATIONARY:
        return "not in probation"
    if slot.epochs_in_stage < _INCUBATION:
        return f"{slot.epochs_in_stage} epochs in PROBATIONARY, needs {_INCUBATION}"
    if slot.alpha < 1.0:
        return f"alpha is {slot.alpha:.2f}, needs 1"
    return None if gain > 0.0 else f"contribution {gain:.3f}, needs more than 0"


def _find_blueprint(slot: _Slot) -> BlueprintDescriptor:
    return next(blueprint for blueprint in _BLUEPRINTS if blueprint.id == slot.seed.blueprint)


def _measure(mean: float, slot: _Slot) -> Estimate:
    return Estimate(mean=mean, standard_error=0.001, num_items=1_000, num_intervals=slot.epochs_in_stage)
