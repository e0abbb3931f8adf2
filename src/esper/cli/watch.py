"""esper watch [RUN] [--once] [--json] [--interval S]: a live view of a run, from its files alone.

RUN is the directory of a run that grows a host or trains a policy; without it, the newest one below runs/.
Shown are its state, how far it is and how long it will take, metric and loss, the life of every slot, live
seeds, what happened last, and red flags; of a training its rounds, return, KL, entropy and environments.
The run does not notice: come and go at any time (Ctrl-C leaves), before and after its end. The view ends
with the run. Where stdout is no terminal, one plain block is written per change; --json writes one line of
JSON per change, with --once one document. NO_COLOR takes the colours away.

Example: esper watch runs/digits-heuristic-0-20260101-120000
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from esper.cli.arguments import CommandParser
from esper.cli.watch_output import WatchOutput, build_output
from esper.cli.watch_view import RUNNING
from esper.leyline import ConfigError, ExitCode, RunDirectoryError
from esper.nissa import RunWatch, WatchView, wall_clock
from esper.runtime.run_records import RUNS_ROOT, list_runs, read_run_info

_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.1, 3600.0


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong or the run cannot be read.
    """
    parser = CommandParser("watch", __doc__)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="default: the newest below runs/")
    parser.add_argument("--once", action="store_true", dest="is_once", help="show one look and leave")
    parser.add_argument("--json", action="store_true", dest="is_json", help="write JSON")
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="S", help="seconds between two looks, default 1"
    )
    given = parser.parse_all(args)
    if not _SHORTEST_SECONDS <= given.interval <= _LONGEST_SECONDS or math.isnan(given.interval):
        raise ConfigError(
            f"esper watch: --interval {given.interval:g}: must be in [{_SHORTEST_SECONDS}, "
            f"{_LONGEST_SECONDS:g}] seconds, e.g. 1"
        )
    path = find_newest(RUNS_ROOT) if given.run is None else given.run
    output = build_output(is_once=given.is_once, is_json=given.is_json)
    with _leaving_by_signal():
        follow(path, output, is_once=given.is_once, interval_seconds=given.interval)
    return int(ExitCode.OK)


def find_newest(root: Path) -> Path:
    """Return the run below a folder that was started last.

    Raises:
        RunDirectoryError: If there is none that can be read.
    """
    paths = [info.path for info in list_runs(root) if not info.problem]
    if not paths:
        raise RunDirectoryError(
            f"there is no run in {root}; `esper demo` and `esper train` write runs, or name one: "
            "esper watch RUN"
        )
    return paths[-1]


def follow(
    path: Path,
    output: WatchOutput,
    *,
    is_once: bool = False,
    interval_seconds: float = 1.0,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = wall_clock,
) -> None:
    """Show looks at a run until it ends or somebody leaves by Ctrl-C.

    Args:
        path: The run's directory.
        output: Where looks go; it is closed.
        is_once: Only one.
        interval_seconds: Between two looks.
        wait: Waits so many seconds.
        clock: Seconds since 1970-01-01 UTC.

    Raises:
        RunDirectoryError: If the run cannot be read.
    """
    watch, shown, view = RunWatch(path), None, WatchView()
    try:
        while True:
            info = read_run_info(path)  # before its events: a run that has ended has written them all
            is_new = _read(watch, path) or info != shown
            view = watch.look() if is_new else view
            output.show(info, view, clock(), is_new=is_new)
            if is_once or info.state != RUNNING:
                return
            shown = info
            wait(interval_seconds)
    except KeyboardInterrupt:
        return  # whoever leaves has not interrupted the run
    finally:
        output.close()


def _read(watch: RunWatch, path: Path) -> bool:
    try:
        return watch.read_new()
    except OSError as error:
        raise RunDirectoryError(f"{path}: its events cannot be read: {error.strerror or error}") from error


@contextmanager
def _leaving_by_signal() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the view as an exit, so that the screen is put back."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
