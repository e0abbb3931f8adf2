"""One process among several: joined, refused, restarted, and gone without unwinding."""

from __future__ import annotations

import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from esper.leyline import ConfigError
from esper.runtime.config_file import read_config
from esper.runtime.policy_run import TrainingRequest, train_among_ranks, train_policy
from esper.runtime.rank_training import find_device, name_folder, train_as_rank
from esper.runtime.ranks import RankEnvironment, RankVerdict, read_verdicts, write_verdict
from esper.tamiyo import load_policy
from runtime.learning import tiny_training

ALONE = RankEnvironment(rank=0, world_size=1, local_rank=0, local_world_size=1, run_id="test")


@pytest.fixture
def meeting_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher tells its workers about where to meet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


join = partial(train_as_rank, train=train_among_ranks)


def fail(code: int) -> None:
    pytest.fail(f"the process ended with code {code}")


def ask(run_dir: Path, num_rounds: int = 2) -> TrainingRequest:
    return TrainingRequest(config=tiny_training(num_rounds), run_dir=run_dir, provenance={})


@pytest.mark.slow
@pytest.mark.usefixtures("meeting_point")
def test_a_single_rank_trains_the_very_policy_of_a_process_alone(tmp_path: Path) -> None:
    alone = train_policy(tiny_training(), run_dir=tmp_path / "alone", provenance={})
    ended: list[int] = []
    request = ask(tmp_path / "rank")
    config = replace(request.config, host=replace(request.config.host, device="auto"))
    joined = join(replace(request, config=config), ALONE, log=pytest.fail, exit_process=ended.append)
    assert joined is not None
    assert (joined.metrics, ended) == (alone.metrics, [])
    weights = [load_policy(result.policy_dir).network.state_dict() for result in (alone, joined)]
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())
    # As given: another rank, and another attempt, are to find a device of their own.
    assert read_config(tmp_path / "rank" / "config.toml").host.device == "auto"


@pytest.mark.usefixtures("meeting_point")
def test_an_error_leaves_a_verdict_and_one_line_and_ends_the_process(tmp_path: Path) -> None:
    request = ask(tmp_path / "run")
    config = replace(request.config, host=replace(request.config.host, device="cuda:77"))
    ended: list[int] = []
    lines: list[str] = []
    assert join(replace(request, config=config), ALONE, log=lines.append, exit_process=ended.append) is None
    assert ended == [2]
    assert len(lines) == 1
    assert "cuda:77" in lines[0]
    (verdict,) = read_verdicts(tmp_path / "run" / "ranks").verdicts
    assert (verdict.code, verdict.rank) == (2, 0)


def test_a_restarted_worker_leaves_at_once_where_a_restart_is_in_vain(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "ranks"
    folder.mkdir(parents=True)
    write_verdict(folder, RankVerdict(code=5, step=3, phase="update", reason="unequal", rank=1, attempt=0))
    ended: list[int] = []
    lines: list[str] = []
    again = replace(ALONE, restart_count=1)
    assert join(ask(tmp_path / "run"), again, log=lines.append, exit_process=ended.append) is None
    assert ended == [5]
    assert lines == ["not restarted: rank 1 left with code 5: unequal"]


@pytest.mark.slow
@pytest.mark.usefixtures("meeting_point")
def test_a_restarted_worker_goes_on_from_the_newest_checkpoint_or_begins_anew(tmp_path: Path) -> None:
    run_dir, lines = tmp_path / "run", list[str]()
    again = replace(ALONE, restart_count=1)
    (run_dir / "ranks").mkdir(parents=True)
    (run_dir / "meta.json").write_text("{}")  # of an attempt that died before its first checkpoint
    first = join(ask(run_dir, 1), again, log=lines.append, exit_process=fail)
    assert first is not None
    assert (run_dir / "ranks" / "attempt-1" / "meta.json").exists()
    second = join(ask(run_dir, 1), replace(again, restart_count=2), log=lines.append, exit_process=fail)
    assert second is not None
    assert second.metrics == first.metrics
    assert not lines


def test_several_processes_need_one_directory() -> None:
    with pytest.raises(ConfigError, match="--run-dir"):
        name_folder(None)


def test_each_rank_gets_a_gpu_of_its_own_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    second = RankEnvironment(rank=1, world_size=2, local_rank=1, local_world_size=2)
    assert find_device("cpu", second) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto", second) == torch.device("cuda:1")
    assert find_device("cuda:0", second) == torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes on a machine with 1 GPUs"):
        find_device("cuda", second)
