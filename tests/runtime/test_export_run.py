"""A finished run leaves as a model that needs no esper."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from esper.leyline import ConfigError, RunDirectoryError
from esper.runtime.export_run import export_run
from esper.runtime.run import run_experiment
from runtime.test_run import tiny

LOADER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "esper" or name.startswith("esper."):
            raise ImportError("esper is not allowed here")
sys.meta_path.insert(0, Refuse())
import torch
program = torch.export.load(sys.argv[1])
out = program.module()(torch.zeros(3, 1, 8, 8))
assert out.shape == (3, 10), out.shape
assert not any(name.startswith("esper") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runs") / "run"
    run_experiment(tiny(), run_dir=target, provenance={})
    return target


@pytest.mark.slow
def test_a_pt2_file_loads_where_esper_cannot_be_imported(finished: Path, tmp_path: Path) -> None:
    summary = export_run(finished, tmp_path / "model.pt2", allow_unfinished=False)
    assert summary.max_difference <= 1e-5
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path / "model.pt2")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_holds_every_tensor_and_the_architecture(finished: Path, tmp_path: Path) -> None:
    summary = export_run(finished, tmp_path / "model", allow_unfinished=False)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    architecture = json.loads((tmp_path / "model" / "architecture.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == architecture["parameters"]
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    assert summary.num_params > 0


def test_an_existing_target_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_run(finished, tmp_path / "model", allow_unfinished=False)


def test_an_unknown_suffix_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.pt2"):
        export_run(finished, tmp_path / "model.onnx", allow_unfinished=False)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError):
        export_run(tmp_path, tmp_path / "model.pt2", allow_unfinished=False)
