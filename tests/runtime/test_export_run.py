"""A finished run leaves as files that need no esper and equal the grown network; what differs is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from esper.data import load_dataset
from esper.kasmina import MAX_DIFFERENCE, export_model
from esper.leyline import BlendForm, ConfigError, ExportError, JsonValue, RunDirectoryError, SeedStage
from esper.runtime import export_run as export_module
from esper.runtime.config_file import render_config
from esper.runtime.export_programs import OnnxNetwork, load_program
from esper.runtime.export_run import export_run, load_folder, measure_difference, write_folder
from esper.runtime.run import run_experiment
from kasmina.growing import draw, grow, make_cnn, make_mlp, make_model
from runtime.test_run import tiny

REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "esper" or name.startswith("esper."):
            raise ImportError("esper is not allowed here")
sys.meta_path.insert(0, Refuse())
try:
    import esper
except ImportError:
    pass
else:
    raise SystemExit("esper could be imported")
import torch
from safetensors.torch import load_file
"""
PROGRAM = (
    REFUSE
    + """
program = torch.export.load(sys.argv[1])
out = program.module()(torch.zeros(3, 1, 8, 8))
assert out.shape == (3, 10), out.shape
"""
)
FOLDER = (
    REFUSE
    + """
sys.path.insert(0, sys.argv[1])
from model import load
network = load()
assert not network.training
data = load_file(sys.argv[2])
with torch.no_grad():
    print(float((network(data["inputs"]) - data["outputs"]).abs().max()))
"""
)
DESCRIPTION: dict[str, JsonValue] = {"input_shape": [3, 8, 8], "num_outputs": 5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runs") / "run"
    run_experiment(tiny(), run_dir=target, provenance={})
    return target


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exports") / "model"
    summary = export_run(finished, target, allow_unfinished=False)
    assert summary.max_difference <= MAX_DIFFERENCE
    return target


def _run_alone(program: str, *args: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_pt2_file_loads_where_esper_cannot_be_imported(finished: Path, tmp_path: Path) -> None:
    summary = export_run(finished, tmp_path / "model.pt2", allow_unfinished=False)
    assert summary.max_difference <= MAX_DIFFERENCE
    assert "torch.export.load" in summary.text
    _run_alone(PROGRAM, tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_a_folder_loads_where_esper_cannot_be_imported_and_equals_the_grown_network(
    kind: str, tmp_path: Path
) -> None:
    if kind == "cnn":
        model, inputs = make_model(make_cnn()), draw(6, 3, 8, 8, seed=4)
        grow(model, "block1", SeedStage.FOSSILIZED, blueprint="conv_heavy")
        grow(model, "block3", SeedStage.FOSSILIZED, blueprint="norm", blend=BlendForm.VALVE)
    else:
        model, inputs = make_model(make_mlp(norm="batch"), sample=draw(2, 6)), draw(6, 6, seed=4)
        grow(model, "hidden1", SeedStage.FOSSILIZED, blueprint="mlp", blend=BlendForm.GATE)
    model.train()
    model(inputs)  # running statistics of their own
    network = export_model(model, inputs)
    write_folder(network, {"input_shape": list(inputs.shape[1:]), "num_outputs": 5}, tmp_path / "model")
    with torch.no_grad():
        outputs = model.eval()(inputs)
    save_file({"inputs": inputs, "outputs": outputs}, tmp_path / "sample.safetensors")
    difference = float(_run_alone(FOLDER, tmp_path / "model", tmp_path / "sample.safetensors"))
    assert difference <= MAX_DIFFERENCE


def test_a_folder_holds_every_tensor_and_says_what_it_is(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors",
        "architecture.json",
        "model.py",
    }
    tensors = load_file(folder / "weights.safetensors")
    architecture = json.loads((folder / "architecture.json").read_text())
    described = {name: shape for layer in architecture["layers"] for name, shape in layer["tensors"].items()}
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == described
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    assert (architecture["format_version"], architecture["input_shape"]) == (1, [1, 8, 8])
    assert architecture["classes"] == [str(digit) for digit in range(10)]
    assert {seed["slot"] for seed in architecture["seeds"]} <= {"block1", "block2", "block3"}


def test_scaling_raw_images_as_the_folder_says_gives_the_accuracy_of_the_run(
    finished: Path, folder: Path
) -> None:
    scaling = json.loads((folder / "architecture.json").read_text())["input_scaling"]
    assert scaling["rule"] == "(value / 255 - mean) / std, per channel"
    test = load_dataset("digits").test
    inputs = (test.inputs.permute(0, 3, 1, 2) / 255 - scaling["mean"][0]) / scaling["std"][0]
    with torch.no_grad():
        guesses = load_folder(folder)(inputs).argmax(dim=1)
    accuracy = float((guesses == test.targets).double().mean())
    expected = json.loads((finished / "summary.json").read_text())["test_metrics"]["accuracy"]
    assert accuracy == pytest.approx(expected, abs=1e-9)


def test_a_tampered_weight_is_found(tmp_path: Path) -> None:
    network, sample, expected = _grown()
    write_folder(network, DESCRIPTION, tmp_path / "model")
    assert measure_difference(load_folder(tmp_path / "model"), sample, expected) <= MAX_DIFFERENCE
    path = tmp_path / "model" / "weights.safetensors"
    tensors = load_file(path)
    tensors["host_head_2.bias"][1] += 1e-4
    save_file(tensors, path)
    with pytest.raises(ExportError, match=r"differs from the grown network by 1\.0"):
        measure_difference(load_folder(tmp_path / "model"), sample, expected)


@pytest.mark.parametrize("damage", ["weights", "code", "nan"])
def test_files_that_do_not_load_are_refused(damage: str, tmp_path: Path) -> None:
    network, sample, expected = _grown()
    folder = tmp_path / "model"
    write_folder(network, DESCRIPTION, folder)
    if damage == "code":
        (folder / "model.py").write_text("def load(:", encoding="utf-8")
    else:
        tensors = load_file(folder / "weights.safetensors")
        if damage == "nan":
            tensors["host_head_2.bias"][1] = float("nan")
        else:
            del tensors["host_head_2.bias"]
        save_file(tensors, folder / "weights.safetensors")
    with pytest.raises(ExportError, match=r"does not load|differs"):
        measure_difference(load_folder(folder), sample, expected)


@pytest.mark.slow
def test_an_onnx_file_runs_in_another_runtime_and_equals_the_grown_network(
    finished: Path, tmp_path: Path
) -> None:
    summary = export_run(finished, tmp_path / "model.onnx", allow_unfinished=False)
    export_run(finished, tmp_path / "model.pt2", allow_unfinished=False)
    assert summary.max_difference <= MAX_DIFFERENCE
    assert "onnxruntime.InferenceSession" in summary.text
    images = draw(5, 1, 8, 8, seed=3)
    (got,) = OnnxNetwork(summary.target)(images)
    with torch.no_grad():
        expected = load_program(tmp_path / "model.pt2")(images)
    assert float((got - expected).abs().max()) <= MAX_DIFFERENCE


@pytest.mark.parametrize("name", ["model", "model.pt2"])
def test_what_differs_is_deleted(
    name: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturb(network: nn.Module) -> nn.Module:
        with torch.no_grad():
            next(iter(network.parameters())).add_(0.01)
        return network

    monkeypatch.setattr(export_module, "load_program", lambda path: disturb(load_program(path)))
    monkeypatch.setattr(export_module, "load_folder", lambda path: disturb(load_folder(path)))
    with pytest.raises(ExportError, match="it was deleted"):
        export_run(finished, tmp_path / name, allow_unfinished=False)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_plain_code_leaves_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(network: fx.GraphModule, *, input_shape: object, num_outputs: int, is_language: bool) -> None:
        raise ExportError("no plain code")

    monkeypatch.setattr(export_module, "build_plain_source", refuse)
    with pytest.raises(ExportError, match="no plain code"):
        export_run(finished, tmp_path / "model", allow_unfinished=False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_device_is_exported_on_this_one(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("meta.json", "status.json"):
        (run / name).write_bytes((finished / name).read_bytes())
    (run / "checkpoints").symlink_to(finished / "checkpoints")
    config = tiny()
    moved = replace(config, host=replace(config.host, device="cuda:7", compile="default"))
    (run / "config.toml").write_text(render_config(moved, {}), encoding="utf-8")
    assert export_run(run, tmp_path / "model", allow_unfinished=False).num_params > 0


def test_a_damaged_newest_checkpoint_is_passed_over_and_named(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest, older = sorted(path.name for path in (run / "checkpoints").glob("e*"))[:-3:-1]
    tensors = run / "checkpoints" / newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    summary = export_run(run, tmp_path / "model", allow_unfinished=True)
    assert summary.checkpoint == older
    assert f"checkpoint {newest}/tensors.safetensors" in summary.text
    assert "an older one is exported" in summary.text
    assert len(summary.passed_over) == 1


def test_a_place_that_cannot_be_written_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ExportError, match="cannot be written"):
        export_run(finished, tmp_path / "file" / "model", allow_unfinished=False)


def test_an_existing_target_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_run(finished, tmp_path / "model", allow_unfinished=False)


def test_an_unknown_suffix_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.pt2"):
        export_run(finished, tmp_path / "model.safetensors", allow_unfinished=False)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError):
        export_run(tmp_path, tmp_path / "model.pt2", allow_unfinished=False)


def _grown() -> tuple[fx.GraphModule, Tensor, Tensor]:
    """A network with one fossil, a sample, and what the network answers to it."""
    model, sample = make_model(make_cnn()), draw(6, 3, 8, 8, seed=4)
    grow(model, "block2", SeedStage.FOSSILIZED)
    network = export_model(model, sample)
    with torch.no_grad():
        return network, sample, model.eval()(sample)


@pytest.mark.battery("T50")
def test_an_export_imports_no_code_that_a_run_names(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    text = (run / "config.toml").read_text(encoding="utf-8")
    changed = text.replace('policy = "cycle"', 'policy = "no_such_module:Anything"')
    assert changed != text
    (run / "config.toml").write_text(changed, encoding="utf-8")
    assert export_run(run, tmp_path / "model", allow_unfinished=False).max_difference <= MAX_DIFFERENCE
