"""Ranks as real processes: exchanges agree; all others name a rank that dies, stops, hangs or leaves."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from esper.leyline import Collective, ExitCode
from esper.runtime.ranks import DistributedConfig, Heartbeat, RankEnvironment, read_verdicts
from esper.runtime.ranks.rank_group import RankGroup
from runtime.ranks.rank_processes import PATIENCE_S, RankProcesses
from runtime.ranks.worker import CONFIG, STEP

ALONE = RankEnvironment(rank=0, world_size=1, local_rank=0, local_world_size=1, run_id="alone")
LATEST_S = CONFIG.control_timeout_s + 25.0
"""Until all others have left: the timeout, two looks at heartbeats, and the end of a process under load."""


def build_group(folder: Path) -> RankGroup:
    return RankGroup(
        ALONE,
        DistributedConfig(),
        heartbeat=Heartbeat(folder / "ranks", rank=0, session=ALONE.session, every_s=0.5),
        folder=folder / "ranks",
        device=torch.device("cpu"),
        init_method=f"file://{folder / 'store'}",
    )


def test_a_group_of_one_rank_is_opened_used_and_closed(tmp_path: Path) -> None:
    with build_group(tmp_path) as group:
        collective: Collective = group.collective
        assert collective.all_sum([2.0]) == [2.0]
        group.barrier()
        assert group.heartbeat.pulse.counter == 2
        assert not group.pace(1).should_cut(1, 0)
        with pytest.raises(RuntimeError, match="has process groups already"):
            build_group(tmp_path).__enter__()
    assert not dist.is_initialized()
    with pytest.raises(RuntimeError, match="the group is not open"):
        group.barrier()


def assert_victim_is_named(ranks: RankProcesses, phase: str, evidence: str) -> None:
    """All others leave in time with code 4, and log and verdict name the victim and no other rank."""
    survivors = ranks.ends(within_s=LATEST_S)
    verdicts = {verdict.rank: verdict for verdict in read_verdicts(ranks.folder).verdicts}
    assert len(survivors) == ranks.world_size - 1
    for rank, (code, text) in survivors.items():
        assert code == ExitCode.RANK_FAILURE, text
        assert text.count("leaves with code 4") == 1
        verdict = verdicts[rank]
        assert (verdict.code, verdict.phase, verdict.step) == (4, phase, STEP)
        assert verdict.reason.startswith(
            f"rank {ranks.victim} stopped answering in phase {phase} of step {STEP} ({evidence}"
        )
        assert re.findall(r"rank (\d)", verdict.reason) == [str(ranks.victim)]
        assert verdict.reason in text


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("world_size", [2, 3])
def test_exchanges_between_processes_give_every_rank_the_same(world_size: int, tmp_path: Path) -> None:
    with RankProcesses("exchange_everything", tmp_path, world_size) as ranks:
        for code, text in ranks.ends(within_s=PATIENCE_S).values():
            assert code == 0, text
    first, *rest = (json.loads((tmp_path / f"result-{rank}.json").read_text()) for rank in range(world_size))
    assert all(other == first for other in rest)
    mean = (world_size - 1) / 2
    assert first == {
        "sum": [mean * world_size, pytest.approx(0.1 * mean * world_size)],
        "max": [0.0],
        "first": [5.0],
        "agree": [True, False],
        "weight": [[0.5, 0.5]],
        "gradients": [[[mean, mean]], [0.0]],
        "is_cut": True,
    }


@pytest.mark.battery("T16")
@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.fault
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_t16_a_killed_rank_is_named_by_all_others(victim: int, tmp_path: Path) -> None:
    with RankProcesses("add_forever", tmp_path, 3, victim=victim) as ranks:
        ranks.wait_for(victim, phase="update", counter=20)
        ranks.send(signal.SIGKILL)
        assert_victim_is_named(ranks, "update", "its heartbeat stopped, too")


@pytest.mark.battery("T18")
@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.fault
@pytest.mark.parametrize(("victim", "world_size"), [(0, 2), (1, 2), (0, 3), (2, 3)])
def test_t18_a_stopped_rank_is_named_by_all_others(victim: int, world_size: int, tmp_path: Path) -> None:
    with RankProcesses("add_forever", tmp_path, world_size, victim=victim) as ranks:
        ranks.wait_for(victim, phase="update", counter=20)
        ranks.send(signal.SIGSTOP)
        assert_victim_is_named(ranks, "update", "its heartbeat stopped, too")


@pytest.mark.battery("T18")
@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.fault
@pytest.mark.parametrize("victim", [0, 1])
def test_t18_a_rank_that_sleeps_forever_is_named_and_not_one_that_waits(victim: int, tmp_path: Path) -> None:
    with RankProcesses("miss_the_end_of_a_rollout", tmp_path, 3, victim=victim) as ranks:
        for rank in range(3):
            ranks.wait_for(rank, phase="rollout", counter=0)
        assert_victim_is_named(ranks, "rollout", "its heartbeat goes on")


@pytest.mark.battery("T18")
@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.fault
def test_t18_a_rank_whose_interpreter_is_held_is_named(tmp_path: Path) -> None:
    with RankProcesses("hold_the_interpreter", tmp_path, 2, victim=0) as ranks:
        for rank in range(2):
            ranks.wait_for(rank, phase="rollout", counter=1)
        assert_victim_is_named(ranks, "rollout", "its heartbeat stopped, too")


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.fault
def test_a_rank_that_left_with_an_error_of_its_own_is_named_with_it(tmp_path: Path) -> None:
    with RankProcesses("miss_a_gradient", tmp_path, 3, victim=1) as ranks:
        for rank in range(3):
            ranks.wait_for(rank, phase="update", counter=0)
        assert_victim_is_named(ranks, "update", "it left: MemoryError: no room for the gradient")
        code, text = ranks.ends(within_s=LATEST_S, without_victim=False)[1]
    assert code == 1
    assert "Traceback" in text


@pytest.mark.gpu
@pytest.mark.battery("T28")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: NCCL is not in a CPU build")
def test_nccl_carries_the_gradients_of_one_gpu(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2).cuda()
    group = RankGroup(
        ALONE,
        DistributedConfig(),
        heartbeat=Heartbeat(tmp_path / "ranks", rank=0, session=ALONE.session, every_s=0.5),
        folder=tmp_path / "ranks",
        device=torch.device("cuda:0"),
        init_method=f"file://{tmp_path / 'store'}",
    )
    with group:
        group.broadcast_module(module)
        module.weight.grad = torch.full((2, 3), 2.0, device="cuda:0")
        group.reduce_gradients(list(module.parameters()))
        assert torch.equal(module.weight.grad, torch.full((2, 3), 2.0, device="cuda:0"))
        assert module.bias.grad is not None
        assert float(module.bias.grad.abs().sum()) == 0.0
