from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from battery_rows import BatteryRecord
from builders import make_budgets, make_estimate, make_observation, make_report, make_space
from esper.leyline import (
    BLUEPRINT_FAMILIES,
    BLUEPRINT_FEATURES,
    FEATURE_BOUND,
    GLOBAL_FEATURES,
    SLOT_FEATURES,
    Estimate,
    FeatureScale,
    FeatureSpec,
    Observation,
    SeedStage,
    SlotReport,
    feature_columns,
    feature_width,
)
from esper.tamiyo import EncodedObservation, encode, encode_many
from esper.tamiyo.encoding import _scale
from strategies import observations, wild_observations


def read_global(observation: Observation, name: str) -> float:
    place = feature_columns(GLOBAL_FEATURES).index(name)
    return float(encode(observation).global_features[place])


def read_slot(report: SlotReport, name: str) -> float:
    place = feature_columns(SLOT_FEATURES).index(name)
    return float(encode(make_observation(report)).slots[0, place])


def columns_of(features: tuple[FeatureSpec, ...], *scales: FeatureScale) -> list[int]:
    """Places of the columns whose feature has one of the scales."""
    wanted = [spec.scale in scales for spec in features for _ in range(spec.width)]
    return [place for place, is_wanted in enumerate(wanted) if is_wanted]


def assert_within_contract(encoded: EncodedObservation) -> None:
    groups = (
        (GLOBAL_FEATURES, encoded.global_features),
        (SLOT_FEATURES, encoded.slots),
        (BLUEPRINT_FEATURES, encoded.blueprints),
    )
    for features, tensor in groups:
        assert tensor.dtype is torch.float32
        assert tensor.shape[-1] == feature_width(features)
        assert bool(torch.isfinite(tensor).all())
        assert bool((tensor.abs() <= FEATURE_BOUND).all())
        unit = tensor[..., columns_of(features, FeatureScale.FRACTION)]
        assert bool(((unit >= 0) & (unit <= 1)).all())
        bits = tensor[..., columns_of(features, FeatureScale.FLAG, FeatureScale.ONE_HOT)]
        assert bool(((bits == 0) | (bits == 1)).all())
        assert bool((tensor[..., columns_of(features, FeatureScale.SIGNED)].abs() <= 1).all())


def check_encoding(num_cases: int) -> None:
    """Encode that many observations in which any number may stand anywhere."""

    @settings(max_examples=num_cases)
    @given(wild_observations())
    def check(observation: Observation) -> None:
        assert_within_contract(encode(observation))

    check()


@pytest.mark.battery("T35")
def test_any_number_in_any_field_is_encoded_within_the_bound(battery: BatteryRecord) -> None:
    check_encoding(60)
    battery.record(n=60)


@pytest.mark.battery("T35")
@pytest.mark.slow
def test_any_number_in_any_field_is_encoded_within_the_bound_in_many_cases(battery: BatteryRecord) -> None:
    check_encoding(1000)
    battery.record(n=1000)


@pytest.mark.battery("T35")
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_any_number_in_any_field_is_encoded_within_the_bound_ten_thousand_times(
    battery: BatteryRecord,
) -> None:
    check_encoding(10_000)
    battery.record(n=10_000)


@settings(max_examples=60)
@given(observations())
def test_ordinary_observations_are_encoded_within_the_bound(observation: Observation) -> None:
    encoded = encode(observation)
    assert_within_contract(encoded)
    num_slots, num_blueprints = len(observation.slots), len(observation.space.blueprint_ids)
    assert encoded.slots.shape[0] == num_slots
    assert encoded.blueprints.shape[:2] == (num_slots, num_blueprints)
    assert encoded.blueprint_families.shape == (num_slots, num_blueprints)


@settings(max_examples=60)
@given(wild_observations())
def test_a_number_without_its_validity_flag_is_zero(observation: Observation) -> None:
    names = feature_columns(SLOT_FEATURES)
    for row in encode(observation).slots:
        values = dict(zip(names, row.tolist(), strict=True))
        for flag in [name for name in names if name.startswith("has_")]:
            if values[flag] == 0.0:
                assert values[flag.removeprefix("has_")] == 0.0


def test_numbers_stand_where_the_table_says() -> None:
    observation = make_observation(epoch=10, plateau_epochs=4, budgets=make_budgets(10, added_params=1000))
    assert read_global(observation, "epoch") == pytest.approx(0.25)
    assert read_global(observation, "epochs_left") == pytest.approx(0.75)
    assert read_global(observation, "plateau") == pytest.approx(0.4)
    assert read_global(observation, "validation_loss") == pytest.approx(math.log1p(0.7 / 2.302585))
    assert read_global(observation, "loss_delta") == pytest.approx(0.02 / 0.2302585)
    assert read_global(observation, "metric_delta") == pytest.approx(0.2)
    assert read_global(observation, "metric_below_best") == pytest.approx(-0.2)
    assert read_global(observation, "added_params") == pytest.approx(math.log(2.0))
    assert read_global(observation, "flops_spent") == pytest.approx(math.log1p(0.25))
    assert read_global(observation, "params_left") == 1.0
    assert read_global(observation, "is_params_limited") == 0.0


def test_history_is_right_aligned_with_missing_flags() -> None:
    observation = make_observation()
    flags = [read_global(observation, f"metric_history_missing/{place}") for place in range(5)]
    assert flags == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert read_global(observation, "metric_history/4") == pytest.approx(math.log1p(0.8))
    broken = replace(observation.signals, metric_history=(0.5, math.nan, 0.8))
    broken_observation = replace(observation, signals=broken)
    assert read_global(broken_observation, "metric_history_missing/3") == 1.0
    assert read_global(broken_observation, "metric_history/3") == 0.0


def test_remaining_budget_is_a_fraction_of_the_allowance() -> None:
    observation = make_observation(budgets=make_budgets(added_params=300, max_added_params=400))
    assert read_global(observation, "params_left") == pytest.approx(0.25)
    assert read_global(observation, "is_params_limited") == 1.0


@pytest.mark.parametrize("stage", list(SeedStage))
def test_stage_and_previous_stage_are_one_hot(stage: SeedStage) -> None:
    place = list(SeedStage).index(stage)
    report = replace(make_report("a", stage), previous_stage=stage)
    for name in ("stage", "previous_stage"):
        row = [read_slot(report, f"{name}/{other}") for other in range(len(SeedStage))]
        assert row == [float(other == place) for other in range(len(SeedStage))]
        assert sum(row) == 1.0


def test_contribution_carries_error_validity_and_freshness() -> None:
    report = make_report(
        "a",
        SeedStage.PROBATIONARY,
        contribution=make_estimate(0.02, 0.01),
        contribution_age_epochs=3,
    )
    assert read_slot(report, "contribution") == pytest.approx(0.4)
    assert read_slot(report, "contribution_error") == pytest.approx(0.2)
    assert read_slot(report, "contribution_freshness") == pytest.approx(0.25)
    assert read_slot(report, "has_contribution") == 1.0


@pytest.mark.parametrize(("mean", "expected"), [(9.0, 1.0), (-9.0, -1.0), (1e300, 1.0), (-1e300, -1.0)])
def test_contribution_is_clipped_on_both_sides(mean: float, expected: float) -> None:
    report = make_report("a", SeedStage.BLENDING, contribution=make_estimate(mean))
    assert read_slot(report, "contribution") == expected
    assert read_slot(report, "has_contribution") == 1.0


@pytest.mark.parametrize("estimate", [make_estimate(math.nan), make_estimate(0.1, math.inf), None])
def test_a_broken_measurement_is_zero_and_invalid(estimate: Estimate | None) -> None:
    report = make_report("a", SeedStage.BLENDING, contribution=estimate)
    for name in ("contribution", "contribution_error", "contribution_freshness", "has_contribution"):
        assert read_slot(report, name) == 0.0


def test_zero_measured_differs_from_not_measured() -> None:
    seed = make_report("a", SeedStage.BLENDING)
    assert read_slot(replace(seed, credit=0.0), "has_credit") == 1.0
    assert read_slot(seed, "has_credit") == 0.0


def test_a_score_stands_beside_its_validity_flag_per_slot_and_blueprint() -> None:
    gains = {"conv_light": 0.13, "conv_heavy": math.nan, "depthwise": -7.0}
    report = replace(make_report("a"), blueprint_gains=gains)
    encoded = encode(make_observation(report, make_report("b")))
    names = feature_columns(BLUEPRINT_FEATURES)
    columns = [names.index("blueprint_gain"), names.index("has_blueprint_gain")]
    assert encoded.blueprints[0, 3, columns].tolist() == pytest.approx([0.13, 1.0])
    assert encoded.blueprints[0, 4, columns].tolist() == [0.0, 0.0]
    assert encoded.blueprints[0, 2, columns].tolist() == [-1.0, 1.0]
    assert encoded.blueprints[0, 1, columns].tolist() == [0.0, 0.0]
    assert not encoded.blueprints[1][:, columns].any()


def test_energies_are_encoded_beside_those_of_the_other_slots() -> None:
    energies = (0.3, 0.1, None, math.inf)
    reports = [
        replace(make_report(name), gradient_energy=energy)
        for name, energy in zip("abcd", energies, strict=True)
    ]
    encoded = encode(make_observation(*reports[:3]))
    place = feature_columns(SLOT_FEATURES).index("gradient_energy")
    flag = feature_columns(SLOT_FEATURES).index("has_gradient_energy")
    assert encoded.slots[:, place].tolist() == pytest.approx([math.log1p(1.5), math.log1p(0.5), 0.0])
    assert encoded.slots[:, flag].tolist() == [1.0, 1.0, 0.0]
    assert encode(make_observation(*reports)).slots[3, [place, flag]].tolist() == [0.0, 0.0]


def test_scores_of_a_seed_are_in_units_of_the_chance_loss_and_carry_their_age() -> None:
    report = replace(
        make_report("a", SeedStage.BLENDING),
        alpha_slope=-2.302585,
        alpha_best=0.4,
        alpha_gain=0.2302585,
        linear_share=0.25,
        saturation=0.5,
        scores_age_epochs=1,
    )
    assert read_slot(report, "alpha_slope") == pytest.approx(-math.log(2.0))
    assert read_slot(report, "alpha_best") == pytest.approx(0.4)
    assert read_slot(report, "alpha_gain") == pytest.approx(math.log1p(0.1))
    assert read_slot(report, "linear_share") == pytest.approx(0.25)
    assert read_slot(report, "saturation") == pytest.approx(0.5)
    assert read_slot(report, "scores_freshness") == pytest.approx(0.5)
    for name in ("alpha_slope", "alpha_best", "alpha_gain", "linear_share", "saturation"):
        assert read_slot(report, f"has_{name}") == 1.0
        assert read_slot(make_report("a"), f"has_{name}") == 0.0


def test_readiness_is_the_absence_of_a_refusal() -> None:
    ready = make_report("a", SeedStage.PROBATIONARY, can_advance=True, can_fossilize=True)
    waiting = make_report("a", SeedStage.PROBATIONARY)
    for name in ("can_advance", "can_fossilize"):
        assert read_slot(ready, name) == 1.0
        assert read_slot(waiting, name) == 0.0


def test_costs_are_relative_to_the_host() -> None:
    report = make_report("a", SeedStage.TRAINING)
    assert read_slot(report, "params") == pytest.approx(math.log1p(0.65))
    assert read_slot(report, "flops_share") == pytest.approx(0.832)
    encoded = encode(make_observation(report, budgets=make_budgets(max_added_params=1300)))
    row = encoded.blueprints[0, 3]
    assert row.tolist() == pytest.approx([1.0, math.log1p(0.65), math.log1p(0.832), 0.5, 0.0, 0.0])


def test_a_spent_budget_shows_as_the_whole_share() -> None:
    budgets = make_budgets(added_params=500, max_added_params=500)
    encoded = encode(make_observation(make_report("a"), budgets=budgets))
    assert encoded.blueprints[0, :, 3].tolist() == [1.0] * 5


def test_families_are_indices_and_unknown_is_zero() -> None:
    space = make_space(["a"], [("mine", "a user's own", 5), ("conv_light", "conv", 650)])
    observation = make_observation(make_report("a", SeedStage.TRAINING), space=space)
    encoded = encode(observation)
    assert encoded.blueprint_families.tolist() == [[0, 1 + BLUEPRINT_FAMILIES.index("conv")]]
    assert encoded.slot_families.tolist() == [1 + BLUEPRINT_FAMILIES.index("conv")]


def test_a_blueprint_that_does_not_fit_is_all_zero() -> None:
    space = make_space(["a"], fits={"a": ["norm"]})
    encoded = encode(make_observation(make_report("a"), space=space))
    assert encoded.blueprints[0, 3].tolist() == [0.0] * feature_width(BLUEPRINT_FEATURES)
    assert encoded.blueprints[0, 1, 0] == 1.0


def test_a_batch_is_its_rows_and_padding() -> None:
    small = make_observation(make_report("a"), space=make_space(["a"], [("norm", "norm", 16)]))
    large = make_observation(make_report("a", SeedStage.TRAINING), make_report("b"), make_report("c"))
    batch = encode_many([small, large])
    assert batch.slot_mask.tolist() == [[True, False, False], [True, True, True]]
    assert batch.blueprint_mask[0].sum() == 1
    assert batch.blueprint_mask[1].all()
    for place, observation in enumerate((small, large)):
        row = encode(observation)
        slots, blueprints = row.slots.shape[0], row.blueprints.shape[1]
        assert torch.equal(batch.global_features[place], row.global_features)
        assert torch.equal(batch.slots[place, :slots], row.slots)
        assert torch.equal(batch.blueprints[place, :slots, :blueprints], row.blueprints)
        assert torch.equal(batch.slot_families[place, :slots], row.slot_families)
        families = batch.blueprint_families[place, :slots, :blueprints]
        assert torch.equal(families, row.blueprint_families)
    assert not batch.slots[0, 1:].any()
    assert not batch.blueprints[0, 1:].any()


def test_no_observation_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one observation"):
        encode_many([])


def test_a08_symlog_of_a_feature_equals_a_peer_is_undone_by_symexp_and_has_slope_1_at_zero() -> None:
    from torchrl.modules import symexp, symlog  # noqa: PLC0415

    sizes = torch.logspace(-6, 4, 60, dtype=torch.float64)
    numbers = torch.cat([-sizes.flip(0), torch.zeros(1, dtype=torch.float64), sizes])
    ours = torch.tensor([_scale(x, FeatureScale.SYMLOG) for x in numbers.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ours, symlog(numbers), rtol=1e-12, atol=0)
    torch.testing.assert_close(symexp(ours), numbers, rtol=1e-6, atol=0)
    slope = (_scale(1e-7, FeatureScale.SYMLOG) - _scale(-1e-7, FeatureScale.SYMLOG)) / 2e-7
    assert slope == pytest.approx(1.0, abs=1e-6)
