"""Whatever a user gets wrong: one clear line with the nearest valid choice, exit 2 or 3, nothing lost or half
written. Through the real command line, in this process; some cases again as programs of their own.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cli.calling import Answer, call
from data.formats import write_cifar, write_emoji, write_fashion
from esper.leyline import EpochCompleted, Event
from esper.runtime.run_attempt import LateSink
from esper.runtime.run_lock import RunLock
from esper.runtime.run_records import CHECKPOINTS_NAME, CONFIG_NAME, LOCK_NAME, META_NAME

pytestmark = pytest.mark.fault

QUIET = ("--telemetry.progress", "none", "--telemetry.no-has-report")
SMALL = ("--task", "synthetic", *QUIET)
TRAIN = ("train", "never", *SMALL, "--epochs", "1", "--run-dir", "out")
DIGITS = ("train", "never", "--task", "digits", *QUIET, "--epochs", "1", "--run-dir", "out")


def photograph(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its content, every folder with an empty one."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def assert_refused(answer: Answer, code: int, *messages: str, lines: int | None = 1) -> None:
    """An error on stderr that says what the messages say, in one line; nothing on stdout, no traceback."""
    assert answer.code == code, answer
    assert answer.out == ""
    if lines is not None:
        assert len(answer.error_lines) == lines, answer.err
    assert answer.err.startswith("esper: error: ")
    assert "Traceback" not in answer.err
    for message in messages:
        assert message in answer.err, answer.err


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no data set outside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESPER_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


# ---------------------------------------------------------------------- configuration files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[host.optimizer]\nlerning_rate = 0.1", "did you mean 'learning_rate'?", id="unknown"),
        pytest.param("sed = 1", "unknown key 'sed': did you mean 'seed'?", id="unknown top key"),
        pytest.param("[hots]\nepochs = 1", "unknown key 'hots': did you mean 'host'?", id="unknown table"),
        pytest.param('seed = "x"', "seed = 'x': expected a valid integer", id="text for a number"),
        pytest.param("[host]\nbatch_size = 1.5", "host.batch_size = 1.5: expected", id="fraction"),
        pytest.param("[host]\nbatch_size = 1", "host.batch_size=1: must be >= 2", id="out of range"),
        pytest.param("[host.gates]\nkeep_errors = 9.0", "must be finite and in [0.0, 5.0]", id="too large"),
        pytest.param("[host.optimizer]\nlearning_rate = nan", "expected a finite number", id="nan"),
        pytest.param('[task]\nname = "syntetic"', "did you mean 'synthetic'?", id="task"),
        pytest.param('[model]\nkind = "mlpp"', "did you mean 'mlp'?", id="host kind"),
        pytest.param('[host]\namp = "bf61"', "did you mean 'bf16'?", id="precision"),
        pytest.param('[host.lifecycle]\nincubation = "shade"', "shadow, residual", id="incubation"),
        pytest.param('policy = "hueristic"', "did you mean 'heuristic'?", id="policy"),
        pytest.param('blueprints = ["mlp_smal"]', "did you mean 'mlp_small'?", id="blueprint"),
        pytest.param('slots = ["hiden1"]', "did you mean 'hidden1'?", id="slot"),
        pytest.param('[heuristic]\nblueprints_flat = ["mpl"]', "did you mean 'mlp'?", id="rotation"),
        pytest.param("seed = ", "not valid TOML", id="no toml"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_written(text: str, message: str, place: Path) -> None:
    (place / "c.toml").write_text(text, encoding="utf-8")
    before = photograph(place)
    flags = [] if "name = " in text else ["--task", "synthetic"]
    answer = call(["train", *flags, *QUIET, "--epochs", "1", "--run-dir", "out", "--config", "c.toml"])
    assert_refused(answer, 2, message)
    assert photograph(place) == before


# ---------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param([*TRAIN, "--host.bach-size", "4"], "did you mean --host.batch-size", id="unknown flag"),
        pytest.param([*TRAIN, "--host.batch-size", "x"], "--host.batch-size x: expected INT", id="type"),
        pytest.param([*TRAIN, "--host.batch-size", "1"], "host.batch_size=1: must be >= 2", id="range"),
        pytest.param([*TRAIN, "--blueprints", "mlp_smal"], "did you mean 'mlp_small'?", id="blueprint"),
        pytest.param(
            [*TRAIN, "--heuristic.blueprints-flat", "mlp", "conv_lite"],
            "unknown blueprint 'conv_lite': did you mean 'conv_light'?",
            id="rotation",
        ),
        pytest.param([*TRAIN, "--slots", "hiden1"], "did you mean 'hidden1'?", id="slot"),
        pytest.param(["train", "nevr", *SMALL], "did you mean 'never'?", id="policy"),
        pytest.param(["train", "never", "--task", "digit"], "did you mean 'digits'?", id="task"),
        pytest.param(["train", "never", "--preset", "digts"], "did you mean 'digits'?", id="preset"),
        pytest.param([*TRAIN, "--config", "none.toml"], "none.toml: cannot be read", id="missing file"),
        pytest.param([*TRAIN, "--device", "cuda:77"], "not available here", id="device"),
        pytest.param([*TRAIN, "--model.kind", "cnn"], "choose model.kind='mlp'", id="host of another kind"),
        pytest.param(
            [*DIGITS, "--model.num-blocks", "9", "--model.num-pools", "9"],
            "CNNHost does not take inputs of shape (1, 8, 8)",
            id="too many pools",
        ),
        pytest.param(
            [*DIGITS, "--host.max-memory-mb", "0.1"], "host.max_memory_mb allows 0.1 MiB: lower", id="memory"
        ),
        pytest.param(
            [*DIGITS, "--host.batch-size", "1000000000"], "cpu has free", id="a batch larger than the machine"
        ),
        pytest.param(
            ["train", "ppo", "--task", "digits", "--host.max-memory-mb", "0.1"],
            "host.max_memory_mb allows 0.1 MiB: lower",
            id="memory of a training",
        ),
        pytest.param([*DIGITS, "--model.norm", "bach"], "did you mean 'batch'?", id="norm"),
        pytest.param([*DIGITS, "--task.num-train-rows", "99999"], "choose 1 to 1077", id="rows"),
        pytest.param(["tran"], "did you mean 'train'?", id="command"),
        pytest.param(["demo", "--seeed", "1"], "unknown argument '--seeed'", id="argument"),
        pytest.param(["export", "nowhere", "-o", "x.pt2"], "nowhere is not a run", id="no run to export"),
        pytest.param(["runs", "show", "nowhere"], "nowhere is not a run", id="no run to show"),
        pytest.param(["train", "--resume", "nowhere"], "nowhere is not a run", id="no run to resume"),
        pytest.param(["data", "check", "digit"], "did you mean 'digits'?", id="data set"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_written(
    args: list[str], message: str, place: Path
) -> None:
    assert_refused(call(args), 2, message)
    assert photograph(place) == {}


# ---------------------------------------------------------------------- data files


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _shorten_content(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-7]))


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _replace_by_text(path: Path) -> None:
    path.write_bytes(b"not what it was")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


SETS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "fashion_mnist": (
        lambda root: write_fashion(root / "fashion-mnist", num_train=120),
        "train-images-idx3-ubyte.gz",
    ),
    "emoji9": (lambda root: write_emoji(root / "emoji9"), "emoji9.npz"),
    "cifar10": (lambda root: write_cifar(root / "cifar-10-batches-bin"), "data_batch_1.bin"),
}


@pytest.mark.battery("T44")
@pytest.mark.parametrize(
    ("task", "damage"),
    [
        ("fashion_mnist", _cut),
        ("fashion_mnist", _shorten_content),
        ("fashion_mnist", _flip_a_bit),
        ("fashion_mnist", _replace_by_text),
        ("fashion_mnist", _empty),
        ("emoji9", _cut),
        ("emoji9", _replace_by_text),
        ("emoji9", _empty),
        ("cifar10", _cut),
        ("cifar10", _empty),
    ],
)
def test_a_damaged_data_file_is_exit_3_naming_the_file(
    task: str, damage: Callable[[Path], None], place: Path
) -> None:
    write, name = SETS[task]
    file = write(place / "sets") / name
    damage(file)
    before = photograph(place)
    args = ["train", "never", "--task", task, "--data-dir", "sets", "--epochs", "1", "--run-dir", "out"]
    assert_refused(call([*args, *QUIET]), 3, name)
    assert photograph(place) == before


def test_a_missing_set_says_where_it_looked_and_how_to_get_it(place: Path) -> None:
    answer = call(["train", "never", "--task", "emoji9", "--run-dir", "out", *QUIET])
    assert_refused(answer, 3, "data set 'emoji9' was not found", "To get it: ", lines=None)
    answer = call(["train", "never", "--task", "emoji9", "--data-dir", "nowhere", "--run-dir", "out", *QUIET])
    assert_refused(answer, 3, "data folder nowhere does not exist")
    assert photograph(place) == {}


# ---------------------------------------------------------------------- runs and checkpoints


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs that a signal stopped in its third: two checkpoints are there."""
    path = tmp_path_factory.mktemp("stopped") / "out"
    emit = LateSink.emit

    def emit_and_stop(self: LateSink, event: Event) -> None:
        emit(self, event)
        if isinstance(event, EpochCompleted) and event.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LateSink, "emit", emit_and_stop)
        flags = ("--epochs", "4", "--checkpoint.every-epochs", "1")
        answer = call(["train", "never", *SMALL, *flags, "--run-dir", str(path)])
    assert answer.code == 143, answer
    assert len(_checkpoints(path)) == 2
    return path


@pytest.fixture
def run(stopped_run: Path, place: Path) -> Path:
    """A copy of it in the working directory."""
    return Path(shutil.copytree(stopped_run, place / "out")).relative_to(place)


def _checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / CHECKPOINTS_NAME).iterdir() if path.is_dir())


def _resume(run: Path, *flags: str) -> Answer:
    return call(["train", "--resume", str(run), *flags])


@pytest.mark.parametrize("damage", [_cut, _flip_a_bit, _replace_by_text, _empty, Path.unlink])
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "MANIFEST.json"])
def test_without_a_whole_checkpoint_resume_and_export_are_exit_3_and_lose_nothing(
    name: str, damage: Callable[[Path], None], run: Path, place: Path
) -> None:
    names = _checkpoints(run)
    for checkpoint in names:
        damage(run / CHECKPOINTS_NAME / checkpoint / name)
    events = (run / "events-0.jsonl").read_bytes()
    checkpoints = photograph(run / CHECKPOINTS_NAME)
    assert_refused(_resume(run), 3, "no valid checkpoint", names[0], names[1], name)
    assert_refused(call(["export", str(run), "-o", "x.pt2"]), 3, "no valid checkpoint", name)
    assert photograph(run / CHECKPOINTS_NAME) == checkpoints
    assert (run / "events-0.jsonl").read_bytes() == events
    assert not (place / "x.pt2").exists()


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_taken(run: Path, stopped_run: Path) -> None:
    older, newest = _checkpoints(run)
    _flip_a_bit(run / CHECKPOINTS_NAME / newest / "tensors.safetensors")
    answer = _resume(run, "--telemetry.progress", "plain")
    assert answer.code == 0
    assert f"{newest}/tensors.safetensors" in answer.err
    assert f"going on from {older}" in answer.err
    assert (run / "summary.json").exists()


@pytest.mark.parametrize("target", ["tensors", "directory"])
def test_a_foreign_checkpoint_is_exit_2_and_never_run(target: str, run: Path, place: Path) -> None:
    for name in _checkpoints(run):
        path = run / CHECKPOINTS_NAME / name
        if target == "tensors":
            path = path / "tensors.safetensors"
        else:
            shutil.rmtree(path)
        torch.save({"weight": torch.ones(2)}, path)
    before = photograph(run / CHECKPOINTS_NAME)
    assert_refused(_resume(run), 2, "looks like a pickle, which runs code when it is read")
    assert photograph(run / CHECKPOINTS_NAME) == before


@pytest.mark.battery("T50")
def test_a_run_from_somebody_else_imports_nothing_that_it_names(run: Path, place: Path) -> None:
    canary = place / "canary"
    code = f"open({str(canary)!r}, 'w').close()\nclass P: ...\n"
    for folder in (place, run):
        (folder / "planted.py").write_text(code, encoding="utf-8")
    config = (run / "config.toml").read_text(encoding="utf-8")
    planted = re.sub(r'^policy = "[^"]*"', 'policy = "planted:P"', config, flags=re.MULTILINE)
    assert planted != config
    (run / "config.toml").write_text(planted, encoding="utf-8")
    before = photograph(run)
    for args in (["train", "--resume", str(run)], ["train", "--resume", str(run), "--print-config"]):
        assert_refused(call(args), 2, "planted:P", "--trust-code")
    assert photograph(run) == before
    call(["runs", "show", str(run)])
    call(["replay", str(run)])
    call(["export", str(run), "-o", "model"])
    assert not canary.exists()


def test_resuming_with_other_settings_names_them(run: Path) -> None:
    before = photograph(run)
    assert_refused(_resume(run, "--seed", "9"), 2, "was started with other settings: seed")
    assert_refused(_resume(run, "--model.hidden", "7", "7"), 2, "model.hidden")
    assert photograph(run) == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (CONFIG_NAME, "seed = 'x", "not valid TOML"),
        (CONFIG_NAME, "sed = 1", "did you mean 'seed'?"),
        (META_NAME, "{", "is damaged: it is not JSON"),
        (META_NAME, '{"format_version": 99}', "99"),
    ],
)
def test_a_damaged_record_of_a_run_is_named(name: str, text: str, message: str, run: Path) -> None:
    (run / name).write_text(text, encoding="utf-8")
    before = photograph(run)
    assert_refused(_resume(run), 2, name, message)
    assert photograph(run) == before


def test_a_run_directory_in_use_is_refused_and_untouched(run: Path) -> None:
    lock = RunLock(run / LOCK_NAME)
    before = photograph(run)
    assert_refused(_resume(run), 2, f"in use by process {os.getpid()}", "give another --run-dir")
    assert photograph(run) == before
    lock.release()


def test_an_existing_run_or_other_folder_is_never_written_into(run: Path, place: Path) -> None:
    (place / "photos").mkdir()
    (place / "photos" / "a.txt").write_text("mine", encoding="utf-8")
    before = photograph(place)
    assert_refused(call([*TRAIN]), 2, "holds a run already", "--resume")
    assert_refused(call([*TRAIN[:-1], "photos"]), 2, "photos")
    assert_refused(call([*TRAIN[:-1], "photos/a.txt"]), 2, "photos/a.txt")
    assert photograph(place) == before


def test_an_export_never_replaces_a_file(run: Path, place: Path) -> None:
    (place / "x.pt2").write_bytes(b"mine")
    before = photograph(place)
    assert_refused(call(["export", str(run), "-o", "x.pt2"]), 2, "x.pt2 exists already")
    assert_refused(call(["export", str(run), "-o", "x.tflite"]), 2, "must end in .pt2")
    assert photograph(place) == before


# ---------------------------------------------------------------------- as a program of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        pytest.param([*TRAIN, "--host.batch-size", "1"], 2, "host.batch_size=1: must be >= 2", id="range"),
        pytest.param([*TRAIN, "--slots", "hiden1"], 2, "did you mean 'hidden1'?", id="slot"),
        pytest.param(["train", "--resume", "out"], 3, "no valid checkpoint", id="corrupt checkpoint"),
        pytest.param([*TRAIN], 2, "holds a run already", id="existing run"),
        pytest.param(
            ["train", "never", "--task", "emoji9", "--data-dir", "sets", "--run-dir", "new", *QUIET],
            3,
            "emoji9.npz",
            id="damaged data",
        ),
    ],
)
def test_the_program_ends_with_the_same_code_and_one_line(
    args: list[str], code: int, message: str, run: Path, place: Path
) -> None:
    for name in _checkpoints(run):
        _flip_a_bit(run / CHECKPOINTS_NAME / name / "tensors.safetensors")
    _cut(write_emoji(place / "sets" / "emoji9") / "emoji9.npz")
    before = photograph(place / "sets") | photograph(run / CHECKPOINTS_NAME)
    done = subprocess.run(
        [sys.executable, "-m", "esper", *args], capture_output=True, text=True, check=False, timeout=120
    )
    answer = Answer(code=done.returncode, out=done.stdout, err=done.stderr)
    assert_refused(answer, code, message)
    assert photograph(place / "sets") | photograph(run / CHECKPOINTS_NAME) == before
    assert not (place / "new").exists()
