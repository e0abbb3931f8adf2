"""A user's own command, run for an alert: words from the configuration, facts by stdin and variables.

Nothing that a run says becomes part of the command line, and no shell reads it. Knows no event.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import final

from esper.leyline import ConfigError
from esper.nissa.text import clean_text

_MOST_CHARACTERS = 2000
"""Of one environment variable: together they must stay far below what the system takes."""


def split_command(text: str) -> tuple[str, ...]:
    """Return the words of a command, split as a shell would, with nothing replaced in them.

    Raises:
        ConfigError: If a quote is not closed.
    """
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(
            f"telemetry.on_alert={text[:80]!r}: {error}; expected a program and arguments"
        ) from error


def check_command(text: str) -> None:
    """Refuse a command whose program is not there; an empty one is none.

    Raises:
        ConfigError: If it cannot be found, or must not be run.

    Example:
        >>> check_command("true --twice")
    """
    words = split_command(text)
    if words and shutil.which(words[0]) is None:
        raise ConfigError(
            f"telemetry.on_alert: there is no program {words[0][:80]!r}; name one on PATH, or the path of a "
            "file that may be executed"
        )


@final
class AlertCommand:
    """Runs one command at a time, in a session of its own, for a limited time."""

    def __init__(self, words: Sequence[str], *, timeout_seconds: float) -> None:
        """Keep the words; nothing is started yet.

        Args:
            words: Program and arguments.
            timeout_seconds: Longest time of one run; then it is killed with everything that it started.
        """
        self._words = tuple(words)
        self._timeout = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._lock = threading.Lock()

    def run(self, payload: bytes, variables: Mapping[str, str]) -> str:
        """Run it once and wait; return why it failed, or nothing.

        Args:
            payload: What it can read from stdin; it need not.
            variables: Added to the environment; control characters are taken out.
        """
        environ = {**os.environ, **{name: _clean(value) for name, value in variables.items()}}
        try:
            with self._lock:
                if self._is_stopped:
                    return "the run ended before it could start"
                process = self._process = subprocess.Popen(
                    self._words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environ,
                    start_new_session=True,  # Ctrl-C is for the run; and all that it starts can be ended
                )
        except (OSError, ValueError) as error:
            return f"cannot be started: {error}"
        try:
            process.communicate(payload, timeout=self._timeout)
        except subprocess.TimeoutExpired:
            self._kill(process)
            return f"took longer than {self._timeout:g} s and was ended"
        finally:
            with self._lock:
                self._process = None
        if process.returncode < 0:
            return f"ended by signal {-process.returncode}"
        return f"exit code {process.returncode}" if process.returncode else ""

    def stop(self) -> None:
        """End what runs, and start nothing any more."""
        with self._lock:
            self._is_stopped = True
            process = self._process
        if process is not None:
            self._kill(process)

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)


def _clean(text: str) -> str:
    """Return what an environment variable can hold: plain, and not too long."""
    return clean_text(text)[:_MOST_CHARACTERS].encode("ascii", "backslashreplace").decode()
