"""Hosts by seed: what a seed stands for depends on the seed alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.leyline import ConfigError, Decision
from esper.runtime.assemble import assemble
from esper.runtime.experiment import ExperimentConfig, FamilyConfig
from esper.runtime.families import HostFactory, vary
from esper.runtime.presets import digits, synthetic
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
    ],
)
def test_entries_out_of_range_are_refused_by_name(fields: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        FamilyConfig(**fields)  # type: ignore[arg-type]
