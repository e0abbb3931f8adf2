from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from esper.leyline import ConfigError, ExitCode, RunDirectoryError
from esper.runtime.launch_rules import RankExit
from esper.runtime.launching import LaunchPlan, find_newest_place, has_grown, launch, set_aside
from esper.runtime.rank_workers import Attempt
from esper.runtime.ranks import Heartbeat
from esper.runtime.run_folder import RunFolder, RunOrigin
from esper.runtime.run_lock import RunLock

ORIGIN = RunOrigin(task="digits", policy="ppo", seed=0)
WORKER = (sys.executable, str(Path(__file__).with_name("launch_worker.py")))
TALKER = (sys.executable, str(Path(__file__).with_name("launch_talker.py")))
PATIENCE_S = 60.0
KILLED, TOLD = -signal.SIGKILL, -signal.SIGTERM

Ends = tuple[RankExit, ...]


def ends(*statuses: int) -> Ends:
    """Return ranks that ended so; 0 = well."""
    return tuple(RankExit(rank=rank, status=status) for rank, status in enumerate(statuses) if status)


class FakeRanks:
    """Stands in for `start_ranks`: in each attempt saves if asked to, and ends as scripted."""

    def __init__(self, run_dir: Path, script: Sequence[tuple[str, Ends]]) -> None:
        self.run_dir, self.script = run_dir, list(script)
        self.attempts: list[Attempt] = []

    def __call__(self, attempt: Attempt) -> Ends:
        saved, exits = self.script[len(self.attempts)]
        self.attempts.append(attempt)
        if saved == "heartbeat":
            beat = Heartbeat(attempt.folder, rank=1, session=attempt.session, every_s=0.5)
            beat.enter("rollout", step=7)
            beat.close()
        elif saved == "run":
            RunFolder.create(self.run_dir, config_text="", origin=ORIGIN).close()
        elif saved:
            (self.run_dir / "checkpoints" / saved).mkdir(parents=True)
        return exits

    @property
    def commands(self) -> list[tuple[str, ...]]:
        return [attempt.command for attempt in self.attempts]


def plan(run_dir: Path, num_ranks: int = 2, max_restarts: int = 3) -> LaunchPlan:
    return LaunchPlan(args=("train", "ppo"), run_dir=run_dir, num_ranks=num_ranks, max_restarts=max_restarts)


def play(run_dir: Path, *script: tuple[str, Ends], max_restarts: int = 3) -> tuple[int, FakeRanks, list[str]]:
    """Launch with scripted ranks; return the code, what was started, and what was said."""
    said: list[str] = []
    ranks = FakeRanks(run_dir, script)
    code = launch(plan(run_dir, max_restarts=max_restarts), say=said.append, worker=("w",), start=ranks)
    return code, ranks, said


@pytest.fixture
def handlers() -> Iterator[None]:
    """Handlers as in a shell's foreground: a suite in the background inherits ignored signals."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, previous, strict=True):
        signal.signal(number, handler)


# ---------------------------------------------------------------------- the loop, with scripted ranks


def test_ranks_that_finish_are_started_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "a"
    code, ranks, said = play(run_dir, ("", ()))
    assert code == 0
    assert ranks.commands == [("w", "train", "ppo", f"--run-dir={run_dir}")]
    assert said == [f"output of rank 1: {run_dir}/ranks/rank-1.log"]


def test_a_dead_rank_is_named_and_all_go_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    code, ranks, said = play(tmp_path, ("e0012-b00003", ends(4, KILLED)), ("", ()))
    assert code == 0
    assert ranks.commands[1] == ("w", "train", f"--resume={tmp_path}")
    assert said[0] == (
        "attempt 1: rank 1 was killed by SIGKILL (then ended: rank 0 with 4); "
        "restart 1 of 3 from checkpoint e0012-b00003"
    )


def test_the_last_sign_of_life_of_the_culprit_is_told(tmp_path: Path) -> None:
    _, _, said = play(tmp_path, ("heartbeat", ends(4, KILLED)), ("", ()))
    assert "rank 1 was killed by SIGKILL, last seen in phase rollout of step 7 (then" in said[0]


def test_witnesses_alone_are_quoted(tmp_path: Path) -> None:
    _, _, said = play(tmp_path, ("", ends(4, 4)), ("", ()))
    assert said[0].startswith("attempt 1: rank 0 ended with code 4 and without a verdict; restart 1 of 3")


def test_every_attempt_has_names_of_its_own(tmp_path: Path) -> None:
    _, ranks, _ = play(tmp_path, ("", ends(4)), ("", ends(4)), ("", ()))
    assert len({attempt.run_id for attempt in ranks.attempts}) == 3
    assert len({attempt.session for attempt in ranks.attempts}) == 3
    assert [attempt.number for attempt in ranks.attempts] == [0, 1, 2]


@pytest.mark.parametrize("code", [2, 3, 5, 6, 93, 130, 143])
def test_nothing_is_started_again_after_an_end_that_is_final(code: int, tmp_path: Path) -> None:
    found, ranks, said = play(tmp_path, ("e0001-b00000", ends(code)))
    assert (found, len(ranks.attempts)) == (code, 1)
    assert len(said) == 2


def test_a_crash_loop_without_progress_ends_after_three_attempts(tmp_path: Path) -> None:
    code, ranks, said = play(tmp_path, *[("", ends(1))] * 3, max_restarts=9)
    assert (code, len(ranks.attempts)) == (ExitCode.NO_PROGRESS, 3)
    assert said[-2].endswith("; 3 attempts in a row saved nothing new; not restarted")


def test_progress_begins_the_count_anew(tmp_path: Path) -> None:
    names = ["e0001-b00000", "", "", "e0002-b00000", "", "", ""]
    code, ranks, _ = play(tmp_path, *[(name, ends(1)) for name in names], max_restarts=9)
    assert (code, len(ranks.attempts)) == (ExitCode.NO_PROGRESS, len(names))


def test_an_older_checkpoint_is_no_progress(tmp_path: Path) -> None:
    names = ["e0005-b00000", "e0004-b00000", "e0003-b00000", "e0002-b00000"]
    code, ranks, _ = play(tmp_path, *[(name, ends(1)) for name in names], max_restarts=9)
    assert (code, len(ranks.attempts)) == (ExitCode.NO_PROGRESS, 4)


@pytest.mark.parametrize("max_restarts", [0, 1, 4])
def test_restarts_that_are_used_up_leave_the_code_of_the_last_attempt(
    max_restarts: int, tmp_path: Path
) -> None:
    script = [(f"e{number:04d}-b00000", ends(KILLED)) for number in range(max_restarts + 1)]
    code, _, said = play(tmp_path, *script, max_restarts=max_restarts)
    assert code == ExitCode.RANK_FAILURE
    again = f"esper launch --nproc-per-node 2 -- train --resume {tmp_path}"
    assert said[-2].endswith(f"no restarts are left; go on: {again}")


def test_a_run_that_saved_nothing_begins_again_in_the_same_directory(tmp_path: Path) -> None:
    code, ranks, said = play(tmp_path, ("run", ends(1)), ("run", ends(1)), ("", ()))
    assert code == 0
    assert ranks.commands == [("w", "train", "ppo", f"--run-dir={tmp_path}")] * 3
    assert said[0].endswith(
        "restart 1 of 3 from the beginning, because nothing was saved yet; what the attempt wrote is in "
        f"{tmp_path}/ranks/attempt-1"
    )
    for number in (1, 2):
        assert (tmp_path / "ranks" / f"attempt-{number}" / "meta.json").is_file()
    assert not (tmp_path / "meta.json").exists()


def test_a_resumed_run_is_never_set_aside(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, config_text="", origin=ORIGIN).close()
    ranks = FakeRanks(tmp_path, [("", ends(1)), ("", ())])
    args = ("train", "--resume", str(tmp_path))
    resumed = LaunchPlan(args=args, run_dir=tmp_path, num_ranks=2, is_resumed=True)
    assert launch(resumed, say=lambda _: None, worker=("w",), start=ranks) == 0
    assert ranks.commands == [("w", "train", f"--resume={tmp_path}")] * 2
    assert (tmp_path / "meta.json").is_file()


# ---------------------------------------------------------------------- what is refused before a start


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"num_ranks": 0}, r"--nproc-per-node 0: must be in \[1, 256\]"),
        ({"num_ranks": 257}, "--nproc-per-node 257"),
        ({"max_restarts": -1}, "--max-restarts -1: must be >= 0"),
        ({"stop_timeout_s": 0.0}, "--timeout-s 0.0"),
        ({"stop_timeout_s": float("nan")}, "--timeout-s nan"),
    ],
)
def test_numbers_out_of_range_are_refused(values: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        LaunchPlan(**{"args": ("train",), "run_dir": Path("a"), "num_ranks": 2} | values)  # type: ignore[arg-type]


def test_a_directory_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, config_text="", origin=ORIGIN).close()
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        play(tmp_path)
    assert not (tmp_path / "ranks").exists()


def test_going_on_without_a_run_is_refused(tmp_path: Path) -> None:
    resumed = LaunchPlan(args=("train",), run_dir=tmp_path / "a", num_ranks=2, is_resumed=True)
    with pytest.raises(RunDirectoryError):
        launch(resumed, say=lambda _: None)
    assert not (tmp_path / "a").exists()


def test_two_launchers_of_one_run_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "ranks").mkdir()
    lock = RunLock(tmp_path / "ranks" / "lock")
    with pytest.raises(RunDirectoryError, match="ranks is in use by process"):
        play(tmp_path)
    lock.release()
    assert play(tmp_path, ("", ()))[0] == 0


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot be made"):
        play(tmp_path / "file" / "a")


def test_a_run_that_somebody_still_holds_is_not_set_aside(tmp_path: Path) -> None:
    with (
        RunFolder.create(tmp_path, config_text="", origin=ORIGIN),
        pytest.raises(RunDirectoryError, match="in use"),
    ):
        set_aside(tmp_path, 0)
    assert (tmp_path / "meta.json").is_file()


def test_the_newest_place_is_that_of_the_largest_name(tmp_path: Path) -> None:
    assert find_newest_place(tmp_path) is None
    for name in ("e0009-b00000", "e10000-b00001", "e9999-b99999", "e0001-b00002-r1", "LATEST", ".tmp-x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert find_newest_place(tmp_path) == (1, 1, 2)
    (tmp_path / "checkpoints" / "e0001-b00002-r1").rmdir()
    assert find_newest_place(tmp_path) == (0, 10_000, 1)


def test_progress_is_a_newer_place() -> None:
    assert has_grown(None, (0, 0, 0))
    assert has_grown((0, 1, 2), (0, 1, 3))
    assert not any(
        has_grown(*pair) for pair in ((None, None), ((0, 1, 2), (0, 1, 2)), ((0, 2, 0), (0, 1, 9)))
    )


# ---------------------------------------------------------------------- with processes


def run(run_dir: Path, spec: str, num_ranks: int = 2, **values: float) -> tuple[int, list[str]]:
    """Launch real processes that do what `spec` says; return the code and what was said."""
    said: list[str] = []
    whole = LaunchPlan(args=("train", "ppo"), run_dir=run_dir, num_ranks=num_ranks, **values)  # type: ignore[arg-type]
    return launch(whole, say=said.append, worker=(*WORKER, spec)), said


def once_there(paths: Sequence[Path], act: Callable[[], None]) -> threading.Thread:
    """Do something in a thread as soon as all files exist."""

    def wait() -> None:
        for _ in range(int(PATIENCE_S / 0.01)):
            if all(path.exists() for path in paths):
                act()
                return
            threading.Event().wait(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_processes_that_finish_return_zero(tmp_path: Path) -> None:
    code, said = run(tmp_path, "0=meet;1=meet")
    assert (code, len(said)) == (0, 1)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("others", ["leave4", "exit4", "wait", ""])
def test_a_killed_rank_is_named_and_the_restart_goes_on(victim: int, others: str, tmp_path: Path) -> None:
    parts = [
        f"{rank}=meet+save+kill meet" if rank == victim else f"{rank}=meet+{others} meet" for rank in range(3)
    ]
    code, said = run(tmp_path, ";".join(parts), 3)
    assert code == 0
    assert said[0].startswith(f"attempt 1: rank {victim} was killed by SIGKILL")
    assert said[0].endswith("; restart 1 of 3 from checkpoint e0001-b00000")
    log = (tmp_path / "ranks" / "rank-1.log").read_text(encoding="utf-8")
    assert f"rank 1 attempt 1 args ['train', '--resume={tmp_path}']" in log


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_ranks_that_exchange_numbers_meet_again_after_one_was_killed(victim: int, tmp_path: Path) -> None:
    said: list[str] = []
    assert launch(plan(tmp_path, 3), say=said.append, worker=(*TALKER, str(victim))) == 0, said
    beginning = f"attempt 1: rank {victim} was killed by SIGKILL, last seen in phase talk of step 3 (then"
    assert said[0].startswith(beginning)
    assert said[0].endswith("; restart 1 of 3 from checkpoint e0003-b00000")
    assert len(said) == 2


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("word", ["exit2", "leave3", "exit5", "leave6"])
def test_a_final_code_of_one_process_is_returned_at_once(word: str, tmp_path: Path) -> None:
    code, said = run(tmp_path, f"0=meet+wait;1=meet+{word}")
    assert code == int(word[-1])
    assert said[0].startswith("attempt 1: rank 1 ")
    assert said[0].endswith("; a restart cannot help")


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_processes_that_crash_every_time_end_with_93(
    victim: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = run(tmp_path, f"{victim}=meet+meta+crash;{1 - victim}=meet+wait", max_restarts=9)
    assert code == 93
    assert [line.split(" (")[0] for line in said[:3]] == [
        f"attempt {number}: rank {victim} ended with code 1 and without a verdict" for number in (1, 2, 3)
    ]
    log = (tmp_path / "ranks" / "rank-1.log").read_text(encoding="utf-8")
    shown = log if victim == 1 else capfd.readouterr().err
    assert shown.count("ValueError: a crash that was asked for") == 3


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)]
)
@pytest.mark.usefixtures("handlers")
def test_a_signal_to_the_launcher_reaches_every_rank(number: int, code: int, tmp_path: Path) -> None:
    ranks = tmp_path / "ranks"
    waiting = [ranks / "waiting-0", ranks / "waiting-1"]
    thread = once_there(waiting, lambda: signal.raise_signal(number))
    found, said = run(tmp_path, "0=save+wait;1=wait")
    thread.join()
    assert found == code
    assert [(ranks / f"got-{rank}-1").read_text(encoding="ascii") for rank in (0, 1)] == [str(number)] * 2
    assert said[0] == f"stopped; go on: esper launch --nproc-per-node 2 -- train --resume {tmp_path}"


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.usefixtures("handlers")
def test_a_second_interrupt_is_handed_on(tmp_path: Path) -> None:
    ranks = tmp_path / "ranks"
    first = once_there([ranks / "waiting-0", ranks / "waiting-1"], lambda: signal.raise_signal(signal.SIGINT))
    second = once_there([ranks / "got-0-1", ranks / "got-1-1"], lambda: signal.raise_signal(signal.SIGINT))
    found, _ = run(tmp_path, "0=twice;1=twice")
    first.join()
    second.join()
    assert found == 130


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.usefixtures("handlers")
def test_ranks_that_do_not_end_in_time_are_killed_and_told(tmp_path: Path) -> None:
    ranks = tmp_path / "ranks"
    thread = once_there(
        [ranks / "waiting-0", ranks / "waiting-1"], lambda: signal.raise_signal(signal.SIGTERM)
    )
    found, said = run(tmp_path, "0=deaf;1=deaf", stop_timeout_s=0.5)
    thread.join()
    assert found == 143
    assert said[0].startswith("killed, because they did not end in time: ranks 0, 1; stopped")


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_that_was_told_to_end_by_somebody_else_is_no_failure(tmp_path: Path) -> None:
    code, said = run(tmp_path, "0=meet+exit143;1=meet+exit143")
    assert code == 143
    assert said[0] == "stopped; no checkpoint was saved yet"
