"""How a rank ends after an error: verdict, one line, out - without giving anything a chance to block.

Destructors of process groups may wait for a peer that is dead. So nothing is closed: the process ends itself
as soon as it has said why. Imports no torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from esper.leyline import EsperError, ExitCode, InterruptedRunError
from esper.runtime.ranks.heartbeat import Heartbeat
from esper.runtime.ranks.rank_env import RankEnvironment
from esper.runtime.ranks.verdicts import RankVerdict, write_verdict

PROGRAM_ERROR = 1
"""What Python itself returns after an error that nobody expected."""


def leave(
    error: BaseException,
    *,
    folder: Path,
    environment: RankEnvironment,
    heartbeat: Heartbeat,
    log: Callable[[str], None],
    exit_process: Callable[[int], object] = os._exit,
) -> None:
    """Write the verdict, tell the peers, log one line, and end the process.

    An error that no person caused is logged with its traceback.

    Args:
        error: Why this rank cannot go on.
        folder: Where verdicts lie.
        environment: This rank.
        heartbeat: Its signs of life; they say in which phase and step it was.
        log: Where the line goes; it should not wait for anything.
        exit_process: Ends the process with a code, without destructors.
    """
    code, pulse = choose_exit_code(error), heartbeat.pulse
    reason = " ".join(f"{describe_error(error)}".split())
    verdict = RankVerdict(
        code=code,
        step=pulse.step,
        phase=pulse.phase,
        reason=reason,
        rank=environment.rank,
        attempt=environment.restart_count,
    )
    line = f"rank {environment.rank} leaves with code {code}: {reason}"
    try:
        write_verdict(folder, verdict)
    except OSError as failure:
        line += f" (no verdict was written: {failure})"
    heartbeat.close(reason)
    if code == PROGRAM_ERROR:
        line += "\n" + "".join(traceback.format_exception(error)).rstrip()
    log(line)
    sys.stdout.flush()
    sys.stderr.flush()
    exit_process(code)


def choose_exit_code(error: BaseException) -> int:
    """Return what the process returns after this error."""
    if isinstance(error, InterruptedRunError):
        return int(error.signal_exit_code)
    if isinstance(error, EsperError):
        return int(error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return int(ExitCode.SIGINT)
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or int(ExitCode.OK)
    return PROGRAM_ERROR


def describe_error(error: BaseException) -> str:
    """Return the message of an error of ours, and the kind, too, of any other."""
    return str(error) if isinstance(error, EsperError) else f"{type(error).__name__}: {error}"
