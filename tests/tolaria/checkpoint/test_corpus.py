"""Checkpoints of every format there was: loaded and gone on from, or refused with what to do.

Covers tolaria/checkpoint/manifest.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli.calling import call
from esper.tolaria.checkpoint import FORMAT_VERSION
from esper.tolaria.checkpoint.reader import read_checkpoint

CORPUS = Path(__file__).parent / "corpus"
RUNS = sorted(path for path in CORPUS.glob("format-*/*") if path.is_dir())
MAX_BYTES = 150_000

pytestmark = pytest.mark.battery("T14")


def format_of(run: Path) -> int:
    return int(run.parent.name.removeprefix("format-"))


def test_every_format_up_to_the_present_one_is_kept_and_small() -> None:
    assert {format_of(run) for run in RUNS} == set(range(1, FORMAT_VERSION + 1)), (
        "run scripts/checkpoint_corpus.py"
    )
    for number in range(1, FORMAT_VERSION + 1):
        folder = CORPUS / f"format-{number}"
        assert {path.name for path in folder.iterdir()} == {"host-run", "policy-training"}
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MAX_BYTES


@pytest.mark.parametrize(
    "run", [run for run in RUNS if format_of(run) == FORMAT_VERSION], ids=lambda run: run.name
)
def test_a_checkpoint_of_the_present_format_is_read(run: Path) -> None:
    (folder,) = [path for path in (run / "checkpoints").iterdir() if path.is_dir()]
    loaded = read_checkpoint(folder, kind=run.name, max_tensor_bytes=MAX_BYTES)
    assert json.loads((folder / "MANIFEST.json").read_text("ascii"))["format_version"] == FORMAT_VERSION
    assert loaded.record.tensors


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.parent.name}-{run.name}")
def test_a_run_of_any_format_goes_on_to_its_end_or_is_told_what_to_do(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    answer = call(["train", "--resume", str(tmp_path / "run")])
    if format_of(run) == FORMAT_VERSION:
        assert answer.code == 0, (
            f"a saved run of this format no longer goes on; raise FORMAT_VERSION, or, if nothing was "
            f"released yet, run scripts/checkpoint_corpus.py: {answer.err}"
        )
    else:
        assert answer.code == 2
        assert "use the version of esper-lite that wrote it" in answer.err
