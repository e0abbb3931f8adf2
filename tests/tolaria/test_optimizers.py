"""One optimiser that follows the topology: groups, rates, faults, and state through every change; covers
tolaria/group_flags.py."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper.leyline import ConfigError
from esper.tolaria.optimizers import OptimizerConfig
from esper.tolaria.schedules import compute_decay, compute_newborn_factor

from .optimizer_toys import (
    NAMES,
    TOTAL_BATCHES,
    WARMUP_BATCHES,
    are_equal,
    build_config,
    build_host,
    build_optimizer,
    build_seed,
    copy_state,
    named,
    rates,
    start,
    train,
    values,
)

each_optimizer = pytest.mark.parametrize("name", NAMES)


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("name", "adamx", "did you mean 'adam"),
        ("fused", "yes", "known: auto, off, on"),
        ("learning_rate", 0.0, "must be finite and > 0"),
        ("learning_rate", math.nan, "must be finite and > 0"),
        ("newborn_multiplier", math.inf, "must be finite and > 0"),
        ("clip_norm", -1.0, "must be finite and > 0"),
        ("final_fraction", 1.5, r"must be in \(0, 1\]"),
        ("final_fraction", math.nan, r"must be in \(0, 1\]"),
        ("warmup_fraction", 1.0, r"must be in \[0, 1\)"),
        ("weight_decay", -0.1, "must be finite and >= 0"),
        ("momentum", 1.0, r"optimizer\.momentum=1\.0: must be in \[0, 1\)"),
        ("betas", (0.9, math.nan), r"optimizer\.betas=.*must be in \[0, 1\)"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_name(field: str, value: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        OptimizerConfig(**{field: value})  # type: ignore[arg-type]
    assert f"optimizer.{field}=" in str(caught.value)


def test_a_host_without_trainable_parameters_is_refused() -> None:
    host = build_host().requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(build_config("sgd"), host)


@each_optimizer
def test_fused_kernels_take_the_same_steps_to_rounding(name: str) -> None:
    plain, fused = start(build_config(name)), start(build_config(name, fused="on"))
    for batch in range(5):
        train(*plain, batch)
        train(*fused, batch)
    for expected, found in zip(values(plain[1]), values(fused[1]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------------- groups


def test_groups_are_named_and_matrices_alone_decay() -> None:
    optimizer, host, seeds = start(num_seeds=2)
    assert optimizer.group_names() == (
        "host/decay",
        "host/no_decay",
        "seed:s1/decay",
        "seed:s1/no_decay",
        "seed:s2/decay",
        "seed:s2/no_decay",
    )
    by_group = {str(group["name"]): group for group in optimizer._optimizer.param_groups}
    assert [id(p) for p in by_group["host/decay"]["params"]] == [id(host[0].weight), id(host[2].weight)]
    assert [id(p) for p in by_group["seed:s1/no_decay"]["params"]] == [id(seeds["s1"].bias)]
    assert by_group["host/decay"]["weight_decay"] == by_group["seed:s2/decay"]["weight_decay"] == 0.1
    assert by_group["host/no_decay"]["weight_decay"] == by_group["seed:s2/no_decay"]["weight_decay"] == 0.0


def test_parameters_without_gradient_get_no_group() -> None:
    optimizer, _, _ = start(num_seeds=0)
    seed = build_seed(1)
    seed.bias.requires_grad_(False)
    optimizer.add_seed("s1", named(seed, "s1"), birth_batch=0)
    assert optimizer.group_names()[-1] == "seed:s1/decay"
    assert optimizer.names()[-1] == "s1.weight"


@given(steps=st.lists(st.sampled_from(["s1", "s2", "s3"]), max_size=12))
def test_each_parameter_is_in_exactly_one_group_after_any_births_and_deaths(steps: list[str]) -> None:
    optimizer, host, _ = start(num_seeds=0)
    living: dict[str, nn.Linear] = {}
    for batch, slot in enumerate(steps):
        if slot in living:
            optimizer.remove_seed(slot)
            del living[slot]
        else:
            living[slot] = build_seed(batch)
            optimizer.add_seed(slot, named(living[slot], slot), birth_batch=batch)
        train(optimizer, host, living, batch)
        expected = [*named(host, "host"), *(name for slot in living for name in named(living[slot], slot))]
        optimizer.check_consistency(expected)
        assert optimizer.seed_slots == tuple(living)
        assert optimizer.names() == tuple(expected)


def test_consistency_names_what_differs() -> None:
    optimizer, _, _ = start()
    names = optimizer.names()
    with pytest.raises(RuntimeError, match=r"\['s1\.bias'\] in only one"):
        optimizer.check_consistency([name for name in names if name != "s1.bias"])
    with pytest.raises(RuntimeError, match="9 trainable and 8 optimised"):
        optimizer.check_consistency([*names, names[0]])


def test_a_second_seed_in_a_slot_is_refused_and_changes_nothing() -> None:
    optimizer, _, _ = start()
    groups = optimizer.group_names()
    with pytest.raises(RuntimeError, match="'s1' has optimiser groups already"):
        optimizer.add_seed("s1", named(build_seed(9), "new"), birth_batch=0)
    assert optimizer.group_names() == groups


def test_a_parameter_of_another_owner_is_refused_and_changes_nothing() -> None:
    optimizer, host, _ = start()
    groups, weight = optimizer.group_names(), named(host, "host")["host.0.weight"]
    with pytest.raises(RuntimeError, match=r"parameter 'x\.w' of slot 's2' is in another"):
        optimizer.add_seed("s2", {"x.b": build_seed(1).bias, "x.w": weight}, birth_batch=0)
    with pytest.raises(RuntimeError, match=r"parameter 'host\.0\.bias' of slot 's2' is in another"):
        optimizer.add_seed("s2", {"host.0.bias": build_seed(1).bias}, birth_batch=0)
    assert optimizer.group_names() == groups


def test_an_unknown_slot_is_refused_by_name() -> None:
    optimizer, _, _ = start(num_seeds=2)
    with pytest.raises(RuntimeError, match="slot 's3' has no optimiser groups: did you mean 's"):
        optimizer.remove_seed("s3")
    with pytest.raises(RuntimeError, match="slot 'host' has no optimiser groups"):
        optimizer.remove_seed("host")
    for call in (optimizer.fossilize, lambda slot: optimizer.set_frozen(slot, True)):
        with pytest.raises(RuntimeError, match="slot 's9' has no optimiser groups"):
            call("s9")


def test_the_plan_says_who_is_isolated() -> None:
    optimizer, _, _ = start(num_seeds=2)
    plan = optimizer.plan(["s2"])
    assert tuple(entry.name for entry in plan) == optimizer.names()
    assert {entry.group for entry in plan if entry.is_isolated} == {"seed:s2"}
    assert {entry.group for entry in plan if not entry.is_isolated} == {"host", "seed:s1"}


# ---------------------------------------------------------------------- removal


@pytest.mark.battery("T33")
@each_optimizer
def test_a_removed_seed_dies_and_leaves_groups_and_state_as_they_were(name: str) -> None:
    optimizer, host, _ = start(build_config(name), num_seeds=0)
    train(optimizer, host, {}, 0)
    groups, num_states = optimizer.group_names(), len(optimizer._optimizer.state)
    seed = build_seed(1)
    optimizer.add_seed("s1", named(seed, "s1"), birth_batch=1)
    train(optimizer, host, {"s1": seed}, 1)
    assert len(optimizer._optimizer.state) == num_states + 2
    watched = [weakref.ref(parameter) for parameter in seed.parameters()]
    optimizer.remove_seed("s1")
    del seed
    gc.collect()
    assert [reference() for reference in watched] == [None, None]
    assert optimizer.group_names() == groups
    assert len(optimizer._optimizer.state) == num_states


@each_optimizer
def test_two_hundred_births_and_deaths_leave_no_state(name: str) -> None:
    optimizer, host, _ = start(build_config(name), num_seeds=0)
    train(optimizer, host, {}, 0)
    expected = optimizer.names(), optimizer.group_names(), set(optimizer.state()[0])
    for cycle in range(200):
        seed = build_seed(cycle)
        optimizer.add_seed("s1", named(seed, "s1"), birth_batch=cycle)
        train(optimizer, host, {"s1": seed}, cycle)
        optimizer.remove_seed("s1")
    assert (optimizer.names(), optimizer.group_names(), set(optimizer.state()[0])) == expected
    assert len(optimizer._optimizer.state) == len(expected[0])


# ---------------------------------------------------------------------- fossils


@each_optimizer
def test_fossilising_leaves_every_moment_bit_identical(name: str) -> None:
    optimizer, host, seeds = start(build_config(name, newborn_multiplier=3.0))
    for batch in range(10):
        train(optimizer, host, seeds, batch)
    before, groups = copy_state(optimizer), optimizer.group_names()
    optimizer.fossilize("s1")
    after = optimizer.state()[0]
    assert before.keys() == after.keys()
    assert any(key.startswith("s1.weight/") for key in before)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert optimizer.group_names() == groups


@each_optimizer
def test_a_fossil_goes_on_as_if_nothing_had_happened(name: str) -> None:
    grown, kept = start(build_config(name)), start(build_config(name))
    for batch in range(14):
        train(*grown, batch)
        train(*kept, batch)
        if batch == 9:  # past the newborn warm-up
            kept[0].fossilize("s1")
    assert are_equal(values(grown[2]["s1"]), values(kept[2]["s1"]))
    assert are_equal(values(grown[1]), values(kept[1]))


def test_a_fossil_follows_the_rate_of_the_host() -> None:
    optimizer, _, _ = start(build_config("sgd", newborn_multiplier=4.0))
    optimizer.set_batch(20)
    assert rates(optimizer)["seed:s1/decay"] == 4.0 * optimizer.host_learning_rate
    optimizer.fossilize("s1")
    assert rates(optimizer)["seed:s1/decay"] == optimizer.host_learning_rate


# ---------------------------------------------------------------------- learning rates


@settings(max_examples=30)
@given(
    birth=st.integers(0, TOTAL_BATCHES - 1),
    freeze=st.integers(0, TOTAL_BATCHES),
    multiplier=st.floats(0.25, 4.0),
)
def test_rates_equal_the_closed_form_at_every_step(birth: int, freeze: int, multiplier: float) -> None:
    config = build_config("sgd", learning_rate=0.2, newborn_multiplier=multiplier, warmup_fraction=0.2)
    optimizer, host, seeds = start(config, num_seeds=0)
    for batch in range(TOTAL_BATCHES):
        if batch == birth:
            seeds["s1"] = build_seed(1)
            optimizer.add_seed("s1", named(seeds["s1"], "s1"), birth_batch=birth)
        if batch == freeze and "s1" in seeds:
            optimizer.set_frozen("s1", True)
        train(optimizer, host, seeds, batch)
        base = 0.2 * compute_decay(batch, TOTAL_BATCHES, warmup_fraction=0.2, final_fraction=0.01)
        newborn = multiplier * compute_newborn_factor(batch - birth, WARMUP_BATCHES)
        is_frozen = birth <= freeze <= batch
        expected = {"host/decay": base, "host/no_decay": base}
        if "s1" in seeds:
            rate = 0.0 if is_frozen else base * newborn
            expected |= {"seed:s1/decay": rate, "seed:s1/no_decay": rate}
        assert rates(optimizer) == pytest.approx(expected, rel=1e-12)
        assert optimizer.host_learning_rate == base


def test_a_birth_between_two_steps_takes_its_rate_at_once() -> None:
    optimizer, _, _ = start(num_seeds=0)
    optimizer.set_batch(12)
    optimizer.add_seed("s1", named(build_seed(1), "s1"), birth_batch=12)
    assert rates(optimizer)["seed:s1/decay"] == optimizer.learning_rate("s1", 12)
    optimizer.set_birth("s1", 10)
    expected = optimizer.host_learning_rate * 3 / (WARMUP_BATCHES + 1)
    assert rates(optimizer)["seed:s1/decay"] == pytest.approx(expected)


@each_optimizer
def test_a_frozen_seed_does_not_move_although_it_has_gradients(name: str) -> None:
    optimizer, host, seeds = start(build_config(name))
    train(optimizer, host, seeds, 0)
    optimizer.set_frozen("s1", True)
    before = values(seeds["s1"])
    train(optimizer, host, seeds, 1)
    assert are_equal(values(seeds["s1"]), before)
    optimizer.set_frozen("s1", False)
    train(optimizer, host, seeds, 2)
    assert not are_equal(values(seeds["s1"]), before)
