"""The nested configuration refuses what no run could use."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esper.leyline import ConfigError
from esper.runtime.experiment import CheckpointConfig, ExperimentConfig, ModelConfig, TaskConfig


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: TaskConfig(num_train_rows=3), "task.num_train_rows=3"),
        (lambda: ModelConfig(kind="cnm"), "did you mean 'cnn'"),
        (lambda: CheckpointConfig(every_epochs=-1), "checkpoint.every_epochs=-1"),
        (lambda: CheckpointConfig(keep=1), "checkpoint.keep=1"),
        (lambda: ExperimentConfig(seed=-1), "seed=-1"),
        (lambda: ExperimentConfig(num_threads=-2), "num_threads=-2"),
        (lambda: ExperimentConfig(parallel="hots"), "did you mean 'host'"),
        (lambda: ExperimentConfig(parallel="host", policy="ppo"), "its processes share the policy"),
    ],
)
def test_out_of_range_values_are_named(build: Callable[[], object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build()
