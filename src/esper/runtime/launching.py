"""Start, watch, restart: one training in several processes on this machine.

```
launch         refuse what cannot be, lock the ranks' folder, relay signals
_Launch.run    start all ranks and wait > judge how they ended > tell
               > restart from the newest checkpoint, or begin anew where there is none
               > end: done, stopped, nothing to gain, no restarts left, or no progress
```
Torch's launcher would restart after any code and return 1 for all of them; so the loop is ours and every
attempt is a launch of its own. Progress is a newer checkpoint than before the attempt.
"""

from __future__ import annotations

import math
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from esper.leyline import ConfigError, ExitCode, RunDirectoryError
from esper.runtime.launch_rules import Judgement, RankExit, build_restart_args, judge, name_run_dir
from esper.runtime.rank_workers import Attempt, describe_logs, start_ranks
from esper.runtime.ranks import Pulse
from esper.runtime.ranks.heartbeat import read_pulse
from esper.runtime.resuming import choose_trust_flags
from esper.runtime.run_folder import refuse_occupied
from esper.runtime.run_lock import RunLock
from esper.runtime.run_records import CHECKPOINTS_NAME, LOCK_NAME, RANKS_NAME, read_meta
from esper.runtime.signal_relay import SignalRelay
from esper.tolaria import checkpoint_name, checkpoint_place

ESPER: tuple[str, ...] = (sys.executable, "-m", "esper")
"""What ranks run, before the arguments of the plan."""
MAX_IDLE_ATTEMPTS = 3
"""Attempts in a row that may end without a newer checkpoint; the next would end like them."""
MAX_RANKS = 256

Place = tuple[int, int, int]
"""Of a checkpoint in a training; newer is larger."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """What to start, and how often.

    Example:
        LaunchPlan(args=("train", "ppo", "--task", "digits"), run_dir=Path("runs/a"), num_ranks=2)
    """

    args: tuple[str, ...]
    """After `esper`; the run directory is added, if they do not name it."""
    run_dir: Path
    """Of the run; what is written here by ranks decides where a restart goes on."""
    num_ranks: int
    """Processes, in [1, 256]."""
    is_resumed: bool = False
    """Whether the command goes on with the run in `run_dir`."""
    max_restarts: int = 3
    """Most restarts, >= 0; each after a rank that died or failed."""
    stop_timeout_s: float = 90.0
    """Seconds that ranks get to save and leave after a signal, in (0, 86400]: at least the timeout of a
    reduction, the longest step and one checkpoint together."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a number is outside of the range that its field states.
        """
        if not 1 <= self.num_ranks <= MAX_RANKS:
            raise ConfigError(f"--nproc-per-node {self.num_ranks}: must be in [1, {MAX_RANKS}]")
        if self.max_restarts < 0:
            raise ConfigError(f"--max-restarts {self.max_restarts}: must be >= 0")
        if not (math.isfinite(self.stop_timeout_s) and 0 < self.stop_timeout_s <= 86_400):
            raise ConfigError(f"--timeout-s {self.stop_timeout_s}: must be in (0, 86400]")


def launch(
    plan: LaunchPlan,
    *,
    say: Callable[[str], None],
    worker: Sequence[str] = ESPER,
    start: Callable[[Attempt], tuple[RankExit, ...]] = start_ranks,
) -> ExitCode:
    """Run a command in several ranks until it is done or cannot go on.

    Args:
        plan: What to start.
        say: Takes one line for a person.
        worker: Program and first arguments of every rank.
        start: Starts all ranks of an attempt and returns those that ended badly.

    Returns:
        What the ranks agreed on: see `judge`; NO_PROGRESS after three attempts without a newer checkpoint.

    Raises:
        RunDirectoryError: If the run directory does not fit the command, is in use, or cannot be written.
        RankFailureError: If the ranks could not be started.
        InterruptedRunError: If SIGQUIT ended all of them.
    """
    folder = _prepare_folder(plan)
    lock = RunLock(folder / LOCK_NAME)  # two launchers of one run would write into each other's files
    try:
        with SignalRelay(folder, num_ranks=plan.num_ranks, patience_s=plan.stop_timeout_s) as relay:
            return _Launch(plan, relay, say=say, worker=worker, start=start).run()
    finally:
        lock.release()


def _prepare_folder(plan: LaunchPlan) -> Path:
    folder = plan.run_dir / RANKS_NAME
    try:
        if plan.is_resumed:
            read_meta(plan.run_dir)
        elif plan.run_dir.exists():
            refuse_occupied(plan.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a path with a zero byte is the latter
        raise RunDirectoryError(f"{folder} cannot be made: {error}") from error
    return folder


def find_newest_place(run_dir: Path) -> Place | None:
    """Return the place of the newest checkpoint of a run by its name, unopened; None if there is none."""
    try:
        places = [checkpoint_place(entry.name) for entry in (run_dir / CHECKPOINTS_NAME).iterdir()]
    except OSError:  # no directory yet, or one that the ranks themselves will refuse
        return None
    return max((place for place in places if place is not None), default=None)


def set_aside(run_dir: Path, number: int) -> Path | None:
    """Move what an attempt wrote below the ranks' folder, so that the run can begin again in its directory.

    Args:
        run_dir: A run without a checkpoint.
        number: Starts before that attempt, >= 0.

    Returns:
        Where it lies; None if there was nothing.

    Raises:
        RunDirectoryError: If a process still holds the run, or something cannot be moved.
    """
    lock = RunLock(run_dir / LOCK_NAME)
    try:
        items = [item for item in run_dir.iterdir() if item.name not in (RANKS_NAME, LOCK_NAME)]
        if not items:
            return None
        target = run_dir / RANKS_NAME / f"attempt-{number + 1}"
        while target.exists():
            target = target.with_name(f"{target.name}-older")
        target.mkdir()
        for item in items:
            item.rename(target / item.name)
    except OSError as error:
        raise RunDirectoryError(f"{run_dir}: an attempt cannot be set aside: {error}") from error
    finally:
        lock.release()
    return target


@final
class _End(NamedTuple):
    """Why nothing is started any more."""

    code: ExitCode
    reason: str


@final
class _Launch:
    """One command of a person: all attempts at it."""

    def __init__(
        self,
        plan: LaunchPlan,
        relay: SignalRelay,
        *,
        say: Callable[[str], None],
        worker: Sequence[str],
        start: Callable[[Attempt], tuple[RankExit, ...]],
    ) -> None:
        self._plan, self._relay = plan, relay
        self._say, self._worker, self._start = say, tuple(worker), start
        self._folder = plan.run_dir / RANKS_NAME
        self._run_id = uuid.uuid4().hex[:12]

    def run(self) -> ExitCode:
        plan = self._plan
        args = name_run_dir(plan.args, plan.run_dir, is_resumed=plan.is_resumed)
        place, num_idle, number = find_newest_place(plan.run_dir), 0, 0
        while True:
            attempt = self._plan_attempt(args, number)
            exits = self._start(attempt)
            judgement = judge(exits, stopped_by=self._relay.requested)
            before, place = place, find_newest_place(plan.run_dir)
            num_idle = 0 if has_grown(before, place) else num_idle + 1
            finding = self._describe(attempt, judgement, exits)
            end = self._find_end(judgement, place, num_idle, num_left=plan.max_restarts - number)
            if end is not None:
                self._tell_end(finding, end)
                return end.code
            number += 1
            args = self._prepare_restart(finding, place, number)

    def _plan_attempt(self, args: Sequence[str], number: int) -> Attempt:
        return Attempt(
            command=(*self._worker, *args),
            num_ranks=self._plan.num_ranks,
            folder=self._folder,
            number=number,
            run_id=f"{self._run_id}-{number}",
            stop_timeout_s=self._plan.stop_timeout_s,
        )

    def _find_end(
        self, judgement: Judgement, place: Place | None, num_idle: int, *, num_left: int
    ) -> _End | None:
        go_on = "" if place is None else f"; go on: {self._describe_command()}"
        if judgement.code is ExitCode.OK:
            return _End(judgement.code, "")
        if judgement.code in (ExitCode.SIGINT, ExitCode.SIGTERM):
            return _End(judgement.code, "stopped" + (go_on or "; no checkpoint was saved yet"))
        if not judgement.is_restartable:
            return _End(judgement.code, "a restart cannot help")
        if num_idle >= MAX_IDLE_ATTEMPTS:
            return _End(
                ExitCode.NO_PROGRESS, f"{num_idle} attempts in a row saved nothing new; not restarted"
            )
        if num_left == 0:
            return _End(judgement.code, f"no restarts are left{go_on}")
        return None

    def _prepare_restart(self, finding: str, place: Place | None, number: int) -> tuple[str, ...]:
        """Say where the next attempt begins, and return its command line.

        A run without a checkpoint cannot be resumed, and its directory is not taken for a new one; so what
        it wrote is moved, and it begins again with the same seeds.
        """
        plan = self._plan
        count = f"{finding}; restart {number} of {plan.max_restarts}"
        if place is not None:
            rollbacks, epoch, batch = place
            self._say(f"{count} from checkpoint {checkpoint_name(epoch, batch, rollbacks)}")
            again = build_restart_args(plan.args, plan.run_dir, is_resumed=plan.is_resumed)
            # The command that began the run, a moment ago, named the code that it needs.
            return again if plan.is_resumed else (*again, *choose_trust_flags(plan.run_dir))
        target = None if plan.is_resumed else set_aside(plan.run_dir, number - 1)
        moved = "" if target is None else f"; what the attempt wrote is in {target}"
        self._say(f"{count} from the beginning, because nothing was saved yet{moved}")
        return name_run_dir(plan.args, plan.run_dir, is_resumed=plan.is_resumed)

    # ------------------------------------------------------------------ telling

    def _describe(self, attempt: Attempt, judgement: Judgement, exits: Sequence[RankExit]) -> str:
        """Return who is to blame, as one line; of mere witnesses the first, with its own words."""
        if judgement.code in (ExitCode.OK, ExitCode.SIGINT, ExitCode.SIGTERM):
            killed = [str(item.rank) for item in exits if item.status == -signal.SIGKILL]
            return f"killed, because they did not end in time: ranks {', '.join(killed)}" if killed else ""
        culprit = judgement.culprit
        if culprit is None:
            witness = next(item for item in exits if item.code == ExitCode.RANK_FAILURE)
            return f"attempt {attempt.number + 1}: rank {witness.rank} {witness.describe()}"
        others = [f"rank {item.rank} with {item.status}" for item in exits if item is not culprit]
        tail = f" (then ended: {', '.join(others)})" if others else ""
        seen = self._describe_last_sign(attempt, culprit.rank)
        return f"attempt {attempt.number + 1}: rank {culprit.rank} {culprit.describe()}{seen}{tail}"

    def _describe_last_sign(self, attempt: Attempt, rank: int) -> str:
        pulse = read_pulse(self._folder, rank, attempt.session)
        return f", last seen in phase {pulse.phase} of step {pulse.step}" if isinstance(pulse, Pulse) else ""

    def _tell_end(self, finding: str, end: _End) -> None:
        parts = [part for part in (finding, end.reason) if part]
        if parts:
            self._say("; ".join(parts))
        logs = describe_logs(self._folder, self._plan.num_ranks)
        if logs:
            self._say(logs)

    def _describe_command(self) -> str:
        plan = self._plan
        return f"esper launch --nproc-per-node {plan.num_ranks} -- train --resume {plan.run_dir}"


def has_grown(before: Place | None, after: Place | None) -> bool:
    """Whether a training can be resumed further on than before."""
    return after is not None and (before is None or after > before)
