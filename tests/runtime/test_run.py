"""A run from configuration to summary: written, interrupted, resumed bit for bit, refused."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import (
    CheckpointError,
    ConfigError,
    Event,
    ExitCode,
    InterruptedRunError,
    RunDirectoryError,
)
from esper.nissa import effective_log
from esper.runtime import run as run_module
from esper.runtime.experiment import CheckpointConfig, ExperimentConfig
from esper.runtime.presets import digits
from esper.runtime.run import LateSink, compare_configs, run_experiment, run_unwritten


def tiny(policy: str = "cycle", epochs: int = 8) -> ExperimentConfig:
    """Digits with lenient gates, so that one seed is kept and one culled within eight epochs."""
    config = run_module._shorten(digits())
    return replace(
        config,
        policy=policy,
        host=replace(config.host, epochs=epochs),
        telemetry=replace(config.telemetry, progress="none", has_report=False),
        checkpoint=CheckpointConfig(every_epochs=3),
    )


def test_a_run_leaves_config_events_summary_and_a_checkpoint(tmp_path: Path) -> None:
    result = run_experiment(tiny(), run_dir=tmp_path / "run", provenance={})
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.toml", "meta.json", "status.json", "summary.json", "events-0.jsonl"} <= names
    assert result.epochs == 8
    assert 0.0 < result.test_metric <= 1.0
    stages = [slot["stage"] for slot in result.slots]
    assert "FOSSILIZED" in stages


def test_the_same_seed_gives_the_same_event_log(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_experiment(tiny(), run_dir=tmp_path / name, provenance={})
    assert effective_log(tmp_path / "one") == effective_log(tmp_path / "two")


class SignalAt:
    """Sends SIGTERM to this process at the n-th finished epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def emit(self, event: Event) -> None:
        if event.kind == "EpochCompleted" and event.epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2, 4, 6])
def test_an_interrupted_run_resumes_bit_for_bit(
    tmp_path: Path, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_experiment(tiny(), run_dir=tmp_path / "whole", provenance={})
    original = LateSink.emit

    def emit(self: LateSink, event: Event) -> None:
        original(self, event)
        SignalAt(epoch).emit(event)

    monkeypatch.setattr(LateSink, "emit", emit)
    with pytest.raises(InterruptedRunError) as stopped:
        run_experiment(tiny(), run_dir=tmp_path / "cut", provenance={})
    assert stopped.value.signal_exit_code is ExitCode.SIGTERM
    monkeypatch.setattr(LateSink, "emit", original)
    run_experiment(tiny(), run_dir=tmp_path / "cut", provenance={}, resume=True)
    assert effective_log(tmp_path / "cut") == effective_log(tmp_path / "whole")


def test_a_run_directory_in_use_is_refused_and_untouched(tmp_path: Path) -> None:
    target = tmp_path / "run"
    run_experiment(tiny(epochs=1), run_dir=target, provenance={})
    before = sorted(path.name for path in target.iterdir())
    with pytest.raises(RunDirectoryError):
        run_experiment(tiny(epochs=1), run_dir=target, provenance={})
    assert sorted(path.name for path in target.iterdir()) == before


def test_a_corrupt_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    target = tmp_path / "run"
    run_experiment(tiny(epochs=2), run_dir=target, provenance={})
    for path in (target / "checkpoints").glob("*/tensors.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors"):
        run_experiment(tiny(epochs=2), run_dir=target, provenance={}, resume=True)


def test_resuming_with_other_settings_is_refused_and_names_them(tmp_path: Path) -> None:
    target, config = tmp_path / "run", tiny(epochs=2)
    run_experiment(config, run_dir=target, provenance={})
    wider = replace(config, model=replace(config.model, base_channels=5))
    with pytest.raises(ConfigError, match=r"model\.base_channels"):
        run_experiment(wider, run_dir=target, provenance={}, resume=True)


def test_a_dry_run_goes_through_every_path_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_experiment(digits(), run_dir=None, provenance={}, is_dry_run=True)
    assert "FOSSILIZED" in [slot["stage"] for slot in result.slots]
    assert list(tmp_path.iterdir()) == []


def test_only_settings_that_change_numbers_count_as_different() -> None:
    config = digits()
    assert compare_configs(config, replace(config, num_threads=2)) == []
    assert compare_configs(config, replace(config, seed=5)) == ["seed"]


def test_never_growing_adds_no_parameter() -> None:
    result, _ = run_unwritten(tiny("never", epochs=1))
    assert result.total_params == result.host_params
