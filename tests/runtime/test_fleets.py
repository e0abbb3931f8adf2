"""Settings to a fleet: the same training whichever runs the hosts, on one copy of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.data import TaskData
from esper.leyline import ConfigError, NullSink, Observation
from esper.runtime.experiment import FamilyConfig
from esper.runtime.families import HostFactory, refuse_little_shared
from esper.runtime.fleets import build_fleet
from esper.runtime.training import EnvBuilder
from esper.tolaria import FleetConfig, ProcessFleet, SerialFleet
from runtime.learning import tiny_training

PROCESS = FleetConfig(kind="process", workers=2, timeout_s=120.0)


def count(observations: Sequence[Observation]) -> int:
    return len(observations)


def list_tensors(data: TaskData) -> list[torch.Tensor]:
    return [part for s in (data.train, data.validation, data.test) for part in (s.inputs, s.targets)]


def test_workers_and_this_process_look_at_the_same_data() -> None:
    config = replace(tiny_training(), family=FamilyConfig(num_train_rows=(64, 128)))
    factory = HostFactory(config)
    fleet = build_fleet(PROCESS, factory, (10_000, 10_001), count)
    try:
        assert isinstance(fleet, ProcessFleet)
        assert len(factory._loaded) == 2
        held = [tensor for _, data in factory._loaded.values() for tensor in list_tensors(data)]
        kept = [part for storage in factory._cache._entries.values() for part in (storage.inputs, storage.targets)]
        assert len(kept) == 2 * len({key.source for key in factory._cache._entries})
        assert all(tensor.is_shared() for tensor in (*held, *kept))
    finally:
        fleet.close()


def test_serial_is_the_default() -> None:
    fleet = build_fleet(tiny_training().fleet, HostFactory(tiny_training()), (10_000,), count)
    assert isinstance(fleet, SerialFleet)


def test_a_worker_uses_one_thread_whatever_the_settings_say() -> None:
    hosts = HostFactory(replace(tiny_training(), num_threads=3)).for_workers()
    hosts(NullSink())(10_000)
    assert torch.get_num_threads() == 1


def test_rows_of_an_environment_step_alike_in_workers_and_here() -> None:
    config = tiny_training()
    envs = [EnvBuilder(replace(config, fleet=fleet)).build((0, 1)) for fleet in (FleetConfig(), PROCESS)]
    try:
        for env in envs:
            env.reset(torch.ones(2, dtype=torch.bool))
        for action in (1, 0, 0):
            actions = torch.full((2, len(envs[0].layout.heads)), action)
            here, there = (env.step(actions) for env in envs)
            assert torch.equal(here.reward, there.reward)
            assert all(torch.equal(tensor, there.inputs[name]) for name, tensor in here.inputs.items())
    finally:
        for env in envs:
            env.close()


def test_hosts_on_another_device_are_refused_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.runtime.families.resolve_device", lambda text: torch.device("cuda:0"))
    with pytest.raises(ConfigError, match="workers run on the cores of the CPU; choose --fleet serial"):
        HostFactory(tiny_training()).for_workers()


def test_too_little_shared_memory_is_refused_before_a_write_beyond_it_ends_the_process(tmp_path: Path) -> None:
    refuse_little_shared(1, tmp_path)
    refuse_little_shared(2**60, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"take 1099511627776.0 MiB of shared memory.*--fleet serial"):
        refuse_little_shared(2**60, tmp_path)
