"""A run from configuration to summary: written, interrupted, resumed bit for bit, refused."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.leyline import (
    CheckpointError,
    CheckpointFailed,
    ConfigError,
    Event,
    ExitCode,
    ForeignCheckpointError,
    InterruptedRunError,
    Notice,
    RolledBack,
    RunDirectoryError,
    RunFinished,
)
from esper.nissa import effective_log, event_files, read_run, total_flops
from esper.runtime import run as run_module
from esper.runtime.assemble import Assembly, assemble
from esper.runtime.config_file import read_config
from esper.runtime.experiment import CheckpointConfig, ExperimentConfig
from esper.runtime.policies import SCORE_EVERY, SCORES_NOTICE
from esper.runtime.presets import digits
from esper.runtime.ranks.lone import LoneRank
from esper.runtime.replay import replay_run
from esper.runtime.run import run_experiment, run_unwritten
from esper.runtime.run_attempt import LateSink
from esper.runtime.training import assemble_training
from esper.tamiyo import save_policy
from esper.tolaria.checkpoint import CheckpointStore, SavedCheckpoint, StateRecord
from runtime.learning import tiny_training
from runtime.own_code import POLICIES, POLICY_MODULE

SAVED_EVERY_EPOCH = CheckpointConfig(every_epochs=1, keep=20, is_asynchronous=False)


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
    assert (result.epochs, result.metric_name) == (8, "accuracy")
    assert result.total_flops == total_flops(result.flops)
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


@pytest.mark.slow
def test_a_run_in_many_event_files_resumes_and_replays_as_one_in_a_single_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    small = replace(config, telemetry=replace(config.telemetry, max_event_file_mb=0.01, max_events_mb=1.0))
    run_experiment(config, run_dir=tmp_path / "one", provenance={})
    _cut(monkeypatch, small, tmp_path / "many", epoch=5)
    run_experiment(small, run_dir=tmp_path / "many", provenance={}, resume=True)
    assert len(event_files(tmp_path / "one")) == 1 < len(event_files(tmp_path / "many"))
    assert effective_log(tmp_path / "many") == effective_log(tmp_path / "one")
    assert replay_run(tmp_path / "many").difference is None


def test_an_interrupted_run_says_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LateSink.emit

    def emit(self: LateSink, event: Event) -> None:
        original(self, event)
        SignalAt(2).emit(event)

    monkeypatch.setattr(LateSink, "emit", emit)
    with pytest.raises(InterruptedRunError):
        run_experiment(tiny(), run_dir=tmp_path / "run", provenance={})
    (end,) = [event for event in _events(tmp_path / "run") if isinstance(event, RunFinished)]
    assert (end.reason, end.epoch) == ("interrupted", 2)
    assert end.total_params > 0
    assert end.flops["host_train"] > 0


def test_resuming_a_finished_run_trains_nothing_and_gives_the_same_result(tmp_path: Path) -> None:
    target, config = tmp_path / "run", tiny(epochs=3)
    first = run_experiment(config, run_dir=target, provenance={})
    again = run_experiment(config, run_dir=target, provenance={}, resume=True)
    assert again == first
    assert not [event for event in _events(target) if isinstance(event, CheckpointFailed)]


def _events(run_dir: Path) -> list[Event]:
    return [record.event for record in read_run(run_dir).records]


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


@pytest.mark.battery("T11")
def test_resuming_with_other_settings_is_refused_and_names_them(tmp_path: Path) -> None:
    target, config = tmp_path / "run", tiny(epochs=2)
    run_experiment(config, run_dir=target, provenance={})
    wider = replace(config, model=replace(config.model, base_channels=5))
    with pytest.raises(ConfigError, match=r"model\.base_channels \(there 3, given 5\)"):
        run_experiment(wider, run_dir=target, provenance={}, resume=True)


def test_a_dry_run_goes_through_every_path_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_experiment(digits(), run_dir=None, provenance={}, is_dry_run=True)
    assert "FOSSILIZED" in [slot["stage"] for slot in result.slots]
    assert list(tmp_path.iterdir()) == []


def poison_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put NaN into the host of the next run once, when an epoch has ended for the first time."""
    taken: list[Assembly] = []
    original = LateSink.emit

    def assemble_and_keep(*args: object, **options: object) -> Assembly:
        taken.append(assemble(*args, **options))  # type: ignore[arg-type]
        return taken[-1]

    def emit(self: LateSink, event: Event) -> None:
        original(self, event)
        if taken and event.kind == "EpochCompleted" and event.epoch == epoch:
            with torch.no_grad():
                for parameter in taken.pop().host_run.bench.model.host.parameters():
                    parameter.fill_(float("nan"))

    monkeypatch.setattr(run_module, "assemble", assemble_and_keep)
    monkeypatch.setattr(LateSink, "emit", emit)


def test_after_a_rollback_every_checkpoint_is_saved_under_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_after(4, monkeypatch)
    target, config = tmp_path / "run", replace(tiny(), checkpoint=SAVED_EVERY_EPOCH)
    run_experiment(config, run_dir=target, provenance={})
    events = _events(target)
    assert [event.restored_epoch for event in events if isinstance(event, RolledBack)] == [3]
    assert not [event for event in events if isinstance(event, CheckpointFailed)]
    names = {path.name for path in (target / "checkpoints").iterdir()}
    assert {"e0004-b00000", "e0004-b00000-r1", "e0008-b00000-r1"} <= names


@pytest.mark.battery("T03", "T05")
def test_a_save_that_fails_is_reported_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CheckpointStore.save
    failed: list[str] = []

    def save(self: CheckpointStore, name: str, record: StateRecord, *, topology_hash: str) -> SavedCheckpoint:
        if not failed:
            failed.append(name)
            raise CheckpointError("the disk is full")
        return original(self, name, record, topology_hash=topology_hash)

    monkeypatch.setattr(CheckpointStore, "save", save)
    result = run_experiment(tiny(), run_dir=tmp_path / "run", provenance={})
    (event,) = [event for event in _events(tmp_path / "run") if isinstance(event, CheckpointFailed)]
    assert (event.name, event.error, event.num_failures) == ("e0003-b00000", "the disk is full", 1)
    assert result.epochs == 8
    assert (tmp_path / "run" / "checkpoints" / "e0006-b00000").is_dir()


def test_an_episode_that_the_governor_ends_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison_after(4, monkeypatch)
    config = tiny()
    host = replace(config.host, on_failure="terminate")
    run_experiment(replace(config, host=host), run_dir=tmp_path / "run", provenance={})
    (end,) = [event for event in _events(tmp_path / "run") if isinstance(event, RunFinished)]
    assert (end.reason, end.epoch) == ("governor", 3)


def test_never_growing_adds_no_parameter() -> None:
    result, _ = run_unwritten(tiny("never", epochs=1))
    assert result.total_params == result.host_params


def _cut(monkeypatch: pytest.MonkeyPatch, config: ExperimentConfig, path: Path, epoch: int) -> None:
    """Run until a signal after an epoch has saved a checkpoint."""
    original = LateSink.emit

    def emit(self: LateSink, event: Event) -> None:
        original(self, event)
        SignalAt(epoch).emit(event)

    with monkeypatch.context() as patch:
        patch.setattr(LateSink, "emit", emit)
        with pytest.raises(InterruptedRunError):
            run_experiment(config, run_dir=path, provenance={})


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with a user's policies in it; forgotten afterwards."""
    (tmp_path / f"{POLICY_MODULE}.py").write_text(POLICIES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop(POLICY_MODULE, None)


@pytest.mark.slow
def test_a_run_with_a_users_policy_resumes_bit_for_bit(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(f"{POLICY_MODULE}:PlantOnce")
    whole = run_experiment(config, run_dir=beside / "whole", provenance={})
    assert "FOSSILIZED" in [slot["stage"] for slot in whole.slots]
    _cut(monkeypatch, config, beside / "cut", epoch=3)
    run_experiment(config, run_dir=beside / "cut", provenance={}, resume=True)
    assert effective_log(beside / "cut") == effective_log(beside / "whole")


def test_a_users_policy_that_changed_its_memory_is_refused_on_resume(beside: Path) -> None:
    config = tiny(f"{POLICY_MODULE}:PlantOnce", epochs=2)
    run_experiment(config, run_dir=beside / "run", provenance={})
    text = POLICIES.replace('"has_planted"', '"planted"')
    (beside / f"{POLICY_MODULE}.py").write_text(text, encoding="utf-8")
    del sys.modules[POLICY_MODULE]
    with pytest.raises(ForeignCheckpointError, match=r"PlantOnce does not take its saved memory .*KeyError"):
        run_experiment(config, run_dir=beside / "run", provenance={}, resume=True)


def test_a_dry_run_tries_the_policy_that_was_asked_for(beside: Path) -> None:
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        run_experiment(tiny(f"{POLICY_MODULE}:Crashes"), run_dir=None, provenance={}, is_dry_run=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a policy with the weights that it was born with."""
    folder = tmp_path_factory.mktemp("trained") / "policy"
    assembly = assemble_training(tiny_training(), LoneRank())
    save_policy(folder, assembly.network, assembly.network_config, metadata={})
    return folder


@pytest.mark.slow
def test_a_run_with_a_trained_policy_resumes_bit_for_bit(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(str(trained))
    result = run_experiment(config, run_dir=tmp_path / "whole", provenance={})
    assert result.policy == str(trained)
    _cut(monkeypatch, config, tmp_path / "cut", epoch=3)
    run_experiment(config, run_dir=tmp_path / "cut", provenance={}, resume=True)
    assert effective_log(tmp_path / "cut") == effective_log(tmp_path / "whole")


def test_a_run_goes_on_only_with_the_trained_policy_that_it_began_with(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(trained, folder)
    config = tiny(str(folder), epochs=2)
    run_experiment(config, run_dir=tmp_path / "run", provenance={})
    assembly = assemble_training(replace(tiny_training(), seed=4), LoneRank())
    save_policy(folder, assembly.network, assembly.network_config, metadata={})
    with pytest.raises(ForeignCheckpointError, match="trained policy are not those that the run was started"):
        run_experiment(config, run_dir=tmp_path / "run", provenance={}, resume=True)


def test_auto_is_written_as_what_it_stands_for(tmp_path: Path) -> None:
    result = run_experiment(tiny("auto", epochs=1), run_dir=tmp_path / "run", provenance={})
    assert result.policy == "heuristic"
    assert read_config(tmp_path / "run" / "config.toml").policy == "heuristic"
    again = run_experiment(tiny("auto", epochs=1), run_dir=tmp_path / "run", provenance={}, resume=True)
    assert again == result


def test_a_greedy_run_is_scored_and_says_so_once(tmp_path: Path) -> None:
    config, run = tiny("greedy", epochs=6), tmp_path / "run"
    result = run_experiment(config, run_dir=run, provenance={})
    assert read_config(run / "config.toml").host.measuring.score_every == SCORE_EVERY
    assert f"score_every = {SCORE_EVERY}  # policy" in (run / "config.toml").read_text(encoding="utf-8")
    assert [event.text for event in _events(run) if isinstance(event, Notice)] == [SCORES_NOTICE]
    assert result.flops["probe"] > 0
    again = run_experiment(read_config(run / "config.toml"), run_dir=run, provenance={}, resume=True)
    assert again == result
    assert [event.text for event in _events(run) if isinstance(event, Notice)] == [SCORES_NOTICE]


def test_a_greedy_run_keeps_the_interval_that_was_asked_for_without_a_word(tmp_path: Path) -> None:
    config, run = tiny("greedy", epochs=2), tmp_path / "run"
    measuring = replace(config.host.measuring, score_every=1)
    config = replace(config, host=replace(config.host, measuring=measuring))
    run_experiment(config, run_dir=run, provenance={})
    assert read_config(run / "config.toml").host.measuring.score_every == 1
    assert not [event for event in _events(run) if isinstance(event, Notice)]
