from __future__ import annotations

import pytest

from esper.leyline import (
    BLUEPRINT_FEATURES,
    FAMILY_FEATURE,
    GLOBAL_FEATURES,
    HISTORY_LENGTH,
    SLOT_FEATURES,
    STAGE_ORDER,
    FeatureScale,
    FeatureSpec,
    feature_columns,
    feature_width,
)

GROUPS = (GLOBAL_FEATURES, SLOT_FEATURES, BLUEPRINT_FEATURES)
EVERY = (*GLOBAL_FEATURES, *SLOT_FEATURES, *BLUEPRINT_FEATURES, FAMILY_FEATURE)
BY_NAME = {spec.name: spec for spec in EVERY}


def test_names_are_unique_over_all_groups() -> None:
    assert len(BY_NAME) == len(EVERY)


@pytest.mark.parametrize("group", GROUPS)
def test_width_is_the_number_of_named_columns(group: tuple[FeatureSpec, ...]) -> None:
    columns = feature_columns(group)
    assert len(columns) == feature_width(group) == sum(spec.width for spec in group)
    assert len(set(columns)) == len(columns)


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: spec.name)
def test_every_row_says_what_it_means(spec: FeatureSpec) -> None:
    assert spec.meaning
    assert spec.meaning.isascii()
    assert spec.width >= 1
    assert (spec.scale is FeatureScale.INDEX) == (spec is FAMILY_FEATURE)


def test_wide_features_number_their_columns() -> None:
    spec = FeatureSpec(name="x", scale=FeatureScale.FLAG, meaning="m", width=2)
    single = FeatureSpec(name="y", scale=FeatureScale.FLAG, meaning="m", width=1)
    assert feature_columns((spec, single)) == ("x/0", "x/1", "y")


def test_every_validity_flag_stands_for_a_number() -> None:
    flags = [spec for spec in SLOT_FEATURES if spec.name.startswith("has_")]
    assert len(flags) == 12
    for flag in flags:
        assert flag.scale is FeatureScale.FLAG
        assert flag.name.removeprefix("has_") in BY_NAME


def test_widths_follow_the_contract_tables() -> None:
    assert BY_NAME["stage"].width == BY_NAME["previous_stage"].width == len(STAGE_ORDER)
    assert BY_NAME["metric_history"].width == BY_NAME["metric_history_missing"].width == HISTORY_LENGTH
