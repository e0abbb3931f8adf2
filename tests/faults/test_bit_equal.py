"""A run stopped at any kind of moment and resumed is the run that was never stopped, to the last bit.

Every whole run lives three lives of a seed, one in each block: germinated and culled, germinated, blended,
fossilised. The stops fall into the second, so that every kind of event lies on both sides of each.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from battery_rows import BatteryRecord
from cli.calling import call
from esper.leyline import Event, InterruptedRunError, RolledBack, SeedGerminated, StageChanged
from esper.nissa import read_run
from esper.runtime.config_file import render_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.policy_run import train_policy
from esper.runtime.run import run_experiment
from faults.bit_equal import assert_bit_equal, last_checkpoint, read_state, saved_names
from runtime.learning import tiny_training
from runtime.test_run import tiny

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.battery("T02")]

BATCHES = 4
EPOCHS = 34
SECOND, LIFE = "block2", 11


def live(slot: str, begin: int) -> list[dict[str, object]]:
    """Return the decisions of one life: a seed that goes, and one that stays."""
    steps: list[tuple[int, dict[str, object]]] = [
        (0, {"op": "GERMINATE", "blueprint": "conv_light"}),
        (1, {"op": "CULL", "tempo_epochs": 1}),
        (4, {"op": "GERMINATE", "blueprint": "norm", "tempo_epochs": 4}),
        (5, {"op": "ADVANCE"}),
        (10, {"op": "FOSSILIZE"}),
    ]
    return [{"epoch": begin + epoch, "slot": slot, **step} for epoch, step in steps]


def scripted(schedule: Path) -> ExperimentConfig:
    """Return three lives on few digits; a ramp of 16 batches passes through alpha 0.375."""
    schedule.write_text(json.dumps([step for n in range(3) for step in live(f"block{n + 1}", LIFE * n)]))
    config = tiny(f"schedule:{schedule}", EPOCHS)
    return replace(
        config,
        model=replace(config.model, num_blocks=4, dropout=0.1),
        task=replace(config.task, num_train_rows=64 * BATCHES),
        checkpoint=replace(config.checkpoint, every_epochs=0),
    )


def heuristic(_schedule: Path) -> ExperimentConfig:
    """Return a run in which the rules decide; they have a memory of their own."""
    config = tiny("heuristic", 14)
    return replace(
        config,
        heuristic=replace(config.heuristic, first_germination_epoch=1),
        task=replace(config.task, num_train_rows=64 * BATCHES),
        checkpoint=replace(config.checkpoint, every_epochs=0),
    )


def events_of(run_dir: Path) -> list[Event]:
    return [record.event for record in read_run(run_dir).records]


def epoch_of(events: list[Event], slot: str, stage: str) -> int:
    """Return when a slot reached a stage for the last time."""
    return [e.epoch for e in events if isinstance(e, StageChanged) and (e.slot, e.new) == (slot, stage)][-1]


def at_batch(epoch: int, batch: int) -> str:
    """Stop once this batch of an epoch is trained."""
    return f"sigterm@seed=host,step={epoch},batch={batch}"


CUTS: dict[str, Callable[[list[Event]], str]] = {
    "mid-epoch": lambda events: at_batch(epoch_of(events, SECOND, "BLENDING") - 2, 1),
    "epoch edge": lambda events: (
        f"sigterm@event=EpochCompleted,step={epoch_of(events, SECOND, 'BLENDING') - 1}"
    ),
    "in isolated training": lambda events: at_batch(epoch_of(events, SECOND, "TRAINING"), 2),
    "in mid-blending": lambda events: at_batch(epoch_of(events, SECOND, "BLENDING") + 1, 2),
    "just before fossilising": lambda events: (
        f"sigterm@event=EpochCompleted,step={epoch_of(events, SECOND, 'FOSSILIZED')}"
    ),
    "just after fossilising": lambda events: f"sigterm@event=SeedFossilized,slot={SECOND}",
    "just after a cull": lambda events: f"sigterm@event=SeedCulled,slot={SECOND}",
}
PLACES = {
    "mid-epoch": "b00002",
    "epoch edge": "b00000",
    "in isolated training": "b00003",
    "in mid-blending": "b00003",
    "just before fossilising": "b00000",
    "just after fossilising": "b00001",
    "just after a cull": "b00001",
}
"""Where in an epoch the stop is to have been honoured."""


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Orders faults for what runs next; an empty text orders none."""
    monkeypatch.setenv("ESPER_ALLOW_FAULTS", "1")
    return lambda text: monkeypatch.setenv("FAULTS", text)


@pytest.fixture(scope="module", params=[scripted, heuristic], ids=["schedule", "heuristic"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExperimentConfig, Path]:
    """A run that nobody stops, and its configuration."""
    folder = tmp_path_factory.mktemp("whole")
    config = request.param(folder / "schedule.json")
    run_experiment(config, run_dir=folder / "run", provenance={})
    return config, folder / "run"


def cut_and_resume(config: ExperimentConfig, run_dir: Path, faults: Callable[[str], None], order: str) -> str:
    """Run until a fault stops it, then to the end without one; return where it was stopped."""
    faults(order)
    with pytest.raises(InterruptedRunError):
        run_experiment(config, run_dir=run_dir, provenance={})
    (place,) = saved_names(run_dir)
    faults("")
    run_experiment(config, run_dir=run_dir, provenance={}, resume=True)
    return place


@pytest.mark.parametrize("moment", CUTS)
def test_a_run_stopped_at_any_moment_of_a_seeds_life_goes_on_bit_for_bit(
    whole: tuple[ExperimentConfig, Path],
    moment: str,
    tmp_path: Path,
    faults: Callable[[str], None],
    battery: BatteryRecord,
) -> None:
    config, undisturbed = whole
    if config.policy == "heuristic" and moment == "just after a cull":
        pytest.skip("the rules cull nothing in so short a run")
    place = cut_and_resume(config, tmp_path / "cut", faults, CUTS[moment](events_of(undisturbed)))
    assert place.endswith(PLACES[moment])
    assert_bit_equal(undisturbed, tmp_path / "cut")
    battery.record()


def test_the_lives_of_the_schedule_have_every_kind_of_event_on_both_sides_of_the_second(
    whole: tuple[ExperimentConfig, Path],
) -> None:
    config, undisturbed = whole
    if config.policy == "heuristic":
        pytest.skip("the rules decide how many lives there are")
    events = events_of(undisturbed)
    kinds = {"SeedGerminated", "SeedCulled", "SeedFossilized"}
    first = epoch_of(events, SECOND, "GERMINATED")
    last = epoch_of(events, SECOND, "FOSSILIZED")
    for side in ([e for e in events if e.epoch < first], [e for e in events if e.epoch > last]):
        assert kinds <= {event.kind for event in side}
        assert "BLENDING" in {event.new for event in side if isinstance(event, StageChanged)}


def test_the_stop_in_mid_blending_falls_at_alpha_three_eighths(
    tmp_path: Path, faults: Callable[[str], None]
) -> None:
    faults(at_batch(LIFE + 6, 2))
    with pytest.raises(InterruptedRunError):
        run_experiment(scripted(tmp_path / "schedule.json"), run_dir=tmp_path / "run", provenance={})
    run = read_state(last_checkpoint(tmp_path / "run"))["run"]
    assert isinstance(run, dict)
    assert run["slots"][SECOND]["stage"] == "BLENDING"
    assert run["slots"][SECOND]["alpha"] == 0.375


def test_a_run_stopped_just_after_a_rollback_goes_on_bit_for_bit(
    tmp_path: Path, faults: Callable[[str], None], battery: BatteryRecord
) -> None:
    config = scripted(tmp_path / "schedule.json")
    # More than half of an epoch's batches with a faulty gradient are a verdict; the retry is not disturbed.
    poison = f"nan@seed=host,step={LIFE + 7},times={BATCHES}"
    faults(poison)
    run_experiment(config, run_dir=tmp_path / "whole", provenance={})
    events = events_of(tmp_path / "whole")
    (back,) = [event for event in events if isinstance(event, RolledBack)]
    after = events[events.index(back) :]
    assert {event.slot for event in after if isinstance(event, SeedGerminated)}
    place = cut_and_resume(config, tmp_path / "cut", faults, f"{poison};sigterm@event=RolledBack")
    assert place == f"e{back.restored_epoch:04d}-b00000-r1"
    assert_bit_equal(tmp_path / "whole", tmp_path / "cut")
    battery.record()


def test_one_bit_more_or_less_makes_two_runs_differ(
    whole: tuple[ExperimentConfig, Path], tmp_path: Path
) -> None:
    _, undisturbed = whole
    other = tmp_path / "other"
    shutil.copytree(undisturbed, other)
    assert_bit_equal(undisturbed, other)
    path = last_checkpoint(other) / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(AssertionError):
        assert_bit_equal(undisturbed, other)


# ---------------------------------------------------------------------- the training of a policy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of a policy that nobody stops."""
    path = tmp_path_factory.mktemp("trained") / "run"
    train_policy(tiny_training(3), run_dir=path, provenance={})
    return path


@pytest.mark.parametrize(
    ("order", "place"),
    [
        pytest.param("sigterm@point=boundary,step=1,call=3", "e0001-b00003", id="in a rollout"),
        pytest.param("sigterm@event=PolicyUpdated,step=2", "e0002-b00000", id="between rounds"),
        pytest.param("sigterm@point=minibatch,step=1,call=2", "e0002-b00000", id="in an update"),
    ],
)
def test_a_training_stopped_at_any_moment_goes_on_bit_for_bit(
    trained: Path,
    order: str,
    place: str,
    tmp_path: Path,
    faults: Callable[[str], None],
    battery: BatteryRecord,
) -> None:
    config, run = tiny_training(3), tmp_path / "cut"
    faults(order)
    with pytest.raises(InterruptedRunError):
        train_policy(config, run_dir=run, provenance={})
    assert saved_names(run)[-1] == place, "a signal within an update is honoured once the round is whole"
    faults("")
    train_policy(config, run_dir=run, provenance={}, resume=True)
    assert_bit_equal(trained, run)
    assert (trained / "training.json").read_bytes() == (run / "training.json").read_bytes()
    battery.record()


@pytest.mark.dist
def test_a_training_killed_within_an_update_goes_on_from_its_last_round_bit_for_bit(
    trained: Path, tmp_path: Path, battery: BatteryRecord
) -> None:
    config, killed = tmp_path / "config.toml", tmp_path / "killed"
    config.write_text(render_config(tiny_training(3), {}), encoding="utf-8")
    answer = subprocess.run(
        [sys.executable, "-m", "esper", "train", "--config", str(config), "--run-dir", str(killed)],
        env={
            **os.environ,
            "ESPER_ALLOW_FAULTS": "1",
            "FAULTS": "kill@point=minibatch,step=1,call=2",
        },
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    assert saved_names(killed) == ["e0001-b00000"]
    assert call(["train", "--resume", str(killed)]).code == 0
    assert_bit_equal(trained, killed)
    battery.record()
