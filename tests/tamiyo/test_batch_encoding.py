"""Many hosts at once: the same numbers as one by one, whatever a field holds, then padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import make_budgets, make_estimate, make_observation, make_report, make_space
from esper.leyline import Observation, SeedStage
from esper.tamiyo import EncodedBatch, encode, encode_many
from strategies import observations, wild_observations

ANY = st.one_of(observations(), wild_observations())


def assert_rows_are_encodings(batch: EncodedBatch, hosts: list[Observation]) -> None:
    for row, host in enumerate(hosts):
        alone = encode(host)
        s, b = alone.blueprints.shape[:2]
        for many, one in (
            (batch.global_features[row], alone.global_features),
            (batch.slots[row, :s], alone.slots),
            (batch.blueprints[row, :s, :b], alone.blueprints),
            (batch.slot_families[row, :s], alone.slot_families),
            (batch.blueprint_families[row, :s, :b], alone.blueprint_families),
        ):
            assert many.dtype == one.dtype
            assert torch.equal(many, one)
        for padding in (batch.slots[row, s:], batch.blueprints[row, s:], batch.blueprints[row, :, b:]):
            assert not padding.any()
        assert batch.slot_mask[row].tolist() == [place < s for place in range(batch.slots.shape[1])]
        assert int(batch.blueprint_mask[row].sum()) == s * b
        assert batch.blueprint_mask[row, :s, :b].all()


@settings(max_examples=60)
@given(st.lists(ANY, min_size=1, max_size=4), st.integers(0, 4), st.integers(0, 7))
def test_each_row_is_what_the_host_alone_is_encoded_as(
    hosts: list[Observation], num_slots: int, num_blueprints: int
) -> None:
    batch = encode_many(hosts, num_slots=num_slots, num_blueprints=num_blueprints)
    most = max(len(host.slots) for host in hosts), max(len(host.space.blueprint_ids) for host in hosts)
    assert batch.blueprint_mask.shape == (len(hosts), max(num_slots, most[0]), max(num_blueprints, most[1]))
    assert_rows_are_encodings(batch, hosts)


@pytest.mark.slow
@settings(max_examples=1500)
@given(st.lists(ANY, min_size=1, max_size=4))
def test_each_row_is_what_the_host_alone_is_encoded_as_in_many_cases(hosts: list[Observation]) -> None:
    assert_rows_are_encodings(encode_many(hosts), hosts)


@pytest.mark.parametrize("stage", SeedStage)
def test_every_stage_with_everything_measured_and_with_nothing(stage: SeedStage) -> None:
    bare = make_report("a", stage)
    full = replace(
        make_report(
            "b", stage, contribution=make_estimate(0.02), shadow_gain=make_estimate(-0.01), credit=0.3
        ),
        contribution_velocity=0.01,
        gradient_ratio=0.4,
        gradient_norm=3.0,
        alpha_slope=-0.2,
        alpha_best=0.6,
        alpha_gain=0.01,
        gradient_energy=2.5,
        linear_share=-0.1,
        saturation=0.8,
        scores_age_epochs=3,
        blueprint_gains={"norm": 0.2, "conv_light": math.nan},
    )
    limited = make_budgets(added_params=650, max_added_params=900, max_live_seeds=1, is_sequential=True)
    hosts = [make_observation(bare, full), make_observation(full, budgets=limited), make_observation(bare)]
    assert_rows_are_encodings(encode_many(hosts), hosts)


def test_a_budget_that_is_spent_makes_every_share_whole() -> None:
    spent = make_budgets(added_params=1200, max_added_params=900)
    hosts = [make_observation(budgets=spent)]
    assert_rows_are_encodings(encode_many(hosts), hosts)


def test_numbers_too_large_for_a_float_are_as_if_not_measured() -> None:
    huge = replace(make_report("a", SeedStage.TRAINING), num_params=10**400, epochs_in_stage=-(10**400))
    hosts = [make_observation(huge), make_observation()]
    assert_rows_are_encodings(encode_many(hosts), hosts)


def test_hosts_without_slots_or_blueprints_have_empty_columns() -> None:
    bare = replace(make_observation(), slots=(), space=make_space([], []))
    batch = encode_many([bare, bare])
    assert batch.slots.shape[:2] == (2, 0)
    assert batch.blueprints.shape[:3] == (2, 0, 0)
    assert torch.equal(batch.global_features[1], encode(bare).global_features)


def test_no_observation_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one observation"):
        encode_many([])
