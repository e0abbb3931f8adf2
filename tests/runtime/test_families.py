"""Hosts by seed: what a seed stands for depends on the seed alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from esper.kasmina import CNNHost, MLPHost
from esper.leyline import ConfigError, Decision
from esper.runtime.assemble import assemble, build_host
from esper.runtime.experiment import ExperimentConfig, FamilyConfig, ModelConfig
from esper.runtime.families import HostFactory, compute_width, find_narrow, vary
from esper.runtime.presets import austen, digits, synthetic
from esper.tolaria import HostRun

FAMILY = FamilyConfig(
    base_channels=(2, 5), num_blocks=(2, 3), learning_rate_factors=(0.5, 2.0), num_train_rows=(100, 200)
)


def around(config: ExperimentConfig, family: FamilyConfig) -> ExperimentConfig:
    return replace(config, family=family, host=replace(config.host, epochs=3))


def tensors(run: HostRun) -> dict[str, torch.Tensor]:
    return dict(run.bench.model.host.state_dict())


def test_an_empty_family_is_the_experiment_itself_under_another_seed() -> None:
    assert vary(digits(), 7) == replace(digits(), seed=7)


def test_every_choice_of_a_family_is_met_and_choices_do_not_follow_each_other() -> None:
    drawn = [vary(around(digits(), FAMILY), seed) for seed in range(60)]
    met = {
        (c.model.base_channels, c.model.num_blocks, c.host.optimizer.learning_rate, c.task.num_train_rows)
        for c in drawn
    }
    assert len(met) > 12  # of 16 combinations
    assert drawn[3] == vary(around(digits(), FAMILY), 3)


def test_a_width_is_given_to_every_hidden_layer() -> None:
    config = vary(around(synthetic(), FamilyConfig(hidden_widths=(7,))), 0)
    assert config.model.hidden == (7, 7)


@given(seed=st.integers(0, 2**32))
def test_a_budget_is_drawn_from_the_list_and_moves_no_other_draw(seed: int) -> None:
    base = around(digits(), FAMILY)
    drawn = vary(around(base, replace(FAMILY, max_added_params_fractions=(0.25, 1.0, 4.0))), seed)
    budget = drawn.host.lifecycle.max_added_params_fraction
    assert budget in (0.25, 1.0, 4.0)
    before = vary(base, seed)
    lifecycle = replace(before.host.lifecycle, max_added_params_fraction=budget)
    assert replace(drawn, family=FAMILY) == replace(before, host=replace(before.host, lifecycle=lifecycle))


def test_every_budget_of_a_family_is_met_and_an_empty_list_keeps_the_experiments_own() -> None:
    config = digits()
    lifecycle = replace(config.host.lifecycle, max_added_params_fraction=0.75)
    config = replace(config, host=replace(config.host, lifecycle=lifecycle))
    with_budgets = around(config, FamilyConfig(max_added_params_fractions=(0.0, 0.5, 2.0)))
    met = {vary(with_budgets, seed).host.lifecycle.max_added_params_fraction for seed in range(30)}
    assert met == {0.0, 0.5, 2.0}
    assert vary(config, 8).host.lifecycle.max_added_params_fraction == 0.75


def test_the_budget_of_a_seed_is_the_one_that_a_policy_observes() -> None:
    config = around(digits(), FamilyConfig(max_added_params_fractions=(0.25, 2.0)))
    factory = HostFactory(config)
    for seed in range(4):
        budgets = factory.build(seed).observe().budgets
        fraction = vary(config, seed).host.lifecycle.max_added_params_fraction
        assert fraction is not None
        assert budgets.max_added_params == int(fraction * budgets.host_params)


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(base_channels=3, num_blocks=2, num_pools=2),
        ModelConfig(base_channels=3, num_blocks=4, num_pools=2),
        ModelConfig(kind="mlp", hidden=(7, 9, 8)),
    ],
)
def test_the_width_of_a_host_is_that_of_its_widest_layer(model: ModelConfig) -> None:
    config = replace(digits() if model.kind == "cnn" else synthetic(), model=model)
    host = build_host(model, assemble(config).task)()
    assert isinstance(host, CNNHost | MLPHost)
    assert compute_width(model) == max(point.num_channels for point in host.injection_points())


@given(
    seeds=st.lists(st.integers(0, 500), min_size=12, max_size=30, unique=True),
    channels=st.lists(st.integers(1, 12), min_size=2, max_size=4, unique=True),
)
def test_the_narrower_half_holds_no_host_that_is_wider_than_one_left_out(
    seeds: list[int], channels: list[int]
) -> None:
    config = around(digits(), FamilyConfig(base_channels=tuple(channels), num_blocks=(2, 3)))
    widths = {seed: compute_width(vary(config, seed).model) for seed in seeds}
    assume(len(set(widths.values())) > 1)
    narrow = find_narrow(config, seeds)
    assert len(narrow) == len(seeds) // 2
    left_out = set(seeds) - set(narrow)
    assert max((widths[seed], seed) for seed in narrow) < min((widths[seed], seed) for seed in left_out)
    assert find_narrow(config, seeds[::-1]) == narrow


@pytest.mark.parametrize(
    ("config", "seeds", "remedy"),
    [
        (around(digits(), FamilyConfig()), (0, 1, 2), "draw family.base_channels or num_blocks"),
        (around(digits(), FamilyConfig(hidden_widths=(3, 50))), (0, 1, 2), "family.base_channels"),
        (around(digits(), FamilyConfig(base_channels=(5, 5))), (0, 1, 2), "family.base_channels"),
        (around(synthetic(), FamilyConfig(base_channels=(3, 50))), (0, 1, 2), "draw family.hidden_widths"),
        (around(digits(), FamilyConfig(base_channels=(2, 5))), (4,), "meet more hosts"),
    ],
)
def test_hosts_of_one_width_have_no_narrower_half(
    config: ExperimentConfig, seeds: tuple[int, ...], remedy: str
) -> None:
    with pytest.raises(ConfigError, match=f"envs.narrow_rounds=.*equally wide.*{remedy}"):
        find_narrow(config, seeds)


def test_the_host_of_a_seed_is_the_one_that_a_single_run_would_train() -> None:
    config = around(digits(), FamilyConfig())
    built, alone = HostFactory(config).build(5), assemble(replace(config, seed=5, policy="never")).host_run
    for run in (built, alone):
        run.apply(Decision())
        run.train_epoch()
    assert all(torch.equal(tensor, tensors(alone)[name]) for name, tensor in tensors(built).items())


def test_a_replicate_is_another_life_of_the_same_settings() -> None:
    factory = HostFactory(around(digits(), FAMILY))
    first, second = factory.build(4), factory.build_replicate(4, 1000)
    assert [t.shape for t in tensors(first).values()] == [t.shape for t in tensors(second).values()]
    assert not all(torch.equal(t, tensors(second)[name]) for name, t in tensors(first).items())


def test_sizes_are_those_of_the_largest_host() -> None:
    sizes = HostFactory(around(digits(), FAMILY)).measure_sizes()
    assert sizes.num_slots == 3
    assert sizes.num_blueprints == len(assemble(digits()).host_run.bench.space.blueprint_ids)


def test_the_horizon_is_the_configured_one_or_the_tasks_own() -> None:
    assert HostFactory(around(digits(), FAMILY)).horizon_epochs == 3
    assert HostFactory(digits()).horizon_epochs == 40


@pytest.mark.parametrize(
    "fields",
    [
        {"base_channels": (0,)},
        {"num_blocks": (3, 1)},
        {"hidden_widths": (-1,)},
        {"num_train_rows": (5,)},
        {"learning_rate_factors": (0.0,)},
        {"learning_rate_factors": (float("inf"),)},
        {"max_added_params_fractions": (0.5, -0.1)},
        {"max_added_params_fractions": (float("inf"),)},
        {"max_added_params_fractions": (float("nan"),)},
    ],
)
def test_entries_out_of_range_are_refused_by_name(fields: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        FamilyConfig(**fields)  # type: ignore[arg-type]


def test_memory_is_checked_for_the_widest_hosts_of_a_family_all_at_once() -> None:
    base = synthetic()
    host = replace(base.host, max_memory_mb=8.0)
    narrow = replace(base, host=host, family=FamilyConfig(hidden_widths=(4, 8)))
    HostFactory(narrow).check_memory(4)
    with pytest.raises(ConfigError, match="100000 hosts, "):
        HostFactory(narrow).check_memory(100_000)
    wide = replace(narrow, family=FamilyConfig(hidden_widths=(4, 4000)))
    with pytest.raises(ConfigError, match=r"host\.max_memory_mb allows 8\.0 MiB"):
        HostFactory(wide).check_memory(1)


def test_widths_of_language_models_are_drawn_and_compared() -> None:
    config = around(austen(), FamilyConfig(hidden_widths=(16, 48)))
    models = {seed: vary(config, seed).model for seed in range(8)}
    assert {model.width for model in models.values()} == {16, 48}
    assert all(compute_width(model) == model.width for model in models.values())
    seeds = [seed for seed in range(8) if models[seed].width == 16][:1]
    seeds += [seed for seed in range(8) if models[seed].width == 48][:1]
    assert find_narrow(config, seeds) == (seeds[0],)
    with pytest.raises(ConfigError, match=r"draw family\.hidden_widths"):
        find_narrow(around(austen(), FamilyConfig()), (0, 1))
