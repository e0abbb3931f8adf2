"""A run directory holds the events of its processes, and a summary over all attempts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import EpochCompleted, RunDirectoryError, RunStarted
from esper.nissa import SUMMARY_NAME, RunDirectoryBackend, read_run, write_summary
from nissa.sample_run import EPOCHS, HOST_PARAMS, numbered, run_events, write_run
from nissa.sample_training import training_events


def summary_of(folder: Path) -> dict[str, object]:
    loaded = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_events_and_summary_are_written(tmp_path: Path) -> None:
    records = numbered(run_events())
    write_run(tmp_path, records)
    assert list(read_run(tmp_path).records) == records
    summary = summary_of(tmp_path)
    assert summary["status"] == "horizon"
    assert summary["num_epochs"] == EPOCHS
    assert summary["total_params"] == HOST_PARAMS + 1_204
    assert summary["test_metrics"] == {"accuracy": 0.938, "loss": 0.231}
    assert [fossil["seed_id"] for fossil in summary["fossils"]] == ["block2#1"]  # type: ignore[attr-defined]
    assert (summary["num_fossilized"], summary["num_culled"]) == (1, 2)


def test_the_training_of_a_policy_is_summed_up_as_one(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(training_events()))
    summary = summary_of(tmp_path)
    assert (summary["kind"], summary["task"], summary["num_rounds"]) == ("training", "digits", 20)
    assert "metric_name" not in summary


def test_only_rank_0_sums_up(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(run_events(), rank=3), rank=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events-3.jsonl"]


def test_a_resumed_run_is_summed_up_over_both_attempts(tmp_path: Path) -> None:
    events = list(run_events())
    cut = next(i for i, event in enumerate(events) if isinstance(event, EpochCompleted) and event.epoch == 20)
    write_run(tmp_path, numbered(events[: cut + 5]))
    assert summary_of(tmp_path)["status"] == "unfinished"
    backend = RunDirectoryBackend(tmp_path, run_id="sample")
    assert (backend.next_seq, backend.next_attempt, backend.num_torn) == (cut + 5, 1, 0)
    first = events[0]
    assert isinstance(first, RunStarted)
    again = replace(first, epoch=20, is_resumed=True, rewinds_to_seq=cut)
    for record in numbered([again, *events[cut + 1 :]], attempt=1, first_seq=backend.next_seq):
        backend.write(record)
    backend.close()
    resumed = summary_of(tmp_path)
    whole = tmp_path / "whole"
    whole.mkdir()
    write_run(whole, numbered(events))
    assert resumed == summary_of(whole)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a directory"):
        RunDirectoryBackend(tmp_path / "gone", run_id="sample")


def test_a_folder_without_events_cannot_be_summed_up(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="expected a run directory"):
        write_summary(tmp_path)
