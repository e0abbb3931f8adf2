from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_report
from esper.leyline import ForeignCheckpointError, SeedStage
from esper.tamiyo.rotation import BlueprintRotation, PenaltyRule

ORDER = ("conv", "norm", "attention")


def cull(rotation: BlueprintRotation, blueprint: str, slot: str = "a") -> None:
    """Let a seed appear and vanish."""
    rotation.observe([make_report(slot, SeedStage.TRAINING, blueprint=blueprint)])
    assert rotation.observe([make_report(slot, SeedStage.CULLED)]) == 1


def turn(rotation: BlueprintRotation, order: tuple[str, ...] = ORDER) -> str:
    """Decide on one germination."""
    name = rotation.choose("2d", order, order)
    rotation.advance("2d", name)
    return name


def test_blueprints_take_turns() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    assert [turn(rotation) for _ in range(5)] == ["conv", "norm", "attention", "conv", "norm"]


def test_each_layout_has_its_own_turn() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    assert turn(rotation) == "conv"
    assert rotation.choose("flat", ORDER, ORDER) == "conv"
    assert turn(rotation) == "norm"


def test_the_turn_passes_over_what_is_not_legal_now() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    assert turn(rotation) == "conv"
    assert rotation.choose("2d", ORDER, ("conv", "attention")) == "attention"
    assert rotation.choose("2d", ("other",), ("other",)) == "other"


def test_a_cull_costs_two_and_halves_per_germination_until_dropped() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    cull(rotation, "conv")
    seen = [rotation.penalties["conv"]]
    for _ in range(5):
        rotation.advance("2d", "norm")
        seen.append(rotation.penalties.get("conv", 0.0))
    assert seen == [2.0, 1.0, 0.5, 0.25, 0.125, 0.0]


def test_time_alone_does_not_forgive() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    cull(rotation, "conv")
    for _ in range(20):
        rotation.observe([make_report("a", SeedStage.EMBARGOED)])
    assert rotation.penalties == {"conv": 2.0}


def test_the_limit_can_be_reached_and_skips_the_blueprint() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    assert turn(rotation, ("conv",)) == "conv"
    cull(rotation, "conv")
    assert turn(rotation, ("conv",)) == "conv"
    cull(rotation, "conv")
    assert rotation.penalties == {"conv": 3.0}
    assert turn(rotation, ("norm", "conv")) == "norm"
    assert turn(rotation, ("norm", "conv")) == "conv"


def test_two_culls_of_one_blueprint_in_two_slots_skip_its_turn() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    cull(rotation, "conv", "a")
    cull(rotation, "conv", "b")
    assert rotation.penalties == {"conv": 4.0}
    assert [turn(rotation) for _ in range(4)] == ["norm", "attention", "conv", "norm"]


def test_if_all_are_skipped_the_least_penalised_is_taken() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    for name, culls in (("conv", 3), ("norm", 2), ("attention", 2)):
        for _ in range(culls):
            cull(rotation, name)
    assert turn(rotation) == "norm"


@pytest.mark.parametrize("stage", [SeedStage.CULLED, SeedStage.DORMANT])
def test_a_seed_that_vanishes_by_itself_is_penalised_once(stage: SeedStage) -> None:
    rotation = BlueprintRotation(PenaltyRule())
    assert rotation.observe([make_report("a", SeedStage.BLENDING)]) == 0
    assert rotation.observe([make_report("a", stage)]) == 1
    assert rotation.observe([make_report("a", stage)]) == 0
    assert rotation.penalties == {"conv_light": 2.0}


def test_a_seed_on_its_way_out_is_penalised_once() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    seed = make_report("a", SeedStage.BLENDING)
    rotation.observe([seed])
    assert rotation.observe([replace(seed, is_cull_pending=True)]) == 1
    assert rotation.observe([replace(seed, is_cull_pending=True)]) == 0
    assert rotation.observe([make_report("a", SeedStage.CULLED)]) == 0


def test_a_replaced_seed_counts_as_culled() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    rotation.observe([make_report("a", SeedStage.TRAINING, seed_id="a#1", blueprint="conv")])
    assert rotation.observe([make_report("a", SeedStage.GERMINATED, seed_id="a#2", blueprint="norm")]) == 1
    assert rotation.penalties == {"conv": 2.0}


def test_a_kept_seed_is_no_cull() -> None:
    rotation = BlueprintRotation(PenaltyRule())
    for stage in (SeedStage.PROBATIONARY, SeedStage.FOSSILIZED, SeedStage.FOSSILIZED):
        assert rotation.observe([make_report("a", stage)]) == 0
    assert rotation.penalties == {}


@given(
    st.lists(
        st.tuples(st.sampled_from(("a", "b")), st.sampled_from(SeedStage), st.sampled_from(ORDER)),
        max_size=20,
    )
)
def test_a_restored_rotation_goes_on_as_the_first(events: list[tuple[str, SeedStage, str]]) -> None:
    first = BlueprintRotation(PenaltyRule())
    for slot, stage, name in events:
        first.observe([make_report(slot, stage, blueprint=name)])
        turn(first)
    second = BlueprintRotation(PenaltyRule())
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert [turn(first) for _ in range(4)] == [turn(second) for _ in range(4)]


@pytest.mark.parametrize(
    "change",
    [
        {"penalties": []},
        {"penalties": {"conv": "much"}},
        {"turns": [["2d"]]},
        {"tracked": [["a", 1, "conv"]]},
        {"tracked": ["a"]},
        {"more": 1},
    ],
)
def test_a_malformed_memory_is_refused_and_changes_nothing(change: dict[str, object]) -> None:
    rotation = BlueprintRotation(PenaltyRule())
    cull(rotation, "conv")
    before = rotation.state()
    with pytest.raises(ForeignCheckpointError):
        rotation.restore({**before, **change})
    assert rotation.state() == before
