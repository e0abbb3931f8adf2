"""Steps of tolaria/optimizers.py: faulty gradients, clipping, unscaling; runs that are cut go on."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.tolaria.group_flags import GroupFlag
from esper.tolaria.optimizers import OptimizerConfig, TopologyOptimizer

from .optimizer_toys import (
    NAMES,
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

# ---------------------------------------------------------------------- faults and clipping


def set_gradients(module: nn.Module, value: float) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.battery("T29")
@each_optimizer
@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf, 3e38])
def test_a_faulty_seed_leaves_host_and_other_seeds_as_without_it(name: str, fault: float) -> None:
    clean, faulty = start(build_config(name), num_seeds=2), start(build_config(name), num_seeds=2)
    for optimizer, host, seeds in (clean, faulty):
        train(optimizer, host, seeds, 0)
        optimizer.zero_grad()
        set_gradients(host, 0.02)
        set_gradients(seeds["s2"], 0.03)
    before, moments = values(faulty[2]["s1"]), copy_state(faulty[0])
    set_gradients(faulty[2]["s1"], 0.01)
    weight_gradient = faulty[2]["s1"].weight.grad
    assert weight_gradient is not None
    weight_gradient[1, 2] = fault
    flags = faulty[0].check_and_clip()
    clean[0].check_and_clip()
    for optimizer, _, _ in (clean, faulty):
        optimizer.step()
    assert flags.seeds["s1"].is_faulty
    assert not flags.seeds["s2"].is_faulty
    assert not flags.is_host_faulty
    assert are_equal(values(faulty[1]), values(clean[1]))
    assert are_equal(values(faulty[2]["s2"]), values(clean[2]["s2"]))
    assert are_equal(values(faulty[2]["s1"]), before)
    after = faulty[0].state()[0]
    assert all(torch.equal(after[key], moments[key]) for key in moments if key.startswith("s1."))


@pytest.mark.battery("T29")
@each_optimizer
def test_a_faulty_host_skips_the_whole_step(name: str) -> None:
    optimizer, host, seeds = start(build_config(name))
    train(optimizer, host, seeds, 0)
    before, moments = [*values(host), *values(seeds["s1"])], copy_state(optimizer)
    set_gradients(host, 0.1)
    set_gradients(seeds["s1"], 0.1)
    gradient = named(host, "host")["host.1.bias"].grad
    assert gradient is not None
    gradient[0] = math.nan
    flags = optimizer.check_and_clip()
    optimizer.step()
    assert flags.is_host_faulty
    assert not flags.seeds["s1"].is_faulty
    assert are_equal([*values(host), *values(seeds["s1"])], before)
    after = optimizer.state()[0]
    assert all(torch.equal(after[key], moments[key]) for key in moments)


def test_host_and_seeds_are_clipped_apart() -> None:
    optimizer, host, seeds = start(build_config("sgd", clip_norm=0.5), num_seeds=2)
    set_gradients(host, 100.0)
    set_gradients(seeds["s1"], 0.01)
    flags = optimizer.check_and_clip()
    num_host, num_seed = sum(p.numel() for p in host.parameters()), 20
    assert flags.host.norm == pytest.approx(100.0 * math.sqrt(num_host))
    assert flags.host.rms == pytest.approx(100.0)
    assert flags.seeds["s1"].norm == pytest.approx(0.01 * math.sqrt(num_seed))
    assert flags.seeds["s2"] == GroupFlag(norm=0.0, rms=0.0, has_gradient=False)
    clipped = [p.grad for p in host.parameters() if p.grad is not None]
    assert float(nn.utils.get_total_norm(clipped)) == pytest.approx(0.5, rel=1e-4)
    small = seeds["s1"].weight.grad
    assert small is not None
    assert torch.equal(small, torch.full_like(small, 0.01))


def test_gradients_are_unscaled_before_they_are_measured() -> None:
    scaled, plain = start(), start()
    for factor, (optimizer, host, seeds) in ((1024.0, scaled), (1.0, plain)):
        set_gradients(host, 0.25 * factor)
        set_gradients(seeds["s1"], 0.125 * factor)
        assert optimizer.check_and_clip(1.0 / factor).seeds["s1"].rms == pytest.approx(0.125)
        optimizer.step()
    assert are_equal(values(scaled[1]), values(plain[1]))
    assert are_equal(values(scaled[2]["s1"]), values(plain[2]["s1"]))


# ---------------------------------------------------------------------- save and load


def restart(
    config: OptimizerConfig,
    run: tuple[TopologyOptimizer, nn.Sequential, dict[str, nn.Linear]],
    order: list[str],
) -> tuple[TopologyOptimizer, nn.Sequential, dict[str, nn.Linear]]:
    """A second process: topology rebuilt with seeds added in the given order, then weights, then state."""
    optimizer, host, seeds = run
    tensors, state = copy_state(optimizer), json.loads(json.dumps(optimizer.state()[1]))
    new_host, new_seeds = build_host(50), {slot: build_seed(60) for slot in seeds}
    new_host.load_state_dict(host.state_dict())
    for slot, seed in seeds.items():
        new_seeds[slot].load_state_dict(seed.state_dict())
    restored = build_optimizer(config, new_host)
    for slot in order:
        restored.add_seed(slot, named(new_seeds[slot], slot), birth_batch=0)
    restored.load(tensors, state)
    return restored, new_host, new_seeds


@each_optimizer
@given(cut=st.integers(0, 14), is_reversed=st.booleans())
def test_save_load_continue_equals_the_uninterrupted_run_bit_for_bit(
    name: str, cut: int, is_reversed: bool
) -> None:
    config = build_config(name, newborn_multiplier=2.0)

    def live(run: tuple[TopologyOptimizer, nn.Sequential, dict[str, nn.Linear]], batch: int) -> None:
        optimizer, host, seeds = run
        if batch == 3:
            seeds["s2"] = build_seed(2)
            optimizer.add_seed("s2", named(seeds["s2"], "s2"), birth_batch=3)
        if batch == 6:
            optimizer.fossilize("s1")
        if batch == 10:
            optimizer.set_frozen("s2", True)
        train(optimizer, host, seeds, batch)

    whole, cut_run = start(config), start(config)
    for batch in range(15):
        live(whole, batch)
        if batch == cut:
            order = sorted(cut_run[2], reverse=is_reversed)
            cut_run = restart(config, cut_run, order)
        live(cut_run, batch)
    assert are_equal(values(whole[1]), values(cut_run[1]))
    assert all(are_equal(values(whole[2][slot]), values(cut_run[2][slot])) for slot in whole[2])
    assert whole[0].state()[1] == cut_run[0].state()[1]
    assert rates(whole[0]) == rates(cut_run[0])
    first, second = whole[0].state()[0], cut_run[0].state()[0]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_rate_is_right_after_a_load_before_any_step() -> None:
    run = start(build_config("adam"))
    train(*run, 17)
    restored, _, _ = restart(build_config("adam"), run, ["s1"])
    assert restored.host_learning_rate == run[0].host_learning_rate
    assert rates(restored) == rates(run[0])
