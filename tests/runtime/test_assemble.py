"""Settings become objects that fit each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.leyline import ConfigError, UnknownNameError
from esper.runtime.assemble import assemble, build_host
from esper.runtime.experiment import ExperimentConfig, ModelConfig
from esper.runtime.presets import digits
from esper.runtime.tasks import task_spec


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_a_host_takes_the_tasks_inputs_and_gives_its_outputs(kind: str) -> None:
    host = build_host(ModelConfig(kind=kind, base_channels=4), task_spec("digits"))()
    assert host(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_every_growth_point_offers_blueprints_with_costs() -> None:
    assembly = assemble(digits())
    space = assembly.host_run.observe().space
    assert space.slot_ids == ("block1", "block2")
    assert all(space.descriptors[slot] for slot in space.slot_ids)


def test_a_family_name_expands_to_its_members() -> None:
    assembly = assemble(replace(digits(), blueprints=("conv",)))
    assert assembly.host_run.observe().space.blueprint_ids == ("conv_small", "conv_light", "conv_heavy")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"blueprints": ("conv_lite",)}, "did you mean 'conv_light'"),
        ({"slots": ("blok1",)}, "did you mean 'block1'"),
        ({"policy": "heuristik"}, "did you mean 'heuristic'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_one(changed: dict[str, object], named: str) -> None:
    config: ExperimentConfig = replace(digits(), **changed)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=named):
        assemble(config)


def test_a_device_that_is_not_here_is_refused() -> None:
    config = digits()
    with pytest.raises(ConfigError, match="cuda:7"):
        assemble(replace(config, host=replace(config.host, device="cuda:7")))
