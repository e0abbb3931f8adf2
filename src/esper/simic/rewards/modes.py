"""The reward modes by name: which terms each is made of, and at which weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from esper.leyline import ConfigError
from esper.simic.rewards.config import RewardConfig
from esper.simic.rewards.contribution import Contribution
from esper.simic.rewards.costs import GovernorPenalty, Indecision, Intervention, YoungCull
from esper.simic.rewards.gain import FlopsRent, MetricLead, ParameterRent
from esper.simic.rewards.levels import AtTheEnd, ChangeOf
from esper.simic.rewards.loss import LossFall
from esper.simic.rewards.rubric import RewardTerm, Rubric, WeightedTerm
from esper.simic.rewards.shaping import StagePotential

_TERMS_OF_MODE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gain": ("metric_lead", "parameter_rent", "flops_rent", "governor"),
        "sparse": ("final_metric_lead", "final_parameter_rent", "final_flops_rent", "governor"),
        "minimal": (
            "final_metric_lead",
            "final_parameter_rent",
            "final_flops_rent",
            "young_cull",
            "governor",
        ),
        "shaped": (
            "final_metric_lead",
            "parameter_rent",
            "flops_rent",
            "contribution",
            "stage_potential",
            "intervention",
            "indecision",
            "governor",
        ),
        "simplified": ("final_metric_lead", "stage_potential", "intervention", "governor"),
        "loss": (
            "loss_fall",
            "rent_after_grace",
            "flops_rent",
            "stage_potential",
            "intervention",
            "governor",
        ),
    }
)

MODE_SUMMARIES: Mapping[str, str] = MappingProxyType(
    {
        "gain": "The default. Each step pays what the objective J has changed by, less the curve of the host "
        "that never grows; the undiscounted sum is J less the never-grown J, in metric scales times `scale`.",
        "sparse": "J less the never-grown J, all of it on the last step: the same sum as `gain`, nothing on "
        "the way.",
        "minimal": "`sparse` and a price for culling young seeds.",
        "shaped": "The lead on the last step, rents as they arise, and on the way what measured "
        "contributions, stages and decisions say.",
        "simplified": "The lead on the last step and the stage potential. No rent: it says nothing about "
        "whether size pays.",
        "loss": "The fall of the validation loss, rents after a grace period, the stage potential.",
    }
)
"""Mode -> what it pays for."""


def build_rubric(config: RewardConfig, *, discount: float, extra: Iterable[WeightedTerm] = ()) -> Rubric:
    """Build the rubric of a mode.

    Args:
        config: Mode, weights and bounds.
        discount: The learner's gamma, in [0, 1]; shaping needs this very number.
        extra: A user's own terms; their weights are in metric scales, too. None may take the name of a
            built-in term, of another mode's neither.

    Raises:
        ConfigError: If a step could pay more than `config.bound`, a name occurs twice, or gamma is out of
            range.

    Example:
        >>> type(build_rubric(RewardConfig(), discount=0.99)).__name__
        'Rubric'
    """
    built_in = build_terms(config, discount=discount)
    chosen = [built_in[name] for name in _TERMS_OF_MODE[config.mode]]
    own = tuple(extra)
    if taken := sorted({item.term.spec.name for item in own} & set(built_in)):
        raise ConfigError(
            f"reward terms {', '.join(taken)}: each name may occur once, and built-in terms have these; "
            "choose another `spec.name`"
        )
    return Rubric([*chosen, *own], scale=config.scale, bound=config.bound)


def build_terms(config: RewardConfig, *, discount: float) -> dict[str, WeightedTerm]:
    """Build every built-in term: name -> term and weight, whatever the mode."""
    lead = MetricLead(config.lead_bound)
    parameters = ParameterRent(config.lambda_p, config.rent_bound)
    flops = FlopsRent(config.lambda_f, config.rent_bound)
    late = ParameterRent(config.lambda_p, config.rent_bound, grace_epochs=config.loss.grace_epochs)
    weighted: tuple[tuple[RewardTerm, float], ...] = (
        (ChangeOf(lead), 1.0),
        (ChangeOf(parameters), 1.0),
        (ChangeOf(flops), 1.0),
        (AtTheEnd(lead), 1.0),
        (AtTheEnd(parameters), 1.0),
        (AtTheEnd(flops), 1.0),
        (ChangeOf(LossFall(config.loss.bound)), config.loss.weight),
        (ChangeOf(late), 1.0),
        (
            Contribution(config.contribution_bound, config.contribution_errors),
            config.contribution_weight,
        ),
        (StagePotential(discount), config.shaping_weight),
        (Intervention(), config.intervention_price),
        (Indecision(config.indecision_patience_epochs), config.indecision_price),
        (YoungCull(config.young_cull_epochs), config.young_cull_price),
        (GovernorPenalty(), config.failure_price),
    )
    return {term.spec.name: WeightedTerm(term, weight) for term, weight in weighted}
