"""esper-lite: a neural network that grows while it trains.

```python
grown = esper.grow(model, sample=images[:2])                 # slots in a model of your own
controller = esper.Controller(grown, optimizer)              # growth in your own loop
esper.fit(grown, train_loader, validation_loader, ...)       # or a loop of ours
plain = grown.export()                                       # what leaves has nothing of esper in it
esper.save_exported(plain, "net.onnx", images[:2])           # or .pt2, or a folder
run = esper.open_run("runs/digits")                          # what happened: curves, seeds, figures
```
Names are looked up when they are first used, so that `import esper` alone pulls in no torch.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper.runtime.api import grow, propose
    from esper.runtime.compare import compare
    from esper.runtime.controller import Controller
    from esper.runtime.fit import fit
    from esper.runtime.growable import Growable
    from esper.runtime.own_blueprints import blueprint
    from esper.runtime.run_report import RunReport, open_run
    from esper.runtime.save_exported import save_exported
    from esper.tolaria import Budget

_HOMES = MappingProxyType(
    {
        "Budget": "esper.tolaria",
        "Controller": "esper.runtime.controller",
        "Growable": "esper.runtime.growable",
        "RunReport": "esper.runtime.run_report",
        "blueprint": "esper.runtime.own_blueprints",
        "compare": "esper.runtime.compare",
        "fit": "esper.runtime.fit",
        "grow": "esper.runtime.api",
        "open_run": "esper.runtime.run_report",
        "propose": "esper.runtime.api",
        "save_exported": "esper.runtime.save_exported",
    }
)
"""Public name -> the module that has it."""

__all__ = [
    "Budget",
    "Controller",
    "Growable",
    "RunReport",
    "blueprint",
    "compare",
    "fit",
    "grow",
    "open_run",
    "propose",
    "save_exported",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used.

    Raises:
        AttributeError: If there is no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'esper' has no attribute {name!r}; it has {', '.join(__all__)}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
