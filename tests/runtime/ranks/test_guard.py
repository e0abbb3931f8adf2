from __future__ import annotations

from pathlib import Path

import pytest

from esper.leyline import ExitCode, RankFailureError
from esper.runtime.ranks import Heartbeat
from esper.runtime.ranks.guard import Guard
from esper.runtime.ranks.heartbeat import FAILED


def build_guard(folder: Path) -> tuple[Guard, Heartbeat]:
    heartbeat = Heartbeat(folder, rank=0, session="run/0", every_s=60.0)
    return Guard(heartbeat, folder, world_size=2, silence_s=0.0), heartbeat


def test_an_error_of_torch_becomes_one_that_names_the_culprit(tmp_path: Path) -> None:
    guard, heartbeat = build_guard(tmp_path)
    told = r"^rank 1 never started .*, noticed in barrier$"
    with pytest.raises(RankFailureError, match=told) as caught, guard("barrier"):
        raise RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:55492")
    assert caught.value.exit_code is ExitCode.RANK_FAILURE
    assert caught.value.rank == 1
    assert "pair.cc" in str(caught.value.__cause__)
    assert (heartbeat.pulse.state, heartbeat.pulse.suspect) == (FAILED, 1)


def test_what_is_no_error_of_torch_goes_through(tmp_path: Path) -> None:
    guard, heartbeat = build_guard(tmp_path)
    with pytest.raises(KeyError), guard("barrier"):
        raise KeyError("ours")
    with guard("barrier"):
        pass
    assert heartbeat.pulse.state == "running"
