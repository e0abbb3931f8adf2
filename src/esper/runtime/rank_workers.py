"""One attempt: the ranks of one command on this machine, started by torch's own launcher and waited for.

```
start_ranks: clear what the last attempt said > launch_agent (store, variables, watch) > exits + verdicts
each rank:   sh: write rank-R.pid; rank 0 keeps the terminal, others append to rank-R.log > exec the command
```
Torch restarts nothing here: every attempt has a store and a name of its own, because ranks that meet in a
store of a dead attempt read the addresses of the dead. Knows no rule about restarts.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, launch_agent

from esper.leyline import ExitCode, InterruptedRunError, RankFailureError
from esper.runtime.launch_rules import RankExit
from esper.runtime.ranks import clear_verdicts, read_verdicts
from esper.runtime.signal_relay import path_of_pid

LAUNCHED_NAME = "ESPER_LAUNCHED"
"""Variable that tells a rank that restarts are decided here."""
TORCH_LOG_NAME = "launcher.log"
"""What torch's own launcher says; it names the rank that it noticed first, which is often not the culprit."""
_TORCH_LOGGER = "torch.distributed.elastic"
_SCRIPT = 'echo $$ >"$0/rank-$RANK.pid"; [ "$RANK" = 0 ] || exec >>"$0/rank-$RANK.log" 2>&1; exec "$@"'
"""The shell becomes the command, so that its number and its signals are those of the rank."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of all ranks.

    Example:
        Attempt(command=("python", "-m", "esper", "train"), num_ranks=2, folder=folder, number=0,
                run_id="7c-0", stop_timeout_s=90.0)
    """

    command: tuple[str, ...]
    """Program and arguments, the same for all ranks."""
    num_ranks: int
    folder: Path
    """An existing folder, where logs, numbers of processes and verdicts lie."""
    number: int
    """Starts before this one, >= 0."""
    run_id: str
    """Another one in every attempt."""
    stop_timeout_s: float
    """Seconds that ranks get between a signal and SIGKILL."""

    @property
    def session(self) -> str:
        """Name of the attempt in heartbeats."""
        return f"{self.run_id}/{self.number}"


def start_ranks(attempt: Attempt) -> tuple[RankExit, ...]:
    """Start all ranks and wait until all have ended.

    Returns:
        Those that did not end well, by rank.

    Raises:
        RankFailureError: If they could not be started.
        InterruptedRunError: If SIGQUIT ended all of them.
        OSError: If the folder cannot be written.
    """
    clear_verdicts(attempt.folder)
    _remove_pids(attempt)
    for rank in range(1, attempt.num_ranks):
        with path_of_log(attempt.folder, rank).open("a", encoding="utf-8") as file:
            file.write(f"--- attempt {attempt.number + 1}\n")
    arguments = ["-c", _SCRIPT, str(attempt.folder), *attempt.command]
    try:
        with _keep_torch_log(attempt.folder / TORCH_LOG_NAME), _keep_quit_handler():
            launch_agent(_build_config(attempt), "/bin/sh", [_escape(argument) for argument in arguments])
    except ChildFailedError as error:
        verdicts = {verdict.rank: verdict for verdict in read_verdicts(attempt.folder).verdicts}
        return tuple(
            RankExit(
                rank=rank,
                status=failure.exitcode,
                seen_at_s=failure.timestamp,
                verdict=verdicts.get(rank),
            )
            for rank, failure in sorted(error.failures.items())
        )
    except RendezvousError as error:
        raise RankFailureError(f"the ranks could not be started: {error}") from error
    except SignalException as error:
        raise InterruptedRunError(
            "SIGQUIT ended all ranks, nothing was saved; an earlier checkpoint is kept", ExitCode.SIGTERM
        ) from error
    finally:
        _remove_pids(attempt)
    return ()


def path_of_log(folder: Path, rank: int) -> Path:
    """Return where a rank that has no terminal writes."""
    return folder / f"rank-{rank}.log"


def describe_logs(folder: Path, num_ranks: int) -> str:
    """Return where the output of the ranks without a terminal lies; empty if there is none of these."""
    last = num_ranks - 1
    if last < 1:
        return ""
    if last == 1:
        return f"output of rank 1: {path_of_log(folder, 1)}"
    return f"output of ranks 1 to {last}: {path_of_log(folder, 1)} to {path_of_log(folder, last).name}"


def _remove_pids(attempt: Attempt) -> None:
    for rank in range(attempt.num_ranks):
        path_of_pid(attempt.folder, rank).unlink(missing_ok=True)


def _build_config(attempt: Attempt) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=attempt.num_ranks,
        logs_specs=_OwnStreams(attempt),
        run_id=attempt.run_id,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",  # the name of a machine need not be known to itself
        max_restarts=0,
        signals_to_handle="SIGQUIT",  # all others are the relay's
        shutdown_timeout=round(attempt.stop_timeout_s),
    )


@final
class _OwnStreams(LogsSpecs):
    """Ranks keep the streams that they are given, and get variables of ours."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self._attempt = attempt

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        for env in envs.values():
            env.setdefault("OMP_NUM_THREADS", "1")  # ranks with threads for every core fight over the cores
            env["TORCHELASTIC_RESTART_COUNT"] = str(self._attempt.number)
            env["TORCHELASTIC_ERROR_FILE"] = ""
            env[LAUNCHED_NAME] = "1"
        streams = dict.fromkeys(envs, "")
        return LogsDest(stdouts=streams, stderrs=dict(streams), error_files=dict(streams))

    @property
    def root_log_dir(self) -> str:
        return str(self._attempt.folder)


def _escape(argument: str) -> str:
    """Return an argument as torch, which replaces `${local_rank}` and `$$` in all of them, hands it on."""
    return argument.replace("$", "$$")


@contextmanager
def _keep_torch_log(path: Path) -> Iterator[None]:
    """Let torch's launcher write into a file instead of the terminal."""
    logger, handler = (
        logging.getLogger(_TORCH_LOGGER),
        logging.FileHandler(path, encoding="utf-8", delay=True),
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    was_propagated, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = was_propagated
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def _keep_quit_handler() -> Iterator[None]:
    """Put back the handler of SIGQUIT, in whose place torch leaves its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGQUIT)
    try:
        yield
    finally:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL if previous is None else previous)
