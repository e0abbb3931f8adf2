"""Whether a seed's residual is one linear map of the channels, the same at every place, and which one.

```
residual(h) = M h + c      M [C, C], c [C]; h [..., C] or [B, C, H, W]
```
Read off the traced graph, step by step, so that the answer does not hang on a sample: linear layers, 1x1
convolutions, sums and factors compose; anything else is named as what stands in the way.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from esper.kasmina.slot import SeedSlot
from esper.leyline import BlendForm, EsperError, Layout


@final
class NotLinearError(EsperError):
    """Raised when a residual is not one linear map of the channels; says what stands in the way."""


@final
@dataclass(frozen=True, slots=True)
class AffineMap:
    """M h + c on channels, in float64."""

    matrix: Tensor
    """M [C_out, C_in]."""
    offset: Tensor
    """c [C_out]."""

    @property
    def is_zero(self) -> bool:
        """Whether it returns 0 for every input."""
        return not bool(self.matrix.count_nonzero()) and not bool(self.offset.count_nonzero())

    def after(self, inner: AffineMap) -> AffineMap:
        """Return this map of what another returns."""
        return AffineMap(self.matrix @ inner.matrix, self.matrix @ inner.offset + self.offset)

    def plus(self, other: AffineMap) -> AffineMap:
        """Return the sum of two maps."""
        return AffineMap(self.matrix + other.matrix, self.offset + other.offset)

    def times(self, factor: float) -> AffineMap:
        """Return the map times a number."""
        return AffineMap(factor * self.matrix, factor * self.offset)


_Value = AffineMap | Tensor | float
_SUMS: frozenset[object] = frozenset({operator.add, operator.iadd, torch.add, operator.sub, torch.sub})
_PRODUCTS: frozenset[object] = frozenset({operator.mul, torch.mul})
_SAME = frozenset({"contiguous", "clone"})
_FORMS: Mapping[BlendForm, str] = MappingProxyType(
    {
        BlendForm.GATE: "its gate depends on the sample",
        BlendForm.VALVE: "blend form valve multiplies the feature with a function of itself",
    }
)


def find_affine(slot: SeedSlot, seed: fx.Graph) -> AffineMap:
    """Return what a seed adds at alpha 1.

    Args:
        slot: With the seed.
        seed: As `graft_graph.trace_seed` gives it.

    Raises:
        NotLinearError: If it is no linear map of the channels.
    """
    if slot.state.blend in _FORMS:
        raise NotLinearError(_FORMS[slot.state.blend])
    return _Reader(slot).read(seed)


@final
class _Reader:
    """Walks a graph with a map of the slot's channels in place of every feature."""

    def __init__(self, slot: SeedSlot) -> None:
        assert slot.seed is not None
        self._seed, self._layout, self._width = slot.seed, slot.spec.layout, slot.spec.num_channels
        self._device = slot.spec.device
        self._values: dict[fx.Node, _Value] = {}

    def read(self, graph: fx.Graph) -> AffineMap:
        for node in graph.nodes:  # layers first: a norm says more than the arithmetic around it
            if node.op == "call_module":
                self._refuse_layer(self._seed.get_submodule(str(node.target)), str(node.target))
        for node in graph.nodes:
            if node.op == "output":
                return self._map_of(node.args[0], node)
            self._values[node] = self._step(node)
        raise AssertionError("a traced graph ends in its output")

    def _step(self, node: fx.Node) -> _Value:
        if node.op == "placeholder":
            eye = torch.eye(self._width, dtype=torch.float64, device=self._device)
            return AffineMap(eye, torch.zeros_like(eye[0]))
        if node.op == "get_attr":
            return self._read_tensor(str(node.target))
        if node.op == "call_module":
            layer = self._seed.get_submodule(str(node.target))
            return self._through(layer, self._map_of(node.args[0], node))
        if node.op == "call_method" and node.target in _SAME:
            return self._map_of(node.args[0], node)
        return self._call(node)

    def _read_tensor(self, path: str) -> Tensor:
        owner, _, name = path.rpartition(".")
        tensor = getattr(self._seed.get_submodule(owner), name)
        assert isinstance(tensor, Tensor)
        return tensor.detach().double()

    def _through(self, layer: nn.Module, inner: AffineMap) -> AffineMap:
        if isinstance(layer, nn.Conv2d):
            return _affine(_dense_weight(layer), layer.bias).after(inner)
        return _affine(layer.weight, layer.bias).after(inner) if isinstance(layer, nn.Linear) else inner

    def _refuse_layer(self, layer: nn.Module, path: str) -> None:
        kind, is_map = type(layer), self._layout is Layout.MAP_2D
        is_linear = kind is nn.Linear and not is_map
        is_pointwise = type(layer) is nn.Conv2d and is_map and _is_pointwise(layer)
        if not (kind is nn.Identity or is_linear or is_pointwise):
            raise NotLinearError(f"{_describe(layer)} inside ({path})")

    def _call(self, node: fx.Node) -> _Value:
        args = [self._values[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
        if node.target is torch.zeros_like:
            return self._map_of(node.args[0], node).times(0.0)
        if node.target is operator.neg:
            return self._map_of(node.args[0], node).times(-1.0)
        if node.target is F.linear and self._layout is not Layout.MAP_2D:
            return self._apply_linear(node, args)
        if len(args) == 2 and not node.kwargs:
            if node.target in _PRODUCTS:
                return self._multiply(node, args)
            if node.target is operator.truediv and _is_number(args[1]):
                return self._map_of(node.args[0], node).times(1.0 / _number(args[1]))
            if node.target in _SUMS and all(isinstance(arg, AffineMap) for arg in args):
                sign = -1.0 if node.target in (operator.sub, torch.sub) else 1.0
                other = self._map_of(node.args[1], node).times(sign)
                return self._map_of(node.args[0], node).plus(other)
        raise _refuse(node)

    def _apply_linear(self, node: fx.Node, args: Sequence[object]) -> AffineMap:
        named = {
            name: self._values[value] if isinstance(value, fx.Node) else value
            for name, value in node.kwargs.items()
        }
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | named
        inner, weight, bias = given["input"], given["weight"], given.get("bias")
        if not isinstance(inner, AffineMap) or not isinstance(weight, Tensor) or isinstance(bias, AffineMap):
            raise _refuse(node)
        return _affine(weight, bias if isinstance(bias, Tensor) else None).after(inner)

    def _multiply(self, node: fx.Node, args: Sequence[object]) -> AffineMap:
        one, other = args
        if _is_number(one):
            one, other = other, one
        if isinstance(one, AffineMap) and _is_number(other):
            return one.times(_number(other))
        raise _refuse(node)

    def _map_of(self, argument: object, node: fx.Node) -> AffineMap:
        value = self._values.get(argument) if isinstance(argument, fx.Node) else None
        if isinstance(value, AffineMap):
            return value
        raise _refuse(node)


def _affine(weight: Tensor, bias: Tensor | None) -> AffineMap:
    matrix = weight.detach().double()
    return AffineMap(matrix, matrix.new_zeros(len(matrix)) if bias is None else bias.detach().double())


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding in ((0, 0), "same", "valid")
    )


def _dense_weight(layer: nn.Conv2d) -> Tensor:
    """Return a 1x1 convolution's weight as [C_out, C_in], with zeros between groups."""
    weight = layer.weight.detach().flatten(1)
    rows, columns = len(weight) // layer.groups, weight.shape[1]
    dense = weight.new_zeros(len(weight), layer.in_channels)
    for group in range(layer.groups):
        mine = slice(group * rows, (group + 1) * rows)
        dense[mine, group * columns : (group + 1) * columns] = weight[mine]
    return dense


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def _number(value: object) -> float:
    assert isinstance(value, int | float | Tensor)
    return float(value)


def _describe(layer: nn.Module) -> str:
    kind = type(layer).__name__
    if isinstance(layer, nn.Conv2d):
        return f"{kind} {'x'.join(map(str, layer.kernel_size))}"
    return kind


def _refuse(node: fx.Node) -> NotLinearError:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "a step")
    return NotLinearError(f"{name}() inside")
