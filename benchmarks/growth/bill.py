"""What growth in width costs in FLOPs, by the ledger's convention, and how many epochs a budget pays for.

```
training        3 forward passes per item; the size is that of the epoch
statistics      3 forward passes per row, since gradients of all weights are taken; then the Gram matrices
                S, M, E of the layer that gains inputs, S', M', P of the one that gains outputs, 2 a b per row
linear algebra  solve n^3, eigenvalues 10 n^3, SVD 20 n m min(n, m), products 2 a b c
line search     one forward pass of the widened network per factor and row
random units    nothing: drawing them is not counted for any arm
```
Layers are numbered as in `PlainMLP.linears`; growing layer i: it gains inputs, layer i - 1 outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from growth.network import count_flops

FIRST_FRACTION, LAST_FRACTION = 0.05, 0.5
"""Of the run: when the first and the last growth take place. The second half trains the full size."""
NUM_ROUNDS = 2
"""Growths of each hidden layer. Few, because TINY's statistics of a wide input cost epochs; as many as its
rank asks for: it never adds more units than the layer has outputs."""
LINE_SEARCH = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Scaling factors tried; the function changes with their square. 0 stands for not growing."""
SEARCH_ROWS = 512
"""Training rows that the line search compares losses on: others than those that the update was made from, on
which the largest factor always looks best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """One planned growth: before `epoch`, the layer's inputs are brought to `target` units."""

    epoch: int
    layer: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a network whose hidden layers grow."""

    num_inputs: int
    hidden: tuple[int, ...]
    num_outputs: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.num_inputs, *self.hidden, self.num_outputs)

    @property
    def forward_flops(self) -> int:
        return count_flops(self.num_inputs, self.hidden, self.num_outputs)

    def widened(self, layer: int, num_units: int) -> Shape:
        """Return the shape after growing a layer by some units."""
        hidden = list(self.hidden)
        hidden[layer - 1] += num_units
        return Shape(num_inputs=self.num_inputs, hidden=tuple(hidden), num_outputs=self.num_outputs)


def plan_growths(start: tuple[int, ...], end: tuple[int, ...], epochs: int) -> tuple[Growth, ...]:
    """Return the growths of a run: every hidden layer in turn, `NUM_ROUNDS` times, evenly spaced.

    Args:
        start: Widths before.
        end: Widths after, each >= that of `start`.
        epochs: Of the whole run.
    """
    places = [(turn, layer) for turn in range(NUM_ROUNDS) for layer in range(1, len(start) + 1)]
    span = LAST_FRACTION - FIRST_FRACTION
    growths = []
    for index, (turn, layer) in enumerate(places):
        fraction = FIRST_FRACTION + span * index / max(1, len(places) - 1)
        low, high = start[layer - 1], end[layer - 1]
        target = low + math.ceil((high - low) * (turn + 1) / NUM_ROUNDS)
        # No plan is so short that a growth would fall behind its end.
        epoch = min(max(1, round(fraction * epochs)), epochs - 1)
        growths.append(Growth(epoch=epoch, layer=layer, target=target))
    return tuple(growths)


def count_statistics_flops(shape: Shape, layer: int, num_rows: int) -> int:
    """Return FLOPs of gradients and Gram matrices over some rows, for growing one layer."""
    before, inputs, outputs = _sides(shape, layer)
    products = inputs * inputs + inputs * outputs + outputs * outputs
    products += before * before + before * outputs + before * inputs
    return (3 * shape.forward_flops + 2 * products) * num_rows


def count_algebra_flops(shape: Shape, layer: int) -> int:
    """Return FLOPs of TINY's update: what is not linearly reachable, whitened, decomposed."""
    before, inputs, outputs = _sides(shape, layer)
    residual = inputs**3 + 2 * before * inputs * outputs
    whitening = 10 * before**3 + 2 * before**3 + 2 * before * before * outputs
    decomposition = 20 * before * outputs * min(before, outputs) + 2 * before * before * outputs
    return residual + whitening + decomposition


def count_search_flops(shape: Shape, layer: int, num_units: int) -> int:
    """Return FLOPs of the line search: a forward pass of the widened network for each factor and row."""
    return len(LINE_SEARCH) * shape.widened(layer, num_units).forward_flops * SEARCH_ROWS


def count_tiny_flops(shape: Shape, layer: int, num_units: int, num_rows: int) -> int:
    """Return FLOPs of one growth by TINY, accepted or not."""
    return (
        count_statistics_flops(shape, layer, num_rows)
        + count_algebra_flops(shape, layer)
        + count_search_flops(shape, layer, num_units)
    )


def count_plan_flops(start: Shape, end: tuple[int, ...], epochs: int, *, num_items: int) -> int:
    """Return the bill of a whole run that grows by random units, as planned.

    Args:
        start: The shape at the beginning.
        end: Hidden widths at the end.
        epochs: Of the run.
        num_items: Training items per epoch.
    """
    total, shape = 0, start
    growths = plan_growths(start.hidden, end, epochs)
    for epoch in range(epochs):
        for growth in growths:
            num_units = growth.target - shape.hidden[growth.layer - 1]
            if growth.epoch == epoch and num_units > 0:
                shape = shape.widened(growth.layer, num_units)
        total += 3 * shape.forward_flops * num_items
    return total


def find_affordable(cost: Callable[[int], int], budget: int) -> int:
    """Return the number of epochs, at least one, whose cost comes nearest to a budget.

    Args:
        cost: FLOPs of a run of so many epochs; rises with them.
        budget: FLOPs to spend.
    """
    epochs = next(count for count in _count_up() if cost(count) >= budget)
    if epochs > 1 and budget - cost(epochs - 1) <= cost(epochs) - budget:
        return epochs - 1
    return epochs


def _count_up() -> Iterator[int]:
    count = 1
    while True:
        yield count
        count += 1


def _sides(shape: Shape, layer: int) -> tuple[int, int, int]:
    """Return inputs of the layer before, inputs and outputs of the layer; inputs with the bias' constant."""
    sizes = shape.sizes
    return sizes[layer - 1] + 1, sizes[layer] + 1, sizes[layer + 1]
