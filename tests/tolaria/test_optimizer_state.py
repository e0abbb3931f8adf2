"""State by name: what is saved, and every way in which a saved state is refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.tolaria.optimizer_state import (
    ParameterOwner,
    check_groups,
    check_held,
    find_faulty,
    group_prefix,
    is_decayed,
    read_owners,
    select_trainable,
    split_groups,
)
from esper.tolaria.optimizers import TopologyOptimizer

from .optimizer_toys import NAMES, build_config, build_host, build_optimizer, build_seed, named, train

State = dict[str, JsonValue]
Tensors = dict[str, Tensor]


def build_run(name: str, seeds: dict[str, nn.Linear]) -> TopologyOptimizer:
    host = build_host()
    optimizer = build_optimizer(build_config(name), host)
    for slot, seed in seeds.items():
        optimizer.add_seed(slot, named(seed, slot), birth_batch=0)
    train(optimizer, host, seeds, 0)
    return optimizer


def save(optimizer: TopologyOptimizer) -> tuple[Tensors, State]:
    tensors, state = optimizer.state()
    return {key: tensor.clone() for key, tensor in tensors.items()}, json.loads(json.dumps(state))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("host.conv.weight", (8, 4, 3, 3), True),
        ("host.depthwise.weight", (8, 1, 3, 3), True),
        ("host.head.weight", (1, 8), True),
        ("host.norm.weight", (8,), False),
        ("host.head.bias", (8,), False),
        ("seed.gate", (1,), False),
        ("seed.scale", (), False),
        ("seed.layer_scale", (8, 1, 1), False),
        ("slots.a.seed.gate.reduce.weight", (8, 4), False),
        ("host.gate_proj.weight", (8, 4), True),
    ],
)
def test_matrices_and_kernels_decay_norms_biases_scales_and_gates_do_not(
    name: str, shape: tuple[int, ...], expected: bool
) -> None:
    assert is_decayed(name, torch.zeros(shape)) is expected


def test_an_empty_group_is_left_out() -> None:
    owner = ParameterOwner(parameters={"s.bias": nn.Parameter(torch.zeros(3))})
    (group,) = split_groups(owner, "seed:s", 0.1)
    assert (group["name"], group["weight_decay"]) == ("seed:s/no_decay", 0.0)


def test_names_of_owners_and_trainable_parameters() -> None:
    assert (group_prefix("host"), group_prefix("block1")) == ("host", "seed:block1")
    frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    live = nn.Parameter(torch.zeros(1))
    assert select_trainable({"a": frozen, "b": live}) == {"b": live}


def test_what_the_groups_hold_is_compared_with_what_they_should() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([first], lr=0.1, momentum=0.9)
    check_held(optimizer, {"a": first}, ["a"])
    with pytest.raises(RuntimeError, match="hold 1 parameters for 2 names"):
        check_held(optimizer, {"a": first, "b": second}, ["a", "b"])
    optimizer.state[second]["momentum_buffer"] = torch.zeros(2)
    with pytest.raises(RuntimeError, match="state holds 1 parameters that no group has"):
        check_held(optimizer, {"a": first}, ["a"])


@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_keyed_by_parameter_name_and_state_key(name: str) -> None:
    optimizer = build_run(name, {"s1": build_seed(1)})
    tensors, state = optimizer.state()
    keys = ["momentum_buffer"] if name == "sgd" else ["step", "exp_avg", "exp_avg_sq"]
    assert set(tensors) == {f"{parameter}/{key}" for parameter in optimizer.names() for key in keys}
    assert json.loads(json.dumps(state)) == state


def test_sgd_without_momentum_has_no_state() -> None:
    host = build_host()
    optimizer = build_optimizer(build_config("sgd", momentum=0.0), host)
    train(optimizer, host, {}, 0)
    tensors, state = save(optimizer)
    assert tensors == {}
    assert state["with_state"] == []
    optimizer.load(tensors, state)


def test_a_newborn_without_state_is_saved_and_loaded_as_such() -> None:
    optimizer = build_run("adam", {"s1": build_seed(1)})
    optimizer.add_seed("s2", named(build_seed(2), "s2"), birth_batch=5)
    tensors, state = save(optimizer)
    assert not any(key.startswith("s2.") for key in tensors)
    other = build_run("adam", {"s1": build_seed(1), "s2": build_seed(2)})
    other.load(tensors, state)
    assert set(other.state()[0]) == set(tensors)


def test_loaded_tensors_are_copies() -> None:
    optimizer = build_run("adamw", {})
    tensors, state = save(optimizer)
    optimizer.load(tensors, state)
    for tensor in tensors.values():
        tensor.fill_(7.0)
    assert all(not torch.equal(optimizer.state()[0][key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_of_equal_shape_that_changed_places_are_refused(name: str) -> None:
    first, second = build_seed(1), build_seed(2)
    tensors, state = save(build_run(name, {"s1": first, "s2": second}))
    host = build_host()
    swapped = build_optimizer(build_config(name), host)
    swapped.add_seed("s1", named(second, "s2"), birth_batch=0)
    swapped.add_seed("s2", named(first, "s1"), birth_batch=0)
    with pytest.raises(
        ForeignCheckpointError, match=r"group 'seed:s1/decay' holds \['s1\.weight'\], expected"
    ):
        swapped.load(tensors, state)


def _drop_tensor(tensors: Tensors, state: State) -> None:
    del tensors["s1.weight/exp_avg"]


def _add_tensor(tensors: Tensors, state: State) -> None:
    tensors["s1.weight/exp_avg_max"] = torch.zeros(4, 4)


def _reshape_tensor(tensors: Tensors, state: State) -> None:
    tensors["s1.weight/exp_avg"] = torch.tensor(0.0)


def _reshape_step(tensors: Tensors, state: State) -> None:
    tensors["s1.weight/step"] = torch.zeros(4, 4)


def _retype_tensor(tensors: Tensors, state: State) -> None:
    tensors["s1.weight/exp_avg"] = torch.zeros(4, 4, dtype=torch.float64)


def _rename_parameter(tensors: Tensors, state: State) -> None:
    state["with_state"] = [*state["with_state"], "s9.weight"]  # type: ignore[misc]
    for key in ("step", "exp_avg", "exp_avg_sq"):
        tensors[f"s9.weight/{key}"] = tensors[f"s1.weight/{key}"]


def _other_optimizer(tensors: Tensors, state: State) -> None:
    state["name"] = "sgd"


def _no_batch(tensors: Tensors, state: State) -> None:
    del state["batch"]


def _no_owners(tensors: Tensors, state: State) -> None:
    del state["owners"]


def _missing_owner(tensors: Tensors, state: State) -> None:
    state["owners"] = [["host", None, False, False]]


def _unknown_owner(tensors: Tensors, state: State) -> None:
    state["owners"] = [["host", None, False, False], ["s1", 0, True, False], ["s7", 0, True, False]]


def _malformed_owner(tensors: Tensors, state: State) -> None:
    state["owners"] = [["host", None, False, False], ["s1", "0", True, False]]


def _missing_group(tensors: Tensors, state: State) -> None:
    state["groups"] = state["groups"][:-1]  # type: ignore[index]


def _unknown_group(tensors: Tensors, state: State) -> None:
    state["groups"] = [*state["groups"], ["seed:s7/decay", []]]  # type: ignore[misc]


def _malformed_groups(tensors: Tensors, state: State) -> None:
    state["groups"] = {"host/decay": 0}


def _no_list_of_names(tensors: Tensors, state: State) -> None:
    state["with_state"] = None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_drop_tensor, r"lacks the tensor 's1\.weight/exp_avg'"),
        (_add_tensor, r"unexpected tensor 's1\.weight/exp_avg_max': did you mean 's1\.weight/exp_avg"),
        (_reshape_tensor, r"'s1\.weight/exp_avg' is \(\) torch\.float32, expected \(4, 4\)"),
        (_reshape_step, r"'s1\.weight/step' is \(4, 4\) torch\.float32, expected \(\)"),
        (_retype_tensor, r"is \(4, 4\) torch\.float64, expected \(4, 4\) torch\.float32"),
        (_rename_parameter, r"'s9\.weight/.*did you mean 's1\.weight'"),
        (_other_optimizer, "saved optimiser is 'sgd' at batch 0, this run uses 'adam'"),
        (_no_batch, "at batch None"),
        (_no_owners, "saved optimiser owner None"),
        (_missing_owner, r"saved optimiser lacks \['s1'\]"),
        (_unknown_owner, r"owner \['s7', 0, True, False\]"),
        (_malformed_owner, r"owner \['s1', '0', True, False\]: expected \[name, birth batch"),
        (_missing_group, "saved optimiser lacks the group 'seed:s1/no_decay'"),
        (_unknown_group, "saved optimiser has the group 'seed:s7/decay', this run does not"),
        (_malformed_groups, r"saved optimiser group None: expected \[name, \[parameter names\]\]"),
        (_no_list_of_names, "with_state is None, expected a list"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: Callable[[Tensors, State], None], text: str
) -> None:
    optimizer = build_run("adam", {"s1": build_seed(1)})
    before = save(optimizer)
    tensors, state = save(optimizer)
    change(tensors, state)
    with pytest.raises(ForeignCheckpointError, match=text):
        optimizer.load(tensors, state)
    after = save(optimizer)
    assert after[1] == before[1]
    assert after[0].keys() == before[0].keys()
    assert all(torch.equal(after[0][key], before[0][key]) for key in before[0])


def test_groups_may_come_in_another_order_and_keep_the_saved_one() -> None:
    saved: list[JsonValue] = [["b", ["b.w"]], ["a", ["a.w", "a.b"]]]
    assert check_groups(saved, [saved[1], saved[0]]) == ("b", "a")
    with pytest.raises(ForeignCheckpointError, match=r"'a' holds \['a\.w', 'a\.b'\], expected"):
        check_groups(saved, [saved[0], ["a", ["a.b", "a.w"]]])


def test_reading_owners_leaves_the_present_ones_alone() -> None:
    present = {"host": ParameterOwner(parameters={}), "s1": ParameterOwner(parameters={}, birth_batch=1)}
    read = read_owners([["s1", 9, True, True], ["host", None, False, False]], present)
    assert list(read) == ["s1", "host"]
    assert (read["s1"].birth_batch, read["s1"].is_newborn, read["s1"].is_frozen) == (9, True, True)
    assert present["s1"].birth_batch == 1


def test_the_first_bad_gradient_is_named_else_the_largest() -> None:
    gradients = {"a": torch.tensor([1.0, -9.0]), "b": torch.tensor([1.0, 5.0]), "c": torch.tensor([0.0])}
    assert find_faulty(3.0, gradients) == ""
    assert find_faulty(float("inf"), gradients) == "a"
    for bad in (float("nan"), float("-inf")):
        assert find_faulty(float("nan"), gradients | {"b": torch.tensor([1.0, bad])}) == "b"
