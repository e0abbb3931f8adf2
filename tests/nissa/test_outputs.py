"""A configuration becomes a hub: files on every rank, a console on rank 0."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import CheckpointFailed, Notice, RunFinished
from esper.nissa import TelemetryConfig, build_hub, event_files, read_run
from nissa.sample_run import finished_epoch


def test_files_and_console_are_wired(tmp_path: Path) -> None:
    stream = io.StringIO()
    hub = build_hub(TelemetryConfig(), run_id="a", stream=stream, environ={}, directory=tmp_path)
    assert hub.losses == {"run_directory": 0, "console": 0}
    hub.emit(Notice(epoch=0, text="hello"))
    assert len((tmp_path / "events-0.jsonl").read_bytes().splitlines()) == 2  # before anything is closed
    hub.close()
    assert stream.getvalue() == "note: hello\n"
    assert (tmp_path / "summary.json").exists()


def test_a_second_attempt_goes_on_counting(tmp_path: Path) -> None:
    config = TelemetryConfig(progress="none")
    for _ in range(2):
        hub = build_hub(config, run_id="a", stream=io.StringIO(), environ={}, directory=tmp_path)
        hub.emit(Notice(epoch=0, text="hello"))
        hub.close()
    assert [(r.attempt, r.seq) for r in read_run(tmp_path).records] == [(0, 0), (1, 1)]
    assert hub.losses == {"run_directory": 0}


def test_other_ranks_are_silent(tmp_path: Path) -> None:
    stream = io.StringIO()
    config = TelemetryConfig(progress="plain")
    hub = build_hub(config, run_id="a", stream=stream, environ={}, directory=tmp_path, rank=2)
    hub.emit(Notice(epoch=0, text="hello"))
    hub.close()
    assert stream.getvalue() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["events-2.jsonl"]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_calls_a_person(rank: int, tmp_path: Path) -> None:
    called, folder = tmp_path / "called.json", tmp_path / "run"
    folder.mkdir()
    config = TelemetryConfig(progress="none", on_alert=f"tee '{called}'")
    hub = build_hub(config, run_id="a", stream=io.StringIO(), environ={}, directory=folder, rank=rank)
    hub.emit(CheckpointFailed(epoch=1, name="e1-b0", error="disk full", num_failures=1))
    hub.emit(RunFinished(epoch=1, reason="horizon"))
    hub.close()
    assert called.exists() == (rank == 0)
    if rank == 0:
        assert json.loads(called.read_bytes())["run_dir"] == str(folder)
    assert not [r for r in read_run(folder).records if r.event.kind == "AlertFailed"]


def test_nothing_at_all_is_a_hub_too() -> None:
    config = TelemetryConfig(progress="none")
    hub = build_hub(config, run_id="a", stream=io.StringIO(), environ={})
    hub.emit(Notice(epoch=0, text="hello"))
    hub.close()
    assert hub.losses == {}


def test_the_room_for_event_files_is_the_configured_one(tmp_path: Path) -> None:
    config = TelemetryConfig(progress="none", max_event_file_mb=0.01, max_events_mb=0.04)
    hub = build_hub(config, run_id="a", stream=io.StringIO(), environ={}, directory=tmp_path)
    for epoch in range(200):
        hub.emit(finished_epoch(epoch))
    hub.emit(Notice(epoch=200, text="hello"))
    hub.close()
    sizes = [path.stat().st_size for path in event_files(tmp_path)]
    assert (max(sizes) <= 10_000, sum(sizes) <= 40_000, len(sizes) > 4) == (True, True, True)
    log = read_run(tmp_path)
    kept = [record for record in log.records if record.is_sample]
    assert (len(kept) + log.num_dropped, log.num_dropped > 0) == (200, True)
    assert hub.losses == {"run_directory": 0}  # they had arrived


@pytest.mark.battery("T48")
def test_odd_numbers_and_texts_end_as_short_lines_of_valid_json(tmp_path: Path) -> None:
    config = TelemetryConfig(progress="none")
    hub = build_hub(config, run_id="a", stream=io.StringIO(), environ={}, directory=tmp_path)
    for number in (math.nan, math.inf, -math.inf):
        hub.emit(
            replace(finished_epoch(1), train_loss=number, raw_metrics={"accuracy": number, "\ud800": 1.0})
        )
    for text in ("x" * 1_000_000, "\udc80\ud800", "\n\r\0\x1b[31m", "\u2028"):
        hub.emit(Notice(epoch=1, text=text))
        hub.emit(replace(finished_epoch(1), raw_metrics={text: math.nan}))
    hub.close()
    for line in (tmp_path / "events-0.jsonl").read_bytes().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"bare {name}"))
        assert line.isascii()
        assert len(line) < 20_000
    log = read_run(tmp_path)
    assert (len(log.records), log.bad_lines, log.num_torn, hub.failures) == (11, (), 0, {})
    json.loads((tmp_path / "summary.json").read_bytes(), parse_constant=lambda name: pytest.fail(name))
