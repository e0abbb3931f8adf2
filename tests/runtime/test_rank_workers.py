from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from esper.leyline import ExitCode, InterruptedRunError
from esper.runtime.rank_workers import Attempt, describe_logs, start_ranks
from esper.runtime.ranks import RankVerdict, write_verdict

WORKER = (sys.executable, str(Path(__file__).with_name("launch_worker.py")))


def plan(folder: Path, spec: str, *args: str, num_ranks: int = 2, number: int = 0) -> Attempt:
    """Return an attempt in a run directory whose ranks do what `spec` says."""
    ranks = folder / "ranks"
    ranks.mkdir(exist_ok=True)
    return Attempt(
        command=(*WORKER, spec, *args, f"--run-dir={folder}"),
        num_ranks=num_ranks,
        folder=ranks,
        number=number,
        run_id=f"test-{number}",
        stop_timeout_s=10.0,
    )


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_that_end_well_leave_output_and_no_exits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    odd = ("$HOME", "$$", "${local_rank}", "a b", "'")
    assert start_ranks(plan(tmp_path, "0=", *odd)) == ()
    assert start_ranks(plan(tmp_path, "0=", *odd, number=1)) == ()
    shown = f"args {[*odd, f'--run-dir={tmp_path}']}\n"
    out, err = capfd.readouterr()
    assert out == f"rank 0 attempt 0 {shown}rank 0 attempt 1 {shown}"
    assert err == "threads 1 launched 1\n" * 2
    text = (tmp_path / "ranks" / "rank-1.log").read_text(encoding="utf-8")
    assert text.index("--- attempt 1\n") < text.index("rank 1 attempt 0") < text.index("--- attempt 2\n")
    assert text.count(shown) == text.count("threads 1 launched 1\n") == 2
    assert list(tmp_path.glob("ranks/*.pid")) == []


@pytest.mark.dist
@pytest.mark.slow
def test_every_rank_that_ended_badly_is_returned_with_its_own_code_and_verdict(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt = plan(tmp_path, "0=meet+leave4;1=meet+kill;2=meet", num_ranks=3)
    old = RankVerdict(code=2, step=1, phase="rollout", reason="of an earlier command", rank=1, attempt=0)
    write_verdict(attempt.folder, old)
    exits = {item.rank: item for item in start_ranks(attempt)}
    assert exits.keys() <= {0, 1, 2}
    assert (exits[1].status, exits[1].verdict) == (-signal.SIGKILL, None)
    if exits[0].status != -signal.SIGTERM:
        assert exits[0].status == 4
        assert exits[0].verdict is not None
        assert exits[0].verdict.reason == "as asked"
    assert "closing signal" not in capfd.readouterr().err
    assert "failed (exitcode: " in (attempt.folder / "launcher.log").read_text(encoding="utf-8")


@pytest.mark.dist
@pytest.mark.slow
def test_quitting_ends_all_ranks_and_puts_the_handler_back(tmp_path: Path) -> None:
    previous = signal.getsignal(signal.SIGQUIT)
    attempt = plan(tmp_path, "0=meet+quit;1=meet+wait")
    with pytest.raises(InterruptedRunError, match="SIGQUIT ended all ranks") as caught:
        start_ranks(attempt)
    assert caught.value.signal_exit_code is ExitCode.SIGTERM
    assert signal.getsignal(signal.SIGQUIT) is previous
    for rank in range(attempt.num_ranks):  # other children of this process are none of its business
        with pytest.raises(ProcessLookupError):
            os.kill(int((attempt.folder / f"ready-0-{rank}").read_text(encoding="utf-8")), 0)


@pytest.mark.parametrize(
    ("num_ranks", "text"),
    [
        (1, ""),
        (2, "output of rank 1: r/rank-1.log"),
        (4, "output of ranks 1 to 3: r/rank-1.log to rank-3.log"),
    ],
)
def test_it_is_told_where_the_output_of_the_other_ranks_lies(num_ranks: int, text: str) -> None:
    assert describe_logs(Path("r"), num_ranks) == text
