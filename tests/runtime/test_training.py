"""Settings to a policy in training: sizes, streams, shared hosts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import ConfigError
from esper.runtime.experiment import EnvsConfig, FamilyConfig
from esper.runtime.families import find_narrow
from esper.runtime.ranks.lone import LoneRank
from esper.runtime.training import EnvBuilder, assemble_training, count_parameters, deal_rows
from esper.tamiyo import NetworkConfig
from runtime.learning import SMALL, tiny_training
from simic.test_minibatches import KnownRanks


def test_the_same_seed_gives_the_same_network_and_another_seed_another() -> None:
    first, same, other = (
        assemble_training(replace(tiny_training(), seed=seed), LoneRank()).network.state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(tensor, same[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_a_flat_network_gets_outputs_for_the_largest_host_of_the_family() -> None:
    config = replace(
        tiny_training(),
        network=replace(SMALL, kind="flat", factorisation="factored"),
        family=FamilyConfig(num_blocks=(2, 3)),
    )
    assembly = assemble_training(config, LoneRank())
    assert assembly.network_config.flat_slots == 3
    assert assembly.network_config.flat_blueprints > 1
    assert assembly.env.observe()["slots"].shape[1] == 3


def test_a_row_meets_the_same_hosts_whichever_rows_stand_beside_it() -> None:
    builder = EnvBuilder(tiny_training())
    alone, beside = builder.build((7,)), builder.build((2, 7))
    for env in (alone, beside):
        for _ in range(3):
            env.reset(torch.ones(env.num_envs, dtype=torch.bool))
    assert alone.episodes[0].start == beside.episodes[1].start


def test_late_starts_are_parts_of_the_horizon() -> None:
    envs = EnvsConfig(num_envs=2, num_hosts=4, start_fractions=(0.5,))
    env = EnvBuilder(replace(tiny_training(epochs=8), envs=envs)).build((0,))
    env.reset(torch.ones(1, dtype=torch.bool))
    assert env.observations[0].signals.epoch == 4


def test_narrow_hosts_come_first_and_then_all() -> None:
    config = replace(
        tiny_training(epochs=2),
        family=FamilyConfig(base_channels=(2, 3, 4)),
        envs=EnvsConfig(num_envs=2, num_hosts=4, narrow_rounds=2),
    )
    env = EnvBuilder(config).build((5,))
    met: list[set[int]] = [set(), set()]
    for episode in range(2 + 4):
        env.reset(torch.ones(1, dtype=torch.bool))
        met[episode >= 2].add(env.episodes[0].start.instance)
    seeds = range(config.envs.first_seed, config.envs.first_seed + 4)
    assert met == [set(find_narrow(config, seeds)), set(seeds)]


def test_narrow_hosts_are_refused_of_hosts_of_one_width_before_data_is_loaded(tmp_path: Path) -> None:
    config = tiny_training()
    config = replace(
        config,
        envs=replace(config.envs, narrow_rounds=1),
        task=replace(config.task, name="fashion_mnist", data_dir=str(tmp_path)),
    )
    with pytest.raises(ConfigError, match=r"envs\.narrow_rounds=1: all 4 training hosts"):
        EnvBuilder(config)


def test_parameters_are_counted_one_by_one() -> None:
    assert count_parameters(torch.nn.Linear(3, 2)) == 8


@pytest.mark.parametrize(
    "fields",
    [
        {"num_envs": 0},
        {"num_hosts": 0},
        {"first_seed": -1},
        {"start_fractions": ()},
        {"start_fractions": (1.0,)},
        {"narrow_rounds": -1},
    ],
)
def test_settings_of_the_hosts_out_of_range_are_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        EnvsConfig(**fields)  # type: ignore[arg-type]


def test_a_network_that_does_not_fit_its_settings_is_refused() -> None:
    with pytest.raises(ConfigError, match="attention_heads"):
        NetworkConfig(token_size=10, attention_heads=4)


@given(st.integers(1, 40), st.integers(1, 8))
def test_environments_are_dealt_to_ranks_in_order_and_evenly(num_envs: int, size: int) -> None:
    if num_envs < size:
        with pytest.raises(ConfigError, match=f"--envs {size} or more"):
            deal_rows(num_envs, KnownRanks(0, [1] * size))
        return
    shares = [deal_rows(num_envs, KnownRanks(rank, [1] * size)) for rank in range(size)]
    assert [env for share in shares for env in share] == list(range(num_envs))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
