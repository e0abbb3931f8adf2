"""New units of a kept width seed go into the host's own layers, which become larger.

```
first     rows of the seed's first layer are appended            [H + k, in]
norm      channels of the seed's norm are appended               H + k
second    alpha times the columns of the seed's second layer     [out, H + k]
```
Nothing is lost or approximated: the second layer is linear, and what lies between treats units, or groups of
them, by themselves. Where a layer has become larger at its other side already, new weights there are 0.
Classes, names and order of the host's modules stay; shapes change. Knows one pair; whoever calls compares
outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper.kasmina.blueprints.pair import NormPlan, WidthBranch
from esper.kasmina.slot import SeedSlot
from esper.leyline import ExportError

_Layer = nn.Linear | nn.Conv2d
_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm
_PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")


class PairLayers(NamedTuple):
    """The modules of a host that a slot spans."""

    first: _Layer
    norms: tuple[_Norm, ...]
    second: _Layer


def find_layers(host: nn.Module, slot: SeedSlot) -> PairLayers:
    """Return the modules that a slot spans, in the host as it was when slots were attached."""
    plan = slot.spec.pair
    assert plan is not None
    first, second = (host.get_submodule(layer.path) for layer in (plan.first, plan.second))
    norms = tuple(host.get_submodule(norm.path) for norm in plan.norms)
    assert isinstance(first, nn.Linear | nn.Conv2d)
    assert isinstance(second, nn.Linear | nn.Conv2d)
    return PairLayers(first, norms, second)  # type: ignore[arg-type]


def widen_pair(layers: PairLayers, slot: SeedSlot) -> None:
    """Append a seed's units to the layers of its pair.

    Args:
        layers: Of the host; changed in place.
        slot: With a kept seed.

    Raises:
        ExportError: If the seed is none of ours, whose units cannot be told.
    """
    branch = None if slot.seed is None else slot.seed.branch
    if not isinstance(branch, WidthBranch) or slot.spec.pair is None:
        raise ExportError(
            f"slot {slot.slot_id!r}: blueprint {slot.state.blueprint!r} spans two layers but is no width "
            "seed: its weights cannot go into theirs, and nothing else carries the first one's input along"
        )
    first, second = branch.first, branch.second
    assert isinstance(first, nn.Linear | nn.Conv2d)
    assert isinstance(second, nn.Linear | nn.Conv2d)
    added = len(_weight(first))
    with torch.no_grad():
        _append_outputs(layers.first, first)
        for norm, (place, _) in zip(layers.norms, _norm_places(slot.spec.pair.between), strict=True):
            _append_channels(norm, branch.between[place], added)
        _append_inputs(layers.second, second, slot.state.alpha)
    _tell_sizes(layers.first)
    _tell_sizes(layers.second)


def _norm_places(between: tuple[NormPlan | nn.Module, ...]) -> list[tuple[int, NormPlan]]:
    return [(place, step) for place, step in enumerate(between) if isinstance(step, NormPlan)]


def _append_outputs(layer: _Layer, more: _Layer) -> None:
    """Append rows; inputs that the layer has been given since count nothing for them."""
    old, new = _weight(layer), _weight(more)
    layer.weight = _like(layer.weight, torch.cat([old, _pad(new, 1, old.shape[1])]))
    if layer.bias is not None:
        assert more.bias is not None
        layer.bias = _like(layer.bias, torch.cat([layer.bias.detach(), more.bias.detach()]))


def _append_inputs(layer: _Layer, more: _Layer, alpha: float) -> None:
    """Append columns at their share; outputs that the layer has been given since do not see them."""
    old, new = _weight(layer), _weight(more)
    scaled = (alpha * new.double()).to(old.dtype)
    layer.weight = _like(layer.weight, torch.cat([old, _pad(scaled, 0, old.shape[0])], dim=1))


def _append_channels(norm: _Norm, more: nn.Module, added: int) -> None:
    for name in _PER_CHANNEL:
        old, new = getattr(norm, name, None), getattr(more, name, None)
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            joined = torch.cat([old.detach(), new.detach()])
            setattr(norm, name, _like(old, joined) if isinstance(old, nn.Parameter) else joined)
    if isinstance(norm, nn.GroupNorm):
        assert isinstance(more, nn.GroupNorm)
        norm.num_groups += more.num_groups
        norm.num_channels += added
    else:
        norm.num_features += added


def _pad(weight: Tensor, axis: int, size: int) -> Tensor:
    """Return a weight with zeros at the end of an axis, up to a size."""
    shape = list(weight.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([weight, weight.new_zeros(shape)], dim=axis) if shape[axis] else weight


def _like(old: Tensor, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=old.requires_grad)


def _weight(layer: _Layer) -> Tensor:
    return layer.weight.detach()


def _tell_sizes(layer: _Layer) -> None:
    """Write into a layer what its weight says, so that it prints and copies as what it is."""
    num_out, num_in = layer.weight.shape[:2]
    if isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = num_in, num_out
    else:
        layer.in_channels, layer.out_channels = num_in, num_out
