from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import make_budgets, make_estimate, make_observation, make_report, make_space
from esper.leyline import (
    BlendForm,
    Decision,
    ForeignCheckpointError,
    LifecycleOp,
    Observation,
    SeedStage,
    TamiyoPolicy,
    refuse_action,
)
from esper.tamiyo import HeuristicConfig, HeuristicTamiyo
from strategies import TAME_INTS, observations, wild_observations

THREE = (make_report("a"), make_report("b"), make_report("c"))


def decide(observation: Observation, config: HeuristicConfig | None = None) -> Decision:
    return HeuristicTamiyo(config).decide(observation)


def germinate(policy: HeuristicTamiyo, *, epoch: int) -> tuple[str | None, str | None]:
    """Let a policy meet three empty slots on a plateau; return where and what it germinates."""
    decision = policy.decide(make_observation(*THREE, epoch=epoch, plateau_epochs=3))
    assert decision.action.op is LifecycleOp.GERMINATE
    return decision.action.slot, decision.action.blueprint


def test_it_is_a_policy() -> None:
    assert isinstance(HeuristicTamiyo(), TamiyoPolicy)


def test_keeping_comes_before_culling_before_advancing_before_opening() -> None:
    keep = make_report("a", SeedStage.PROBATIONARY, can_fossilize=True)
    cull = make_report("b", SeedStage.BLENDING, contribution=make_estimate(-0.1))
    advance = make_report("c", SeedStage.TRAINING, can_advance=True)
    open_fully = make_report("d", SeedStage.BLENDING, alpha_target=0.5)
    free = make_report("e")
    reports = [free, open_fully, advance, cull, keep]
    ops = []
    for count in range(5, 0, -1):
        ops.append(decide(make_observation(*reports[:count], plateau_epochs=3)).action.op)
    assert ops == [
        LifecycleOp.FOSSILIZE,
        LifecycleOp.CULL,
        LifecycleOp.ADVANCE,
        LifecycleOp.SET_ALPHA,
        LifecycleOp.GERMINATE,
    ]


def test_a_plateau_germinates_with_the_configured_arguments() -> None:
    config = HeuristicConfig(
        germination_interval_epochs=30,
        first_germination_epoch=0,
        blend=BlendForm.GATE,
        tempo_epochs=5,
        alpha_target=0.5,
    )
    policy = HeuristicTamiyo(config)
    germinate(policy, epoch=4)
    decision = policy.decide(make_observation(*THREE, epoch=10, plateau_epochs=3))
    assert decision.action.op is LifecycleOp.GERMINATE
    assert decision.action.blend is BlendForm.GATE
    assert decision.action.tempo_epochs == 5
    assert decision.action.alpha_target == 0.5
    assert decision.confidence == pytest.approx(0.6)
    assert decision.reason == "germinate conv_heavy (1300 parameters) in b: 3 epochs of plateau"


def test_the_calendar_germinates_without_a_plateau() -> None:
    policy = HeuristicTamiyo()
    early = policy.decide(make_observation(*THREE, epoch=4))
    assert early.reason == "wait: epoch 4, the first germination may be at 5"
    first = policy.decide(make_observation(*THREE, epoch=6))
    assert first.action.op is LifecycleOp.GERMINATE
    assert first.reason.endswith("due by calendar since epoch 5")
    assert first.confidence == 1.0
    between = policy.decide(make_observation(*THREE, epoch=9, plateau_epochs=1))
    assert between.reason == (
        "wait: no plateau (1 of 3 epochs) and the next germination by calendar is due at epoch 11"
    )
    assert policy.decide(make_observation(*THREE, epoch=11)).action.op is LifecycleOp.GERMINATE


def test_an_unstable_host_waits_unless_told() -> None:
    observation = make_observation(plateau_epochs=5, is_host_stable=False)
    assert decide(observation).reason.startswith("wait: the host is not stable yet")
    careless = HeuristicConfig(is_stability_required=False)
    assert decide(observation, careless).action.op is LifecycleOp.GERMINATE


def test_no_germination_in_the_last_part_of_the_horizon() -> None:
    assert decide(make_observation(epoch=32, plateau_epochs=3)).action.op is LifecycleOp.GERMINATE
    assert decide(make_observation(epoch=33, plateau_epochs=3)).reason == (
        "wait: epoch 33 of 40 is too late to germinate, 32 is the last"
    )


def test_the_global_embargo_counts_from_the_last_cull() -> None:
    policy = HeuristicTamiyo(HeuristicConfig(embargo_epochs=3))
    seed, free = make_report("a", SeedStage.TRAINING), make_report("b")
    policy.decide(make_observation(seed, free, epoch=10))
    gone = make_report("a", SeedStage.CULLED)
    blocked = policy.decide(make_observation(gone, free, epoch=11, plateau_epochs=3))
    assert blocked.reason == "wait: 0 epochs since the last cull, the embargo lasts 3"
    later = policy.decide(make_observation(gone, free, epoch=14, plateau_epochs=3))
    assert later.action.op is LifecycleOp.GERMINATE


def test_without_a_free_slot_it_says_what_the_slots_do() -> None:
    busy = make_report("a", SeedStage.BLENDING), make_report("b", SeedStage.EMBARGOED)
    decision = decide(make_observation(*busy, plateau_epochs=3))
    assert decision.reason == "wait: no slot is free (a BLENDING, b EMBARGOED)"


def test_an_empty_slot_that_may_not_germinate_gives_its_refusal() -> None:
    late = make_observation(plateau_epochs=3, budgets=make_budgets(38, shortest_lifecycle_epochs=6))
    assert "2 epochs left" in decide(late).reason
    poor = make_observation(plateau_epochs=3, budgets=make_budgets(max_added_params=5))
    assert decide(poor).reason == "wait: no blueprint of the rotation fits 'block1' and the budget"


@pytest.mark.parametrize(
    ("order", "expected"),
    [("rotate", ["a", "b", "c", "a"]), ("last", ["c"] * 4), ("costliest", ["b"] * 4)],
)
def test_the_slot_order_is_configured(order: str, expected: list[str]) -> None:
    space = make_space("abc", fits={"a": ["conv_light"], "c": ["norm"]})
    policy = HeuristicTamiyo(HeuristicConfig(slot_order=order))
    slots = [
        policy.decide(make_observation(*THREE, epoch=epoch, plateau_epochs=3, space=space)).action.slot
        for epoch in range(10, 14)
    ]
    assert slots == expected


def test_rotation_passes_over_slots_that_are_taken() -> None:
    policy = HeuristicTamiyo()
    assert germinate(policy, epoch=6)[0] == "a"
    taken = (make_report("a"), make_report("b", SeedStage.TRAINING), make_report("c"))
    decision = policy.decide(make_observation(*taken, epoch=7, plateau_epochs=3))
    assert decision.action.slot == "c"


def test_a_slot_without_an_affordable_blueprint_of_the_rotation_is_passed_over() -> None:
    space = make_space("ab", fits={"a": ["conv_heavy"]})
    observation = make_observation(
        make_report("a"),
        make_report("b"),
        plateau_epochs=3,
        space=space,
        budgets=make_budgets(max_added_params=700),
    )
    decision = decide(observation)
    assert (decision.action.slot, decision.action.blueprint) == ("b", "conv_light")


def test_blueprints_rotate_and_absent_ids_are_ignored() -> None:
    policy = HeuristicTamiyo(HeuristicConfig(blueprints_2d=("attention", "norm", "conv_light")))
    names = [germinate(policy, epoch=epoch)[1] for epoch in range(6, 10)]
    assert names == ["norm", "conv_light", "norm", "conv_light"]


def test_if_none_of_the_list_fits_all_that_fits_is_used_without_noop() -> None:
    policy = HeuristicTamiyo(HeuristicConfig(blueprints_2d=("mine",)))
    names = [germinate(policy, epoch=epoch)[1] for epoch in range(6, 10)]
    assert names == ["norm", "depthwise", "conv_light", "conv_heavy"]


def test_flat_slots_use_their_own_list() -> None:
    report = make_report("a", layout="flat")
    space = make_space(["a"], [("low_rank", "low_rank", 60), ("mlp", "mlp", 600)])
    decision = decide(make_observation(report, plateau_epochs=3, space=space))
    assert decision.action.blueprint == "mlp"


def test_a_blueprint_culled_twice_is_skipped_whoever_culled_it() -> None:
    policy = HeuristicTamiyo()
    live = [make_report(name, SeedStage.TRAINING, blueprint="conv_light") for name in "ab"]
    policy.decide(make_observation(*live, make_report("c"), epoch=8))
    gone = [make_report(name, SeedStage.CULLED) for name in "ab"]
    decision = policy.decide(make_observation(*gone, make_report("c"), epoch=9, plateau_epochs=3))
    assert decision.action.blueprint == "conv_heavy"
    assert decision.evidence is not None
    assert decision.evidence.scores == {"penalty/conv_light": 4.0}
    assert policy.penalties == {"conv_light": 2.0}


def test_reset_forgets_everything() -> None:
    policy = HeuristicTamiyo()
    blank = policy.state()
    germinate(policy, epoch=6)
    assert policy.state() != blank
    policy.reset()
    assert policy.state() == blank


@settings(max_examples=60)
@given(observations())
def test_every_decision_is_legal_and_has_a_reason(observation: Observation) -> None:
    decision = decide(observation, HeuristicConfig(first_germination_epoch=0, is_stability_required=False))
    assert refuse_action(decision.action, observation) is None
    assert decision.action.blueprint != "noop"
    assert decision.reason
    assert 0.0 <= decision.confidence <= 1.0
    assert (decision.action.op is LifecycleOp.WAIT) == decision.reason.startswith("wait: ")


@settings(max_examples=50)
@given(wild_observations(TAME_INTS))
def test_broken_numbers_never_break_it(observation: Observation) -> None:
    decision = decide(observation)
    assert refuse_action(decision.action, observation) is None
    assert 0.0 <= decision.confidence <= 1.0


@settings(max_examples=20)
@given(st.lists(observations(), min_size=2, max_size=8), st.integers(0, 7))
def test_a_restored_policy_replays_identically(history: list[Observation], cut: int) -> None:
    config = HeuristicConfig(first_germination_epoch=0, is_stability_required=False, patience_epochs=1)
    first, second = HeuristicTamiyo(config), HeuristicTamiyo(config)
    for observation in history[:cut]:
        first.decide(observation)
    second.restore(json.loads(json.dumps(first.state())))
    for observation in history[cut:]:
        assert first.decide(observation) == second.decide(observation)
    assert first.state() == second.state()


@pytest.mark.parametrize(
    "change",
    [
        {"last_germination_epoch": "five"},
        {"last_cull_epoch": True},
        {"last_slot": 3},
        {"rotation": []},
        {"rotation": {}},
        {"more": None},
    ],
)
def test_a_foreign_memory_is_refused_and_changes_nothing(change: dict[str, object]) -> None:
    policy = HeuristicTamiyo()
    germinate(policy, epoch=6)
    before = policy.state()
    with pytest.raises(ForeignCheckpointError):
        policy.restore({**before, **change})
    assert policy.state() == before
