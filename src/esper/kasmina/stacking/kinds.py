"""How a type of module is made known: what settings are understood, and what computes its R copies.

A kind is one entry of a table. `signature` and `build_stacked` read the same entry, so that whatever has a
signature can be built, and two modules of one signature can be rows of one stack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from esper.kasmina.stacking.contract import StackArrangement, StackContext, Stacked, UnstackableError

Weights = Mapping[str, Tensor]
Compute = Callable[[Tensor, Weights, StackContext], Tensor]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StackedFunction:
    """A `Stacked` made of a plain function."""

    arrangement_in: StackArrangement
    arrangement_out: StackArrangement
    compute: Compute

    def __call__(self, x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        """Compute all rows."""
        return self.compute(x, weights, context)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where in a tree a module stands, and how its children are built."""

    path: str
    """Of the module, in front of its parameters' names; "" for the root."""
    arrangement: StackArrangement
    """Of what it takes."""
    build_at: Callable[[nn.Module, Site], Stacked]

    def name(self, inner: str) -> str:
        """Return the full path of a parameter or child."""
        return join_path(self.path, inner)

    def parameter(self, module: nn.Module, inner: str) -> str | None:
        """Return the full path of one of the module's own parameters, None where it has none of that name.

        By the list of parameters, because torch annotates an absent bias as a tensor.
        """
        is_there = any(name == inner for name, _ in module.named_parameters(recurse=False))
        return self.name(inner) if is_there else None

    def child(self, module: nn.Module, inner: str, arrangement: StackArrangement | None = None) -> Stacked:
        """Build a child that takes what the module takes, or another arrangement."""
        place = self.arrangement if arrangement is None else arrangement
        return self.build_at(module, Site(path=self.name(inner), arrangement=place, build_at=self.build_at))

    def function(self, compute: Compute, *, out: StackArrangement | None = None) -> StackedFunction:
        """Return a function that keeps the arrangement, or gives another one."""
        return StackedFunction(
            arrangement_in=self.arrangement,
            arrangement_out=self.arrangement if out is None else out,
            compute=compute,
        )

    def keeping(self, stacked: Stacked, module: nn.Module) -> Stacked:
        """Return what a child computes, if it keeps the arrangement of what the module takes.

        Raises:
            UnstackableError: If it does not.
        """
        if stacked.arrangement_out is not self.arrangement:
            raise refuse(self.path, module, "its inner part gives another arrangement than it takes")
        return stacked


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One type of module that can be stacked."""

    build: Callable[[nn.Module, Site], Stacked]
    takes: frozenset[StackArrangement] = frozenset(StackArrangement)
    """Arrangements that it can take."""
    settings: tuple[str, ...] = ()
    """Attributes that all rows must share, beside the shapes of their parameters."""
    known: Mapping[str, Callable[[object], bool]]
    """Attribute -> whether a value of it is understood."""


def join_path(path: str, inner: str) -> str:
    """Return a dotted path; either part may be empty."""
    return f"{path}.{inner}" if path and inner else path or inner


def refuse(path: str, module: nn.Module, why: str) -> UnstackableError:
    """Return the error that names a module, its type and the reason."""
    place = repr(path) if path else "the module itself"
    return UnstackableError(f"{place} ({type(module).__name__}) cannot be stacked: {why}")


def find_kind(kinds: Mapping[type[nn.Module], Kind], module: nn.Module, path: str) -> Kind:
    """Return the entry of a module's type, its settings checked.

    A subclass is another type: it may compute something else.

    Raises:
        UnstackableError: If there is none, or a setting has a value that is not understood.
    """
    kind = kinds.get(type(module))
    if kind is None:
        raise refuse(path, module, "its type is not known; train such rows one at a time")
    for name, is_known in kind.known.items():
        value = getattr(module, name)
        if not is_known(value):
            raise refuse(path, module, f"{name}={value!r} is not supported; train such rows one at a time")
    return kind


def is_off(value: object) -> bool:
    """Whether a switch, a rate or an option is at its neutral value: False, 0 or None."""
    return value is None or value == 0


def is_set(value: object) -> bool:
    """Whether an option has a value at all."""
    return value is not None


def is_missing(value: object) -> bool:
    """Whether an option has no value; 0 may be one."""
    return value is None
