"""Where looks at a run go: a live screen on a terminal, plain blocks elsewhere, or JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, final

from esper.cli.output import can_show, find_width, make_encodable, write_json
from esper.cli.watch_view import RUNNING, ScreenLine, ScreenSize, join_plain, render_screen
from esper.leyline import JsonValue
from esper.nissa import BLOCKS, PLAIN_LEVELS, WatchView, watch_to_plain
from esper.runtime.run_records import RunInfo

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

_FEWEST_EVENTS = 3
"""Lines for events on a terminal that is too low for them: what is cut off then is below."""


class WatchOutput(Protocol):
    """Where looks go."""

    def show(self, info: RunInfo, view: WatchView, now: float, *, is_new: bool) -> None:
        """Show one look; `is_new`: something changed since the last one."""

    def close(self) -> None:
        """Leave the last look behind; a second call does nothing."""


def build_output(*, is_once: bool, is_json: bool) -> WatchOutput:
    """Return the output that fits the flags and stdout."""
    if is_json:
        return JsonOutput(is_document=is_once)
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return LiveOutput()
    return PlainOutput()


@final
class PlainOutput:
    """One plain block per change, an empty line between two; nothing is cut off."""

    def __init__(self) -> None:
        self._num_shown = 0

    def show(self, info: RunInfo, view: WatchView, now: float, *, is_new: bool) -> None:
        """Write a block where something changed."""
        if not is_new:
            return
        size = ScreenSize(width=find_width(), levels=_choose_levels())
        text = join_plain(render_screen(info, view, now=now, size=size))
        sys.stdout.write(make_encodable(("\n" if self._num_shown else "") + text))
        sys.stdout.flush()
        self._num_shown += 1

    def close(self) -> None:
        """Do nothing: every block is complete."""


@final
class JsonOutput:
    """One line of JSON per change, or one document."""

    def __init__(self, *, is_document: bool = False) -> None:
        self._is_document = is_document

    def show(self, info: RunInfo, view: WatchView, now: float, *, is_new: bool) -> None:
        """Write the run and its look where something changed."""
        del now
        if not is_new:
            return
        value: JsonValue = {"run": info.to_json(), "watch": watch_to_plain(view)}
        if self._is_document:
            write_json(value)
        else:
            sys.stdout.write(json.dumps(value, allow_nan=False, ensure_ascii=True) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Do nothing: every line is complete."""


@final
class LiveOutput:
    """A screen of its own on a terminal while the run goes on; the last look stays on the ordinary one."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - only on a terminal

        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._live: Live | None = None
        self._last: tuple[ScreenLine, ...] = ()

    def show(self, info: RunInfo, view: WatchView, now: float, *, is_new: bool) -> None:
        """Draw anew: also what only time has changed."""
        del is_new
        width, height = self._console.size
        levels = _choose_levels()
        rest = len(render_screen(info, view, now=now, size=ScreenSize(width=width, num_events=0)))
        room = max(_FEWEST_EVENTS, height - rest - 3)  # an empty line, a title, and one spare
        self._last = render_screen(
            info, view, now=now, size=ScreenSize(width=width, num_events=room, levels=levels)
        )
        if info.state == RUNNING:
            self._draw()

    def close(self) -> None:
        """Go back to the ordinary screen and leave the last look there."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._last:
            self._console.print(_to_text(self._last), no_wrap=True, overflow="ellipsis", crop=True)
            self._last = ()

    def _draw(self) -> None:
        from rich.live import Live  # noqa: PLC0415

        if self._live is None:
            self._live = Live(
                console=self._console,
                screen=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(_to_text(self._last), refresh=True)


def _to_text(lines: Sequence[ScreenLine]) -> Text:
    from rich.text import Text  # noqa: PLC0415

    text = Text(no_wrap=True, overflow="ellipsis", end="\n")
    for place, line in enumerate(lines):
        text.append("\n" if place else "")
        for piece in line:
            text.append(make_encodable(piece.text), style=piece.style)
    return text


def _choose_levels() -> str:
    return BLOCKS if can_show(BLOCKS) else PLAIN_LEVELS
