"""Modules made of others: chains, seeds and the parts of blueprints and hosts.

A block's children are built by the same tables as any module, so that a seed's branch may be whatever can be
stacked. What a block itself does with rows is written here once, for maps and for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from esper.kasmina.attention import CausalSelfAttention, attend
from esper.kasmina.blending import SampleGate, Seed
from esper.kasmina.blueprints.image import SqueezeExcite
from esper.kasmina.blueprints.shared import GatedNorm, Nothing
from esper.kasmina.hosts.transformer import TokenEmbedding, TransformerBlock
from esper.kasmina.stacking.arrangement import channels_to_rows, pool_map, rows_to_channels, spread_over_rows
from esper.kasmina.stacking.contract import StackArrangement, StackContext, Stacked
from esper.kasmina.stacking.kinds import Kind, Site, Weights, is_off, refuse
from esper.leyline import BlendForm

_MAPS, _ROWS = StackArrangement.MAPS, StackArrangement.ROWS


def _build_sequential(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.Sequential)
    steps: list[Stacked] = []
    arrangement = site.arrangement
    for name, child in _pool_before_relu(list(module.named_children())):
        steps.append(site.child(child, name, arrangement))
        arrangement = steps[-1].arrangement_out

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        for step in steps:
            x = step(x, weights, context)
        return x

    return site.function(compute, out=arrangement)


def _pool_before_relu(children: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Return the children with every max-pool in front of the ReLU that it followed.

    max(relu(x)) = relu(max(x)), the gradient included, and the smaller map is the cheaper one to rectify.
    """
    ordered = list(children)
    for place in range(len(ordered) - 1):
        first, second = ordered[place][1], ordered[place + 1][1]
        if type(first) is nn.ReLU and type(second) is nn.MaxPool2d:
            ordered[place], ordered[place + 1] = ordered[place + 1], ordered[place]
    return ordered


def _squeeze(
    module: SqueezeExcite | SampleGate, site: Site
) -> Callable[[Tensor, Weights, StackContext], Tensor]:
    """Return pooled features [R, B, C] to expand(relu(reduce(.)))."""
    reduce = site.child(module.reduce, "reduce", _ROWS)
    expand = site.child(module.expand, "expand", _ROWS)

    def compute(pooled: Tensor, weights: Weights, context: StackContext) -> Tensor:
        return expand(torch.relu(reduce(pooled, weights, context)), weights, context)

    return compute


def _build_squeeze_excite(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, SqueezeExcite)
    squeeze = _squeeze(module, site)

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        scale = torch.tanh(
            squeeze(channels_to_rows(pool_map(x), context.num_rows), weights, context)
        )  # [R, B, C]
        return x * rows_to_channels(scale)

    return site.function(compute)


def _build_sample_gate(module: nn.Module, site: Site) -> Stacked:
    """Build the gate; what it gives broadcasts over the feature."""
    assert isinstance(module, SampleGate)
    squeeze = _squeeze(module, site)
    num_inner = module.num_inner
    if (site.arrangement is _MAPS) != (module.pooled_dims == (2, 3)):
        raise refuse(site.path, module, "it pools other axes than those of the arrangement")

    def compute_map(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        gate = torch.sigmoid(
            squeeze(channels_to_rows(pool_map(x), context.num_rows), weights, context)
        )  # [R, B, 1]
        return rows_to_channels(gate.expand(-1, -1, x.shape[1] // context.num_rows))

    def compute_rows(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        pooled = x.mean(dim=tuple(range(2, 2 + num_inner))) if num_inner else x  # [R, B, C]
        gate = torch.sigmoid(squeeze(pooled, weights, context))  # [R, B, 1]
        return gate.view(*gate.shape, *[1] * num_inner)

    return site.function(compute_map if site.arrangement is _MAPS else compute_rows)


def _build_seed(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, Seed)
    branch = site.keeping(site.child(module.branch, "branch"), module)
    gate = None if module.gate is None else site.child(module.gate, "gate")
    is_valve = module.form is BlendForm.VALVE

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        delta = branch(x, weights, context)
        if is_valve:
            return x * torch.tanh(delta)
        return delta if gate is None else gate(x, weights, context) * delta

    return site.function(compute)


def _build_gated_norm(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, GatedNorm)
    norm = site.keeping(site.child(module.norm, "norm"), module)
    gate = site.name("gate")

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        strength = torch.tanh(weights[gate].squeeze(1))  # [R]
        return spread_over_rows(strength, x, site.arrangement) * (norm(x, weights, context) - x)

    return site.function(compute)


def _build_nothing(module: nn.Module, site: Site) -> Stacked:
    del module

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        del weights, context
        return torch.zeros_like(x)

    return site.function(compute)


def _build_attention(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, CausalSelfAttention)
    mix, project = site.child(module.mix, "mix"), site.child(module.project, "project")
    num_heads = module.num_heads

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        mixed = mix(x, weights, context).flatten(0, 1)  # [R B, T, 3 C]: items do not meet, rows do not either
        query, key, value = mixed.view(*mixed.shape[:2], 3, num_heads, -1).unbind(-3)  # [R B, T, H, D]
        read = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))  # [R B, H, T, D]
        joined = read.transpose(1, 2).flatten(-2)
        return project(joined.view(x.shape), weights, context)

    return site.function(compute)


def _build_block(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, TransformerBlock)
    # What is dropped is decided by children that are refused unless they drop nothing.
    site.child(module.dropout, "dropout")
    parts = [
        (site.child(norm, f"{name}_norm"), site.child(part, name))
        for norm, part, name in (
            (module.attention_norm, module.attention, "attention"),
            (module.mlp_norm, module.mlp, "mlp"),
        )
    ]

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        for norm, part in parts:
            x = x + part(norm(x, weights, context), weights, context)
        return x

    return site.function(compute)


def _build_token_embedding(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, TokenEmbedding)
    site.child(module.dropout, "dropout")
    tokens = site.child(module.tokens, "tokens")
    is_learned = isinstance(module.positions, nn.Parameter)
    path, waves = site.name("positions"), module.positions

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        num_positions = x.shape[2]
        positions = weights[path][:, None, :num_positions] if is_learned else waves[:num_positions]
        return tokens(x, weights, context) + positions

    return site.function(compute)


_ONLY_MAPS = frozenset({_MAPS})
_ONLY_ROWS = frozenset({_ROWS})

BLOCK_KINDS: Mapping[type[nn.Module], Kind] = MappingProxyType(
    {
        nn.Sequential: Kind(build=_build_sequential, known={}),
        Seed: Kind(build=_build_seed, settings=("form",), known={"is_recomputed": is_off}),
        SampleGate: Kind(build=_build_sample_gate, settings=("num_inner", "pooled_dims"), known={}),
        SqueezeExcite: Kind(build=_build_squeeze_excite, takes=_ONLY_MAPS, known={}),
        GatedNorm: Kind(build=_build_gated_norm, known={}),
        Nothing: Kind(build=_build_nothing, known={}),
        CausalSelfAttention: Kind(
            build=_build_attention, takes=_ONLY_ROWS, settings=("num_heads",), known={"dropout": is_off}
        ),
        TransformerBlock: Kind(build=_build_block, takes=_ONLY_ROWS, known={}),
        TokenEmbedding: Kind(build=_build_token_embedding, takes=_ONLY_ROWS, known={}),
    }
)
