"""Settings to a fleet: the same training whichever runs the hosts, on one copy of the data."""

from __future__ import annotations

import os
import signal
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
from esper.runtime.ranks.lone import LoneRank
from esper.runtime.training import EnvBuilder, assemble_training
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
        kept = [
            part for storage in factory._cache._entries.values() for part in (storage.inputs, storage.targets)
        ]
        assert len(kept) == len(held) == 2 * 3 * 2  # choices of rows, splits, inputs and targets
        assert all(tensor.is_shared() for tensor in (*held, *kept))  # type: ignore[no-untyped-call]
    finally:
        fleet.close()


def test_serial_is_the_default() -> None:
    fleet = build_fleet(tiny_training().fleet, HostFactory(tiny_training()), (10_000,), count)
    assert isinstance(fleet, SerialFleet)


def test_a_worker_uses_one_thread_whatever_the_settings_say() -> None:
    hosts = HostFactory(replace(tiny_training(), num_threads=3)).for_workers()
    hosts(NullSink())(10_000)
    assert torch.get_num_threads() == 1


@pytest.mark.slow
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


@pytest.mark.fault
@pytest.mark.slow
def test_a_policy_learns_on_when_a_worker_is_killed_and_restarted() -> None:
    config = replace(tiny_training(num_rounds=2, epochs=3), fleet=replace(PROCESS, on_death="restart"))
    assembly = assemble_training(config, LoneRank())
    fleet = assembly.env._parts.fleet
    assert isinstance(fleet, ProcessFleet)
    try:
        os.kill(fleet.pids[1], signal.SIGKILL)
        first, second = assembly.trainer.run_round(), assembly.trainer.run_round()
    finally:
        assembly.env.close()
    assert first is not None
    assert second is not None
    assert first.metrics["rollout/num_quarantined"] + second.metrics["rollout/num_quarantined"] <= 1.0
    assert second.metrics["rollout/num_steps"] == 6.0


@pytest.mark.fault
def test_a_row_whose_worker_is_killed_between_two_steps_is_not_learned_from() -> None:
    config = replace(tiny_training(), fleet=replace(PROCESS, on_death="restart"))
    env, serial = EnvBuilder(config).build((0, 1)), EnvBuilder(tiny_training()).build((0, 1))
    fleet = env._parts.fleet
    assert isinstance(fleet, ProcessFleet)
    wait = torch.zeros(2, len(env.layout.heads), dtype=torch.int64)
    try:
        for each in (env, serial):
            each.reset(torch.ones(2, dtype=torch.bool))
        os.kill(fleet.pids[1], signal.SIGKILL)
        step, expected = env.step(wait), serial.step(wait)
    finally:
        env.close()
    assert (step.is_valid.tolist(), step.truncated.tolist()) == ([True, False], [False, True])
    assert float(step.reward[0]) == float(expected.reward[0])
    summary = step.summaries[1]
    assert summary is not None
    assert "was ended by signal 9 (SIGKILL)" in str(summary["reason"])


def test_hosts_on_another_device_are_refused_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.runtime.families.resolve_device", lambda text: torch.device("cuda:0"))
    with pytest.raises(ConfigError, match="workers run on the cores of the CPU; choose --fleet serial"):
        HostFactory(tiny_training()).for_workers()


def test_too_little_shared_memory_is_refused_before_a_write_beyond_it_ends_the_process(
    tmp_path: Path,
) -> None:
    refuse_little_shared(1, tmp_path)
    refuse_little_shared(2**60, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"take 1099511627776.0 MiB of shared memory.*--fleet serial"):
        refuse_little_shared(2**60, tmp_path)
