"""`esper watch`: runs in progress, ended and damaged; covers cli/watch_output.py and cli/watch_view.py."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cli.calling import call
from cli.trainings import write_training
from esper.cli.watch import find_newest, follow
from esper.cli.watch_output import JsonOutput, PlainOutput
from esper.cli.watch_view import MAX_ROWS, ScreenSize, join_plain, render_screen
from esper.leyline import Event, RunDirectoryError, RunStarted
from esper.nissa import EventHub, RunDirectoryBackend, RunWatch
from esper.runtime import RunInfo
from esper.runtime.run_folder import RunFolder, RunOrigin
from nissa.sample_run import EPOCHS, run_events
from nissa.sample_training import ended_episode, started_training, training_events

ORIGIN = RunOrigin(task="digits", policy="heuristic", seed=3)


@contextmanager
def _running(path: Path, events: Iterable[Event]) -> Iterator[EventHub]:
    """A run that this process holds, with its first events written."""
    with RunFolder.create(path, config_text="", origin=ORIGIN) as folder:
        hub = EventHub(
            [RunDirectoryBackend(path, run_id=folder.run_id, flush_interval_seconds=0)], folder.run_id
        )
        for event in events:
            hub.emit(event)
        yield hub
        hub.close()


def _finished(path: Path, events: Iterable[Event]) -> Path:
    with _running(path, events):
        pass
    return path


def _steps(*actions: Callable[[], None]) -> Callable[[float], None]:
    """A wait in which the next thing happens; after the last one somebody presses Ctrl-C."""
    left = list(actions)

    def wait(seconds: float) -> None:
        del seconds
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    return wait


def _screen(path: Path, *, width: int = 100, now: float = 0.0) -> str:
    watch = RunWatch(path)
    watch.read_new()
    info = RunInfo(path=path, task="digits", policy="heuristic", seed=3, state="running")
    return join_plain(render_screen(info, watch.look(), now=now, size=ScreenSize(width=width)))


def test_a_finished_run_is_one_block(tmp_path: Path) -> None:
    answer = call(["watch", str(_finished(tmp_path / "a", run_events()))])
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("a  finished  digits, heuristic, seed 3\n")
    assert f"epoch {EPOCHS}/{EPOCHS}  [####################]  ended: horizon\n" in answer.out
    assert "parameters  7,622 (host 6,418); 0 live, 1 fossilized, 2 culled, 0 rollbacks\n" in answer.out
    assert "block2      ........ttbbbpppppppFFFFFFFFFFFFFFFFFFFF\n" in answer.out
    assert "40  run finished: test accuracy 93.8 %" in answer.out
    assert "\x1b" not in answer.out


def test_one_block_is_written_per_change_until_somebody_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = list(run_events())
    with _running(tmp_path / "a", events[:3]) as hub:

        def nothing() -> None:
            """A tick in which nothing happens."""

        follow(tmp_path / "a", PlainOutput(), wait=_steps(nothing, lambda: hub.emit(events[3]), nothing))
    blocks = capsys.readouterr().out.split("\n\na  running")
    assert len(blocks) == 2
    assert "epoch 1/40" in blocks[0]


def test_the_view_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = _running(tmp_path / "a", list(run_events())[:5])
    running.__enter__()

    def end() -> None:
        running.__exit__(None, None, None)

    follow(tmp_path / "a", PlainOutput(), wait=_steps(end))
    out = capsys.readouterr().out
    assert "a  running" in out
    assert "a  finished" in out


def test_once_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    with _running(tmp_path / "a", list(run_events())[:5]):
        answer = call(["watch", str(tmp_path / "a"), "--once"])
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("a  running  digits")
    assert "last event " in answer.out


def test_json_is_one_document_or_one_line_per_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = list(run_events())
    with _running(tmp_path / "a", events[:3]) as hub:
        document = json.loads(call(["watch", str(tmp_path / "a"), "--once", "--json"]).out)
        assert (document["run"]["state"], document["watch"]["num_done"]) == ("running", 1)
        follow(tmp_path / "a", JsonOutput(), wait=_steps(lambda: hub.emit(events[4])))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["watch"]["num_done"] for line in lines] == [1, 2]


def test_without_a_run_the_newest_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("z", "a")):
        path = _finished(tmp_path / "runs" / name, run_events())
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        text = json.dumps({**meta, "started_at": f"2026-01-0{number + 1}T00:00:00+00:00"})
        (path / "meta.json").write_text(text, encoding="utf-8")
    (tmp_path / "runs" / "z" / "status.json").write_text("{", encoding="utf-8")
    assert call(["watch"]).out.startswith("a  finished")
    (tmp_path / "runs" / "a" / "status.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="there is no run in"):
        find_newest(tmp_path / "runs")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["/no/such"], "/no/such is not a run"),
        (["--interval", "0"], "--interval 0: must be in [0.1, 3600] seconds"),
        (["--interval", "nan"], "--interval nan: must be in"),
        (["--interval", "x"], "invalid float value"),
        (["--onc"], "did you mean '--once'?"),
    ],
)
def test_what_goes_wrong_is_one_line(args: list[str], message: str) -> None:
    answer = call(["watch", *args])
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
    assert message in answer.err


def test_a_run_that_is_removed_while_it_is_watched_is_an_error(tmp_path: Path) -> None:
    with _running(tmp_path / "a", run_events()), pytest.raises(RunDirectoryError, match="is not a run"):
        follow(tmp_path / "a", PlainOutput(), wait=_steps((tmp_path / "a/meta.json").unlink))


def test_a_training_is_shown_with_rounds_environments_and_red_flags(tmp_path: Path) -> None:
    path = write_training(tmp_path / "t", training_events(20, 5))
    out = call(["watch", str(path)]).out
    assert "round 5/20  [#####...............]" in out
    assert all(f"\n{word} " in out for word in ("return", "gain", "KL", "entropy", "explained", "clipped"))
    assert "10 ended, 2 at a time, 10 epochs each; 1 failed (diverged 1)" in out
    assert "operations  WAIT 70.0 %, GERMINATE 30.0 %" in out
    assert "(2 times, rounds 2 to 3)" in out
    assert "\nenvironment  hosts  last return" in out


def test_more_environments_than_fit_are_counted(tmp_path: Path) -> None:
    episodes = [ended_episode(1, number) for number in range(MAX_ROWS + 4)]
    out = call(["watch", str(write_training(tmp_path / "t", [started_training(), *episodes]))]).out
    assert f"{MAX_ROWS} of {MAX_ROWS + 4}; --json has all" in out


def test_a_fleet_has_a_line_per_host(tmp_path: Path) -> None:
    events = [replace(event, instance=number) for number in range(3) for event in run_events()]
    assert "3 hosts, the first one above" in _screen(_finished(tmp_path / "a", events))


def test_a_resumed_run_names_its_attempt(tmp_path: Path) -> None:
    path = _finished(tmp_path / "a", run_events())
    status = json.loads((path / "status.json").read_text(encoding="utf-8"))
    (path / "status.json").write_text(json.dumps({**status, "attempt": 2}), encoding="utf-8")
    assert "a  finished  digits, heuristic, seed 3, attempt 3\n" in call(["watch", str(path)]).out


def test_a_run_without_events_says_so(tmp_path: Path) -> None:
    assert "no event yet" in call(["watch", str(_finished(tmp_path / "a", []))]).out


def test_live_seeds_have_alpha_and_contribution(tmp_path: Path) -> None:
    events = [event for event in run_events() if event.epoch <= 19]
    text = _screen(_finished(tmp_path / "a", events))
    assert "block2  block2#1  conv_light  PROBATIONARY  1.00   +0.0200 +- 0.0041  1,204       11\n" in text
    assert "eta " in text


def test_names_from_files_cannot_steer_a_terminal(tmp_path: Path) -> None:
    bad = "\x1b]0;title\x07\x1b[31mslot\x9b2J"
    events = [
        replace(event, slots=(bad, "block2")) if isinstance(event, RunStarted) else event
        for event in run_events()
    ]
    text = _screen(_finished(tmp_path / "a", events))
    assert not set(text) & {"\x1b", "\x07", "\x9b"}
    assert "\nslot " in text


def _watch_on_terminal(
    path: Path, stop: int | None = None, environ: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run `esper watch PATH` on a terminal of its own; return its exit code and what it wrote."""
    terminal, inner = pty.openpty()
    program = [sys.executable, "-m", "esper", "watch", str(path), "--interval", "0.1"]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **(environ or {})}
    process = subprocess.Popen(program, stdin=inner, stdout=inner, stderr=inner, env=env)
    os.close(inner)
    written = b""
    try:
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the other end is closed: it has left
                break
            written += data
            if not data:
                break
            if stop is not None and b"run started" in written:
                process.send_signal(stop)
                stop = None
    finally:
        os.close(terminal)
    return process.wait(), written.decode()


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_leaving_puts_the_screen_back_and_the_run_goes_on(stop: int, code: int, tmp_path: Path) -> None:
    with _running(tmp_path / "a", list(run_events())[:9]) as hub:
        answer, written = _watch_on_terminal(tmp_path / "a", stop)
        hub.emit(list(run_events())[9])
    assert answer == code
    assert written.count("\x1b[?1049h") == written.count("\x1b[?1049l") == 1
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor
    assert "Traceback" not in written
    assert "run started" in written[written.index("\x1b[?1049l") :]


@pytest.mark.slow
@pytest.mark.parametrize(("environ", "has_colour"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_left_out_where_they_are_not_wanted(
    environ: dict[str, str], has_colour: bool, tmp_path: Path
) -> None:
    code, written = _watch_on_terminal(_finished(tmp_path / "a", run_events()), environ=environ)
    assert code == 0
    assert "\x1b[?1049h" not in written  # it has ended: one look on the ordinary screen
    assert ("\x1b[36m" in written) == has_colour
