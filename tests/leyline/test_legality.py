from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings

from builders import make_budgets, make_observation, make_report, make_space
from esper.leyline import (
    MEMORY_REFUSAL,
    OP_STAGES,
    Action,
    Budgets,
    LifecycleOp,
    Observation,
    SeedStage,
    SlotReport,
    legal_blueprints,
    legal_ops,
    refuse_action,
    refuse_blueprint,
    refuse_op,
)
from strategies import observations


def refuse(action: Action, *reports: SlotReport, budgets: Budgets | None = None) -> str | None:
    return refuse_action(action, make_observation(*reports, budgets=budgets))


def birth(slot: str = "a", blueprint: str | None = "norm") -> Action:
    return Action(op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint)


@pytest.mark.parametrize(("op", "stage"), list(itertools.product(LifecycleOp, SeedStage)))
def test_op_by_stage_is_the_table_when_nothing_else_stands_in_the_way(
    op: LifecycleOp, stage: SeedStage
) -> None:
    report = make_report("a", stage, can_advance=True, can_fossilize=True)
    refusal = refuse(Action(op=op, slot="a", blueprint="norm"), report)
    assert (refusal is None) == (stage in OP_STAGES[op])
    if refusal is not None:
        assert refusal.startswith(f"{op.value} on 'a': stage is {stage.value}, needs ")


@pytest.mark.parametrize("stage", [stage for stage in SeedStage if stage.is_live])
def test_a_seed_on_its_way_out_takes_no_operation(stage: SeedStage) -> None:
    report = make_report("a", stage, is_cull_pending=True, can_advance=True, can_fossilize=True)
    assert legal_ops(report, make_observation(report)) == (LifecycleOp.WAIT,)


def test_gates_decide_advance_and_fossilize_by_their_own_words() -> None:
    report = make_report("a", SeedStage.TRAINING)
    assert refuse(Action(op=LifecycleOp.ADVANCE, slot="a"), report) == report.advance_refusal
    report = make_report("a", SeedStage.PROBATIONARY)
    assert refuse(Action(op=LifecycleOp.FOSSILIZE, slot="a"), report) == report.fossilize_refusal


def test_a_young_seed_is_not_culled() -> None:
    young = make_report("a", SeedStage.TRAINING, seed_age_epochs=1)
    action = Action(op=LifecycleOp.CULL, slot="a")
    assert refuse(action, young) == "CULL on 'a': the seed is 1 epochs old, needs 2"
    assert refuse(action, replace(young, seed_age_epochs=2)) is None


def test_germination_needs_time_for_the_shortest_lifecycle() -> None:
    assert refuse(birth(), make_report("a"), budgets=make_budgets(34)) is None
    refusal = refuse(birth(), make_report("a"), budgets=make_budgets(35))
    assert refusal == "GERMINATE on 'a': 5 epochs left, the shortest lifecycle needs 6"


def test_a_seed_needs_memory_where_it_is_counted() -> None:
    space = make_space(["a"])
    priced = {
        name: replace(item, memory_bytes=item.num_params) for name, item in space.descriptors["a"].items()
    }
    space = replace(space, descriptors={"a": priced})
    report = make_report("a")
    for left, offered in ((None, 5), (1300, 5), (1299, 4), (16, 2), (-1, 0)):
        budgets = replace(make_budgets(), memory_bytes_left=left)
        observation = make_observation(report, space=space, budgets=budgets)
        assert len(legal_blueprints(report, observation)) == offered
    refusal = refuse_action(birth(), observation)
    assert refusal == f"{MEMORY_REFUSAL}: 'norm' in 'a' needs 16 bytes, 0 are left"
    assert LifecycleOp.GERMINATE not in legal_ops(report, observation)


def test_germination_respects_the_limit_of_live_seeds_without_fossils() -> None:
    budgets = make_budgets(max_live_seeds=1)
    fossil, live = make_report("b", SeedStage.FOSSILIZED), make_report("c", SeedStage.BLENDING)
    assert refuse(birth(), make_report("a"), fossil, budgets=budgets) is None
    refusal = refuse(birth(), make_report("a"), fossil, live, budgets=budgets)
    assert refusal == "GERMINATE on 'a': 1 live seeds, the limit is 1"


@pytest.mark.parametrize("stage", list(SeedStage))
def test_sequential_development_waits_for_incubation_only(stage: SeedStage) -> None:
    budgets = make_budgets(is_sequential=True)
    refusal = refuse(birth(), make_report("a"), make_report("b", stage), budgets=budgets)
    assert (refusal is None) == (not stage.is_isolated)


def test_blueprints_are_refused_by_what_is_wrong_with_them() -> None:
    report = make_report("a")
    observation = make_observation(
        report, space=make_space(["a"], fits={"a": ["norm", "conv_heavy"]}), budgets=make_budgets()
    )
    assert refuse_blueprint("norm", report, observation) is None
    assert refuse_blueprint(None, report, observation) == "GERMINATE needs a blueprint"
    assert "did you mean 'norm'" in str(refuse_blueprint("nrm", report, observation))
    misfit = "blueprint 'depthwise' does not fit 'a' (2d); fitting: norm, conv_heavy"
    assert refuse_blueprint("depthwise", report, observation) == misfit
    poor = replace(observation, budgets=make_budgets(added_params=100, max_added_params=200))
    assert refuse_blueprint("norm", report, poor) is None
    expensive = "blueprint 'conv_heavy' adds 1300 parameters to 'a', 100 are left"
    assert refuse_blueprint("conv_heavy", report, poor) == expensive
    assert legal_blueprints(report, poor) == ("norm",)


def test_germinate_without_an_affordable_blueprint_is_not_offered() -> None:
    report = make_report("a")
    broke = make_observation(report, space=make_space(["a"], fits={"a": ["norm"]}))
    assert LifecycleOp.GERMINATE in legal_ops(report, broke)
    broke = replace(broke, budgets=make_budgets(max_added_params=3))
    assert refuse_op(LifecycleOp.GERMINATE, report, broke) is None
    assert LifecycleOp.GERMINATE not in legal_ops(report, broke)


def test_an_unknown_slot_gets_the_nearest() -> None:
    observation = make_observation(make_report("block1"))
    assert "did you mean 'block1'" in str(refuse_action(birth("blok1"), observation))
    assert "unknown slot None" in str(refuse_action(Action(op=LifecycleOp.CULL), observation))


@pytest.mark.parametrize("target", [0.0, -0.5, 1.01, float("nan")])
def test_an_alpha_target_outside_its_range_is_refused(target: float) -> None:
    action = replace(birth(), alpha_target=target)
    assert "must be in (0, 1]" in str(refuse(action, make_report("a")))
    cull = Action(op=LifecycleOp.CULL, slot="a", alpha_target=target)
    assert refuse(cull, make_report("a", SeedStage.BLENDING)) is None


def test_a_ramp_needs_at_least_one_epoch() -> None:
    action = replace(birth(), tempo_epochs=0)
    assert refuse(action, make_report("a")) == "tempo_epochs=0: must be >= 1"


def test_wait_is_legal_whatever_it_says() -> None:
    assert refuse(Action(slot="nowhere", alpha_target=9.0), make_report("a")) is None


@settings(max_examples=80)
@given(observations())
def test_what_is_offered_is_accepted_and_wait_comes_first(observation: Observation) -> None:
    for report in observation.slots:
        ops = legal_ops(report, observation)
        assert ops[0] is LifecycleOp.WAIT
        for op in ops:
            names = legal_blueprints(report, observation) if op is LifecycleOp.GERMINATE else (None,)
            assert names
            for name in names:
                action = Action(op=op, slot=report.slot, blueprint=name)
                assert refuse_action(action, observation) is None
