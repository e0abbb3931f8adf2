from __future__ import annotations

from pathlib import Path

import pytest

from esper.leyline import ConfigError, ExitCode, InterruptedRunError, RankFailureError
from esper.runtime.ranks import Heartbeat, Pulse, RankEnvironment, leave, read_verdicts
from esper.runtime.ranks.heartbeat import read_pulse

PLACE = RankEnvironment(rank=1, world_size=2, local_rank=1, local_world_size=2, restart_count=3, run_id="r")


def leave_with(
    error: BaseException, folder: Path, *, verdict_folder: Path | None = None
) -> tuple[list[str], list[int]]:
    """Leave from phase rollout of step 7; return the lines logged and the codes of exits."""
    heartbeat = Heartbeat(folder, rank=1, session=PLACE.session, every_s=60.0)
    heartbeat.start()
    heartbeat.enter("rollout", 7)
    if isinstance(error, RankFailureError):
        heartbeat.admit_failure(error.rank)
    lines: list[str] = []
    codes: list[int] = []
    leave(
        error,
        folder=verdict_folder or folder,
        environment=PLACE,
        heartbeat=heartbeat,
        log=lines.append,
        exit_process=codes.append,
    )
    return lines, codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RankFailureError("rank 0 stopped answering", 0), 4),
        (ConfigError("no such thing"), 2),
        (InterruptedRunError("stopped", ExitCode.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
        (ValueError("a fault of ours"), 1),
        (SystemExit(2), 2),
        (SystemExit(None), 0),
        (SystemExit("why"), 1),
    ],
)
def test_code_and_verdict_follow_the_kind_of_error(error: BaseException, code: int, tmp_path: Path) -> None:
    lines, codes = leave_with(error, tmp_path)
    assert codes == [code]
    (verdict,) = read_verdicts(tmp_path).verdicts
    assert (verdict.code, verdict.rank, verdict.attempt) == (code, 1, 3)
    assert (verdict.phase, verdict.step) == ("rollout", 7)
    assert len(lines) == 1
    assert lines[0].startswith(f"rank 1 leaves with code {code}: ")


def test_an_error_of_ours_takes_one_line_and_any_other_its_traceback(tmp_path: Path) -> None:
    (line,), _ = leave_with(RankFailureError("first\nsecond", 0), tmp_path)
    assert line == "rank 1 leaves with code 4: first second"
    (line,), _ = leave_with(ValueError("bad"), tmp_path)
    assert line.splitlines() == ["rank 1 leaves with code 1: ValueError: bad", "ValueError: bad"]


def test_peers_are_told_that_it_left_unless_it_is_a_witness(tmp_path: Path) -> None:
    leave_with(MemoryError("no room"), tmp_path)
    pulse = read_pulse(tmp_path, 1, PLACE.session)
    assert isinstance(pulse, Pulse)
    assert (pulse.state, pulse.reason) == ("left", "MemoryError: no room")
    leave_with(RankFailureError("rank 0", 0), tmp_path)
    pulse = read_pulse(tmp_path, 1, PLACE.session)
    assert isinstance(pulse, Pulse)
    assert (pulse.state, pulse.suspect) == ("failed", 0)


def test_a_verdict_that_cannot_be_written_keeps_nobody_from_leaving(tmp_path: Path) -> None:
    (line,), codes = leave_with(RankFailureError("gone", 0), tmp_path, verdict_folder=tmp_path / "missing")
    assert codes == [4]
    assert "no verdict was written" in line
