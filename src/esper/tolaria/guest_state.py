"""What somebody else's optimiser holds, by name: its settings and whatever state its class keeps.

`optimizer_state` knows the keys of our own three optimisers; here the saved record says per parameter which
tensors there were, of which shape and dtype, and all must match in both directions. Knows no schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from esper.leyline import ForeignCheckpointError, JsonValue, suggest
from esper.tolaria.guest_groups import Group, members_of, set_value, settings_of
from esper.tolaria.guest_plain import decode_plain, encode_plain

_STEP = "step"


def describe_settings(groups: Mapping[str, Group]) -> dict[str, JsonValue]:
    """Return the settings of each group, by its name, as plain data.

    Raises:
        ConfigError: If a setting is not plain data.
    """
    return {
        name: encode_plain(settings_of(group), f"optimiser group {name}") for name, group in groups.items()
    }


def read_settings(saved: JsonValue, groups: Mapping[str, Group]) -> dict[str, dict[str, object]]:
    """Check saved settings against the groups of the same names; nothing is changed.

    Raises:
        ForeignCheckpointError: Naming the first group and key that differ.
    """
    found: dict[str, dict[str, object]] = {}
    for name, group in groups.items():
        decoded = decode_plain(_entry(saved, name, "settings of group"), f"saved settings of group {name}")
        expected = settings_of(group).keys()
        got = decoded.keys() if isinstance(decoded, dict) else set()
        for key in sorted(expected ^ got):
            where = "is saved but absent here" if key in got else "is absent from what was saved"
            raise ForeignCheckpointError(
                f"saved optimiser group {name!r}: the setting {key!r} {where}: build optimiser and "
                "schedulers as they were, then load()"
            )
        found[name] = cast("dict[str, object]", decoded)
    return found


def apply_settings(settings: Mapping[str, Mapping[str, object]], groups: Mapping[str, Group]) -> None:
    """Set what `read_settings` returned."""
    for name, values in settings.items():
        for key, value in values.items():
            set_value(groups[name], key, value)


def describe_held(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, JsonValue]:
    """Return per parameter its shape, {state key: [dtype, *shape]} of its tensors, and its other state.

    Raises:
        ConfigError: If a state holds what is neither tensor nor plain data.
    """
    described: dict[str, JsonValue] = {}
    for name, parameter in parameters.items():
        state: Mapping[str, object] = optimizer.state.get(parameter, {})
        described[name] = {
            "shape": list(parameter.shape),
            "tensors": {k: _layout(v) for k, v in state.items() if isinstance(v, Tensor)},
            "plain": encode_plain(
                {key: value for key, value in state.items() if not isinstance(value, Tensor)},
                f"optimiser state of {name}",
            ),
        }
    return described


def read_held(
    saved: JsonValue, tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, object]]:
    """Check saved state against its own record and the present parameters; return the part without tensors.

    Args:
        saved: What `describe_held` gave.
        tensors: Keyed "<parameter name>/<state key>".
        parameters: Every parameter of the optimiser by name.

    Raises:
        ForeignCheckpointError: If a name, tensor, shape or dtype differs; names the first.
    """
    expected: dict[str, JsonValue] = {}
    plain: dict[str, dict[str, object]] = {}
    for name, parameter in parameters.items():
        match _entry(saved, name, "state of parameter"):
            case {"shape": list(shape), "tensors": dict(layouts), "plain": rest}:
                pass
            case other:
                raise ForeignCheckpointError(f"saved optimiser state of {name!r} is malformed: {other!r:.80}")
        if shape != list(parameter.shape):
            raise ForeignCheckpointError(
                f"saved optimiser state of {name!r} is of shape {shape}, expected {list(parameter.shape)}"
            )
        expected |= {f"{name}/{key}": layout for key, layout in layouts.items()}
        plain[name] = cast("dict[str, object]", decode_plain(rest, f"saved optimiser state of {name!r}"))
    unknown = sorted(set(saved if isinstance(saved, Mapping) else ()) - set(parameters))
    if unknown:
        raise ForeignCheckpointError(
            f"saved optimiser has the parameter {unknown[0]!r}, this one does not: "
            f"{suggest(unknown[0], parameters)}"
        )
    for key in sorted(expected.keys() ^ tensors.keys()):
        word = "lacks the" if key in expected else "has an unexpected"
        raise ForeignCheckpointError(f"saved optimiser state {word} tensor {key!r}")
    for key, tensor in tensors.items():
        if _layout(tensor) != expected[key]:
            raise ForeignCheckpointError(
                f"saved optimiser state {key!r} is {_layout(tensor)}, expected {expected[key]}"
            )
    return plain


def apply_held(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Mapping[str, object]],
    parameters: Mapping[str, nn.Parameter],
) -> None:
    """Replace the optimiser's whole state by copies of checked tensors, each where the update expects it."""
    on_device = {
        id(p) for group in optimizer.param_groups if _counts_on_device(group) for p in members_of(group)
    }
    optimizer.state.clear()
    for name, values in plain.items():
        if values:
            optimizer.state[parameters[name]].update(values)
    for key, tensor in tensors.items():
        name, _, state_key = key.rpartition("/")
        parameter = parameters[name]
        is_far = state_key != _STEP or id(parameter) in on_device
        device = parameter.device if is_far else torch.device("cpu")
        optimizer.state[parameter][state_key] = tensor.detach().to(device, copy=True)


def describe_groups(groups: Mapping[str, Group], names: Mapping[int, str]) -> list[JsonValue]:
    """Return [group name, [its parameters' names]] in order.

    Args:
        groups: By name.
        names: id of a parameter -> its name.
    """
    return [[name, [names[id(p)] for p in members_of(group)]] for name, group in groups.items()]


def read_seeds(saved: JsonValue, slots: Sequence[str]) -> dict[str, tuple[int, bool, bool]]:
    """Return slot -> (birth step, is newborn, is frozen) in the saved order; the present slots must be these.

    Raises:
        ForeignCheckpointError: If a slot is missing, unexpected or malformed.
    """
    seeds: dict[str, tuple[int, bool, bool]] = {}
    for entry in saved if isinstance(saved, list) else [None]:
        match entry:
            case [str(slot), int(birth), bool(is_newborn), bool(is_frozen)] if slot in slots:
                seeds[slot] = (birth, is_newborn, is_frozen)
            case _:
                raise ForeignCheckpointError(
                    f"saved seed {entry!r}: expected [slot, birth step, newborn, frozen] of one of "
                    f"{list(slots)}: rebuild the topology before load()"
                )
    if len(seeds) != len(slots):
        raise ForeignCheckpointError(f"saved optimiser lacks the seeds of {sorted(set(slots) - set(seeds))}")
    return seeds


def _counts_on_device(group: Mapping[str, object]) -> bool:
    """Whether the step counts lie beside the parameters: reading them there would be a sync elsewhere."""
    return bool(group.get("fused")) or bool(group.get("capturable"))


def _layout(tensor: Tensor) -> list[JsonValue]:
    return [str(tensor.dtype), *tensor.shape]


def _entry(saved: JsonValue, name: str, what: str) -> JsonValue:
    if not isinstance(saved, Mapping) or name not in saved:
        known = saved if isinstance(saved, Mapping) else ()
        raise ForeignCheckpointError(f"saved optimiser lacks the {what} {name!r}: {suggest(name, known)}")
    return saved[name]
