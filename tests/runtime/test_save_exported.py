"""What is written of a grown model loads where esper cannot be imported, and gives the same on new inputs.

Each program is loaded in a process of its own in which importing esper raises. Shows
runtime/export_programs.py and runtime/checked_writing.py as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from esper.kasmina import (
    MAX_DIFFERENCE,
    Arrangement,
    Exported,
    InjectionPoint,
    Inputs,
    MorphogeneticModel,
    PointWishes,
    build_seeded,
    call_host,
    export_grafted,
    list_tensors,
)
from esper.leyline import BlendForm, ConfigError, ExportError, SeedStage
from esper.runtime import export_programs
from esper.runtime import save_exported as saving
from esper.runtime.checked_writing import write_checked
from esper.runtime.export_programs import build_program, load_program, resize_batch
from esper.runtime.save_exported import save_exported, write_program
from kasmina.grafting import furthest, grown
from kasmina.growing import draw, grow, make_model
from kasmina.strangers import TorchEncoder
from runtime.plain_hosts import Images, Tokens

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
from safetensors import safe_open
given = safe_open(sys.argv[2], "pt")
tensors = {name: given.get_tensor(name) for name in given.keys()}
inputs = {name[3:]: tensor for name, tensor in tensors.items() if name.startswith("in.")}
expected = [tensors[name] for name in sorted(tensors) if name.startswith("out.")]
def show(got):
    got = [got] if hasattr(got, "shape") else list(got)
    assert len(got) == len(expected), (len(got), len(expected))
    print(max(float(abs(one - other).max()) for one, other in zip(got, expected)))
"""
PROGRAM = (
    REFUSE
    + """
import torch
network = torch.export.load(sys.argv[1]).module()
with torch.no_grad():  # by place or by name, as the sample was given
    got = network(inputs["x"]) if "x" in inputs else network(**inputs)
show(got.values() if isinstance(got, dict) else got)
"""
)
ONNX = (
    REFUSE
    + """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
assert {given.name for given in session.get_inputs()} == set(inputs)
got = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
expected = [tensor.numpy() for tensor in expected]
show(got)
"""
)
WHOLE = (
    REFUSE
    + """
import torch
sys.path.insert(0, sys.argv[3])
network = torch.load(sys.argv[1], weights_only=False)
assert not network.training
with torch.no_grad():
    got = network(**inputs)
show(got.values() if isinstance(got, dict) else got)
"""
)


class _Case(NamedTuple):
    exported: Exported
    grown: nn.Module
    sample: Inputs
    fresh: Mapping[str, Tensor]
    """Other values, another number of items; by the names of the host's arguments."""


@pytest.fixture(scope="module")
def images() -> _Case:
    host = build_seeded(Images, 0)
    sample = draw(4, 3, 8, 8)
    model = grown(host, sample, PointWishes(at=("stages.*",)), ("conv_light", "norm"))
    return _Case(export_grafted(model, sample), model.eval(), sample, {"x": draw(7, 3, 8, 8, seed=5)})


@pytest.fixture(scope="module")
def tokens() -> _Case:
    sample = {
        "input_ids": torch.arange(12).reshape(3, 4),
        "attention_mask": torch.ones(3, 4, dtype=torch.long),
    }
    wishes = PointWishes(at=("layers.*",), layout="nld", select=0)
    model = grown(build_seeded(Tokens, 0), sample, wishes, ("norm",), blend=BlendForm.GATE)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    fresh = {"input_ids": torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]]), "attention_mask": mask}
    return _Case(export_grafted(model, sample), model.eval(), sample, fresh)


def _run_alone(program: str, path: Path, case: _Case, folder: Path, *more: str) -> float:
    with torch.no_grad():
        outputs = list_tensors(call_host(case.grown, case.fresh))
    tensors = {f"in.{name}": tensor for name, tensor in case.fresh.items()}
    tensors |= {f"out.{place}": tensor.contiguous() for place, tensor in enumerate(outputs)}
    save_file(tensors, folder / "fresh.safetensors")
    answer = subprocess.run(
        [
            sys.executable,
            "-I",
            "-W",
            "ignore",
            "-c",
            program,
            str(path),
            str(folder / "fresh.safetensors"),
            *more,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert answer.returncode == 0, answer.stderr
    return float(answer.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("which", ["images", "tokens"])
@pytest.mark.parametrize(("suffix", "program"), [(".pt2", PROGRAM), (".onnx", ONNX)])
def test_a_program_loads_where_esper_cannot_be_imported_and_takes_other_batches(
    which: str, suffix: str, program: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case: _Case = request.getfixturevalue(which)
    saved = save_exported(case.exported, tmp_path / f"model{suffix}", case.sample)
    assert saved.format == suffix[1:]
    assert saved.has_any_batch
    assert saved.max_difference <= MAX_DIFFERENCE
    assert [path.name for path in tmp_path.iterdir()] == [f"model{suffix}"]
    assert _run_alone(program, saved.target, case, tmp_path) <= MAX_DIFFERENCE


@pytest.mark.slow
@pytest.mark.parametrize("which", ["images", "tokens"])
def test_the_module_itself_needs_the_users_classes_alone(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case: _Case = request.getfixturevalue(which)
    torch.save(case.exported.module, tmp_path / "module.pt")
    tests = str(Path(__file__).parents[1])
    assert _run_alone(WHOLE, tmp_path / "module.pt", case, tmp_path, tests) <= MAX_DIFFERENCE


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_host_with_seeds_inside_its_layers_becomes_a_program(suffix: str, tmp_path: Path) -> None:
    host = build_seeded(TorchEncoder, 0)
    model = grown(host, draw(3, 5, 8), PointWishes(at=("encoder.layers.*",), layout="nld"), ("norm",))
    exported = export_grafted(model, draw(3, 5, 8))
    assert "module, arguments, output" in exported.grafts[0].code
    saved = save_exported(exported, tmp_path / f"model{suffix}", draw(3, 5, 8))
    assert saved.max_difference <= MAX_DIFFERENCE


# ---------------------------------------------------------------------- folders


def test_a_folder_says_enough_to_build_the_network_again(images: _Case, tmp_path: Path) -> None:
    saved = save_exported(images.exported, tmp_path / "model", images.sample)
    assert (saved.format, saved.max_difference) == ("folder", 0.0)
    architecture = json.loads((saved.target / "architecture.json").read_text())
    tensors = load_file(saved.target / "weights.safetensors")
    assert architecture["format_version"] == 1
    assert architecture["host"]["class"] == "runtime.plain_hosts.Images"
    host = Images()
    host.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("grafts.")}, strict=True)
    model = _rebuild(host, images.sample, architecture["grafts"])
    for slot in model.each_slot():
        prefix = f"grafts.{slot.slot_id}."
        assert slot.seed is not None
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        slot.seed.load_state_dict(own, strict=True)
    assert furthest(model.eval(), images.exported.module, images.fresh) <= MAX_DIFFERENCE


def _rebuild(host: nn.Module, sample: Inputs, grafts: list[dict[str, str]]) -> MorphogeneticModel:
    """Grow a fresh host again as a folder's description says."""
    points = tuple(
        InjectionPoint(
            slot_id=graft["slot"],
            path=graft["paths"][0],
            layout=Arrangement(graft["arrangement"]).layout,
            num_channels=int(graft["num_channels"]),
            arrangement=Arrangement(graft["arrangement"]),
            select=graft["select"],
        )
        for graft in grafts
    )
    model = make_model(host, sample=sample, points=points)
    for graft in grafts:
        grow(
            model,
            graft["slot"],
            SeedStage.FOSSILIZED,
            blueprint=graft["blueprint"],
            blend=BlendForm(graft["blend"]),
        )
    return model


def test_a_description_names_layers_code_and_arguments(tokens: _Case, tmp_path: Path) -> None:
    saved = save_exported(tokens.exported, tmp_path / "model", tokens.sample)
    architecture = json.loads((saved.target / "architecture.json").read_text())
    graft = architecture["grafts"][1]
    assert graft["paths"] == ["layers.1"]
    assert graft["arguments"] == ["hidden", "mask"]
    assert graft["select"] == 0
    assert graft["layers"]["branch.norm"].startswith("LayerNorm((8,)")
    assert "self.base(hidden, mask = mask)" in graft["code"]
    assert architecture["sample"] == "input_ids [3, 4], attention_mask [3, 4]"


def test_a_host_of_this_package_is_described_by_its_code(tmp_path: Path) -> None:
    model = make_model()
    grow(model, "block2", SeedStage.FOSSILIZED)
    sample = draw(4, 3, 8, 8)
    saved = save_exported(export_grafted(model, sample), tmp_path / "model", sample)
    host = json.loads((saved.target / "architecture.json").read_text())["host"]
    assert host["class"] is None
    assert "self.host.block1" in host["code"]


def test_a_bare_module_has_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bare Linear does not.*FILE\.pt2"):
        save_exported(nn.Linear(2, 2).eval(), tmp_path / "model", draw(2, 2))


@pytest.mark.parametrize("what", ["a value", "a name", "the description"])
def test_a_folder_that_differs_is_deleted(
    what: str, images: _Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = saving._write_folder

    def spoil(tensors: Mapping[str, Tensor], description: Mapping[str, object], folder: Path) -> None:
        first = next(iter(tensors))
        changed = dict(tensors)
        if what == "a value":
            changed[first] = changed[first] + 1
        elif what == "a name":
            changed["other"] = changed.pop(first)
        else:
            description = {**description, "host": None}
        write(changed, description, folder)  # type: ignore[arg-type]

    monkeypatch.setattr(saving, "_write_folder", spoil)
    with pytest.raises(ExportError, match="it was deleted"):
        save_exported(images.exported, tmp_path / "model", images.sample)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- refusals


def test_paths_that_say_no_format_or_are_taken_are_refused(images: _Case, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.pt2 or \.onnx"):
        save_exported(images.exported, tmp_path / "model.bin", images.sample)
    (tmp_path / "model.pt2").touch()
    with pytest.raises(ConfigError, match="exists already"):
        save_exported(images.exported, tmp_path / "model.pt2", images.sample)


def test_missing_packages_are_named_with_the_extra(
    images: _Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_programs, "_ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match=r"needs no_such_package: pip install 'esper-lite\[export\]'"):
        save_exported(images.exported, tmp_path / "model.onnx", images.sample)
    assert list(tmp_path.iterdir()) == []


def test_a_module_in_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"training mode: call eval\(\)"):
        write_program(nn.Linear(2, 2), tmp_path / "model.pt2", draw(2, 2))


class _OneIsAnother(nn.Module):
    """Doubles several items, triples a single one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 1 else x * 3


class _Fixed(nn.Module):
    """Knows the size of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, 3) * 2


class _Deciding(nn.Module):
    """Looks at values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (_OneIsAnother(), r"batch of one .*another way.*dynamic_batch=False"),
        (_Fixed(), r"makes no program of _Fixed.*dynamic_batch=False"),
        (_Deciding(), r"makes no program of _Deciding"),
    ],
)
def test_what_no_program_of_any_batch_holds_is_refused(
    network: nn.Module, match: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=match):
        write_program(network.eval(), tmp_path / "model.pt2", draw(4, 3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", [_OneIsAnother(), _Fixed()])
def test_a_batch_can_be_fixed(network: nn.Module, tmp_path: Path) -> None:
    saved = save_exported(network.eval(), tmp_path / "model.pt2", draw(4, 3), dynamic_batch=False)
    assert not saved.has_any_batch
    assert furthest(load_program(saved.target), network, draw(4, 3, seed=2)) == 0.0


def test_a_sample_of_one_item_does_not_fix_the_batch() -> None:
    network = nn.Linear(3, 2).eval()
    module = build_program(network, draw(1, 3)).module()
    for size in (1, 2, 5):
        assert furthest(module, network, draw(size, 3)) == 0.0


def test_batches_are_resized_along_the_items_alone() -> None:
    sample = {"ids": torch.arange(3), "table": torch.arange(4), "nested": (torch.arange(6).reshape(3, 2), 7)}
    resized = resize_batch(sample, 5)
    assert isinstance(resized, dict)
    assert torch.equal(resized["ids"], torch.tensor([0, 1, 2, 0, 1]))
    assert torch.equal(resized["table"], torch.arange(4))
    assert resized["nested"][0].shape == (5, 2)
    assert resized["nested"][1] == 7


def test_a_program_that_differs_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disturb(path: Path) -> nn.Module:
        network = load_program(path)
        with torch.no_grad():
            next(iter(network.parameters())).add_(0.01)
        return network

    monkeypatch.setattr(saving, "load_program", disturb)
    with pytest.raises(ExportError, match="it was deleted"):
        write_program(nn.Linear(2, 2).eval(), tmp_path / "model.pt2", draw(2, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"cannot be written: .*choose another place"):
        write_checked(tmp_path / "file" / "model", Path.touch, lambda path: None)
