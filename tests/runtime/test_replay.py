"""A run is repeated from its log to the last number, or the first place where it differs is named."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch

from esper.leyline import (
    ConfigError,
    DataError,
    EpochCompleted,
    EpochOutcome,
    Event,
    GovernorGaveUpError,
    InterruptedRunError,
    JsonValue,
    RolledBack,
    RunDirectoryError,
)
from esper.nissa import read_run
from esper.runtime.config_file import read_config, render_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.replay import ReplayReport, replay_run
from esper.runtime.run import run_experiment
from esper.runtime.run_attempt import LateSink
from esper.runtime.run_records import CONFIG_NAME, META_NAME
from esper.tolaria import HostRun
from runtime.test_run import tiny

Line = dict[str, JsonValue]


def growing(policy: str = "heuristic", epochs: int = 8) -> ExperimentConfig:
    """Digits with lenient gates and a heuristic that germinates early."""
    config = tiny(policy, epochs)
    rules = replace(config.heuristic, first_germination_epoch=1)
    return replace(config, heuristic=rules)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the heuristic in which something grew."""
    target = tmp_path_factory.mktemp("runs") / "run"
    run_experiment(growing(), run_dir=target, provenance={})
    assert "SeedGerminated" in {record.event.kind for record in read_run(target).records}
    return target


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def edit_log(run: Path, edit: Callable[[list[Line]], None]) -> None:
    """Change the lines of an event file after its header, as parsed JSON."""
    file = run / "events-0.jsonl"
    header, *lines = file.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    edit(records)
    file.write_text("\n".join((header, *map(json.dumps, records))) + "\n", encoding="utf-8")


def body(record: Line) -> Line:
    event = record["event"]
    assert isinstance(event, dict)
    return event


def decisions(records: list[Line], op: str) -> Iterator[Line]:
    return (
        body(record) for record in records if record["kind"] == "DecisionMade" and body(record)["op"] == op
    )


def photograph(run: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(run)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in sorted(run.rglob("*"))
    }


def assert_identical(report: ReplayReport, num_epochs: int) -> None:
    assert report.difference is None
    assert report.is_identical
    assert (report.num_epochs, report.num_recorded_epochs) == (num_epochs, num_epochs)


def test_a_heuristic_run_replays_identically_and_is_left_as_it_is(finished: Path) -> None:
    before = photograph(finished)
    told: list[tuple[int, int]] = []
    report = replay_run(finished, on_epoch=lambda done, total: told.append((done, total)))
    assert_identical(report, 8)
    assert report.is_result_compared
    assert (report.task, report.policy, report.num_decisions) == ("digits", "heuristic", 8)
    assert report.other_versions == {}
    assert told == [(epoch, 8) for epoch in range(1, 9)]
    assert photograph(finished) == before
    assert report.text == "identical: 8 of 8 epochs on record, 8 decisions, and the result"


def test_the_policy_on_record_need_not_be_there_any_more(copied: Path) -> None:
    config = replace(read_config(copied / CONFIG_NAME), policy="gone.module:Policy")
    (copied / CONFIG_NAME).write_text(render_config(config, {}), encoding="utf-8")
    edit_log(copied, lambda records: body(records[0]).update(policy="gone.module:Policy"))
    report = replay_run(copied, num_epochs=2)
    assert report.is_identical
    assert report.policy == "gone.module:Policy"


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["cycle", "greedy", "random", "schedule", "never"])
def test_a_run_of_every_policy_replays_identically(tmp_path: Path, policy: str) -> None:
    run_experiment(growing(policy), run_dir=tmp_path / "run", provenance={})
    assert_identical(replay_run(tmp_path / "run"), 8)


def interrupt(monkeypatch: pytest.MonkeyPatch, accepts: Callable[[Event], bool]) -> Callable[[], None]:
    """Send SIGTERM to this process at events that are accepted; return what ends that."""
    original = LateSink.emit

    def emit(self: LateSink, event: Event) -> None:
        original(self, event)
        if accepts(event):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(LateSink, "emit", emit)
    return lambda: monkeypatch.setattr(LateSink, "emit", original)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EpochCompleted", "DecisionMade"])
def test_an_interrupted_run_replays_as_far_as_it_came_and_whole_once_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = tmp_path / "run"
    calm = interrupt(monkeypatch, lambda event: event.kind == kind and event.epoch == 4)
    with pytest.raises(InterruptedRunError):
        run_experiment(growing(), run_dir=run, provenance={})
    calm()
    report = replay_run(run)
    assert_identical(report, 4)
    assert not report.is_result_compared
    assert report.text.endswith("; no result compared")
    run_experiment(growing(), run_dir=run, provenance={}, resume=True)
    report = replay_run(run)
    assert_identical(report, 8)
    assert report.is_result_compared
    assert report.num_decisions == 8  # none of them twice, wherever the signal came


@pytest.mark.slow
def test_a_run_that_lost_its_last_epochs_and_was_resumed_replays_identically(
    finished: Path, copied: Path
) -> None:
    newest = sorted((copied / "checkpoints").glob("e*"))[-1]
    shutil.rmtree(newest)
    run_experiment(growing(), run_dir=copied, provenance={}, resume=True)
    assert read_run(copied).num_superseded > 0
    report = replay_run(copied)
    assert_identical(report, 8)
    assert report.is_result_compared


@pytest.mark.slow
def test_the_first_epochs_can_be_replayed_alone(finished: Path) -> None:
    report = replay_run(finished, num_epochs=3)
    assert report.is_identical
    assert (report.num_epochs, report.num_recorded_epochs, report.num_decisions) == (3, 8, 3)
    assert not report.is_result_compared
    assert replay_run(finished, num_epochs=8).is_result_compared


def test_an_altered_blueprint_is_reported_at_its_epoch(copied: Path) -> None:
    def alter(records: list[Line]) -> None:
        choice = next(decisions(records, "GERMINATE"))
        epochs.append(choice["epoch"])
        choice["blueprint"] = "norm" if choice["blueprint"] != "norm" else "conv_light"

    epochs: list[JsonValue] = []
    edit_log(copied, alter)
    told: list[int] = []
    report = replay_run(copied, on_epoch=lambda epoch, _: told.append(epoch))
    assert told == list(range(1, int(str(epochs[0])) + 1))
    assert report.difference is not None
    assert [report.difference.epoch] == epochs
    assert report.difference.quantity.startswith("SeedGerminated ")
    assert report.difference.quantity.endswith(": blueprint")
    assert report.num_epochs == epochs[0]
    first, second = report.text.splitlines()
    assert first == report.difference.text
    assert second == f"identical before that: {epochs[0]} of 8 epochs on record"


def test_an_action_that_was_not_legal_there_is_reported_at_its_epoch(copied: Path) -> None:
    def alter(records: list[Line]) -> None:
        choice = next(decisions(records, "WAIT"))
        choice.update(op="FOSSILIZE", slot="block1")

    edit_log(copied, alter)
    difference = replay_run(copied).difference
    assert difference is not None
    assert (difference.epoch, difference.quantity) == (0, "DecisionMade block1: refusal")
    assert "stage is DORMANT" in str(difference.replayed)


def test_an_altered_loss_is_reported_with_both_values(copied: Path) -> None:
    def alter(records: list[Line]) -> None:
        done = next(body(r) for r in records if r["kind"] == "EpochCompleted" and body(r)["epoch"] == 2)
        losses.append(done["validation_loss"])
        done["validation_loss"] = 0.25

    losses: list[JsonValue] = []
    edit_log(copied, alter)
    difference = replay_run(copied).difference
    assert difference is not None
    assert difference.to_json() == {
        "epoch": 2,
        "quantity": "validation_loss",
        "recorded": 0.25,
        "replayed": losses[0],
    }


@pytest.mark.slow
def test_an_altered_result_is_reported(copied: Path) -> None:
    def alter(records: list[Line]) -> None:
        body(records[-1])["test_metrics"] = {"accuracy": 1.0}

    edit_log(copied, alter)
    report = replay_run(copied)
    assert report.difference is not None
    assert report.difference.quantity == "RunFinished: test_metrics/accuracy"
    assert (report.num_epochs, report.is_result_compared) == (8, False)


def test_another_seed_in_the_configuration_is_found_before_anything_is_trained(copied: Path) -> None:
    config = replace(read_config(copied / CONFIG_NAME), seed=5)
    (copied / CONFIG_NAME).write_text(render_config(config, {}), encoding="utf-8")
    report = replay_run(copied)
    assert report.difference is not None
    assert (report.difference.quantity, report.num_decisions) == ("RunStarted: seed", 0)


@pytest.mark.slow
def test_a_longer_horizon_than_on_record_is_found(copied: Path) -> None:
    config = growing(epochs=9)
    (copied / CONFIG_NAME).write_text(render_config(config, {}), encoding="utf-8")
    edit_log(copied, lambda records: body(records[0]).update(horizon_epochs=9))
    difference = replay_run(copied).difference
    assert difference is not None


def test_other_versions_are_told(copied: Path) -> None:
    meta = json.loads((copied / META_NAME).read_text(encoding="utf-8"))
    here = meta["versions"]["torch"]
    meta["versions"]["torch"] = "1.0"
    (copied / META_NAME).write_text(json.dumps(meta), encoding="utf-8")
    report = replay_run(copied, num_epochs=1)
    assert report.other_versions == {"torch": ("1.0", here)}
    assert report.to_json()["other_versions"] == {"torch": {"recorded": "1.0", "here": here}}


# ---------------------------------------------------------------------- rollbacks


def fail_at(monkeypatch: pytest.MonkeyPatch, epochs: frozenset[int], times: int) -> None:
    """Put a NaN into the host before these epochs, in every host run, `times` times each at most."""
    original = HostRun.train_epoch
    # By the run itself: its id may be given to the next run as soon as it is gone.
    counts: WeakKeyDictionary[HostRun, Counter[int]] = WeakKeyDictionary()

    def train_epoch(self: HostRun, should_stop: Callable[[], bool] | None = None) -> EpochOutcome | None:
        done = counts.setdefault(self, Counter())
        if self.epoch in epochs and done[self.epoch] < times:
            done[self.epoch] += 1
            with torch.no_grad():
                next(self.bench.model.host.parameters()).fill_(torch.nan)
        return original(self, should_stop)

    monkeypatch.setattr(HostRun, "train_epoch", train_epoch)


@pytest.mark.slow
def test_a_rolled_back_run_replays_identically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, frozenset({5}), times=1)
    run_experiment(growing(), run_dir=tmp_path / "run", provenance={})
    events = [record.event for record in read_run(tmp_path / "run").records]
    assert sum(isinstance(event, RolledBack) for event in events) == 1
    told: list[int] = []
    report = replay_run(tmp_path / "run", on_epoch=lambda done, _: told.append(done))
    assert_identical(report, 8)
    assert report.num_decisions > 8
    assert len(told) == sum(isinstance(event, EpochCompleted) for event in events)


def test_a_fault_that_does_not_come_again_is_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as faulty:
        fail_at(faulty, frozenset({3}), times=1)
        run_experiment(growing(epochs=4), run_dir=tmp_path / "run", provenance={})
    report = replay_run(tmp_path / "run")
    assert report.difference is not None
    assert (report.difference.quantity, report.difference.recorded) == ("event", "UpdateSkipped")


@pytest.mark.slow
@pytest.mark.parametrize("on_failure", ["restore", "terminate"])
def test_a_run_that_the_governor_ended_replays_identically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_failure: str
) -> None:
    fail_at(monkeypatch, frozenset({3}), times=9)
    config = growing(epochs=5)
    config = replace(config, host=replace(config.host, on_failure=on_failure))
    if on_failure == "terminate":
        run_experiment(config, run_dir=tmp_path / "run", provenance={})
    else:
        with pytest.raises(GovernorGaveUpError):
            run_experiment(config, run_dir=tmp_path / "run", provenance={})
    report = replay_run(tmp_path / "run")
    assert_identical(report, 3)
    assert report.is_result_compared


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize("num_epochs", [0, -1, 9])
def test_epochs_that_are_not_on_record_are_refused(finished: Path, num_epochs: int) -> None:
    with pytest.raises(ConfigError, match="has 1 to 8 on record"):
        replay_run(finished, num_epochs=num_epochs)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="not a run"):
        replay_run(tmp_path)


def test_a_run_without_an_event_log_is_refused(copied: Path) -> None:
    (copied / "events-0.jsonl").unlink()
    with pytest.raises(RunDirectoryError, match="holds no events"):
        replay_run(copied)


def test_a_training_of_a_policy_is_refused(copied: Path) -> None:
    config = replace(read_config(copied / CONFIG_NAME), policy="ppo")
    (copied / CONFIG_NAME).write_text(render_config(config, {}), encoding="utf-8")
    with pytest.raises(ConfigError, match="only a growth run can be replayed"):
        replay_run(copied)


def test_actions_that_are_not_whole_are_refused_before_anything_is_trained(copied: Path) -> None:
    def forget(records: list[Line]) -> None:
        for name in ("blend", "curve", "tempo_epochs", "alpha_target"):
            del next(decisions(records, "GERMINATE"))[name]

    edit_log(copied, forget)
    with pytest.raises(DataError, match="its blend, curve, tempo_epochs, alpha_target are not on record"):
        replay_run(copied)


def test_a_missing_data_set_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(copied / CONFIG_NAME)
    task = replace(config.task, name="fashion_mnist", data_dir=str(copied / "nowhere"))
    (copied / CONFIG_NAME).write_text(render_config(replace(config, task=task), {}), encoding="utf-8")
    monkeypatch.delenv("ESPER_DATA", raising=False)
    with pytest.raises(DataError, match="fashion_mnist"):
        replay_run(copied)
