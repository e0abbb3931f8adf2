"""From a module tree to a function of R sets of weights, and what two rows' modules must share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from esper.kasmina.stacking.blocks import BLOCK_KINDS
from esper.kasmina.stacking.contract import StackArrangement, Stacked
from esper.kasmina.stacking.kinds import Kind, Site, find_kind, join_path, refuse
from esper.kasmina.stacking.layers import LAYER_KINDS
from esper.kasmina.stacking.linear import LINEAR_KINDS
from esper.kasmina.stacking.norms import NORM_KINDS

if TYPE_CHECKING:
    from torch import nn

_KINDS: Mapping[type[nn.Module], Kind] = MappingProxyType(
    {**LINEAR_KINDS, **NORM_KINDS, **LAYER_KINDS, **BLOCK_KINDS}
)


def build_stacked(module: nn.Module, arrangement: StackArrangement, prefix: str = "") -> Stacked:
    """Return the function that computes R copies of a module with R sets of weights.

    It holds settings only: weights and running statistics are handed to every call. Hooks on the module and
    its training mode play no part.

    Args:
        module: Any row's module, as a pattern.
        arrangement: Where its input has the rows.
        prefix: In front of the names of its parameters, as "block1" in "block1.0.weight"; may be "".

    Raises:
        UnstackableError: If a module in the tree, or a setting of one, is not known, or takes another
            arrangement than it would be given.

    Example:
        >>> stacked = build_stacked(torch.nn.ReLU(), StackArrangement.ROWS)
        >>> callable(stacked)
        True
    """
    _refuse_shared(module, prefix)
    return _build_at(module, Site(path=prefix, arrangement=arrangement, build_at=_build_at))


def signature(module: nn.Module) -> Hashable:
    """Return what is equal for two modules that can be rows of one stack.

    Types, settings, and shapes and dtypes of parameters, in the same tree; not values, modes or devices.

    Raises:
        UnstackableError: As `build_stacked`, but for arrangements.

    Example:
        >>> signature(nn.Linear(3, 2)) == signature(nn.Linear(3, 2))
        True
    """
    _refuse_shared(module, "")
    return _signature(module, "")


def _build_at(module: nn.Module, site: Site) -> Stacked:
    kind = find_kind(_KINDS, module, site.path)
    if site.arrangement not in kind.takes:
        takes = ", ".join(sorted(each.name for each in kind.takes))
        raise refuse(site.path, module, f"it takes {takes}, here it would get {site.arrangement.name}")
    return kind.build(module, site)


def _signature(module: nn.Module, path: str) -> Hashable:
    kind = find_kind(_KINDS, module, path)
    return (
        type(module),
        tuple(getattr(module, name) for name in kind.settings),
        tuple((name, each.shape, each.dtype) for name, each in module.named_parameters(recurse=False)),
        tuple((name, _signature(child, join_path(path, name))) for name, child in module.named_children()),
    )


def _refuse_shared(module: nn.Module, path: str) -> None:
    """Refuse a parameter with two names: rows have one set of weights for each name."""
    num_names = sum(1 for _ in module.named_parameters(remove_duplicate=False))
    if num_names != sum(1 for _ in module.parameters()):
        raise refuse(path, module, "parts of it share a parameter; train such rows one at a time")
