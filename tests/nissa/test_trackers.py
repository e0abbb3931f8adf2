from __future__ import annotations

import importlib.util
import io
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from esper.leyline import BackendFailed, ConfigError
from esper.nissa import (
    TRACKER_NAMES,
    TRACKERS,
    BufferedBackend,
    EventHub,
    MemoryBackend,
    TelemetryConfig,
    build_hub,
    build_trackers,
    check_trackers,
    read_run,
)
from nissa.fakes import FailingBackend
from nissa.sample_run import run_events


def test_every_name_of_the_configuration_has_a_tracker(tmp_path: Path) -> None:
    assert tuple(TRACKERS) == TRACKER_NAMES
    built = build_trackers(TRACKER_NAMES, folder=tmp_path, run_id="a")
    assert tuple(tracker.name for tracker in built) == TRACKER_NAMES
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_one_message_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in TRACKER_NAMES else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ConfigError, match=r"wandb is not installed: pip install 'esper-lite\[wandb\]'"):
        check_trackers(["wandb"])
    with pytest.raises(ConfigError, match=r"pip install 'esper-lite\[tensorboard,wandb\]'"):
        check_trackers(TRACKER_NAMES)
    check_trackers([])


def test_a_run_without_a_directory_has_nowhere_to_write(tmp_path: Path) -> None:
    config = TelemetryConfig(progress="none", trackers=("tensorboard",))
    with pytest.raises(ConfigError, match="this run has none"):
        build_hub(config, run_id="a", stream=io.StringIO(), environ={})


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_feeds_them(rank: int, tmp_path: Path) -> None:
    config = TelemetryConfig(progress="none", trackers=("tensorboard",))
    hub = build_hub(config, run_id="a", stream=io.StringIO(), environ={}, directory=tmp_path, rank=rank)
    for event in run_events():
        hub.emit(event)
    hub.close()
    assert (tmp_path / "tensorboard").exists() == (rank == 0)
    assert set(hub.losses) == ({"run_directory", "tensorboard"} if rank == 0 else {"run_directory"})


def test_one_that_cannot_write_is_told_once_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way", encoding="utf-8")
    config = TelemetryConfig(progress="none", trackers=("tensorboard",))
    hub = build_hub(config, run_id="a", stream=io.StringIO(), environ={}, directory=tmp_path)
    for event in run_events():
        hub.emit(event)
    hub.close()
    kinds = [record.event.kind for record in read_run(tmp_path).records]
    assert kinds.count("BackendFailed") == 1
    assert kinds.count("EpochCompleted") == 40


def test_one_that_fails_behind_its_queue_is_told_to_the_others() -> None:
    memory = MemoryBackend()
    hub = EventHub([memory, BufferedBackend(FailingBackend("wandb", good_writes=3))], run_id="a")
    for event in run_events():
        hub.emit(event)
    hub.close()
    (failed,) = memory.events_of(BackendFailed)
    assert failed.backend == "wandb"
