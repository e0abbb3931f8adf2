"""Germinates where measured scores promise most, minus what the seed costs; cares for seeds by the rules.

```
net(slot, blueprint) = step * gain * epochs left - price of parameters - price of FLOPs
gain                 = share of the functional gradient that the blueprint explains * its energy at the slot
germinate the largest net if it is > 0 (and its share more than noise), else wait
```
It looks one germination ahead and knows nothing of what it did before, but for one thing: a blueprint that
was culled in a slot is trusted less there. Scores come with the observation; without them it only cares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from esper.leyline import (
    Action,
    ConfigError,
    Decision,
    Evidence,
    ForeignCheckpointError,
    LifecycleOp,
    Observation,
    SlotReport,
)
from esper.tamiyo.care import CARE_RULES
from esper.tamiyo.heuristic_config import HeuristicConfig
from esper.tamiyo.masks import choosable_ops, growable_blueprints
from esper.tamiyo.memory import read_keys, read_list, read_numbers

_STATE_KEYS = ("culls", "tracked")
_TRACKED_WIDTH = 3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyConfig:
    """What a promise is worth and what a seed costs, in units of the loss."""

    step_size: float = 0.05
    """Fall of the loss per interval for each unit of explained gradient energy, > 0: the size of a learning
    rate, since the promise is that of gradient descent on the slot's features."""
    params_price: float = 0.01
    """Loss that parameters as many as the host's must bring, >= 0; small, so that it decides between equals
    and rejects what is only noise."""
    flops_price: float = 0.01
    """Loss that forward FLOPs as many as the host's must bring, >= 0; as for parameters."""
    min_share: float = 0.02
    """Least share of the functional gradient that counts, in [0, 1]; what noise alone stays below on 2,048
    items, so that a promise that is only noise is not taken for being cheap."""
    max_score_age_epochs: int = 0
    """Oldest scores that may lead to a germination, in intervals, >= 0; 0, since an older one ranks a network
    that is no more."""
    trust_after_cull: float = 0.5
    """Factor on the gain of a blueprint in a slot for each time it was culled there, in [0, 1]; half, so that
    another one comes first unless nothing else is near."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name, bound, is_allowed in (
            ("step_size", "> 0", self.step_size > 0),
            ("params_price", ">= 0", self.params_price >= 0),
            ("flops_price", ">= 0", self.flops_price >= 0),
            ("min_share", "in [0, 1]", 0 <= self.min_share <= 1),
            ("max_score_age_epochs", ">= 0", self.max_score_age_epochs >= 0),
            ("trust_after_cull", "in [0, 1]", 0 <= self.trust_after_cull <= 1),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and is_allowed):
                raise ConfigError(f"greedy.{name}={value}: must be finite and {bound}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """One pair that could be germinated now, with its account."""

    slot: str
    blueprint: str
    share: float
    """Of the functional gradient's energy, as measured."""
    energy: float
    """E|g|^2 at the slot."""
    promise: float
    """step * gain * epochs left, after trust."""
    price: float
    net: float

    @property
    def name(self) -> str:
        """Slot and blueprint, as evidence names them."""
        return f"{self.slot}/{self.blueprint}"


@final
class GreedyScorePolicy:
    """The argmax of measured scores over slots and blueprints, less their prices.

    Example:
        policy = GreedyScorePolicy(GreedyConfig(params_price=0.1))
        decision = policy.decide(observation)
        decision.evidence.scores   # {"block2/conv_light": 0.031, ...}
    """

    def __init__(self, config: GreedyConfig | None = None, rules: HeuristicConfig | None = None) -> None:
        """Start without memory.

        Args:
            config: Prices; None = the defaults.
            rules: How seeds are cared for and how they blend in; None = the heuristic's defaults.
        """
        self._config = GreedyConfig() if config is None else config
        self._rules = HeuristicConfig() if rules is None else rules
        self.reset()

    def reset(self) -> None:
        """Forget the present host."""
        self._culls: dict[str, float] = {}
        self._tracked: dict[str, tuple[str, str]] = {}

    def decide(self, observation: Observation) -> Decision:
        """Answer one decision point with a legal action and its reason."""
        self._note_culls(observation)
        for rule in CARE_RULES:
            decision = rule(observation, self._rules)
            if decision is not None:
                return decision
        prospects = self.find_prospects(observation)
        if not prospects:
            return Decision(reason=f"wait: {self._explain_none(observation)}")
        evidence = Evidence(scores={prospect.name: prospect.net for prospect in prospects})
        best = max(prospects, key=lambda prospect: prospect.net)
        if best.net <= 0.0:
            return Decision(
                reason=f"wait: the best of {len(prospects)} prospects, {best.name}, has {_account(best)}",
                evidence=evidence,
            )
        return self._germinate(best, prospects, observation, evidence)

    def find_prospects(self, observation: Observation) -> list[Prospect]:
        """Return every pair that may be germinated now and has fresh scores, in the order of the space."""
        return [
            prospect
            for report in observation.slots
            if self._has_fresh_scores(report) and LifecycleOp.GERMINATE in choosable_ops(report, observation)
            for name in growable_blueprints(report, observation)
            if (prospect := self._weigh(report, name, observation)) is not None
        ]

    def _has_fresh_scores(self, report: SlotReport) -> bool:
        age = report.scores_age_epochs
        return age is not None and age <= self._config.max_score_age_epochs

    def _weigh(self, report: SlotReport, blueprint: str, observation: Observation) -> Prospect | None:
        share, energy = (report.blueprint_gains or {}).get(blueprint), report.gradient_energy
        if share is None or energy is None or not share >= self._config.min_share:
            return None
        config, budgets = self._config, observation.budgets
        cost = observation.space.descriptors[report.slot][blueprint]
        trust = config.trust_after_cull ** self._culls.get(f"{report.slot}/{blueprint}", 0.0)
        promise = config.step_size * share * energy * budgets.epochs_left * trust
        price = config.params_price * cost.num_params / max(
            1, budgets.host_params
        ) + config.flops_price * cost.flops_per_item / max(1, budgets.host_flops_per_item)
        if not math.isfinite(promise - price):
            return None
        return Prospect(
            slot=report.slot,
            blueprint=blueprint,
            share=share,
            energy=energy,
            promise=promise,
            price=price,
            net=promise - price,
        )

    def _germinate(
        self, best: Prospect, prospects: list[Prospect], observation: Observation, evidence: Evidence
    ) -> Decision:
        rules = self._rules
        others = [prospect.net for prospect in prospects if prospect is not best]
        second = max(0.0, max(others, default=0.0))
        cost = observation.space.descriptors[best.slot][best.blueprint].num_params
        return Decision(
            action=Action(
                op=LifecycleOp.GERMINATE,
                slot=best.slot,
                blueprint=best.blueprint,
                blend=rules.blend,
                curve=rules.curve,
                tempo_epochs=rules.tempo_epochs,
                alpha_target=rules.alpha_target,
            ),
            reason=f"germinate {best.blueprint} ({cost} parameters) in {best.slot}: best of "
            f"{len(prospects)} prospects with {_account(best)}",
            confidence=1.0 - second / best.net,
            evidence=evidence,
        )

    def _explain_none(self, observation: Observation) -> str:
        free = [r for r in observation.slots if LifecycleOp.GERMINATE in choosable_ops(r, observation)]
        if not free:
            return "no slot can take a seed now"
        ages = [report.scores_age_epochs for report in free if report.scores_age_epochs is not None]
        if not ages:
            return "no free slot has scores; the setting host.measuring.score_every turns them on"
        if min(ages) > self._config.max_score_age_epochs:
            return f"scores are {min(ages)} epochs old, at most {self._config.max_score_age_epochs}"
        return f"no blueprint that may be germinated has a score of at least {self._config.min_share:g}"

    def _note_culls(self, observation: Observation) -> None:
        """Count what was culled since the last decision: a seed that is gone, or on its way out."""
        for report in observation.slots:
            known = self._tracked.pop(report.slot, None)
            if known is not None and (report.seed_id != known[0] or report.is_cull_pending):
                name = f"{report.slot}/{known[1]}"
                self._culls[name] = self._culls.get(name, 0.0) + 1.0
            if report.stage.is_live and not report.is_cull_pending and report.seed_id and report.blueprint:
                self._tracked[report.slot] = (report.seed_id, report.blueprint)

    def state(self) -> dict[str, object]:
        """Return the memory as plain data."""
        return {
            "culls": dict(self._culls),
            "tracked": [[slot, *seed] for slot, seed in self._tracked.items()],
        }

    def restore(self, state: dict[str, object]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed; nothing is changed then.
        """
        read_keys("greedy", state, _STATE_KEYS)
        culls = read_numbers(state, "culls")
        tracked: dict[str, tuple[str, str]] = {}
        for row in read_list(state, "tracked"):
            texts = [str(text) for text in row] if isinstance(row, list | tuple) else []
            if len(texts) != _TRACKED_WIDTH:
                raise ForeignCheckpointError(
                    f"saved policy memory, field 'tracked': expected [slot, seed, blueprint], got {row!r}"
                )
            tracked[texts[0]] = (texts[1], texts[2])
        self._culls, self._tracked = culls, tracked


def _account(prospect: Prospect) -> str:
    return (
        f"net {prospect.net:.4g} = promise {prospect.promise:.4g} (share {prospect.share:.3g} of energy "
        f"{prospect.energy:.3g}) - price {prospect.price:.4g}"
    )
