"""A run's network as files that need no esper: one program, or a folder of weights, description and code.

Whatever is written is loaded again from the disk and run beside the grown network before it gets its name; a
file that differs is deleted.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import final

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, fx, nn

from esper.data import UNKNOWN_TOKEN, TaskData
from esper.kasmina import (
    MAX_DIFFERENCE,
    WEIGHTS_NAME,
    LayerSource,
    build_plain_source,
    count_trainable,
    export_model,
    measure_largest,
)
from esper.leyline import ExportError, JsonValue
from esper.runtime.assemble import Assembly
from esper.runtime.checked_writing import write_checked
from esper.runtime.export_programs import (
    OnnxNetwork,
    build_program,
    load_program,
    save_onnx,
    save_program,
)
from esper.runtime.run_folder import package_versions
from esper.runtime.run_records import read_meta
from esper.runtime.save_exported import ARCHITECTURE_NAME, check_target
from esper.runtime.saved_host import load_saved_host

ARCHITECTURE_VERSION = 1
CODE_NAME = "model.py"
_NUM_CHECKED_ITEMS = 32
"""Validation items that the written files are compared on."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """What was written."""

    target: Path
    checkpoint: str
    num_params: int
    max_difference: float
    """Largest absolute difference of an output to the grown network, measured with the files as written."""
    passed_over: tuple[str, ...] = ()
    """Newer checkpoints that are damaged, each with file and reason; `checkpoint` is the newest whole one."""

    @property
    def text(self) -> str:
        """Lines for a person: what was passed over and written, how exact it is, how to load it."""
        how = f"`from model import load` inside {self.target}, with torch and safetensors"
        if self.target.suffix == ".pt2":
            how = f'torch.export.load("{self.target}").module()'
        elif self.target.suffix == ".onnx":
            how = f'onnxruntime.InferenceSession("{self.target}")'
        return "\n".join(
            (
                *(f"checkpoint {name} is damaged; an older one is exported" for name in self.passed_over),
                f"exported {self.target} ({self.num_params:,} parameters, checkpoint {self.checkpoint})",
                f"loaded again, it differs from the grown network by at most {self.max_difference:.1e}",
                f"to load it: {how}",
            )
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "target": str(self.target),
            "checkpoint": self.checkpoint,
            "num_params": self.num_params,
            "max_difference": self.max_difference,
            "passed_over": list(self.passed_over),
        }


def export_run(
    run: Path, target: Path, *, allow_unfinished: bool, is_code_trusted: bool = False
) -> ExportSummary:
    """Write a run's newest network as a plain model and compare the written files with the original.

    Runs on the CPU, wherever the network was trained.

    Args:
        run: The run's directory.
        target: A file ending in .pt2 or .onnx, or a directory for weights.safetensors, architecture.json and
            model.py.
        allow_unfinished: Leave out seeds that are still in flight instead of refusing.
        is_code_trusted: Whether code of seeds that the run's configuration names may be imported.

    Raises:
        RunDirectoryError: If `run` is not a run.
        CheckpointError: If no valid checkpoint is there.
        ExportError: If a seed is in flight, the target cannot be written, or the files differ from the
            network; nothing is left behind then.
        ConfigError: If the target exists, has another suffix, ONNX packages are missing, or code is not
            trusted.
    """
    read_meta(run)
    check_target(target)
    saved = load_saved_host(run, is_code_trusted=is_code_trusted)
    bench = saved.assembly.host_run.bench
    model, sample = bench.model.eval(), bench.validation[0][:_NUM_CHECKED_ITEMS]
    plain = export_model(model, sample, allow_unfinished=allow_unfinished)
    is_whole = not any(report.stage.is_live for report in model.reports())
    with torch.no_grad():
        expected = (model if is_whole else plain)(sample)
    write, load = _choose_format(target, plain, sample, saved.assembly)
    difference = write_checked(target, write, lambda path: measure_difference(load(path), sample, expected))
    return ExportSummary(
        target=target,
        checkpoint=saved.checkpoint,
        num_params=count_trainable(plain),
        max_difference=difference,
        passed_over=saved.passed_over,
    )


def write_folder(network: fx.GraphModule, description: Mapping[str, JsonValue], folder: Path) -> None:
    """Write a traced network as weights, a description of its layers, and the code that joins them.

    Args:
        network: As `esper.kasmina.export_model` returns it.
        description: What to say beside the layers; `input_shape`, `num_outputs` and `tokens` are read.
        folder: Made here; must not exist.

    Raises:
        ExportError: If the network cannot be written as plain code.
        OSError: If a file cannot be written.
    """
    shape, num_outputs = description["input_shape"], description["num_outputs"]
    assert isinstance(shape, list)
    assert isinstance(num_outputs, int)
    source = build_plain_source(
        network,
        input_shape=[int(str(size)) for size in shape],
        num_outputs=num_outputs,
        is_language="tokens" in description,
    )
    architecture: dict[str, JsonValue] = {
        "format_version": ARCHITECTURE_VERSION,
        **description,
        "code": f"{CODE_NAME}: load()",
        "weights": WEIGHTS_NAME,
        "layers": [_describe_layer(layer, source.tensors) for layer in source.layers],
    }
    folder.mkdir(parents=True)
    (folder / WEIGHTS_NAME).write_bytes(save_safetensors(dict(source.tensors)))
    (folder / CODE_NAME).write_text(source.text, encoding="utf-8")
    text = json.dumps(architecture, indent=2, allow_nan=False, ensure_ascii=True)
    (folder / ARCHITECTURE_NAME).write_text(text + "\n", encoding="utf-8")


def load_folder(folder: Path) -> nn.Module:
    """Run the code of an exported folder, as its user would, and return the network in eval mode.

    For folders that were just written: it runs the folder's `model.py`.

    Raises:
        ExportError: If the code or the weights do not load.
    """
    code = folder / CODE_NAME
    spec = importlib.util.spec_from_file_location(f"grown_network_{uuid.uuid4().hex}", code)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with torch.random.fork_rng(devices=[]):  # fresh layers draw weights before theirs are loaded
            spec.loader.exec_module(module)
            network: object = vars(module)["load"]()
    except (RuntimeError, OSError, SyntaxError, NameError, TypeError, ValueError) as error:
        raise ExportError(f"{code} does not load: {error}") from error
    finally:
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    assert isinstance(network, nn.Module)
    return network


def measure_difference(network: Callable[[Tensor], object], sample: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference between a network's outputs and the expected ones.

    Args:
        network: Returns one tensor; a module in eval mode.
        sample: Inputs [B, ...].
        expected: Outputs [B, ...].

    Raises:
        ExportError: If it is above `esper.kasmina.MAX_DIFFERENCE`, or not a number.
    """
    with torch.no_grad():
        difference = measure_largest(expected, network(sample))
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"the written model differs from the grown network by {difference:.2e}, at most "
            f"{MAX_DIFFERENCE:g} is allowed; it was deleted"
        )
    return difference


def _choose_format(
    target: Path, network: fx.GraphModule, sample: Tensor, assembly: Assembly
) -> tuple[Callable[[Path], None], Callable[[Path], Callable[[Tensor], object]]]:
    """Return what writes the network to a path, and what loads it from there."""
    if target.suffix == ".pt2":
        return partial(save_program, build_program(network, sample)), load_program
    if target.suffix == ".onnx":
        return partial(save_onnx, build_program(network, sample)), OnnxNetwork
    return partial(write_folder, network, _describe(assembly)), load_folder


def _describe(assembly: Assembly) -> dict[str, JsonValue]:
    """Return what a user must know beside the layers: shapes, scaling of inputs, classes, seeds."""
    task, data = assembly.task, assembly.data
    kept = [
        report for report in assembly.host_run.bench.model.reports() if report.stage.value == "FOSSILIZED"
    ]
    return {
        "made_by": f"esper-lite {version('esper-lite')}, torch {package_versions()['torch']}",
        "task": task.name,
        "input_shape": list(task.input_shape),
        **(_describe_tokens(data) if data.train.is_tokens else _describe_scaling(data)),
        "num_outputs": task.num_outputs,
        "classes": list(data.class_names),
        "seeds": [
            {"slot": report.slot, "blueprint": report.blueprint, "blend": report.blend} for report in kept
        ],
    }


def _describe_scaling(data: TaskData) -> dict[str, JsonValue]:
    unit = " / 255" if data.train.inputs.dtype == torch.uint8 else ""
    rule = f"(value{unit} - mean) / std, per channel"
    return {"input_scaling": {"rule": rule, "mean": list(data.mean), "std": list(data.std)}}


def _describe_tokens(data: TaskData) -> dict[str, JsonValue]:
    if data.class_names[0] == UNKNOWN_TOKEN:
        rule = "a token is the place of a character in `classes`; 0 stands for any that is not there"
    else:
        rule = "a token is a byte of UTF-8 text; the byte 0 stands between documents"
    return {"tokens": {"rule": f"{rule}; output t guesses token t + 1"}}


def _describe_layer(layer: LayerSource, tensors: Mapping[str, Tensor]) -> dict[str, JsonValue]:
    own = {
        name: tensor
        for name, tensor in tensors.items()
        if name == layer.name or name.startswith(layer.name + ".")
    }
    return {
        "name": layer.name,
        "path": layer.path,
        "built_by": layer.text,
        "tensors": {name: list(tensor.shape) for name, tensor in own.items()},
    }
