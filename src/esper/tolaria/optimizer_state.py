"""What an optimiser holds, by name: owners, groups, moments; and the strict check before any is put back.

torch's own optimiser state dictionary is keyed by position: two groups of equal shapes that changed places
load onto each other's parameters without an error. Here every tensor is "<parameter name>/<state key>", the
plain data lists owners, groups and names, and all must match in both directions. Knows no schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor, nn

from esper.leyline import ForeignCheckpointError, JsonValue, suggest
from esper.tolaria.reducer import HOST

_GATE = "gate"
_STEP = "step"
_ADAM_KEYS = frozenset({_STEP, "exp_avg", "exp_avg_sq"})
_STATE_KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {"sgd": frozenset({"momentum_buffer"}), "adam": _ADAM_KEYS, "adamw": _ADAM_KEYS}
)


@final
@dataclass(slots=True, kw_only=True)
class ParameterOwner:
    """The host, or the seed of one slot, as the optimiser knows it."""

    parameters: dict[str, nn.Parameter]
    """Trainable ones by qualified name."""
    birth_batch: int | None = None
    """Batch at which it began to train; None for the host, which has no birth."""
    is_newborn: bool = False
    is_frozen: bool = False
    groups: list[dict[str, object]] = field(default_factory=list)
    """Its entries in the optimiser's list of groups."""


def select_trainable(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient."""
    return {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}


def group_prefix(owner: str) -> str:
    """Return the first part of an owner's group names: "host", or "seed:<slot>" for a slot."""
    return HOST if owner == HOST else f"seed:{owner}"


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices and kernels, not to norms, biases, scales and gates.

    A gate is told by a part of its name being "gate"; a tensor of three or more axes of which at most one is
    longer than 1, such as [C, 1, 1], is a scale.

    Args:
        name: Qualified, parts joined by dots.
        parameter: Any shape.
    """
    if parameter.dim() <= 1 or _GATE in name.split("."):
        return False
    return parameter.dim() == 2 or sum(size > 1 for size in parameter.shape) > 1


def split_groups(owner: ParameterOwner, prefix: str, weight_decay: float) -> list[dict[str, object]]:
    """Return an owner's groups "<prefix>/decay" and "<prefix>/no_decay", an empty one left out.

    Args:
        owner: Host or seed.
        prefix: "host" or "seed:<slot>".
        weight_decay: Of the first group; the second has none.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in owner.parameters.items():
        (decayed if is_decayed(name, parameter) else plain).append(parameter)
    return [
        {"params": parameters, "name": f"{prefix}/{suffix}", "weight_decay": decay}
        for suffix, parameters, decay in (("decay", decayed, weight_decay), ("no_decay", plain, 0.0))
        if parameters
    ]


def check_held(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], expected: Sequence[str]
) -> None:
    """Check that names, groups and state hold exactly the expected parameters, each once.

    Args:
        optimizer: Whose groups and state are looked at.
        parameters: What its owners hold, by name.
        expected: Names of every trainable parameter of the topology.

    Raises:
        RuntimeError: Naming what is missing, unexpected, doubled or left behind.
    """
    different = sorted(set(expected) ^ set(parameters))
    if different or len(expected) != len(parameters):
        raise RuntimeError(
            f"optimiser and topology differ: {different} in only one of them, "
            f"{len(expected)} trainable and {len(parameters)} optimised parameters"
        )
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if sorted(held) != sorted(id(parameter) for parameter in parameters.values()):
        raise RuntimeError(
            f"optimiser groups hold {len(held)} parameters for {len(parameters)} names: hold each once"
        )
    num_orphans = len(set(optimizer.state) - set(parameters.values()))
    if num_orphans:
        raise RuntimeError(f"optimiser state holds {num_orphans} parameters that no group has")


def collect_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the optimiser's live state tensors, not copies, keyed "<parameter name>/<state key>"."""
    return {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def describe_owners(owners: Mapping[str, ParameterOwner]) -> list[JsonValue]:
    """Return [name, birth batch, is newborn, is frozen] per owner, in order."""
    return [[name, owner.birth_batch, owner.is_newborn, owner.is_frozen] for name, owner in owners.items()]


def read_owners(saved: JsonValue, present: Mapping[str, ParameterOwner]) -> dict[str, ParameterOwner]:
    """Return the present owners in the saved order with the saved facts; the present ones are not changed.

    Args:
        saved: What `describe_owners` gave.
        present: Owners of the rebuilt topology.

    Raises:
        ForeignCheckpointError: If an owner is missing, unexpected or malformed.
    """
    owners: dict[str, ParameterOwner] = {}
    for entry in saved if isinstance(saved, list) else [None]:
        match entry:
            case [str(name), int() | None as birth, bool(is_newborn), bool(is_frozen)] if name in present:
                owners[name] = ParameterOwner(
                    parameters=present[name].parameters,
                    birth_batch=birth,
                    is_newborn=is_newborn,
                    is_frozen=is_frozen,
                    groups=present[name].groups,
                )
            case _:
                raise ForeignCheckpointError(
                    f"saved optimiser owner {entry!r}: expected [name, birth batch, newborn, frozen] "
                    f"of one of {sorted(present)}"
                )
    if len(owners) != len(present):
        raise ForeignCheckpointError(f"saved optimiser lacks {sorted(set(present) - set(owners))}")
    return owners


def describe_groups(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> list[JsonValue]:
    """Return [group name, [its parameters' names]] in the optimiser's order."""
    names = {parameter: name for name, parameter in parameters.items()}
    return [[group["name"], [names[p] for p in group["params"]]] for group in optimizer.param_groups]


def check_groups(saved: JsonValue, present: Sequence[JsonValue]) -> tuple[str, ...]:
    """Check that saved groups hold the same parameters as the present ones; return their saved order.

    The order of groups follows the order of births, which a rebuilt topology does not repeat; membership and
    the order inside a group must be the same.

    Args:
        saved: What `describe_groups` gave when it was saved.
        present: What it gives now.

    Raises:
        ForeignCheckpointError: Naming the first group that differs.
    """
    found, expected = _read_groups(saved), _read_groups(present)
    for name in [*found, *expected]:
        if name not in expected:
            raise ForeignCheckpointError(
                f"saved optimiser has the group {name!r}, this run does not: {suggest(name, expected)}"
            )
        if name not in found:
            raise ForeignCheckpointError(f"saved optimiser lacks the group {name!r}: {suggest(name, found)}")
        if found[name] != expected[name]:
            raise ForeignCheckpointError(
                f"saved optimiser group {name!r} holds {found[name]}, expected {expected[name]}"
            )
    return tuple(found)


def check_tensors(
    optimizer_name: str,
    tensors: Mapping[str, Tensor],
    with_state: JsonValue,
    parameters: Mapping[str, nn.Parameter],
) -> None:
    """Check saved tensors against the names that had state, and against the parameters' shapes.

    Args:
        optimizer_name: "sgd", "adam" or "adamw".
        tensors: Keyed "<parameter name>/<state key>".
        with_state: List of the parameter names that had state when it was saved.
        parameters: Every parameter of the optimiser by name.

    Raises:
        ForeignCheckpointError: If a tensor is missing, unexpected, or of another shape or dtype.
    """
    if not isinstance(with_state, list):
        raise ForeignCheckpointError(f"saved optimiser state: with_state is {with_state!r}, expected a list")
    expected = {f"{name}/{key}" for name in with_state for key in _STATE_KEYS[optimizer_name]}
    for key in sorted(expected ^ set(tensors)):
        if key in expected:
            raise ForeignCheckpointError(f"saved optimiser state lacks the tensor {key!r}")
        raise ForeignCheckpointError(
            f"saved optimiser state has an unexpected tensor {key!r}: {suggest(key, expected)}"
        )
    for key, tensor in tensors.items():
        name, _, state_key = key.rpartition("/")
        if name not in parameters:
            raise ForeignCheckpointError(f"saved optimiser state {key!r}: {suggest(name, parameters)}")
        parameter = parameters[name]
        # A step count has the default dtype of the process that made it; any float counts as well.
        is_count = state_key == _STEP and tensor.is_floating_point()
        shape = () if state_key == _STEP else tuple(parameter.shape)
        dtype = tensor.dtype if is_count else parameter.dtype
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ForeignCheckpointError(
                f"saved optimiser state {key!r} is {tuple(tensor.shape)} {tensor.dtype}, "
                f"expected {shape} {dtype}"
            )


def apply_tensors(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
) -> None:
    """Replace the optimiser's whole state by copies of checked tensors, each where the update expects it."""
    is_fused = bool(optimizer.defaults.get("fused"))
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, _, state_key = key.rpartition("/")
        parameter = parameters[name]
        # Only the fused kernels keep the step count on the device; elsewhere reading it would be a sync.
        device = parameter.device if state_key != _STEP or is_fused else torch.device("cpu")
        optimizer.state[parameter][state_key] = tensor.detach().to(device, copy=True)


def _read_groups(listed: JsonValue) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for entry in listed if isinstance(listed, list) else [None]:
        match entry:
            case [str(name), list(members)]:
                groups[name] = [str(member) for member in members]
            case _:
                raise ForeignCheckpointError(
                    f"saved optimiser group {entry!r}: expected [name, [parameter names]]"
                )
    return groups


def find_faulty(norm: float, gradients: Mapping[str, Tensor]) -> str:
    """Return the first name with a NaN or infinity, else the one that holds the largest number.

    Args:
        norm: Of all of them; empty is returned if it is finite.
        gradients: By name.
    """
    if math.isfinite(norm):
        return ""
    largest = {name: float(gradient.abs().max()) for name, gradient in gradients.items()}
    bad = (name for name, value in largest.items() if not math.isfinite(value))
    return next(bad, max(largest, key=lambda name: largest[name]))
