"""Shows a run on stderr: a bar and colours on a terminal, plain lines elsewhere, or records as JSON lines.

Data for programs goes to stdout elsewhere; nothing here writes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TextIO, final

from esper.leyline import UnknownNameError
from esper.nissa.backends.base import OutputBackend
from esper.nissa.codec import encode_record
from esper.nissa.config import PROGRESS_NAMES
from esper.nissa.line import Line, Tone
from esper.nissa.record import Record
from esper.nissa.text import format_seconds
from esper.nissa.wording import Narrator

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_QUIET_TONES = frozenset({Tone.WARNING, Tone.END})
_STYLES: Mapping[Tone, str] = MappingProxyType(
    {Tone.GROWTH: "cyan", Tone.KEPT: "green", Tone.LOST: "magenta", Tone.WARNING: "yellow", Tone.END: "bold"}
)


def choose_progress(progress: str, *, is_terminal: bool, environ: Mapping[str, str]) -> str:
    """Turn "auto" into "rich" on a capable terminal and "plain" elsewhere; other names stay.

    Args:
        progress: One of `PROGRESS_NAMES`.
        is_terminal: Whether stderr is a terminal.
        environ: Environment variables; CI and TERM=dumb mean plain.

    Raises:
        UnknownNameError: If the name is unknown.
    """
    if progress not in PROGRESS_NAMES:
        raise UnknownNameError("progress", progress, PROGRESS_NAMES)
    if progress != "auto":
        return progress
    is_ci = environ.get("CI", "").lower() not in ("", "0", "false")
    is_capable = is_terminal and not is_ci and environ.get("TERM") != "dumb"
    return "rich" if is_capable else "plain"


def build_console(
    progress: str, *, stream: TextIO, environ: Mapping[str, str], is_quiet: bool = False
) -> OutputBackend | None:
    """Build the console that fits a stream; None for "none".

    Args:
        progress: One of `PROGRESS_NAMES`.
        stream: Usually stderr.
        environ: Environment variables: NO_COLOR, CI and TERM are read.
        is_quiet: Show only warnings and the end of the run.

    Raises:
        UnknownNameError: If the name is unknown.

    Example:
        >>> import io
        >>> build_console("none", stream=io.StringIO(), environ={}) is None
        True
    """
    chosen = choose_progress(progress, is_terminal=stream.isatty(), environ=environ)
    if chosen == "none":
        return None
    if chosen == "json":
        return JsonConsole(stream)
    if chosen == "plain":
        return PlainConsole(stream, is_quiet=is_quiet)
    return RichConsole(stream, is_quiet=is_quiet, has_colour=not environ.get("NO_COLOR"))


@final
class PlainConsole:
    """One line per epoch and per growth event, without colours or cursor moves."""

    def __init__(self, stream: TextIO, *, is_quiet: bool = False) -> None:
        self._stream = stream
        self._is_quiet = is_quiet
        self._narrator = Narrator()

    @property
    def name(self) -> str:
        """Always "console"."""
        return "console"

    def write(self, record: Record) -> None:
        """Write the record's line, if it has one."""
        line = self._narrator.tell(record)
        if line is not None and _is_shown(line, self._is_quiet):
            self._stream.write(_encodable(line.text, self._stream) + "\n")
            self._stream.flush()

    def flush(self, *, durable: bool = False) -> None:
        """Flush the stream."""
        del durable
        self._stream.flush()

    def close(self) -> None:
        """Flush; the stream belongs to the caller."""
        self._stream.flush()


@final
class JsonConsole:
    """Every record as one line of JSON, for a program that watches."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def name(self) -> str:
        """Always "console"."""
        return "console"

    def write(self, record: Record) -> None:
        """Write one line."""
        self._stream.write(encode_record(record) + "\n")
        self._stream.flush()

    def flush(self, *, durable: bool = False) -> None:
        """Flush the stream."""
        del durable
        self._stream.flush()

    def close(self) -> None:
        """Flush; the stream belongs to the caller."""
        self._stream.flush()


@final
class RichConsole:
    """A progress bar at the bottom, growth events and epochs above it."""

    def __init__(self, stream: TextIO, *, is_quiet: bool = False, has_colour: bool = True) -> None:
        from rich.console import Console  # noqa: PLC0415 - 0.1 s that only this console pays

        self._stream = stream
        self._is_quiet = is_quiet
        self._narrator = Narrator()
        self._console: Console = Console(
            file=stream, no_color=not has_colour, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self._bar: Progress | None = None
        self._shown = (0, 0)
        """(epochs, horizon) that the bar shows."""

    @property
    def name(self) -> str:
        """Always "console"."""
        return "console"

    def write(self, record: Record) -> None:
        """Show the record's line and move the bar."""
        from rich.text import Text  # noqa: PLC0415

        line = self._narrator.tell(record)
        if line is not None and _is_shown(line, self._is_quiet):
            text = _encodable(line.text, self._stream)
            self._console.print(Text(text, style=_STYLES.get(line.tone, "")), soft_wrap=True)
        if record.event.instance == 0:
            self._move_bar()

    def flush(self, *, durable: bool = False) -> None:
        """Flush the stream."""
        del durable
        self._stream.flush()

    def close(self) -> None:
        """Take the bar away and give the cursor back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._stream.flush()

    def _move_bar(self) -> None:
        done, total = self._narrator.progress()
        if total == 0 or self._is_quiet or (done, total) == self._shown:
            return
        self._shown = (done, total)
        if self._bar is None:
            self._bar = self._build_bar()
            self._bar.add_task("epochs", total=total, eta="")
            self._bar.start()
        eta = self._narrator.eta_seconds()
        left = "" if eta is None else f"eta {format_seconds(eta)}"
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, eta=left)
        self._bar.refresh()

    def _build_bar(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[eta]}"),
            console=self._console,
            auto_refresh=False,  # no thread of its own: a training process may fork
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )


def _is_shown(line: Line, is_quiet: bool) -> bool:
    return not is_quiet or line.tone in _QUIET_TONES


def _encodable(text: str, stream: TextIO) -> str:
    """Replace what the stream's encoding cannot hold by escapes, so that a name never breaks the console."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
