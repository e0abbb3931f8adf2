"""The rule-based gardener: cares for what lives, then asks whether, where and what to germinate.

```
decide:   look for culls > fossilize > cull > advance > open fully > germinate > wait
germinate: not too late > no embargo > host stable > not too early > plateau or calendar > slot > blueprint
```
At most one operation per decision; every answer, WAIT too, has its reason. It sees an `Observation` and
nothing else; what it remembers is who lived where, when it last germinated, and the blueprint rotation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from esper.leyline import Action, Decision, Evidence, LifecycleOp, Observation, SlotReport, refuse_op
from esper.tamiyo.care import CARE_RULES
from esper.tamiyo.heuristic_config import HeuristicConfig
from esper.tamiyo.masks import NOOP_FAMILY, choosable_ops, growable_blueprints
from esper.tamiyo.memory import read_keys, read_optional_int, read_optional_text, read_table
from esper.tamiyo.rotation import BlueprintRotation, PenaltyRule

_SURE_PLATEAU_EPOCHS = 5
"""A plateau this long makes a germination fully confident."""

_STATE_KEYS = ("last_germination_epoch", "last_cull_epoch", "last_slot", "rotation")


@final
class HeuristicTamiyo:
    """Germinates on a plateau or by calendar, keeps and culls by measured contribution, rotates blueprints.

    Example:
        policy = HeuristicTamiyo(HeuristicConfig(patience_epochs=2))
        decision = policy.decide(observation)
    """

    def __init__(self, config: HeuristicConfig | None = None) -> None:
        """Start without memory; without a config, with the default one."""
        self._config = HeuristicConfig() if config is None else config
        self.reset()

    @property
    def penalties(self) -> Mapping[str, float]:
        """Blueprint -> present penalty; absent = 0."""
        return self._rotation.penalties

    def reset(self) -> None:
        """Forget the present host."""
        config = self._config
        self._rotation = BlueprintRotation(
            PenaltyRule(
                per_cull=config.penalty_per_cull,
                decay=config.penalty_decay,
                floor=config.penalty_floor,
                limit=config.penalty_limit,
            )
        )
        self._last_germination_epoch: int | None = None
        self._last_cull_epoch: int | None = None
        self._last_slot: str | None = None

    def decide(self, observation: Observation) -> Decision:
        """Answer one decision point with a legal action and its reason."""
        if self._rotation.observe(observation.slots):
            self._last_cull_epoch = observation.signals.epoch
        for rule in CARE_RULES:
            decision = rule(observation, self._config)
            if decision is not None:
                return decision
        refusal = self._refuse_germination(observation)
        if refusal is not None:
            return Decision(reason=f"wait: {refusal}")
        return self._germinate(observation)

    def _refuse_germination(self, observation: Observation) -> str | None:
        """Return why now is not the time to germinate anywhere, or None."""
        config, signals = self._config, observation.signals
        epoch, horizon = signals.epoch, observation.budgets.horizon_epochs
        latest = config.latest_germination_fraction * horizon
        if epoch > latest:
            return f"epoch {epoch} of {horizon} is too late to germinate, {latest:.0f} is the last"
        if self._last_cull_epoch is not None and epoch - self._last_cull_epoch < config.embargo_epochs:
            since = epoch - self._last_cull_epoch
            return f"{since} epochs since the last cull, the embargo lasts {config.embargo_epochs}"
        if config.is_stability_required and not signals.is_host_stable:
            return f"the host is not stable yet (validation loss {signals.validation_loss:.4g})"
        if epoch < config.first_germination_epoch:
            return f"epoch {epoch}, the first germination may be at {config.first_germination_epoch}"
        if signals.plateau_epochs < config.patience_epochs and not self._is_due(epoch):
            return (
                f"no plateau ({signals.plateau_epochs} of {config.patience_epochs} epochs) and the next "
                f"germination by calendar is due at epoch {self._due_epoch()}"
            )
        return None

    def _due_epoch(self) -> int:
        if self._last_germination_epoch is None:
            return self._config.first_germination_epoch
        return self._last_germination_epoch + self._config.germination_interval_epochs

    def _is_due(self, epoch: int) -> bool:
        return epoch >= self._due_epoch()

    def _germinate(self, observation: Observation) -> Decision:
        """Germinate in the first slot, in the configured order, that can take a blueprint of its rotation."""
        config, signals = self._config, observation.signals
        free = [r for r in observation.slots if self._find_legal(r, observation)]
        if not free:
            return Decision(reason=f"wait: {_explain_no_slot(observation)}")
        report = self._order_slots(free, observation)[0]
        order = find_rotation(report, observation, self._config)
        blueprint = self._rotation.choose(report.layout, order, self._find_legal(report, observation))
        cost = observation.space.descriptors[report.slot][blueprint].num_params
        why = (
            f"{signals.plateau_epochs} epochs of plateau"
            if signals.plateau_epochs >= config.patience_epochs
            else f"due by calendar since epoch {self._due_epoch()}"
        )
        confidence = 1.0 if self._is_due(signals.epoch) else signals.plateau_epochs / _SURE_PLATEAU_EPOCHS
        penalties = self._rotation.penalties
        self._rotation.advance(report.layout, blueprint)
        self._last_germination_epoch, self._last_slot = signals.epoch, report.slot
        return Decision(
            action=Action(
                op=LifecycleOp.GERMINATE,
                slot=report.slot,
                blueprint=blueprint,
                blend=config.blend,
                curve=config.curve,
                tempo_epochs=config.tempo_epochs,
                alpha_target=config.alpha_target,
            ),
            reason=f"germinate {blueprint} ({cost} parameters) in {report.slot}: {why}",
            confidence=min(1.0, confidence),
            evidence=Evidence(scores={f"penalty/{name}": value for name, value in penalties.items()}),
        )

    def _find_legal(self, report: SlotReport, observation: Observation) -> tuple[str, ...]:
        """Return the blueprints of the slot's rotation that may be germinated there now."""
        if LifecycleOp.GERMINATE not in choosable_ops(report, observation):
            return ()
        order = find_rotation(report, observation, self._config)
        return tuple(name for name in growable_blueprints(report, observation) if name in order)

    def _order_slots(self, free: Sequence[SlotReport], observation: Observation) -> list[SlotReport]:
        """Return the free slots, best first."""
        if self._config.slot_order == "last":
            return list(reversed(free))
        if self._config.slot_order == "costliest":
            return sorted(free, key=lambda report: -_largest_cost(report, observation))
        places = {slot: place for place, slot in enumerate(observation.space.slot_ids)}
        start = places.get(self._last_slot, -1) + 1 if self._last_slot is not None else 0
        return sorted(free, key=lambda report: (places[report.slot] - start) % len(places))

    def state(self) -> dict[str, object]:
        """Return the memory as plain data."""
        return {
            "last_germination_epoch": self._last_germination_epoch,
            "last_cull_epoch": self._last_cull_epoch,
            "last_slot": self._last_slot,
            "rotation": self._rotation.state(),
        }

    def restore(self, state: dict[str, object]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed; nothing is changed then.
        """
        read_keys("heuristic", state, _STATE_KEYS)
        germination = read_optional_int(state, "last_germination_epoch")
        cull = read_optional_int(state, "last_cull_epoch")
        slot = read_optional_text(state, "last_slot")
        self._rotation.restore(read_table(state, "rotation"))
        self._last_germination_epoch, self._last_cull_epoch, self._last_slot = germination, cull, slot


def find_rotation(report: SlotReport, observation: Observation, config: HeuristicConfig) -> tuple[str, ...]:
    """Return the blueprints of a slot in rotation order, affordable now or not.

    They are the configured ones that fit; where none of them fits, all that fit, "noop" left out.
    """
    space = observation.space
    fitting = tuple(name for name in space.blueprint_ids if space.fits(report.slot, name))
    listed = tuple(name for name in config.rotation_for(report.layout) if name in fitting)
    costs = space.descriptors.get(report.slot, {})
    return listed or tuple(name for name in fitting if costs[name].family != NOOP_FAMILY)


def _largest_cost(report: SlotReport, observation: Observation) -> int:
    costs = observation.space.descriptors[report.slot]
    return max(costs[name].num_params for name in growable_blueprints(report, observation))


def _explain_no_slot(observation: Observation) -> str:
    """Return why no slot can take a seed: the refusal of an empty one, else what the slots are doing."""
    for report in observation.slots:
        if not report.stage.has_seed and not report.stage.is_cooldown:
            refusal = refuse_op(LifecycleOp.GERMINATE, report, observation)
            return refusal or f"no blueprint of the rotation fits {report.slot!r} and the budget"
    stages = ", ".join(f"{report.slot} {report.stage.value}" for report in observation.slots)
    return f"no slot is free ({stages})"
