"""Groups of seeds in somebody else's optimiser: copied from the host's groups, and kept in step with them.

A seed has two groups, for matrices and for the rest. Both copy every setting of the reference group, and each
takes the weight decay that the host itself gives to its kind: from the reference group if that holds such
parameters, else from a host group that does, one of the same rate before others. So a host that decays
everything has seeds that decay everything, and one that spares its norms and biases has seeds that do; a host
without any vector spares the vectors of its seeds. Knows parameters and settings; no schedule of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast, final
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from esper.leyline import ConfigError
from esper.tolaria.optimizer_state import group_prefix, is_decayed

Group = dict[str, object]
GivenNames = Mapping[int, tuple[ReferenceType[nn.Parameter], str]]

_CYCLED = ("betas", "momentum")  # what schedulers move besides the rate
_MEMBERS = frozenset({"params", "param_names"})
_UNFIT: Mapping[str, str] = MappingProxyType(
    {
        "ASGD": "it keeps its rate in its state, so that a seed would be warmed up and frozen a step late",
        "LBFGS": "it keeps one group only",
        "Muon": "it takes matrices only, and seeds have biases and scales",
        "Rprop": "its rate is a start value only, so that a seed can be neither warmed up nor frozen",
        "SparseAdam": "it takes sparse gradients only, and those of seeds are dense",
        "ZeroRedundancyOptimizer": "it spreads its groups over ranks",
    }
)


@final
@dataclass(slots=True, kw_only=True)
class GuestGroup:
    """One group of a seed."""

    group: Group
    """The optimiser's own entry."""
    decay_source: Group | None
    """Host group whose weight decay it has; None = its own, which is 0 or what the optimiser lacks."""


@final
@dataclass(slots=True, kw_only=True)
class GuestSeed:
    """The seed of one slot, as a user's optimiser holds it."""

    parameters: dict[str, nn.Parameter]
    """Trainable ones by qualified name."""
    reference: Group
    """Host group that it copies and follows."""
    birth_step: int
    """Optimiser steps counted when it began to train."""
    is_newborn: bool = True
    is_frozen: bool = False
    members: list[GuestGroup] = field(default_factory=list)

    def follow(self, factor: float) -> None:
        """Set rate, betas, momentum and weight decay from what the host's groups have now.

        Args:
            factor: Rate over the reference group's.
        """
        reference = self.reference
        rate = reference["lr"]
        for member in self.members:
            group = member.group
            if isinstance(rate, float):
                group["lr"] = rate * factor
            else:
                set_value(group, "lr", cast("Tensor", rate) * factor)
            for key in _CYCLED:
                if key in reference:
                    group[key] = reference[key]
            if member.decay_source is not None:
                group["weight_decay"] = member.decay_source["weight_decay"]


def members_of(group: Mapping[str, object]) -> list[nn.Parameter]:
    """Return the parameters of a group."""
    return cast("list[nn.Parameter]", group["params"])


def set_value(group: Group, key: str, value: object) -> None:
    """Set a setting; a tensor keeps its identity, because captured graphs hold it."""
    present = group.get(key)
    if isinstance(present, Tensor):
        if isinstance(value, Tensor):
            present.copy_(value)
        else:
            present.fill_(float(cast("float", value)))
    else:
        group[key] = value.clone() if isinstance(value, Tensor) else value


def settings_of(group: Mapping[str, object]) -> dict[str, object]:
    """Return everything of a group but its parameters and their names."""
    return {key: value for key, value in group.items() if key not in _MEMBERS}


def refuse_unfit(optimizer: torch.optim.Optimizer) -> None:
    """Check that groups with rates of their own can come and go.

    Raises:
        ConfigError: Naming the optimiser's class and why not.
    """
    kind = type(optimizer).__name__
    for base in type(optimizer).__mro__:
        if base.__name__ in _UNFIT:
            raise ConfigError(
                f"optimiser {kind} cannot follow a growing model: {_UNFIT[base.__name__]}; "
                "use torch.optim.SGD, Adam or AdamW"
            )
    if not optimizer.param_groups:
        raise ConfigError(
            f"optimiser {kind} has no parameter group: build it on the model's named_parameters()"
        )
    for index, group in enumerate(optimizer.param_groups):
        if not isinstance(group.get("lr"), float | int | Tensor):
            raise ConfigError(
                f"optimiser {kind}: group {index} has lr={group.get('lr')!r}, expected a number: "
                "the rate of a seed is a share of the host's"
            )


def remember_names(named: Mapping[str, nn.Parameter]) -> GivenNames:
    """Return id of a parameter -> itself, weakly, because seeds must be free to go, and its name."""
    return {id(parameter): (ref(parameter), name) for name, parameter in named.items()}


def name_members(groups: Sequence[Group], given: GivenNames) -> dict[str, nn.Parameter]:
    """Return the parameters of groups by name: as given, else as the optimiser has it, else "group0.3".

    Raises:
        ConfigError: If two parameters have one name.
    """
    named: dict[str, nn.Parameter] = {}
    for index, group in enumerate(groups):
        own_names = group.get("param_names")
        for position, parameter in enumerate(members_of(group)):
            found, name = given.get(id(parameter), (None, ""))
            if found is None or found() is not parameter:
                name = own_names[position] if isinstance(own_names, list) else f"group{index}.{position}"
            if name in named:
                raise ConfigError(
                    f"the optimiser holds two parameters of the name {name!r}: give each its own"
                )
            named[name] = parameter
    return named


def find_group(groups: Sequence[Group], parameter: nn.Parameter | None) -> Group | None:
    """Return the group that holds a parameter, or None."""
    return next((g for g in groups if any(p is parameter for p in members_of(g))), None)


def find_reference(
    seeds: Iterable[GuestSeed], host_groups: Sequence[Group], parameter: nn.Parameter | None
) -> Group:
    """Return the host's group that a new seed follows.

    Args:
        seeds: A slot inside of one of these follows what that seed follows.
        host_groups: At least one; the first is followed where none holds the parameter.
        parameter: Of the module at the slot.
    """
    for seed in seeds:
        if any(own is parameter for own in seed.parameters.values()):
            return seed.reference
    return find_group(host_groups, parameter) or host_groups[0]


def add_groups(
    optimizer: torch.optim.Optimizer, slot: str, seed: GuestSeed, host_groups: Sequence[Group]
) -> None:
    """Append a seed's groups to the optimiser, or change nothing.

    Args:
        optimizer: Of the user.
        slot: For the groups' names "seed:<slot>/decay" and "seed:<slot>/no_decay".
        seed: Its parameters and reference group; its `members` are filled.
        host_groups: Where the rule of weight decay is read.

    Raises:
        ConfigError: If the optimiser does not take a group; says why.
    """
    num_before = len(optimizer.param_groups)
    members: list[GuestGroup] = []
    try:
        for suffix, is_matrix in (("decay", True), ("no_decay", False)):
            named = [(n, p) for n, p in seed.parameters.items() if is_decayed(n, p) is is_matrix]
            if not named:
                continue
            source = _find_decay_source(seed.reference, host_groups, is_matrix=is_matrix)
            group = _copy_settings(seed.reference, f"{group_prefix(slot)}/{suffix}", source)
            has_names = "param_names" in optimizer.param_groups[0]
            optimizer.add_param_group(group | {"params": named if has_names else [p for _, p in named]})
            members.append(GuestGroup(group=optimizer.param_groups[-1], decay_source=source))
    except BaseException as error:  # memory may run out between two groups
        del optimizer.param_groups[num_before:]
        if isinstance(error, TypeError | ValueError):
            raise ConfigError(
                f"optimiser {type(optimizer).__name__} did not take the groups of slot {slot!r}: {error}"
            ) from error
        raise
    seed.members = members


def take_out(groups: Sequence[Group], parameters: Collection[nn.Parameter]) -> list[tuple[Group, Group]]:
    """Drop parameters from the groups that hold them; return each changed group with its former members."""
    unwanted = {id(parameter) for parameter in parameters}
    changed: list[tuple[Group, Group]] = []
    for group in groups:
        held = members_of(group)
        kept = [index for index, parameter in enumerate(held) if id(parameter) not in unwanted]
        if len(kept) == len(held):
            continue
        former = {key: group[key] for key in _MEMBERS & group.keys()}
        for key, values in former.items():
            group[key] = [cast("list[object]", values)[index] for index in kept]
        changed.append((group, former))
    return changed


def missing_from(
    optimizer: torch.optim.Optimizer, named_parameters: Mapping[str, nn.Parameter]
) -> tuple[str, ...]:
    """Return the names of the trainable parameters that an optimiser does not hold, in order.

    Args:
        optimizer: Of the user; need not be followed by anything.
        named_parameters: Of the model as it is now.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD([layer.weight], lr=0.1)
        >>> missing_from(optimizer, dict(layer.named_parameters()))
        ('bias',)
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return tuple(n for n, p in named_parameters.items() if p.requires_grad and id(p) not in held)


def describe_missing(slot: str, names: Sequence[str]) -> str:
    """Say that a seed is not trained: its parameters, and the line to add.

    Args:
        slot: Whose seed.
        names: What `missing_from` gave for its parameters, at least one.

    Example:
        >>> describe_missing("block1", ["a.weight"])[:60]
        'the optimiser does not hold the 1 parameter(s) of the seed i'
    """
    return (
        f"the optimiser does not hold the {len(names)} parameter(s) of the seed in slot {slot!r} "
        f"({', '.join(names)}): the seed is not trained. Add once, after the optimiser was built: "
        "controller = esper.Controller(grown, optimizer), and controller.step(loss) after optimizer.step()"
    )


def _find_decay_source(reference: Group, host_groups: Sequence[Group], *, is_matrix: bool) -> Group | None:
    if "weight_decay" not in reference:
        return None
    rate = _base_rate(reference)
    alike = [group for group in host_groups if _base_rate(group) == rate]
    for group in (reference, *alike, *host_groups):
        if any(is_decayed("", parameter) is is_matrix for parameter in members_of(group)):
            return group
    return reference if is_matrix else None


def _base_rate(group: Group) -> float:
    return float(cast("float", group.get("initial_lr", group["lr"])))


def _copy_settings(reference: Group, name: str, decay_source: Group | None) -> Group:
    group = {
        key: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in settings_of(reference).items()
    }
    if "weight_decay" in group:
        group["weight_decay"] = 0.0 if decay_source is None else decay_source["weight_decay"]
    return group | {"name": name}


def refuse_foreign(optimizer: torch.optim.Optimizer, host_parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse an optimiser that would train nothing of the model; one over a part of it is fine.

    Raises:
        ConfigError: If the model has trainable parameters, and the optimiser holds none of them.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> refuse_foreign(torch.optim.SGD(layer.parameters(), lr=0.1), dict(layer.named_parameters()))
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    own = [parameter for parameter in host_parameters.values() if parameter.requires_grad]
    if own and not any(id(parameter) in held for parameter in own):
        raise ConfigError(
            f"the optimiser holds none of the model's {len(own)} trainable tensors: make it of "
            "grown.parameters(), or of the model's before it was grown"
        )
