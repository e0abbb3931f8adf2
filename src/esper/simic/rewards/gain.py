"""The three quantities of the objective of an episode, and the objective itself.

```
J = metric_T - lambda_p log(1 + added / host) - lambda_f (FLOPs spent / FLOPs of never growing - 1)
```
Everything is counted in units of the metric's scale (a difference that is large for the task), the prices
lambda included, so that one setting serves accuracies and losses alike. Against the host that never grows,
J starts at 0 and stays 0 as long as nothing is grown.
"""

from __future__ import annotations

import math
from typing import final

from esper.leyline import Observation
from esper.simic.rewards.levels import Side, clip_level, compute_ratio
from esper.simic.rewards.rubric import RewardTermSpec


@final
class MetricLead:
    """How far the host is ahead of the same host that never grows."""

    def __init__(self, bound: float) -> None:
        """Bind the largest lead or lag that counts, in metric scales, > 0."""
        self.spec = RewardTermSpec(
            name="metric_lead",
            formula=f"(metric - metric of the host that never grows) / scale within +-{bound:g}; 0 before "
            "the first interval",
            unit="metric scales",
            low=-bound,
            high=bound,
            why="What growth is for. The learning curve that comes by itself is nobody's merit and only "
            "noise to a learner; the difference also stays bounded whatever the metric.",
        )

    def compute_level(self, side: Side) -> float:
        """See `Quantity.compute_level`."""
        lead = compute_lead(side)
        return clip_level(lead, self.spec.low, self.spec.high)


@final
class ParameterRent:
    """What the added parameters cost: a seed from birth to removal, a fossil for good, each once."""

    def __init__(self, price: float, bound: float, *, grace_epochs: int | None = None) -> None:
        """Bind the price.

        Args:
            price: lambda_p, metric scales per unit of the logarithm, >= 0.
            bound: Largest rent, > 0.
            grace_epochs: Age in intervals up to which a seed is not charged, >= 0; at the end all are. With
                None this is the plain rent, with any number the term "rent_after_grace".
        """
        self._price = price
        self._grace = grace_epochs
        if grace_epochs is not None:
            name, counted = "rent_after_grace", f"parameters of seeds older than {grace_epochs} intervals"
            why = "A seed needs some intervals before it can show anything; at the end every seed is charged."
        else:
            name, counted = "parameter_rent", "parameters of all seeds"
            why = (
                "A parameter must earn its place. The logarithm makes a doubling cost the same at any size; "
                "what is there is charged once, what is removed is refunded."
            )
        self.spec = RewardTermSpec(
            name=name,
            formula=f"-min({bound:g}, lambda_p log(1 + {counted} / parameters of the host))",
            unit="metric scales",
            low=-bound,
            high=0.0,
            why=why,
        )

    def compute_level(self, side: Side) -> float:
        """See `Quantity.compute_level`."""
        budgets = side.observation.budgets
        added = budgets.added_params
        if self._grace is not None and not side.is_last:
            added = sum(
                slot.num_params
                for slot in side.observation.slots
                if slot.stage.has_seed and slot.seed_age_epochs > self._grace
            )
        rent = self._price * _compute_log_growth(added, budgets.host_params)
        return clip_level(-rent, self.spec.low, self.spec.high)


@final
class FlopsRent:
    """What growth costs in FLOPs, measuring and culled seeds included; what was spent stays spent."""

    def __init__(self, price: float, bound: float) -> None:
        """Bind lambda_f, metric scales per bill of never growing, >= 0, and the largest rent, > 0."""
        self._price = price
        self.spec = RewardTermSpec(
            name="flops_rent",
            formula=f"-min({bound:g}, lambda_f (FLOPs spent / FLOPs of never growing - intervals / horizon))",
            unit="metric scales",
            low=-bound,
            high=0.0,
            why="Compute is the other half of the price, and the half that a culled seed cannot give back. "
            "What the host alone would have spent by now is free.",
        )

    def compute_level(self, side: Side) -> float:
        """See `Quantity.compute_level`."""
        budgets = side.observation.budgets
        spent = compute_ratio(budgets.flops_spent, budgets.never_grow_flops)
        due = compute_ratio(side.observation.signals.epoch, budgets.horizon_epochs)
        return clip_level(-self._price * (spent - due), self.spec.low, self.spec.high)


def compute_lead(side: Side) -> float:
    """Return the lead over the host that never grows in metric scales; 0 before anything was measured."""
    observation = side.observation
    if not observation.signals.has_history:
        return 0.0
    return compute_ratio(observation.signals.metric - side.never_metric, observation.metric.scale)


def compute_objective(observation: Observation, lambda_p: float, lambda_f: float) -> float:
    """Return J of an episode in metric units, on validation; higher is better.

    Args:
        observation: After the last interval, seeds that were not kept removed.
        lambda_p: Price of parameters, metric scales per unit of the logarithm.
        lambda_f: Price of FLOPs, metric scales per bill of never growing.

    Example:
        >>> compute_objective(observation, lambda_p=0.05, lambda_f=0.05) > observation.signals.metric
        True
    """
    budgets = observation.budgets
    size = lambda_p * _compute_log_growth(budgets.added_params, budgets.host_params)
    compute = lambda_f * (compute_ratio(budgets.flops_spent, budgets.never_grow_flops) - 1.0)
    return observation.signals.metric - observation.metric.scale * (size + compute)


def _compute_log_growth(added: int, host: int) -> float:
    return math.log1p(max(0.0, compute_ratio(added, max(1, host))))
