"""Two layers of somebody's model that can take more hidden units between them, or why they cannot.

```
x > first > norm, activation, pooling > second > out       linear-linear or conv-conv
```
New units must leave the old ones as they are: what lies between treats units, or whole groups, by
themselves, and nothing but the second layer uses the first one's output. Both are shown on the sample, not
read off names: known values stand for the first layer's output, and what arrives at the second is followed
step by step.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn, final

import torch
from torch import Tensor, nn

from esper.kasmina.attachments import has_hooks
from esper.kasmina.blueprints.pair import ConvPlan, LayerPlan, NormPlan, PairPlan
from esper.kasmina.difference import MAX_DIFFERENCE
from esper.kasmina.inputs import Inputs
from esper.kasmina.pair_probe import PairProbe, probe_pair
from esper.kasmina.survey import Survey
from esper.kasmina.tap import Arrangement
from esper.leyline import HostError

ARROW = "->"
"""Between the paths of two layers."""
_Layer = nn.Linear | nn.Conv2d
_RANDOM = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
)
_MIXING = (nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
_ROUNDINGS = 64
"""Steps of the last digit by which one activation may differ when it is written in two ways."""


def is_pair_layer(module: nn.Module) -> bool:
    """Whether a module is of a kind that a pair is made of."""
    return type(module) in (nn.Linear, nn.Conv2d)


def find_pair(
    host: nn.Module, inputs: Inputs, survey: Survey, paths: tuple[str, str], arrangement: Arrangement
) -> PairPlan:
    """Return what two layers span.

    Args:
        host: Left as it is.
        inputs: A batch on its device.
        survey: Of this host and these inputs.
        paths: Of the two layers, each called once.
        arrangement: Axes of the second one's output.

    Raises:
        HostError: If more units cannot go between them; says what stands in the way.
    """
    return _PairFinder(host, survey, paths).find(inputs, arrangement)


@final
class _PairFinder:
    """Asks one question after the other; every refusal names the pair."""

    def __init__(self, host: nn.Module, survey: Survey, paths: tuple[str, str]) -> None:
        self._host, self._survey, self._paths = host, survey, paths
        self._name = ARROW.join(paths)
        self._owners = Counter(id(p) for module in host.modules() for p in module.parameters(recurse=False))

    def find(self, inputs: Inputs, arrangement: Arrangement) -> PairPlan:
        first, second = (self._take_layer(path) for path in self._paths)
        if type(first) is not type(second):
            self._refuse(
                f"they are a {type(first).__name__} and a {type(second).__name__}; both must be linear "
                "layers or both 2d convolutions"
            )
        axis = 1 if isinstance(first, nn.Conv2d) else arrangement.rank - 1
        if arrangement.channel_dim != axis:
            self._refuse(f"layout {arrangement.value!r} has its channels at another axis than these layers")
        try:
            probe = probe_pair(self._host, inputs, first, second)
        except HostError as error:
            self._refuse(str(error))
        self._check_passes(probe, arrangement)
        between, inner = self._follow(probe, axis)
        entering = arrangement.to_canonical(probe.entering)
        return PairPlan(
            first=_plan_layer(self._paths[0], first),
            second=_plan_layer(self._paths[1], second),
            between=between,
            shape=tuple(entering.shape[1:]),
            inner_paths=self._list_inner(inner),
        )

    def _take_layer(self, path: str) -> _Layer:
        layer = self._host.get_submodule(path)
        calls = self._survey.calls[path].num_calls if path in self._survey.calls else 0
        if calls != 1:
            self._refuse(f"{path!r} is called {calls} times in one forward pass of the sample, not once")
        if not is_pair_layer(layer):
            self._refuse(f"{path!r} is a {type(layer).__name__}; both must be a Linear or a Conv2d of torch")
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if isinstance(layer, nn.Conv2d) and layer.groups != 1:
            self._refuse(f"{path!r} has {layer.groups} groups, each with units of its own; needs groups=1")
        if has_hooks(layer) or "weight" not in dict(layer.named_parameters(recurse=False)):
            self._refuse(
                f"a hook of yours stands on {path!r} (weight norm, pruning and the like are hooks, too)"
            )
        self._refuse_shared(path, layer)
        return layer

    def _refuse_shared(self, path: str, module: nn.Module) -> None:
        if any(self._owners[id(parameter)] > 1 for parameter in module.parameters()):
            self._refuse(f"the weights of {path!r} belong to another module, too")

    def _check_passes(self, probe: PairProbe, arrangement: Arrangement) -> None:
        first, second = self._paths
        if not probe.largest_difference <= MAX_DIFFERENCE:
            self._refuse(
                f"what {first!r} returns is used elsewhere than in {second!r}, too (a shortcut, a second "
                "head), or the model returns something else for the same inputs"
            )
        if not probe.is_entering_kept:
            self._refuse(f"what went into {first!r} is changed in place before {second!r} runs")
        if probe.entering.dim() != arrangement.rank:
            self._refuse(f"{first!r} takes {list(probe.entering.shape)}, {second!r} returns another rank")

    def _follow(
        self, probe: PairProbe, axis: int
    ) -> tuple[tuple[NormPlan | nn.Module, ...], tuple[str, ...]]:
        """Return the steps between the layers, and the modules among them."""
        value, between, inner = probe.put_in, list[NormPlan | nn.Module](), [self._paths[0]]
        for seen in probe.steps:
            bridge = _find_bridge(value, seen.entering)
            if bridge is None:
                continue
            step = self._plan_step(seen.path, seen.module, seen.entering, axis)
            between += [*bridge, *step]
            inner.append(seen.path)
            value = seen.leaving
        bridge = _find_bridge(value, probe.arriving)
        if bridge is None:
            last = "" if len(inner) == 1 else f" after {inner[-1]!r}"
            self._refuse(
                f"what arrives at {self._paths[1]!r} is not a norm, an activation or a pooling of what "
                f"{self._paths[0]!r} returns: something else happens between them{last} (a sum with a "
                "shortcut, a reshape, a product); an activation of your own must be a module"
            )
        return (*between, *bridge), tuple(inner)

    def _plan_step(
        self, path: str, module: nn.Module, value: Tensor, axis: int
    ) -> tuple[NormPlan | nn.Module, ...]:
        kind = type(module).__name__
        if type(module) is nn.Identity:
            return ()
        if isinstance(module, _RANDOM):
            if getattr(module, "p", 1.0) == 0.0:
                return ()
            self._refuse(
                f"{path!r} between them is a {kind}: it draws for old and new units together, which would "
                "move the random stream of the host; set its p to 0, or choose layers without it"
            )
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm):
            self._refuse_shared(path, module)
            if has_hooks(module):
                self._refuse(f"a hook of yours stands on {path!r}")
            return (_plan_norm(path, module),)
        if isinstance(module, _MIXING):
            self._refuse(
                f"{path!r} between them is a {kind}, which normalises all units together: new ones would "
                "change what the old ones are; BatchNorm and GroupNorm do not"
            )
        if any(True for _ in (*module.parameters(), *module.buffers())):
            self._refuse(f"{path!r} between them is a {kind} with weights or buffers of its own")
        if not _treats_units_alone(module, value, axis):
            self._refuse(f"{path!r} between them is a {kind}, which does not treat every unit by itself")
        return (_copy_step(module),)

    def _list_inner(self, inner: Sequence[str]) -> frozenset[str]:
        """Return every module that returns the hidden units, containers included."""
        calls = self._survey.calls
        found = {f.identity for path in inner for f in calls[path].features}
        same = {path for path, call in calls.items() if any(f.identity in found for f in call.features)}
        first, second = self._paths
        around = {p for p in calls if first.startswith(f"{p}.") and not second.startswith(f"{p}.")}
        return frozenset({*inner, *same, *around} - {second})

    def _refuse(self, reason: str) -> NoReturn:
        raise HostError(f"{self._name!r} cannot grow wider: {reason}")


def _plan_layer(path: str, layer: _Layer) -> LayerPlan:
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return LayerPlan(path=path, num_in=layer.in_features, num_out=layer.out_features, has_bias=has_bias)
    walk = ConvPlan(
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding if isinstance(layer.padding, str) else tuple(layer.padding),
        dilation=layer.dilation,
        padding_mode=layer.padding_mode,
    )
    return LayerPlan(
        path=path, num_in=layer.in_channels, num_out=layer.out_channels, has_bias=has_bias, conv=walk
    )


def _plan_norm(path: str, norm: nn.Module) -> NormPlan:
    if isinstance(norm, nn.GroupNorm):
        return NormPlan(
            path=path,
            kind="group",
            epsilon=norm.eps,
            is_affine=norm.affine,
            group_size=norm.num_channels // norm.num_groups,
        )
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    return NormPlan(
        path=path,
        kind="batch_1d" if isinstance(norm, nn.BatchNorm1d) else "batch_2d",
        epsilon=norm.eps,
        is_affine=norm.affine,
        momentum=norm.momentum,
        has_statistics=norm.running_mean is not None,
    )


def _treats_units_alone(module: nn.Module, value: Tensor, axis: int) -> bool:
    """Whether old and new units side by side come out as each of them does without the other."""
    count, others = value.shape[axis], 0.5 * value.flip(axis) - 1.0
    with torch.no_grad():
        together: object = module(torch.cat([value, others], dim=axis))
        old: object = module(value.clone())
        new: object = module(others)
    if not isinstance(together, Tensor) or not isinstance(old, Tensor) or not isinstance(new, Tensor):
        return False
    if together.dim() != value.dim() or together.shape[axis] != 2 * count or old.shape[axis] != count:
        return False
    return torch.equal(together, torch.cat([old, new], dim=axis))


def _copy_step(module: nn.Module) -> nn.Module:
    """Return a copy that belongs to nobody, without hooks."""
    copied = copy.deepcopy(module)
    copied._forward_hooks.clear()
    copied._forward_pre_hooks.clear()
    return copied


def _find_bridge(value: Tensor, other: Tensor) -> tuple[nn.Module, ...] | None:
    """Return the function, as modules, that makes one value of another; () for none, None if unknown."""
    if _is_near(value, other):
        return ()
    for steps in _list_bridges(is_map=value.dim() == 4, is_smaller=value.shape != other.shape):
        made = value.clone()
        for step in steps:
            made = step(made)
        if _is_near(made, other):
            return steps
    return None


def _list_bridges(*, is_map: bool, is_smaller: bool) -> list[tuple[nn.Module, ...]]:
    """Return what people call as a function between two layers."""
    activations: tuple[nn.Module, ...] = (
        nn.ReLU(),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.SiLU(),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.LeakyReLU(),
        nn.ELU(),
        nn.SELU(),
        nn.ReLU6(),
        nn.Softplus(),
        nn.Mish(),
        nn.Hardswish(),
    )
    if not is_smaller:
        return [(activation,) for activation in activations]
    pools = (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1)) if is_map else ()
    return [steps for pool in pools for steps in ((pool,), *((act, pool) for act in activations))]


def _is_near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    size = _ROUNDINGS * torch.finfo(one.dtype).eps
    return torch.allclose(one, other, rtol=size, atol=size)
