from __future__ import annotations

import copy
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import STAGE_ORDER, TRANSITIONS, SeedStage

SUCCESS_PATH = (
    SeedStage.DORMANT,
    SeedStage.GERMINATED,
    SeedStage.TRAINING,
    SeedStage.BLENDING,
    SeedStage.PROBATIONARY,
    SeedStage.FOSSILIZED,
)
FAILURE_PATH = (SeedStage.CULLED, SeedStage.EMBARGOED, SeedStage.RESETTING, SeedStage.DORMANT)
LEGAL = {
    *pairwise(SUCCESS_PATH),
    *((stage, SeedStage.CULLED) for stage in SUCCESS_PATH[1:5]),
    *pairwise(FAILURE_PATH),
}


def test_the_table_has_exactly_the_moves_of_the_picture() -> None:
    moves = {(stage, target) for stage, targets in TRANSITIONS.items() for target in targets}
    assert moves == LEGAL
    assert len(moves) == 12


@pytest.mark.parametrize("stage", list(SeedStage))
@pytest.mark.parametrize("target", list(SeedStage))
def test_can_become_is_the_table(stage: SeedStage, target: SeedStage) -> None:
    assert stage.can_become(target) == ((stage, target) in LEGAL)
    assert stage.successors == TRANSITIONS[stage]


def test_every_stage_has_a_row_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(SeedStage)
    assert {target for targets in TRANSITIONS.values() for target in targets} == set(SeedStage)


def test_only_a_fossil_is_terminal() -> None:
    assert [stage for stage in SeedStage if stage.is_terminal] == [SeedStage.FOSSILIZED]


def test_no_stage_follows_itself() -> None:
    assert not any(stage.can_become(stage) for stage in SeedStage)


def test_probation_does_not_go_back_to_blending() -> None:
    assert not SeedStage.PROBATIONARY.can_become(SeedStage.BLENDING)


@given(st.lists(st.integers(0, 3), max_size=40))
def test_every_walk_through_a_cull_cools_down_before_the_next_seed(choices: list[int]) -> None:
    stage, path = SeedStage.DORMANT, [SeedStage.DORMANT]
    for choice in choices:
        if stage.is_terminal:
            break
        stage = stage.successors[choice % len(stage.successors)]
        path.append(stage)
    for place, visited in enumerate(path):
        if visited is SeedStage.CULLED:
            following = path[place + 1 : place + 4]
            assert following == list(FAILURE_PATH[1 : 1 + len(following)])


def test_predicates_partition_the_stages() -> None:
    for stage in SeedStage:
        kinds = (stage.has_seed, stage.is_cooldown, stage is SeedStage.DORMANT)
        assert sum(kinds) == 1
        assert stage.is_live == (stage.has_seed and stage is not SeedStage.FOSSILIZED)
        assert stage.has_seed == (stage.is_isolated or stage.affects_output)
        assert stage.is_live == stage.can_become(SeedStage.CULLED)
        assert stage.is_trained == (stage.has_seed and stage is not SeedStage.GERMINATED)


def test_order_is_frozen_and_values_are_the_names() -> None:
    assert [stage.value for stage in STAGE_ORDER] == [stage.name for stage in SeedStage]
    assert [stage.value for stage in STAGE_ORDER] == [
        "DORMANT",
        "GERMINATED",
        "TRAINING",
        "BLENDING",
        "PROBATIONARY",
        "FOSSILIZED",
        "CULLED",
        "EMBARGOED",
        "RESETTING",
    ]


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[SeedStage.FOSSILIZED] = (SeedStage.CULLED,)  # type: ignore[index]


def test_a_stage_is_found_in_tables_after_a_copy_of_any_kind() -> None:
    table = {stage: stage.value for stage in SeedStage}
    for stage in SeedStage:
        for other in (copy.deepcopy(stage), copy.copy(stage), SeedStage(stage.value)):
            assert other is stage
            assert table[other] == stage.value
