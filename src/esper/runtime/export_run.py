"""A finished run's network as files that need no esper: one .pt2, or safetensors with its architecture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import final

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, fx

from esper.kasmina import count_trainable, export_model
from esper.leyline import ConfigError, ExportError, JsonValue
from esper.runtime.assemble import assemble
from esper.runtime.config_file import read_config
from esper.runtime.run import CHECKPOINT_KIND, restore_assembly
from esper.runtime.run_folder import replace_text
from esper.runtime.run_records import CHECKPOINTS_NAME, CONFIG_NAME, read_meta
from esper.tolaria import CheckpointStore

ARCHITECTURE_VERSION = 1
_MAX_DIFFERENCE = 1e-5


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """What was written."""

    target: Path
    checkpoint: str
    num_params: int
    max_difference: float
    """Largest absolute difference to the grown network on validation items."""

    @property
    def text(self) -> str:
        """One line for a person."""
        return (
            f"exported {self.target} ({self.num_params:,} parameters, checkpoint {self.checkpoint}, "
            f"largest difference {self.max_difference:.1e})"
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "target": str(self.target),
            "checkpoint": self.checkpoint,
            "num_params": self.num_params,
            "max_difference": self.max_difference,
        }


def export_run(run: Path, target: Path, *, allow_unfinished: bool) -> ExportSummary:
    """Write a run's newest network as a plain model and check it against the original.

    Args:
        run: The run's directory.
        target: A file ending in .pt2, or a directory for model.safetensors and architecture.json.
        allow_unfinished: Leave out seeds that are still in flight instead of refusing.

    Raises:
        RunDirectoryError: If `run` is not a run.
        CheckpointError: If no valid checkpoint is there.
        ExportError: If a seed is in flight, or the export differs from the network.
        ConfigError: If the target exists, or is a file that does not end in .pt2.
    """
    read_meta(run)
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another name")
    if target.suffix not in (".pt2", ""):
        raise ConfigError(f"{target}: must end in .pt2, or be a directory name without a suffix")
    assembly = assemble(read_config(run / CONFIG_NAME))
    store = CheckpointStore(run / CHECKPOINTS_NAME, kind=CHECKPOINT_KIND, esper_version=version("esper-lite"))
    loaded = store.load()
    restore_assembly(assembly, loaded.record, loaded.topology_hash)
    bench = assembly.host_run.bench
    model, sample = bench.model.eval(), bench.validation[0][:8]
    plain = export_model(model, sample, allow_unfinished=allow_unfinished)
    if target.suffix == ".pt2":
        difference = _write_pt2(plain, sample, target)
    else:
        difference = _write_folder(plain, sample, target)
    return ExportSummary(
        target=target,
        checkpoint=loaded.name,
        num_params=count_trainable(plain),
        max_difference=difference,
    )


def _write_pt2(plain: fx.GraphModule, sample: Tensor, target: Path) -> float:
    dynamic = {"inputs": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(plain, (sample,), dynamic_shapes=dynamic)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, target)
    return _difference(plain, torch.export.load(target).module(), sample)


def _write_folder(plain: fx.GraphModule, sample: Tensor, target: Path) -> float:
    target.mkdir(parents=True)
    tensors = {name: tensor.contiguous() for name, tensor in plain.state_dict().items()}
    (target / "model.safetensors").write_bytes(save_safetensors(tensors))
    layers: dict[str, JsonValue] = {
        name: repr(module) for name, module in plain.named_modules() if name and not list(module.children())
    }
    architecture: dict[str, JsonValue] = {
        "format_version": ARCHITECTURE_VERSION,
        "input_shape": list(sample.shape[1:]),
        "layers": layers,
        "forward": plain.code,
        "parameters": {name: list(tensor.shape) for name, tensor in tensors.items()},
    }
    replace_text(target / "architecture.json", json.dumps(architecture, indent=2))
    return 0.0


def _difference(plain: torch.nn.Module, loaded: torch.nn.Module, sample: Tensor) -> float:
    with torch.no_grad():
        difference = float((plain(sample) - loaded(sample)).abs().max())
    if not difference <= _MAX_DIFFERENCE:
        raise ExportError(f"the written model differs by {difference:.2e}, at most {_MAX_DIFFERENCE:g}")
    return difference
