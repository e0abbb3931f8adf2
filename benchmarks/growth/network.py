"""The MLP that every arm trains, its seeds, and how large either is.

    x -> [Linear, SELU] x hidden layers -> Linear            a growth point after each hidden layer
    seed: W2 selu(W1 h + b1) + b2, W2 = b2 = 0 at birth      the built-in flat blueprints, SELU inside

SELU everywhere, because growing in width by gradient information needs a derivative that is not 0 at 0, and
one arm must not have another activation than the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from esper.kasmina import BlueprintRegistry, BlueprintSpec, InjectionPoint, SlotSpec
from esper.leyline import Layout

SEED_MLP, SEED_MLP_SMALL, SEED_LOW_RANK = "mlp", "mlp_small", "low_rank"
BLUEPRINTS = (SEED_MLP, SEED_MLP_SMALL, SEED_LOW_RANK)
"""Ids and shapes as built in, so that rules and scores apply; what differs is the activation."""
EXPANSIONS = ((SEED_MLP, 4), (SEED_MLP_SMALL, 2))
RANK = 8


class PlainMLP(nn.Module):
    """Inputs [B, ...] (flattened) to outputs [B, classes]."""

    def __init__(self, num_inputs: int, hidden: Sequence[int], num_outputs: int) -> None:
        super().__init__()
        self.widths = tuple(hidden)
        sizes = (num_inputs, *hidden)
        for index, (wide, narrow) in enumerate(pairwise(sizes)):
            first: list[nn.Module] = [nn.Flatten()] if index == 0 else []
            self.add_module(f"hidden{index + 1}", nn.Sequential(*first, nn.Linear(wide, narrow), nn.SELU()))
        self.head = nn.Linear(sizes[-1], num_outputs)

    def segments(self) -> tuple[tuple[str, nn.Module], ...]:
        names = [f"hidden{index + 1}" for index in range(len(self.widths))]
        return (*((name, self.get_submodule(name)) for name in names), ("head", self.head))

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        return tuple(
            InjectionPoint(slot_id=name, path=name, layout=Layout.FLAT, num_channels=width)
            for (name, _), width in zip(self.segments(), self.widths, strict=False)
        )

    def linears(self) -> tuple[nn.Linear, ...]:
        """Return the linear maps, in forward order."""
        return tuple(module for module in self.modules() if isinstance(module, nn.Linear))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs
        for _, segment in self.segments():
            hidden = segment(hidden)
        return hidden


def build_registry() -> BlueprintRegistry:
    """Return the three flat blueprints with SELU inside."""
    specs = [
        BlueprintSpec(
            id=name,
            family=SEED_MLP,
            layouts=frozenset({Layout.FLAT}),
            build=_build_mlp(expansion),
            count_params=_count_mlp(expansion),
        )
        for name, expansion in EXPANSIONS
    ]
    low_rank = BlueprintSpec(
        id=SEED_LOW_RANK,
        family=SEED_LOW_RANK,
        layouts=frozenset({Layout.FLAT}),
        build=_build_low_rank,
        count_params=lambda spec: 2 * RANK * spec.num_channels,
    )
    return BlueprintRegistry([*specs, low_rank]).freeze()


def count_params(num_inputs: int, hidden: Sequence[int], num_outputs: int) -> int:
    """Return the parameters of a `PlainMLP`: weights and biases."""
    return sum((wide + 1) * narrow for wide, narrow in pairwise((num_inputs, *hidden, num_outputs)))


def count_flops(num_inputs: int, hidden: Sequence[int], num_outputs: int) -> int:
    """Return forward FLOPs per item: 2 per weight, biases and activations are free."""
    return sum(2 * wide * narrow for wide, narrow in pairwise((num_inputs, *hidden, num_outputs)))


def count_full_params(num_inputs: int, width: int, num_hidden: int, num_outputs: int) -> int:
    """Return the parameters of the small network with the largest seed in every slot."""
    (_, expansion), *_ = EXPANSIONS
    seed = 2 * expansion * width * width + (expansion + 1) * width
    return count_params(num_inputs, (width,) * num_hidden, num_outputs) + num_hidden * seed


def match_width(num_inputs: int, width: int, num_hidden: int, num_outputs: int) -> int:
    """Return the largest width whose network has no more parameters than ours may grow to."""
    budget = count_full_params(num_inputs, width, num_hidden, num_outputs)
    wide = width
    while count_params(num_inputs, (wide + 1,) * num_hidden, num_outputs) <= budget:
        wide += 1
    return wide


def _build_mlp(expansion: int) -> Callable[[SlotSpec], nn.Module]:
    def build(spec: SlotSpec) -> nn.Module:
        channels = spec.num_channels
        last = nn.Linear(expansion * channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(channels, expansion * channels), nn.SELU(), last)

    return build


def _count_mlp(expansion: int) -> Callable[[SlotSpec], int]:
    def count(spec: SlotSpec) -> int:
        channels = spec.num_channels
        return 2 * expansion * channels * channels + (expansion + 1) * channels

    return count


def _build_low_rank(spec: SlotSpec) -> nn.Module:
    up = nn.Linear(RANK, spec.num_channels, bias=False)
    nn.init.zeros_(up.weight)
    return nn.Sequential(nn.Linear(spec.num_channels, RANK, bias=False), up)
