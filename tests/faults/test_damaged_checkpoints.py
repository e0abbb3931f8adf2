"""Runs whose checkpoints are cut, changed, hostile, foreign or in use: what whoever resumes them is told."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - builds what must never be read
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from battery_rows import BatteryRecord
from cli.calling import Answer, call
from esper.leyline import Event, InterruptedRunError, JsonValue, Notice
from esper.nissa import effective_log, read_run
from esper.runtime.experiment import CheckpointConfig
from esper.runtime.policy_run import train_policy
from esper.runtime.run import run_experiment
from esper.runtime.run_lock import RunLock
from faults.bit_equal import saved_names
from runtime.learning import tiny_training
from runtime.test_run import tiny
from tolaria.checkpoint.hostile import build_tensor_bytes, reseal, write_sealed

pytestmark = [pytest.mark.fault, pytest.mark.slow]

NAMES = ("MANIFEST.json", "state.json", "tensors.safetensors")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five epochs that a signal stopped after its third; it has two checkpoints."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    config = replace(tiny(epochs=5), checkpoint=CheckpointConfig(every_epochs=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPER_ALLOW_FAULTS", "1")
        patch.setenv("FAULTS", "sigterm@event=EpochCompleted,step=3")
        with pytest.raises(InterruptedRunError):
            run_experiment(config, run_dir=run, provenance={})
    assert saved_names(run) == ["e0002-b00000", "e0003-b00000"]
    return run


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run."""
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def whole(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stopped run, resumed to its end."""
    path = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(stopped, path)
    assert resume(path).code == 0
    return path


def newest(run: Path) -> Path:
    return run / "checkpoints" / saved_names(run)[-1]


def events_of(run: Path) -> list[Event]:
    return [record.event for record in read_run(run).records]


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def resume(run: Path, *flags: str) -> Answer:
    return call(["train", "--resume", str(run), *flags])


def assert_refused(answer: Answer, code: int, *words: str) -> None:
    """Check for one line that holds these words, and the exit code."""
    assert answer.code == code, answer.err
    assert len(answer.error_lines) == 1, answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
    for word in words:
        assert word in answer.err


@pytest.mark.battery("T06")
@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_from_the_checkpoint_before_a_cut_one_to_the_same_end(
    run: Path, whole: Path, name: str
) -> None:
    data = (newest(run) / name).read_bytes()
    (newest(run) / name).write_bytes(data[: random.Random(name).randrange(len(data))])
    answer = resume(run)
    assert answer.code == 0, answer.err
    told = [event.text for event in events_of(run) if isinstance(event, Notice)][-1]
    assert "going on from e0002-b00000" in told
    assert f"e0003-b00000/{name}" in told
    logs = [[line for line in effective_log(folder) if '"Notice"' not in line] for folder in (run, whole)]
    assert logs[0] == logs[1]


@pytest.mark.battery("T06")
def test_a_run_without_a_whole_checkpoint_is_refused_with_code_3_and_every_cut_file_is_named(
    run: Path,
) -> None:
    for number, place in enumerate(saved_names(run)):
        path = run / "checkpoints" / place / NAMES[number + 1]
        path.write_bytes(path.read_bytes()[:-1])
    assert_refused(resume(run), 3, f"e0002-b00000/{NAMES[1]}", f"e0003-b00000/{NAMES[2]}")


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


PICKLE_PLACES: dict[str, Callable[[Path, bytes], object]] = {
    "model.pt beside the files": lambda folder, bomb: (folder / "model.pt").write_bytes(bomb),
    ".metadata beside the files": lambda folder, bomb: (folder / ".metadata").write_bytes(bomb),
    "in state.json": lambda folder, bomb: _seal_anew(folder, state=bomb),
    "as tensors.safetensors": lambda folder, bomb: _seal_anew(folder, tensors=bomb),
}


def _seal_anew(folder: Path, state: bytes | None = None, tensors: bytes | None = None) -> None:
    body = json.loads((folder / "MANIFEST.json").read_bytes())
    kept = {name: (folder / name).read_bytes() for name in NAMES[1:]}
    shutil.rmtree(folder)
    write_sealed(
        folder,
        kept[NAMES[2]] if tensors is None else tensors,
        kept[NAMES[1]] if state is None else state,
        kind=body["kind"],
        topology_hash=body["topology_hash"],
    )


@pytest.mark.battery("T08")
@pytest.mark.parametrize("place", PICKLE_PLACES)
def test_a_run_with_a_malicious_pickle_is_refused_and_the_pickle_never_run(
    run: Path, tmp_path: Path, place: str
) -> None:
    canary = tmp_path / "canary"
    PICKLE_PLACES[place](newest(run), pickle.dumps(Bomb(canary), protocol=4))
    before = files_of(run / "checkpoints")
    assert_refused(resume(run), 2, "e0003-b00000")
    assert not canary.exists()
    assert files_of(run / "checkpoints") == before


def put(*keys: str, value: JsonValue) -> Callable[[dict[str, JsonValue]], object]:
    """Return a change of one value deep in a state."""

    def change(state: dict[str, JsonValue]) -> None:
        inner: JsonValue = state
        for key in keys[:-1]:
            assert isinstance(inner, dict)
            inner = inner[key]
        assert isinstance(inner, dict)
        assert keys[-1] in inner
        inner[keys[-1]] = value

    return change


FOREIGN: dict[str, tuple[Callable[[dict[str, JsonValue]], object], dict[str, JsonValue], tuple[str, ...]]] = {
    "another topology": (id, {"topology_hash": "f" * 64}, ("rebuilt topology has hash", "says ffffffffffff")),
    "an unknown blueprint": (
        put("run", "slots", "block1", "blueprint", value="conv_lite"),
        {},
        ("block1", "conv_lite", "conv_light"),
    ),
    "another blueprint": (
        put("run", "slots", "block1", "blueprint", value="attention"),
        {},
        ("tensor 'slots.block1.seed.branch", "saved none, the rebuilt network has one of shape"),
    ),
    "a newer format": (id, {"format_version": 2}, ("format version 2, this program reads 1", "0.1.0")),
    "another kind": (id, {"kind": "policy-training"}, ("'policy-training', expected 'host-run'",)),
    "another precision": (
        put("run", "scaler", value={"scale": 65536.0, "num_clean": 0, "num_seed_skips": {}}),
        {},
        ("precision",),
    ),
}


@pytest.mark.battery("T11")
@pytest.mark.parametrize("case", FOREIGN)
def test_a_whole_checkpoint_of_something_else_is_refused_by_its_first_difference(
    run: Path, case: str
) -> None:
    change, changes, words = FOREIGN[case]
    for place in saved_names(run):
        reseal(run / "checkpoints" / place, change, **changes)
    assert_refused(resume(run), 2, *words)


@pytest.mark.battery("T11")
def test_another_precision_asked_for_on_resume_is_refused_by_its_setting(run: Path) -> None:
    before = files_of(run)
    assert_refused(resume(run, "--host.amp", "bf16"), 2, "host.amp (there off, given bf16)")
    assert files_of(run) == before


@pytest.mark.battery("T13")
def test_a_run_that_another_process_writes_is_refused_and_left_alone(run: Path) -> None:
    with_lock = RunLock(run / "lock")
    before = files_of(run)
    try:
        assert_refused(resume(run), 2, f"is in use by process {os.getpid()} on ")
        assert files_of(run) == before
    finally:
        with_lock.release()
    assert resume(run).code == 0


@pytest.mark.battery("T12")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--envs.num-envs", "3"), "envs.num_envs (there 2, given 3)"),
        (("--envs", "1"), "envs.num_envs (there 2, given 1)"),
    ],
)
def test_a_training_is_not_resumed_with_another_number_of_environments(
    training: Path, flags: tuple[str, ...], words: str
) -> None:
    before = files_of(training)
    assert_refused(resume(training, *flags), 2, words)
    assert files_of(training) == before


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of a policy of one round with two environments."""
    path = tmp_path_factory.mktemp("training") / "run"
    train_policy(tiny_training(1), run_dir=path, provenance={})
    return path


@pytest.mark.battery("T07")
def test_a_flipped_bit_is_found_before_a_run_is_touched(run: Path, battery: BatteryRecord) -> None:
    generator = random.Random(3)
    for _ in range(5):
        path = newest(run) / generator.choice(NAMES)
        whole = path.read_bytes()
        data = bytearray(whole)
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        for place in saved_names(run)[:-1]:
            shutil.rmtree(run / "checkpoints" / place)
        assert_refused(resume(run), 3, path.name)
        path.write_bytes(whole)
        battery.record()
    assert resume(run).code == 0


@pytest.mark.battery("T09")
def test_a_run_with_a_hostile_tensor_file_is_refused(run: Path) -> None:
    tensors = build_tensor_bytes(b"{}", length=2**63)
    _seal_anew(newest(run), tensors=tensors)
    assert_refused(resume(run), 2, "tensors.safetensors", "header of 9223372036854775808 bytes")
