"""Settings become objects that fit each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.kasmina import TransformerHost, TransformerHostConfig
from esper.leyline import ConfigError, HostError, UnknownNameError
from esper.runtime import assemble as module
from esper.runtime.assemble import assemble, build_host, check_memory
from esper.runtime.experiment import ExperimentConfig, ModelConfig
from esper.runtime.presets import austen, digits
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


@pytest.mark.parametrize("field", ["blueprints_2d", "blueprints_sequence", "blueprints_flat"])
def test_a_misspelt_blueprint_in_a_rotation_is_refused_and_not_passed_over(field: str) -> None:
    config = digits()
    wrong = {field: ("conv_light", "low_rang")}
    heuristic = replace(config.heuristic, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="'low_rang': did you mean 'low_rank'"):
        assemble(replace(config, heuristic=heuristic))


def test_a_greedy_policy_on_hosts_without_scores_is_refused_because_it_would_only_wait() -> None:
    with pytest.raises(ConfigError, match=r"host\.measuring\.score_every=0: policy greedy"):
        assemble(replace(digits(), policy="greedy"))


def test_a_convolutional_host_for_flat_inputs_is_refused_with_the_one_that_fits() -> None:
    with pytest.raises(ConfigError, match=r"have shape \(16,\): choose model.kind='mlp'"):
        build_host(ModelConfig(kind="cnn"), task_spec("synthetic"))


@pytest.mark.parametrize(("kind", "task"), [("cnn", "austen"), ("mlp", "austen"), ("transformer", "digits")])
def test_only_a_transformer_takes_tokens_and_it_takes_nothing_else(kind: str, task: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.kind='{kind}' does not go with task '{task}'"):
        build_host(ModelConfig(kind=kind), task_spec(task))


def test_every_setting_of_a_transformer_reaches_its_host() -> None:
    model = ModelConfig(
        kind="transformer",
        width=24,
        num_blocks=4,
        num_heads=3,
        mlp_ratio=2.0,
        positions="sinusoidal",
        is_tied=True,
        dropout=0.1,
    )
    host = build_host(model, task_spec("austen"))()
    assert isinstance(host, TransformerHost)
    assert host.config == TransformerHostConfig(
        vocabulary=256,
        context=64,
        width=24,
        num_blocks=4,
        num_heads=3,
        mlp_ratio=2.0,
        positions="sinusoidal",
        is_tied=True,
        dropout=0.1,
    )


def test_memory_of_a_language_model_is_counted_on_its_tokens() -> None:
    config, task = austen(), task_spec("austen")
    huge = replace(config, host=replace(config.host, max_memory_mb=5.0))
    with pytest.raises(ConfigError, match=r"training takes about .* host\.max_memory_mb allows 5\.0 MiB"):
        check_memory(huge, task, num_hosts=1)
    check_memory(replace(config, host=replace(config.host, max_memory_mb=500.0)), task, num_hosts=1)


def test_a_host_that_is_too_deep_for_its_images_is_refused() -> None:
    config = digits()
    with pytest.raises(HostError, match=r"CNNHost does not take inputs of shape \(1, 8, 8\)"):
        assemble(replace(config, model=replace(config.model, num_blocks=6, num_pools=6)))


def test_a_device_that_is_not_here_is_refused() -> None:
    config = digits()
    with pytest.raises(ConfigError, match="cuda:7"):
        assemble(replace(config, host=replace(config.host, device="cuda:7")))


def test_a_run_that_does_not_fit_is_refused_before_its_host_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    config = digits()
    monkeypatch.setattr(module, "available_memory", lambda device: 2**20)
    monkeypatch.setattr(module, "HostRun", None)  # calling it would be another error
    with pytest.raises(ConfigError, match=r"training takes about .* cpu has free 1\.0 MiB: lower"):
        assemble(config)


def test_memory_is_checked_without_allocating_and_without_moving_a_stream() -> None:
    """A host of 65,536 channels takes hundreds of gigabytes."""
    config = digits()
    huge = replace(config, model=replace(config.model, base_channels=65_536))
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match="or choose a smaller host"):
        check_memory(huge, task_spec("digits"), num_hosts=1)
    check_memory(config, task_spec("digits"), num_hosts=1)
    assert torch.equal(before, torch.get_rng_state())


def test_hosts_that_live_at_once_are_added_up() -> None:
    config, task = digits(), task_spec("digits")
    fits = replace(config, host=replace(config.host, max_memory_mb=2.5))
    check_memory(fits, task, num_hosts=1)
    with pytest.raises(ConfigError, match="1000 hosts"):
        check_memory(fits, task, num_hosts=1000)


def test_a_run_asks_its_device_for_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [2**40]
    monkeypatch.setattr(module, "available_memory", lambda device: free[0])
    run = assemble(digits()).host_run
    assert run.observe().budgets.memory_bytes_left is None
    free[0] = 2**20
    assert run.observe().budgets.memory_bytes_left is not None
