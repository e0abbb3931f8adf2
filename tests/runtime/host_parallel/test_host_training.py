"""The wiring of one host in several processes; what they come to is in tests/faults/test_host_ranks.py."""

from __future__ import annotations

import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from esper.leyline import JsonValue, RanksDisagreeError
from esper.nissa import effective_log
from esper.runtime.config_file import read_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.host_parallel.host_training import HostTraining, receive_record, send_record
from esper.runtime.policy_run import TrainingRequest
from esper.runtime.presets import build_preset
from esper.runtime.rank_training import train_as_rank
from esper.runtime.ranks import RankEnvironment
from esper.runtime.ranks.channel import Channel, Operation
from esper.runtime.run import run_experiment
from esper.tolaria import StateRecord
from runtime.host_parallel.copies import results
from runtime.ranks.thread_ranks import run_ranks

ALONE = RankEnvironment(rank=0, world_size=1, local_rank=0, local_world_size=1, run_id="test")


@pytest.fixture
def meeting_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher tells its workers about where to meet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def settings(*, epochs: int = 4) -> ExperimentConfig:
    config = build_preset("synthetic")
    return replace(
        config,
        policy="cycle",
        parallel="host",
        host=replace(config.host, epochs=epochs),
        model=replace(config.model, dropout=0.1),
    )


def read_log(run_dir: Path) -> list[str]:
    return list(effective_log(run_dir))


@pytest.mark.slow
@pytest.mark.usefixtures("meeting_point")
def test_a_single_rank_lives_the_very_life_of_a_process_alone(tmp_path: Path) -> None:
    alone = run_experiment(settings(), run_dir=tmp_path / "alone", provenance={})
    request = TrainingRequest(config=settings(), run_dir=tmp_path / "rank", provenance={})
    ended: list[int] = []
    join = partial(train_as_rank, log=pytest.fail, exit_process=ended.append)
    joined = join(request, ALONE, train=HostTraining(settings()))
    assert ended == []
    assert joined is not None
    assert replace(joined, run_dir=None) == replace(alone, run_dir=None)
    assert read_log(tmp_path / "rank") == read_log(tmp_path / "alone")
    assert read_config(tmp_path / "rank" / "config.toml") == settings()


def test_what_rank_0_loaded_reaches_the_others_as_it_was(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor(3, dtype=torch.int64)}
    state: dict[str, JsonValue] = {"run": {"epoch": 3}, "words": ["x", None, 0.1]}

    def pass_on(channel: Channel) -> tuple[StateRecord, str]:
        record = StateRecord(tensors=tensors, state=dict(state))
        if channel.place.rank == 0:
            send_record(record, "hash", channel)
            return record, "hash"
        return receive_record(channel)

    for record, topology_hash in results(run_ranks(tmp_path, 3, pass_on)):
        assert (record.state, topology_hash) == (state, "hash")
        assert all(torch.equal(record.tensors[name], tensor) for name, tensor in tensors.items())


def test_a_rank_that_waits_for_a_record_while_the_others_train_is_told_so(tmp_path: Path) -> None:
    def differ(channel: Channel) -> object:
        if channel.place.rank == 1:
            return receive_record(channel)
        return channel.meet(Operation.VOTE)

    for error in run_ranks(tmp_path, 2, differ):
        assert isinstance(error, RanksDisagreeError)
        assert "record on rank 1" in str(error)
