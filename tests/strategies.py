"""Hypothesis strategies: `observations()` are ordinary, `wild_observations()` hold any number anywhere.

In both, fields are independent of each other. The wild ones hold NaN, infinities and huge numbers in every
numeric field, whole numbers included, as a broken measurement might.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from builders import ACCURACY, make_space
from esper.leyline import (
    ActionSpace,
    BlendForm,
    BlueprintDescriptor,
    Budgets,
    Estimate,
    Layout,
    MetricSpec,
    Observation,
    SeedStage,
    SlotReport,
    TrainingSignals,
)

WILD_FLOATS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from((float("nan"), float("inf"), float("-inf"), 1e300, -1e300, 5e-324, 0.0, -0.0)),
)
WILD_INTS = st.one_of(st.integers(-3, 50), st.sampled_from((10**18, -(10**18), 10**400, -(10**400))))
TAME_FLOATS = st.floats(-2.0, 2.0)
TAME_INTS = st.integers(0, 40)
FAMILIES = st.sampled_from((None, "conv", "norm", "noop", "a user's own"))
SCORED_BLUEPRINTS = st.sampled_from(("conv_light", "norm", "x", "y"))
REFUSALS = st.sampled_from((None, "G2: not yet"))


def estimates(
    numbers: st.SearchStrategy[float], counts: st.SearchStrategy[int]
) -> st.SearchStrategy[Estimate]:
    """Measurements, drawn from the given numbers."""
    return st.builds(Estimate, mean=numbers, standard_error=numbers, num_items=counts, num_intervals=counts)


def signals(
    numbers: st.SearchStrategy[float] = TAME_FLOATS, counts: st.SearchStrategy[int] = TAME_INTS
) -> st.SearchStrategy[TrainingSignals]:
    """Signals with histories of any length up to past the limit."""
    history = st.lists(numbers, max_size=7).map(tuple)
    return st.builds(
        TrainingSignals,
        epoch=counts,
        train_loss=numbers,
        validation_loss=numbers,
        train_metric=numbers,
        metric=numbers,
        loss_delta=numbers,
        metric_delta=numbers,
        best_loss=numbers,
        best_metric=numbers,
        plateau_epochs=counts,
        is_host_stable=st.booleans(),
        host_gradient_norm=numbers,
        learning_rate_fraction=numbers,
        loss_history=history,
        metric_history=history,
        has_history=st.booleans(),
    )


def budgets(counts: st.SearchStrategy[int] = TAME_INTS) -> st.SearchStrategy[Budgets]:
    """Budgets, limits on and off."""
    limit = st.one_of(st.none(), counts)
    return st.builds(
        Budgets,
        horizon_epochs=counts,
        epochs_left=counts,
        host_params=counts,
        added_params=counts,
        max_added_params=st.one_of(limit, st.just(700)),
        host_flops_per_item=counts,
        added_flops_per_item=counts,
        flops_spent=counts,
        never_grow_flops=counts,
        max_live_seeds=limit,
        shortest_lifecycle_epochs=counts,
        min_cull_age_epochs=counts,
        is_sequential=st.booleans(),
    )


def reports(
    slot: str,
    numbers: st.SearchStrategy[float] = TAME_FLOATS,
    counts: st.SearchStrategy[int] = TAME_INTS,
) -> st.SearchStrategy[SlotReport]:
    """Reports of one slot in any stage; fields are independent of each other."""
    number, count = st.one_of(st.none(), numbers), st.one_of(st.none(), counts)
    measured = st.one_of(st.none(), estimates(numbers, counts))
    return st.builds(
        SlotReport,
        slot=st.just(slot),
        layout=st.sampled_from((*(layout.value for layout in Layout), "a user's own")),
        num_channels=counts,
        stage=st.sampled_from(SeedStage),
        previous_stage=st.one_of(st.none(), st.sampled_from(SeedStage)),
        epochs_in_stage=counts,
        epochs_in_previous_stage=counts,
        seed_age_epochs=counts,
        seed_id=st.sampled_from((None, f"{slot}#1", f"{slot}#2")),
        blueprint=st.sampled_from((None, "conv_light", "norm")),
        family=FAMILIES,
        blend=st.sampled_from((None, *(form.value for form in BlendForm))),
        num_params=counts,
        flops_per_item=counts,
        alpha=numbers,
        alpha_target=numbers,
        tempo_epochs=counts,
        is_ramping=st.booleans(),
        is_cull_pending=st.booleans(),
        contribution=measured,
        contribution_age_epochs=count,
        contribution_velocity=number,
        credit=number,
        shadow_gain=measured,
        shadow_gain_age_epochs=count,
        gradient_ratio=number,
        gradient_norm=number,
        is_healthy=st.booleans(),
        alpha_slope=number,
        alpha_best=number,
        alpha_gain=number,
        blueprint_gains=st.one_of(st.none(), st.dictionaries(SCORED_BLUEPRINTS, numbers)),
        gradient_energy=number,
        linear_share=number,
        saturation=number,
        scores_age_epochs=count,
        advance_refusal=REFUSALS,
        fossilize_refusal=REFUSALS,
    )


@st.composite
def observations(draw: st.DrawFn, slots: Sequence[str] = ("a", "b", "c")) -> Observation:
    """Observations with ordinary numbers over up to three slots, of which the last takes only "noop"."""
    num_slots = draw(st.integers(0, len(slots)))
    names = slots[:num_slots]
    return Observation(
        signals=draw(signals()),
        slots=tuple(draw(reports(name)) for name in names),
        budgets=draw(budgets()),
        space=make_space(names, fits={slots[-1]: ["noop"]}),
        metric=ACCURACY,
    )


@st.composite
def wild_observations(draw: st.DrawFn, counts: st.SearchStrategy[int] = WILD_INTS) -> Observation:
    """Observations whose every number may be anything; whole numbers are drawn from `counts`."""
    names = ("a", "b")[: draw(st.integers(0, 2))]
    descriptor = st.builds(
        BlueprintDescriptor,
        id=st.just("x"),
        family=st.sampled_from(("conv", "noop", "a user's own")),
        num_params=counts,
        flops_per_item=counts,
    )
    fitting = st.fixed_dictionaries({}, optional={"x": descriptor, "y": descriptor})
    return Observation(
        signals=draw(signals(WILD_FLOATS, counts)),
        slots=tuple(draw(reports(name, WILD_FLOATS, counts)) for name in names),
        budgets=draw(budgets(counts)),
        space=ActionSpace(
            slot_ids=names,
            blueprint_ids=("x", "y")[: draw(st.integers(0, 2))],
            descriptors={name: draw(fitting) for name in names},
        ),
        metric=MetricSpec(
            name="any", is_higher_better=True, scale=draw(st.sampled_from((0.05, 5e-324, 1e300)))
        ),
        chance_loss=draw(WILD_FLOATS),
    )
