"""A policy training of seconds: few rows of the digits, a short horizon, a small network."""

from __future__ import annotations

from dataclasses import replace

from esper.runtime.experiment import CheckpointConfig, EnvsConfig, ExperimentConfig
from esper.runtime.presets import digits
from esper.runtime.run import _shorten
from esper.simic import TrainingConfig
from esper.tamiyo import NetworkConfig

SMALL = NetworkConfig(hidden_size=16, token_size=8, family_size=4, attention_heads=2, core_size=16)


def tiny_training(num_rounds: int = 2, epochs: int = 7) -> ExperimentConfig:
    """Two hosts a round with lenient gates, drawn from four seeds."""
    config = _shorten(digits())
    return replace(
        config,
        seed=3,
        policy="ppo",
        task=replace(config.task, num_train_rows=128),
        host=replace(config.host, epochs=epochs),
        envs=EnvsConfig(num_envs=2, num_hosts=4),
        network=SMALL,
        training=TrainingConfig(num_updates=num_rounds),
        telemetry=replace(config.telemetry, progress="none", has_report=False),
        checkpoint=CheckpointConfig(every_epochs=1),
    )
