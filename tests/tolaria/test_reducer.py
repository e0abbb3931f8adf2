"""The reduction plan: layout by name, zeros by plan, and refusal of what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.tolaria.reducer import (
    GradientReducer,
    NoReduce,
    PlanEntry,
    StepFlags,
    StepVerdict,
    build_plan,
    hash_layout,
)


def build_groups() -> dict[str, dict[str, nn.Parameter]]:
    return {
        "host": {"host.b": nn.Parameter(torch.ones(2)), "host.a": nn.Parameter(torch.ones(2, 3))},
        "seed:s1": {"s1.w": nn.Parameter(torch.ones(4))},
        "seed:s2": {"s2.w": nn.Parameter(torch.ones(4))},
    }


def flatten(groups: dict[str, dict[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    return {name: parameter for group in groups.values() for name, parameter in group.items()}


def planned(isolated: Sequence[str]) -> tuple[NoReduce, dict[str, nn.Parameter]]:
    groups, reducer = build_groups(), NoReduce()
    reducer.replan(build_plan(groups, isolated), flatten(groups))
    return reducer, flatten(groups)


def test_the_plan_lists_every_parameter_with_its_group() -> None:
    plan = build_plan(build_groups(), {"seed:s2"})
    assert plan[1] == PlanEntry(name="host.a", shape=(2, 3), dtype="float32", group="host")
    assert [(entry.name, entry.is_isolated) for entry in plan] == [
        ("host.b", False),
        ("host.a", False),
        ("s1.w", False),
        ("s2.w", True),
    ]


def test_missing_gradients_become_zeros_but_not_those_of_isolated_seeds() -> None:
    reducer, parameters = planned(["seed:s2"])
    reducer.reduce(StepFlags())
    assert parameters["s2.w"].grad is None
    for name in ("host.a", "host.b", "s1.w"):
        gradient = parameters[name].grad
        assert gradient is not None
        assert torch.equal(gradient, torch.zeros_like(parameters[name]))


def test_present_gradients_stay_as_they_are() -> None:
    reducer, parameters = planned(["seed:s2"])
    given_ones = {name: torch.full_like(parameter, 7.0) for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = given_ones[name]
    reducer.reduce(StepFlags())
    assert all(parameters[name].grad is given_ones[name] for name in parameters)


def test_without_a_plan_nothing_is_filled() -> None:
    reducer: GradientReducer = NoReduce()
    assert reducer.reduce(StepFlags()) == StepVerdict()


def test_a_new_plan_forgets_the_old_one() -> None:
    reducer, parameters = planned([])
    host = build_groups()["host"]
    reducer.replan(build_plan({"host": host}, ()), host)
    reducer.reduce(StepFlags())
    assert all(parameter.grad is None for parameter in parameters.values())
    assert all(parameter.grad is not None for parameter in host.values())


def test_the_verdict_of_one_process_is_its_own_flags() -> None:
    flags = StepFlags(faulty_groups=frozenset({"seed:s1", "host"}), is_stop_requested=True)
    verdict = NoReduce().reduce(flags)
    assert verdict == StepVerdict(faulty_ranks={"host": 0, "seed:s1": 0}, is_stop_requested=True)


@given(order=st.permutations(range(4)))
def test_the_hash_depends_on_names_not_on_the_order(order: list[int]) -> None:
    plan = build_plan(build_groups(), ())
    assert hash_layout([plan[index] for index in order]) == hash_layout(plan)
    assert 0 <= hash_layout(plan) < 2**63


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"shape": (3, 2)}, {"dtype": "float64"}, {"group": "seed:s1"}, {"is_isolated": True}],
)
def test_every_field_of_an_entry_changes_the_hash(change: dict[str, object]) -> None:
    plan = build_plan(build_groups(), ())
    changed = replace(plan[1], **change)  # type: ignore[arg-type]
    assert hash_layout([plan[0], changed, *plan[2:]]) != hash_layout(plan)


def test_replan_returns_the_hash_of_the_layout() -> None:
    groups = build_groups()
    plan = build_plan(groups, ())
    assert NoReduce().replan(plan, flatten(groups)) == hash_layout(plan)


def test_a_plan_that_does_not_fit_its_parameters_is_refused() -> None:
    groups = build_groups()
    plan, parameters = build_plan(groups, ()), flatten(groups)
    reducer = NoReduce()
    with pytest.raises(ValueError, match=r"'host\.b' is planned twice"):
        reducer.replan([*plan, plan[0]], parameters)
    with pytest.raises(ValueError, match=r"'s2\.w' is not in both"):
        reducer.replan(plan[:-1], parameters)
    with pytest.raises(ValueError, match=r"'host\.a' is planned as \(3, 2\) float32"):
        reducer.replan([plan[0], replace(plan[1], shape=(3, 2)), *plan[2:]], parameters)
