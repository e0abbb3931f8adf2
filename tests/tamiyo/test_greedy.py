from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings

from builders import make_budgets, make_estimate, make_observation, make_report
from esper.leyline import (
    Action,
    ConfigError,
    Decision,
    ForeignCheckpointError,
    LifecycleOp,
    Observation,
    SeedStage,
    SlotReport,
    TamiyoPolicy,
    refuse_action,
)
from esper.tamiyo import GreedyConfig, GreedyScorePolicy, HeuristicConfig
from strategies import observations

FREE = GreedyConfig(step_size=1.0, params_price=0.0, flops_price=0.0, min_share=0.0)
GAINS = {"depthwise": 0.02, "conv_light": 0.05, "conv_heavy": 0.06}


def scored(
    slot: str, gains: Mapping[str, float] | None = None, *, energy: float | None = 1.0, age: int | None = 0
) -> SlotReport:
    """An empty slot with scores."""
    return replace(
        make_report(slot),
        blueprint_gains=GAINS if gains is None else gains,
        gradient_energy=energy,
        scores_age_epochs=age,
    )


def decide(observation: Observation, config: GreedyConfig = FREE) -> Decision:
    return GreedyScorePolicy(config).decide(observation)


def scores_of(decision: Decision) -> Mapping[str, float]:
    assert decision.evidence is not None
    return decision.evidence.scores


def test_it_germinates_the_largest_net_over_slots_and_blueprints() -> None:
    decision = decide(make_observation(scored("a"), scored("b", {"conv_light": 0.01}, energy=9.0)))
    rules = HeuristicConfig()
    assert decision.action == Action(
        op=LifecycleOp.GERMINATE,
        slot="b",
        blueprint="conv_light",
        blend=rules.blend,
        curve=rules.curve,
        tempo_epochs=rules.tempo_epochs,
        alpha_target=rules.alpha_target,
    )
    # 30 epochs are left; the second best is a/conv_heavy.
    assert scores_of(decision) == pytest.approx(
        {"a/depthwise": 0.6, "a/conv_light": 1.5, "a/conv_heavy": 1.8, "b/conv_light": 2.7}
    )
    assert decision.confidence == pytest.approx(1.0 - 1.8 / 2.7)
    assert decision.reason == (
        "germinate conv_light (650 parameters) in b: best of 4 prospects with net 2.7 = promise 2.7 "
        "(share 0.01 of energy 9) - price 0"
    )


def test_the_net_is_step_times_gain_times_horizon_minus_prices() -> None:
    config = GreedyConfig(step_size=0.1, params_price=0.2, flops_price=0.3)
    decision = decide(make_observation(scored("a", {"conv_light": 0.5}, energy=2.0)), config)
    # conv_light: 650 of 1,000 parameters, 83,200 of 100,000 FLOPs.
    expected = 0.1 * (0.5 * 2.0) * 30 - 0.2 * 0.65 - 0.3 * 0.832
    assert scores_of(decision) == pytest.approx({"a/conv_light": expected})


def test_prices_turn_the_choice_to_the_cheaper_one_and_then_to_none() -> None:
    observation = make_observation(scored("a"))
    cheap = decide(observation, GreedyConfig(step_size=1.0, params_price=1.5, flops_price=0.0))
    assert cheap.action.blueprint == "conv_light"
    dear = decide(observation, GreedyConfig(step_size=1.0, params_price=9.0, flops_price=0.0))
    assert dear.action.op is LifecycleOp.WAIT
    assert dear.reason.startswith("wait: the best of 3 prospects, a/depthwise, has net -0.75 = promise 0.6")
    assert scores_of(dear)["a/conv_heavy"] == pytest.approx(1.8 - 11.7)


def test_less_is_promised_when_less_is_left() -> None:
    late = make_observation(scored("a"), budgets=make_budgets(30))
    assert scores_of(decide(late))["a/conv_light"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (make_report("a"), "wait: no free slot has scores; the setting host.measuring.score_every"),
        (scored("a", age=2), "wait: scores are 2 epochs old, at most 0"),
        (scored("a", {}), "wait: no blueprint that may be germinated has a score"),
        (scored("a", {"noop": 0.9}), "wait: no blueprint that may be germinated has a score"),
        (scored("a", {"norm": math.nan}), "wait: no blueprint that may be germinated has a score"),
        (scored("a", energy=math.inf), "wait: no blueprint that may be germinated has a score"),
        (scored("a", energy=None), "wait: no blueprint that may be germinated has a score"),
        (make_report("a", SeedStage.EMBARGOED), "wait: no slot can take a seed now"),
    ],
)
def test_without_a_usable_score_it_says_why_it_waits(report: SlotReport, reason: str) -> None:
    decision = decide(make_observation(report))
    assert decision.action.op is LifecycleOp.WAIT
    assert decision.reason.startswith(reason)


def test_a_share_that_noise_could_have_is_no_prospect() -> None:
    observation = make_observation(scored("a", {"norm": 0.019, "conv_light": -0.5}, energy=99.0))
    decision = decide(observation, replace(FREE, min_share=0.02))
    assert decision.reason == "wait: no blueprint that may be germinated has a score of at least 0.02"
    assert decide(observation, replace(FREE, min_share=0.019)).action.blueprint == "norm"


def test_older_scores_count_where_the_settings_say_so() -> None:
    observation = make_observation(scored("a", age=2))
    assert decide(observation, replace(FREE, max_score_age_epochs=2)).action.blueprint == "conv_heavy"


def test_what_the_budget_forbids_is_no_prospect() -> None:
    observation = make_observation(scored("a"), budgets=make_budgets(max_added_params=700))
    decision = decide(observation)
    assert decision.action.blueprint == "conv_light"
    assert set(scores_of(decision)) == {"a/depthwise", "a/conv_light"}


@pytest.mark.parametrize(
    ("seed", "op"),
    [
        (
            make_report(
                "b", SeedStage.PROBATIONARY, contribution=make_estimate(0.02, 0.005), can_fossilize=True
            ),
            LifecycleOp.FOSSILIZE,
        ),
        (
            make_report("b", SeedStage.PROBATIONARY, contribution=make_estimate(-0.02, 0.005)),
            LifecycleOp.CULL,
        ),
        (make_report("b", SeedStage.TRAINING, can_advance=True), LifecycleOp.ADVANCE),
        (make_report("b", SeedStage.BLENDING, alpha_target=0.5, alpha=0.5), LifecycleOp.SET_ALPHA),
    ],
)
def test_seeds_that_live_are_cared_for_first_by_the_rules_of_the_heuristic(
    seed: SlotReport, op: LifecycleOp
) -> None:
    decision = decide(make_observation(scored("a"), seed))
    assert (decision.action.op, decision.action.slot) == (op, "b")


def culled_once() -> GreedyScorePolicy:
    """A policy that saw conv_heavy live in slot a, and then gone."""
    policy = GreedyScorePolicy(FREE)
    policy.decide(make_observation(make_report("a", SeedStage.TRAINING, blueprint="conv_heavy")))
    policy.decide(make_observation(make_report("a", SeedStage.EMBARGOED)))
    return policy


def test_a_blueprint_that_was_culled_in_a_slot_is_trusted_half_as_much_there() -> None:
    decision = culled_once().decide(make_observation(scored("a"), scored("b", {"conv_heavy": 0.04})))
    assert decision.action.blueprint == "conv_light"
    assert scores_of(decision)["a/conv_heavy"] == pytest.approx(0.9)
    assert scores_of(decision)["b/conv_heavy"] == pytest.approx(1.2)


def test_a_pending_cull_counts_once_and_a_fossil_never() -> None:
    policy = GreedyScorePolicy(FREE)
    living = make_report("a", SeedStage.BLENDING, blueprint="conv_heavy")
    for report in (
        living,
        replace(living, is_cull_pending=True),
        replace(living, is_cull_pending=True),
        make_report("a", SeedStage.EMBARGOED),
        make_report("b", SeedStage.PROBATIONARY),
        make_report("b", SeedStage.FOSSILIZED),
        make_report("b", SeedStage.FOSSILIZED),
    ):
        policy.decide(make_observation(report))
    assert policy.state()["culls"] == {"a/conv_heavy": 1.0}


def test_a_seed_that_was_replaced_between_two_decisions_was_culled() -> None:
    policy = GreedyScorePolicy(FREE)
    for seed_id in ("a#1", "a#2"):
        policy.decide(make_observation(make_report("a", SeedStage.TRAINING, seed_id=seed_id)))
    assert policy.state()["culls"] == {"a/conv_light": 1.0}


def test_the_memory_survives_json_and_a_reset_forgets_it() -> None:
    policy, other = culled_once(), GreedyScorePolicy(FREE)
    policy.decide(make_observation(make_report("b", SeedStage.TRAINING)))
    assert isinstance(policy, TamiyoPolicy)
    other.restore(json.loads(json.dumps(policy.state())))
    assert other.state() == policy.state()
    observation = make_observation(scored("a"), make_report("b", SeedStage.EMBARGOED))
    assert other.decide(observation) == policy.decide(observation)
    policy.reset()
    assert policy.state() == {"culls": {}, "tracked": []}


@pytest.mark.parametrize(
    "change",
    [
        {"culls": 3},
        {"culls": {"a/norm": "often"}},
        {"tracked": 3},
        {"tracked": ["a"]},
        {"tracked": [["a", "a#1"]]},
        {"more": 1},
    ],
)
def test_a_malformed_memory_is_refused_and_changes_nothing(change: dict[str, object]) -> None:
    policy = culled_once()
    before = policy.state()
    with pytest.raises(ForeignCheckpointError):
        policy.restore({"culls": {}, "tracked": [], **change})
    assert policy.state() == before


@settings(max_examples=60)
@given(observations())
def test_every_answer_is_legal_and_says_why(observation: Observation) -> None:
    decision = decide(observation)
    assert refuse_action(decision.action, observation) is None
    assert decision.reason
    assert 0.0 <= decision.confidence <= 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_size", 0.0),
        ("step_size", math.inf),
        ("params_price", -1.0),
        ("flops_price", math.nan),
        ("min_share", 1.5),
        ("max_score_age_epochs", -1),
        ("trust_after_cull", 1.5),
    ],
)
def test_a_setting_out_of_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"greedy\.{name}="):
        replace(GreedyConfig(), **{name: value})  # type: ignore[arg-type]
