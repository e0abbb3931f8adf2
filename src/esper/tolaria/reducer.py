"""The data plane's seam: gradients of one host agreed over ranks, before they are looked at.

The plan comes from the topology, not from which gradients happen to exist: a planned parameter without a
gradient gets zeros on every rank, so that moments and weight decay act alike everywhere. One process reduces
nothing but fills the same zeros, so that serial and distributed training take the same steps. An isolated
seed is the exception: its own loss makes its gradients or leaves it alone, and zeros would decay a seed that
is not being trained. Knows parameters by name; no loss, no lifecycle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch import Tensor, nn

from esper.leyline import JsonValue, canonical_hash

HOST = "host"
"""Name of the host's group; a seed's is "seed:<slot>"."""
_HASH_DIGITS = 16


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One trainable parameter that takes part in the reduction.

    Example:
        PlanEntry(name="host.head.weight", shape=(10, 64), dtype="float32", group="host")
    """

    name: str
    """Qualified, unique in the plan."""
    shape: tuple[int, ...]
    dtype: str
    """Without the library's prefix, e.g. "float32"."""
    group: str
    """"host" or "seed:<slot>"."""
    is_isolated: bool = False
    """Its seed learns from a loss of its own: a missing gradient stays missing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepFlags:
    """What this rank has to say before a step."""

    faulty_groups: frozenset[str] = frozenset()
    """Groups ("host", "seed:<slot>") whose local gradient is not finite."""
    is_stop_requested: bool = False
    loss: Tensor | None = None
    """0-dim, without gradient: what this rank's rows add to the mean loss of the whole batch; None = it had
    no rows."""
    metric_sum: Tensor | None = None
    """0-dim: sum of the metric over this rank's rows; None = it had no rows."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerdict:
    """What all ranks agreed on."""

    faulty_ranks: Mapping[str, int] = field(default_factory=dict)
    """Faulty group -> the highest rank that reported it."""
    is_stop_requested: bool = False
    """Whether any rank asked to stop."""
    loss: Tensor | None = None
    """0-dim: mean loss of the whole batch; None if no rank said anything about it."""
    metric_sum: Tensor | None = None
    """0-dim: sum of the metric over the whole batch; None if no rank said anything about it."""


class GradientReducer(Protocol):
    """Sums gradients over ranks in the order of a plan."""

    def replan(self, entries: Sequence[PlanEntry], parameters: Mapping[str, nn.Parameter]) -> int:
        """Take a new plan; call after every change of topology or isolation.

        Args:
            entries: In any order; the layout is by name.
            parameters: The parameter of each entry, by name. They are held until the next call.

        Returns:
            The layout's hash, in [0, 2**63), equal on ranks that agree.

        Raises:
            ValueError: If names, shapes or dtypes of the two do not match, or a name occurs twice.
        """

    def reduce(self, local: StepFlags) -> StepVerdict:
        """Reduce gradients and flags once per step, in the same order on every rank."""


@final
class NoReduce:
    """One process: gradients stay as they are, missing ones become zeros by plan.

    Without a plan (before the first `replan`) nothing is filled.
    """

    def __init__(self) -> None:
        """Start without a plan."""
        self._filled: tuple[nn.Parameter, ...] = ()

    def replan(self, entries: Sequence[PlanEntry], parameters: Mapping[str, nn.Parameter]) -> int:
        """Take a new plan; see `GradientReducer.replan`.

        Raises:
            ValueError: If names, shapes or dtypes of the two do not match, or a name occurs twice.
        """
        check_plan(entries, parameters)
        ordered = sorted(entries, key=lambda entry: entry.name)
        self._filled = tuple(parameters[entry.name] for entry in ordered if not entry.is_isolated)
        return hash_layout(entries)

    def reduce(self, local: StepFlags) -> StepVerdict:
        """Fill missing gradients of the plan with zeros and return the local flags."""
        for parameter in self._filled:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return StepVerdict(
            faulty_ranks=dict.fromkeys(sorted(local.faulty_groups), 0),
            is_stop_requested=local.is_stop_requested,
            loss=local.loss,
            metric_sum=local.metric_sum,
        )


def build_plan(
    groups: Mapping[str, Mapping[str, nn.Parameter]], isolated: Collection[str]
) -> tuple[PlanEntry, ...]:
    """Return one entry per parameter.

    Args:
        groups: Group ("host", "seed:<slot>") -> its trainable parameters by name.
        isolated: Groups whose seeds learn from a loss of their own.
    """
    return tuple(
        PlanEntry(
            name=name,
            shape=tuple(parameter.shape),
            dtype=dtype_name(parameter.dtype),
            group=group,
            is_isolated=group in isolated,
        )
        for group, parameters in groups.items()
        for name, parameter in parameters.items()
    )


def hash_layout(entries: Sequence[PlanEntry]) -> int:
    """Return 63 bits of SHA-256 over the entries, ordered by name whatever their given order.

    Example:
        >>> hash_layout([]) == hash_layout(())
        True
    """
    layout: JsonValue = [
        [entry.name, list(entry.shape), entry.dtype, entry.group, entry.is_isolated]
        for entry in sorted(entries, key=lambda entry: entry.name)
    ]
    return int(canonical_hash(layout)[:_HASH_DIGITS], 16) >> 1


def check_plan(entries: Sequence[PlanEntry], parameters: Mapping[str, nn.Parameter]) -> None:
    """Check that a plan describes exactly these parameters.

    Raises:
        ValueError: Naming the first difference.

    Example:
        >>> check_plan([], {})
    """
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"reduction plan: {twice!r} is planned twice")
    if set(names) != set(parameters):
        different = sorted(set(names) ^ set(parameters))
        raise ValueError(f"reduction plan: {different[0]!r} is not in both the plan and the parameters")
    for entry in entries:
        parameter = parameters[entry.name]
        found = (tuple(parameter.shape), dtype_name(parameter.dtype))
        if found != (entry.shape, entry.dtype):
            raise ValueError(
                f"reduction plan: {entry.name!r} is planned as {entry.shape} {entry.dtype}, "
                f"the parameter is {found[0]} {found[1]}"
            )


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without the library's prefix, e.g. "float32"."""
    return str(dtype).removeprefix("torch.")
