"""Hosts trained on the digits: built from any module, trained for a few epochs, put back at will."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from esper.data import load_dataset
from esper.kasmina import BlueprintRegistry, CNNHost, CNNHostConfig, GateConfig, MLPHost, MLPHostConfig
from esper.tolaria import HostRun, HostRunConfig

from .small_run import drive, make_parts, make_task

if TYPE_CHECKING:
    from torch import nn

BATCH = 64
DIGIT_CNN = CNNHostConfig(in_channels=1, num_classes=10, base_channels=4)
DIGIT_MLP = MLPHostConfig(num_inputs=64, num_classes=10, hidden=(16, 16), norm="batch")


def build_digit_cnn() -> nn.Module:
    """Return a host of 4, 8 and 16 channels with batch norm, 3x3 kernels."""
    return CNNHost(DIGIT_CNN)


def build_digit_mlp() -> nn.Module:
    """Return a host of two hidden layers of 16 with batch norm."""
    return MLPHost(DIGIT_MLP)


def train_on_digits(
    build_host: Callable[[], nn.Module],
    *,
    epochs: int,
    seed: int = 0,
    registry: BlueprintRegistry | None = None,
    gates: GateConfig | None = None,
) -> HostRun:
    """Return a run on the digits, trained for some epochs without growing; 40 more are left."""
    parts = replace(make_parts(load_dataset("digits"), registry=registry), build_host=build_host)
    config = HostRunConfig(batch_size=BATCH, epochs=epochs + 40, gates=gates or GateConfig())
    run = HostRun(make_task(10), config, parts, run_seed=seed)
    drive(run, epochs, ())
    return run
