"""What may stay in a traced graph: torch's own layers, and nothing of this package.

Knows modules and classes; no slot, no stage.
"""

from __future__ import annotations

from typing import final

from torch import fx, nn

_PACKAGE = "esper"


@final
class PlainTracer(fx.Tracer):
    """Traces through every class but torch's own layers, so that only those remain."""

    proxy_buffer_attributes = True
    """A buffer is a step of the graph, as a parameter is, so that one may be cut to the size of the input."""

    def __init__(self, *, keeps_strangers: bool = False) -> None:
        """Make a tracer for one graph.

        Args:
            keeps_strangers: Whether classes that are neither torch's nor ours stay whole instead of being
                traced through.
        """
        super().__init__()
        self._keeps_strangers = keeps_strangers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays one node."""
        del module_qualified_name
        if m.__module__.startswith("torch.nn"):
            return not isinstance(m, nn.Sequential)
        return self._keeps_strangers and not is_ours(type(m))


def is_ours(kind: type) -> bool:
    """Whether a class is of this package or made from one that is, so that it cannot be loaded without."""
    return any(is_of_package(base.__module__) for base in kind.__mro__)


def is_of_package(module_name: str | None) -> bool:
    """Whether a Python module is one of this package."""
    return module_name is not None and module_name.split(".")[0] == _PACKAGE
