"""The console fits its stream, and shows a run in plain words."""

from __future__ import annotations

import io
import json

import pytest

from esper.leyline import Notice, UnknownNameError
from esper.nissa import JsonConsole, OutputBackend, PlainConsole, RichConsole, build_console, decode_line
from esper.nissa.backends.console import choose_progress
from nissa.sample_run import EPOCHS, numbered, run_events


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def show(console: OutputBackend | None) -> None:
    assert console is not None
    for record in numbered(run_events()):
        console.write(record)
    console.flush()
    console.close()


@pytest.mark.parametrize(
    ("progress", "is_terminal", "environ", "chosen"),
    [
        ("auto", True, {}, "rich"),
        ("auto", False, {}, "plain"),
        ("auto", True, {"CI": "true"}, "plain"),
        ("auto", True, {"CI": "false"}, "rich"),
        ("auto", True, {"TERM": "dumb"}, "plain"),
        ("auto", True, {"NO_COLOR": "1"}, "rich"),
        ("rich", False, {"CI": "1"}, "rich"),
        ("none", True, {}, "none"),
    ],
)
def test_progress_fits_the_stream(
    progress: str, is_terminal: bool, environ: dict[str, str], chosen: str
) -> None:
    assert choose_progress(progress, is_terminal=is_terminal, environ=environ) == chosen


def test_an_unknown_progress_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'plain'"):
        choose_progress("plan", is_terminal=False, environ={})


def test_each_name_builds_its_console() -> None:
    assert build_console("none", stream=io.StringIO(), environ={}) is None
    assert isinstance(build_console("auto", stream=io.StringIO(), environ={}), PlainConsole)
    assert isinstance(build_console("json", stream=io.StringIO(), environ={}), JsonConsole)
    assert isinstance(build_console("auto", stream=Terminal(), environ={}), RichConsole)


def test_plain_lines_tell_the_run() -> None:
    stream = io.StringIO()
    show(build_console("plain", stream=stream, environ={}))
    lines = stream.getvalue().splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == EPOCHS
    assert lines[0].startswith(
        "run started: task digits, policy heuristic, seed 3, 40 epochs, host 6,418 params"
    )
    assert "epoch 12/40  loss 0.359  accuracy 89.4 %  (+1,204 params, 1 live)  eta 1 min 14 s" in lines
    assert "block2: seed block2#1 (conv_light) TRAINING -> BLENDING: advance" in lines
    kept = "contribution +0.0213 +- 0.0041, 1,204 params, age 12 epochs"
    assert f"block2: seed block2#1 (conv_light) FOSSILIZED: {kept}" in lines
    culled = "block1: seed block1#1 (norm) CULLED: plateau of 3 epochs; contribution -0.0112, -640 params"
    assert culled in lines
    assert "refused: FOSSILIZE block2: gate G4: 0 of 2 measurements" in lines
    assert lines[-1] == (
        "run finished: test accuracy 93.8 %, test loss 0.231; 7,622 params; "
        "1 fossilized, 2 culled; 5.16 GFLOPs"
    )
    assert "\x1b" not in stream.getvalue()


def test_a_quiet_console_shows_warnings_and_the_end() -> None:
    stream = io.StringIO()
    show(build_console("plain", stream=stream, environ={}, is_quiet=True))
    first, last = stream.getvalue().splitlines()
    assert first.startswith("refused")
    assert last.startswith("run finished")


def test_names_cannot_steer_the_terminal() -> None:
    stream = io.StringIO()
    console = PlainConsole(stream)
    console.write(numbered([Notice(epoch=0, text="\x1b[2J\x1b]0;owned\x07hello\r\nworld [red]")])[0])
    assert stream.getvalue() == "note: hello world [red]\n"


def test_a_stream_of_a_small_encoding_gets_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    console = PlainConsole(stream)
    console.write(numbered([Notice(epoch=0, text="caf\u00e9 \ud800")])[0])
    console.close()
    assert raw.getvalue() == b"note: caf\\xe9 \\ufffd\n"


def test_json_progress_is_one_record_per_line() -> None:
    stream = io.StringIO()
    show(build_console("json", stream=stream, environ={}))
    lines = stream.getvalue().splitlines()
    assert [decode_line(line) for line in lines] == numbered(run_events())
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_a_terminal_gets_a_bar_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    show(build_console("rich", stream=stream, environ={}))
    text = stream.getvalue()
    assert "12/40" in text
    assert "\x1b[32m" in text  # green: a seed was kept
    assert "block2: seed block2#1 (conv_light) FOSSILIZED" in text
    assert "\x1b[?25h" in text  # the cursor is back


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    show(build_console("rich", stream=stream, environ={"NO_COLOR": "1"}))
    assert "\x1b[32m" not in stream.getvalue()
    assert "FOSSILIZED" in stream.getvalue()


def test_rich_markup_in_names_is_only_text() -> None:
    stream = io.StringIO()
    console = RichConsole(stream)
    console.write(numbered([Notice(epoch=0, text="[bold]x[/bold] :smile: [/oops]")])[0])
    console.close()
    assert "[bold]x[/bold] :smile: [/oops]" in stream.getvalue()


def test_a_quiet_rich_console_has_no_bar() -> None:
    stream = Terminal()
    show(RichConsole(stream, is_quiet=True))
    assert "12/40" not in stream.getvalue()
