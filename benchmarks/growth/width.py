"""Growth in width by gromo: the one place that knows that library. Everything else sees widths and weights.

A growth of layer i adds units to layer i - 1. Order of a TINY growth: statistics over the rows given, update
from them, line search on other rows, and then the units, or nothing where the search prefers 0.
Layers are grown one at a time: the update of a layer is void once its neighbour has other sizes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from gromo.containers.growing_mlp import GrowingMLP
from gromo.modules.linear_growing_module import LinearGrowingModule
from torch import Tensor, nn
from torch.nn import functional as F

from growth.bill import LINE_SEARCH, Shape
from growth.network import PlainMLP

Batches = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthResult:
    """What became of one growth."""

    num_units: int
    """Added; fewer than asked for where the rank of the statistics is lower, 0 where it was rejected."""
    num_proposed: int
    """Units that the line search was run on."""
    factor: float
    """Chosen by the line search; 1 for random units."""


class WideningMLP(nn.Module):
    """The network of `PlainMLP`, built of gromo's layers and with the weights that one starts from."""

    def __init__(self, start: PlainMLP) -> None:
        super().__init__()
        linears = start.linears()
        with _quiet():
            self.net = GrowingMLP(
                in_features=linears[0].in_features,
                out_features=linears[-1].out_features,
                hidden_size=start.widths[0],
                number_hidden_layers=len(start.widths),
                activation=nn.SELU(),
                device=torch.device("cpu"),
            )
        with torch.no_grad():
            for layer, linear in zip(self.layers, linears, strict=True):
                layer.weight.copy_(linear.weight)
                layer.bias.copy_(linear.bias)

    @property
    def layers(self) -> list[LinearGrowingModule]:
        return [layer for layer in self.net.layers if isinstance(layer, LinearGrowingModule)]

    @property
    def shape(self) -> Shape:
        first, *_, last = layers = self.layers
        hidden = tuple(int(before.out_features) for before, _ in pairwise(layers))
        return Shape(num_inputs=int(first.in_features), hidden=hidden, num_outputs=int(last.out_features))

    def named_weights(self) -> dict[str, nn.Parameter]:
        """Return the parameters as they are now; a growth makes new ones under the same names."""
        named: dict[str, nn.Parameter] = {}
        for index, layer in enumerate(self.layers):
            named |= {f"layer{index}.weight": layer.layer.weight, f"layer{index}.bias": layer.layer.bias}
        return named

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(inputs)
        return outputs

    def grow_random(self, layer: int, num_units: int) -> GrowthResult:
        """Add units of random incoming and zero outgoing weights, drawn from the global stream.

        The network's function stays as it is: inputs of new units are drawn as the layer's own are, uniform
        by its fan-in; their outputs weigh nothing at first.
        """
        module = self.layers[layer]
        with _quiet():
            module.create_layer_extensions(
                num_units, output_extension_init="copy_uniform", input_extension_init="zeros"
            )
            # A factor of 0 would scale the incoming weights away, too, and leave units that never learn.
            module.set_scaling_factor(1.0)
            module.apply_change(extension_size=num_units)
            module.delete_update()
        return GrowthResult(num_units=num_units, num_proposed=num_units, factor=1.0)

    def grow_tiny(self, layer: int, num_units: int, batches: Batches, held_out: Batches) -> GrowthResult:
        """Add TINY's units for a layer, at the amplitude that lowers the loss on other rows most, or none.

        Args:
            layer: Which gains inputs, >= 1.
            num_units: Most units to add.
            batches: Training rows that the update is made from.
            held_out: Other training rows, for the line search.
        """
        net, module = self.net, self.layers[layer]
        net.set_growing_layers(index=layer - 1)
        with _quiet():
            self._gather_statistics(batches)
            module.compute_optimal_updates(maximum_added_neurons=num_units, compute_delta=False)
            net.reset_computation()
            extension = module.eigenvalues_extension
            assert extension is not None
            proposed = int(extension.shape[0])
            factor = self._search(module, held_out)
            # Applying with a factor of 0 would add units that are dead for good: it must be left out.
            if factor > 0.0:
                module.set_scaling_factor(factor)
                module.apply_change(extension_size=proposed)
            module.delete_update()
        net.zero_grad()
        net.train()
        return GrowthResult(num_units=proposed if factor > 0.0 else 0, num_proposed=proposed, factor=factor)

    def _gather_statistics(self, batches: Batches) -> None:
        """Let the layers that grow sum up their statistics over the batches.

        The loss is a sum over items: the library divides by their number itself. Its own loop over a loader
        would do the same, and would import all of torchmetrics, with what that drags in.
        """
        self.net.init_computation()
        for inputs, targets in batches:
            self.net.zero_grad()
            loss = F.cross_entropy(self.net(inputs), targets, reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
            self.net.update_computation()

    def _search(self, module: LinearGrowingModule, batches: Batches) -> float:
        losses: dict[float, float] = {}
        for factor in LINE_SEARCH:
            module.set_scaling_factor(factor)
            losses[factor] = self._compute_extended_loss(batches)
        finite = {factor: loss for factor, loss in losses.items() if math.isfinite(loss)}
        return min(finite, key=lambda factor: finite[factor], default=0.0)

    @torch.no_grad()
    def _compute_extended_loss(self, batches: Batches) -> float:
        total = sum(
            float(F.cross_entropy(self.net.extended_forward(inputs), targets, reduction="sum"))
            for inputs, targets in batches
        )
        return total / sum(len(targets) for _, targets in batches)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the library warns of at every growth: that sizes have changed."""
    with warnings.catch_warnings(action="ignore"):
        yield
