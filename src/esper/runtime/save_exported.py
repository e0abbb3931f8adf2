"""An exported network as a file that needs no esper: a program, an ONNX graph, or weights with a description.

```
FILE.pt2    torch.export: torch alone loads it, not even the user's classes are needed
FILE.onnx   needs the extra "export" to write; any ONNX runtime loads it
FOLDER      weights.safetensors + architecture.json, to rebuild or port
```
Whatever is written is loaded again and compared before it gets its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import final

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors
from torch import Tensor, fx, nn

from esper.kasmina import (
    MAX_DIFFERENCE,
    WEIGHTS_NAME,
    Exported,
    Inputs,
    count_items,
    describe_inputs,
    measure_largest,
    split_arguments,
)
from esper.leyline import ConfigError, ExportError, JsonValue
from esper.runtime.checked_writing import write_checked
from esper.runtime.export_programs import (
    OnnxNetwork,
    build_program,
    load_program,
    resize_batch,
    save_onnx,
    save_program,
)
from esper.runtime.run_folder import package_versions

GRAFTED_VERSION = 1
"""Version of architecture.json in a folder of a grafted network."""
ARCHITECTURE_NAME = "architecture.json"
PROGRAM_SUFFIXES = (".pt2", ".onnx")
"""File names that mean a program; a name without a suffix means a folder."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedExport:
    """What was written."""

    target: Path
    format: str
    """"pt2", "onnx" or "folder"."""
    max_difference: float
    """Largest difference of an output to the module's, measured with what was written; 0 for a folder, whose
    tensors are compared bit by bit."""
    has_any_batch: bool
    """Whether it takes batches of other sizes than the sample's."""


def save_exported(
    exported: Exported | nn.Module, path: str | Path, sample: Inputs, *, dynamic_batch: bool = True
) -> SavedExport:
    """Write an exported network; the suffix of the path says how.

    Args:
        exported: What `export_grafted` returned, or any plain module in eval mode (not for a folder).
        path: FILE.pt2, FILE.onnx, or a name without a suffix for a folder; must not exist.
        sample: What the module is called with, on its device. A program takes its inputs by place or by name,
            as the sample gives them.
        dynamic_batch: Whether the first axis of every input that is as long as the batch may vary.

    Raises:
        ConfigError: If the path exists or has another suffix, or packages of the extra "export" are missing.
        ExportError: If it cannot be written so, or what was written differs; nothing is left behind then.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "net.pt2"
        >>> save_exported(nn.Linear(3, 2).eval(), path, torch.zeros(2, 3)).format
        'pt2'
    """
    target = Path(path)
    check_target(target)
    if not isinstance(exported, Exported | nn.Module):
        raise ConfigError(
            f"save_exported() writes what grown.export() or export_record() returned, got "
            f"{type(exported).__name__}"
        )
    if target.suffix in PROGRAM_SUFFIXES:
        module = exported.module if isinstance(exported, Exported) else exported
        difference = write_program(module, target, sample, dynamic_batch=dynamic_batch)
        return SavedExport(
            target=target,
            format=target.suffix.removeprefix("."),
            max_difference=difference,
            has_any_batch=dynamic_batch,
        )
    if not isinstance(exported, Exported):
        raise ConfigError(
            f"{target}: a folder says what was grown where, which a bare {type(exported).__name__} does not: "
            "pass what export_grafted returned, or name a FILE.pt2"
        )
    tensors, description = _list_weights(exported), describe_exported(exported, sample)
    write_checked(
        target,
        partial(_write_folder, tensors, description),
        partial(_check_folder, tensors, description),
    )
    return SavedExport(target=target, format="folder", max_difference=0.0, has_any_batch=True)


def check_target(target: Path) -> None:
    """Refuse a path that says no format, or that is taken.

    Raises:
        ConfigError: Naming the choices.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another name")
    if target.suffix not in (*PROGRAM_SUFFIXES, ""):
        raise ConfigError(f"{target}: must end in .pt2 or .onnx, or be a directory name without a suffix")


def write_program(network: nn.Module, target: Path, sample: Inputs, *, dynamic_batch: bool = True) -> float:
    """Write a network as .pt2 or .onnx and return its largest difference, loaded again, on two batches.

    Args:
        network: In eval mode.
        target: Ends in one of `PROGRAM_SUFFIXES`.
        sample: What the network is called with.
        dynamic_batch: Whether batches of other sizes are taken; one item more than the sample is tried then.

    Raises:
        ConfigError: If packages of the extra "export" are missing.
        ExportError: If it cannot be written so, or what was written differs; nothing is left behind then.
    """
    program = build_program(network, sample, dynamic_batch=dynamic_batch)
    save, load = (save_program, load_program) if target.suffix == ".pt2" else (save_onnx, OnnxNetwork)
    batches = [sample]
    if dynamic_batch:
        batches.append(resize_batch(sample, count_items(sample) + 1))
    return write_checked(
        target, partial(save, program), lambda path: _check_program(load(path), network, batches)
    )


def describe_exported(exported: Exported, sample: Inputs) -> dict[str, JsonValue]:
    """Return what architecture.json says: enough to build the grafts again around the host's own class."""
    return {
        "format_version": GRAFTED_VERSION,
        "made_by": f"esper-lite {version('esper-lite')}, torch {package_versions()['torch']}",
        "host": _describe_host(exported.module),
        "sample": describe_inputs(sample),
        "weights": WEIGHTS_NAME,
        "keys": "tensors of the host under its own names; those of a seed under grafts.SLOT",
        "largest_difference": exported.largest_difference,
        "merged": list(exported.merged),
        "kept": {kept.slot: kept.reason for kept in exported.kept},
        "grafts": [_to_json(asdict(graft)) for graft in exported.grafts],
    }


def _to_json(value: object) -> JsonValue:
    """Return a record as plain data: tuples become lists."""
    if isinstance(value, dict):
        return {str(name): _to_json(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json(part) for part in value]
    assert value is None or isinstance(value, str | int | float | bool)
    return value


def _describe_host(module: nn.Module) -> dict[str, JsonValue]:
    """Return the class that builds the host, or the steps of one that was traced as a whole."""
    if isinstance(module, fx.GraphModule):
        return {"class": None, "code": module.code.strip()}
    return {"class": f"{type(module).__module__}.{type(module).__qualname__}", "code": None}


def _list_weights(exported: Exported) -> dict[str, Tensor]:
    """Return tensors on the CPU, none of which shares memory with another."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in exported.tensors("host+extra").items()
    }


def _write_folder(tensors: Mapping[str, Tensor], description: Mapping[str, JsonValue], folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / WEIGHTS_NAME).write_bytes(save_safetensors(dict(tensors)))
    text = json.dumps(description, indent=2, allow_nan=False, ensure_ascii=True)
    (folder / ARCHITECTURE_NAME).write_text(text + "\n", encoding="utf-8")


def _check_folder(tensors: Mapping[str, Tensor], description: Mapping[str, JsonValue], folder: Path) -> None:
    written = load_file(folder / WEIGHTS_NAME)
    if written.keys() != tensors.keys():
        raise ExportError(f"{WEIGHTS_NAME}: other tensors were written than were given; it was deleted")
    for name, tensor in tensors.items():
        # Bytes, because a NaN differs from itself.
        if not torch.equal(written[name].view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8)):
            raise ExportError(f"{WEIGHTS_NAME}: {name} was not written as it is; it was deleted")
    if json.loads((folder / ARCHITECTURE_NAME).read_text(encoding="utf-8")) != description:
        raise ExportError(f"{ARCHITECTURE_NAME} was not written as it is; it was deleted")


def _check_program(network: Callable[..., object], original: nn.Module, batches: Sequence[Inputs]) -> float:
    """Return the largest difference over batches between what was written and what it was made of."""
    largest = 0.0
    for batch in batches:
        positional, named = split_arguments(batch)
        with torch.no_grad():
            difference = measure_largest(original(*positional, **named), network(*positional, **named))
        if not difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"the written program differs from the network by {difference:.2e}, at most "
                f"{MAX_DIFFERENCE:g} is allowed; it was deleted"
            )
        largest = max(largest, difference)
    return largest
