"""An exported network as a file that needs no esper: a program, an ONNX graph, or weights with a description.

```
FILE.pt2    torch.export: torch alone loads it, not even the user's classes are needed
FILE.onnx   needs the extra "export" to write; any ONNX runtime loads it
FOLDER      weights.safetensors + architecture.json, to rebuild or port
```
Whatever is written is loaded again and compared before it gets its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import nn

from esper.kasmina import Inputs
from esper.kasmina.graft import Exported


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedExport:
    """What was written."""

    target: Path
    format: str
    """"pt2", "onnx" or "folder"."""
    max_difference: float
    """Largest difference of an output on the sample, measured with what was written; 0 for a folder, whose
    tensors are compared bit by bit."""
    has_any_batch: bool
    """Whether it takes batches of other sizes than the sample's."""


def save_exported(
    exported: Exported | nn.Module, path: str | Path, sample: Inputs, *, dynamic_batch: bool = True
) -> SavedExport:
    """Write an exported network; the suffix of the path says how.

    Args:
        exported: What `export_grafted` returned, or any plain module (not for a folder).
        path: FILE.pt2, FILE.onnx, or a name without a suffix for a folder; must not exist.
        sample: What the module is called with, on its device.
        dynamic_batch: Whether the first axis of every input that is as long as the batch may vary.

    Raises:
        ConfigError: If the path exists or has another suffix, or packages of the extra "export" are missing.
        ExportError: If it cannot be written so, or what was written differs; nothing is left behind then.
    """
    raise NotImplementedError
