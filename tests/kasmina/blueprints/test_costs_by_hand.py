"""Parameters and FLOPs by hand of kasmina/blueprints/image.py and flat.py, and of hosts/cnn.py and mlp.py."""

from __future__ import annotations

import pytest
from torch import nn

from esper.kasmina import (
    CNNHost,
    CNNHostConfig,
    MLPHost,
    MLPHostConfig,
    build_seeded,
    builtin_registry,
    count_flops,
    count_trainable,
)
from esper.leyline import Layout
from kasmina.growing import make_spec

REGISTRY = builtin_registry()
MAP, FLAT = make_spec((64, 4, 4)), make_spec((384,), Layout.FLAT)


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("norm", 129), ("attention", 2_128), ("depthwise", 8_896), ("conv_small", 8_320),
        ("conv_light", 41_088), ("conv_heavy", 78_080), ("bottleneck", 4_384),
    ],
)  # fmt: skip
def test_parameters_on_a_map_of_64_channels(name: str, num_params: int) -> None:
    blueprint = REGISTRY.get(name)
    branch = build_seeded(lambda: blueprint.build(MAP), 0)
    assert blueprint.count_params(MAP) == num_params == count_trainable(branch)


@pytest.mark.parametrize(
    ("name", "num_params"), [("norm", 769), ("mlp", 1_181_568), ("mlp_small", 590_976), ("low_rank", 6_144)]
)
def test_parameters_on_384_flat_channels(name: str, num_params: int) -> None:
    blueprint = REGISTRY.get(name)
    branch = build_seeded(lambda: blueprint.build(FLAT), 0)
    assert blueprint.count_params(FLAT) == num_params == count_trainable(branch)


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("norm", 0),
        ("attention", 8 * 2 + 2 * 8),
        ("depthwise", 16 * (9 * 8 + 64 + 64)),
        ("conv_small", 16 * (64 + 64)),
        ("conv_light", 16 * (9 * 64 + 64)),
        ("conv_heavy", 16 * (2 * 9 * 64 + 64)),
        ("bottleneck", 16 * (64 + 9 * 64 + 64)),
    ],
)
def test_flops_on_a_4x4_map_of_8_channels(name: str, multiply_adds: int) -> None:
    spec = make_spec((8, 4, 4))
    branch = build_seeded(lambda: REGISTRY.get(name).build(spec), 0)
    assert count_flops(branch, spec.shape) == 2 * multiply_adds


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [("norm", 0), ("mlp", 2 * 16 * 64), ("mlp_small", 2 * 16 * 32), ("low_rank", 2 * 16 * 8)],
)
def test_flops_on_16_flat_channels(name: str, multiply_adds: int) -> None:
    spec = make_spec((16,), Layout.FLAT)
    branch = build_seeded(lambda: REGISTRY.get(name).build(spec), 0)
    assert count_flops(branch, spec.shape) == 2 * multiply_adds


@pytest.mark.parametrize("name", ["depthwise", "conv_small", "conv_light", "conv_heavy", "bottleneck"])
def test_convolutions_end_in_a_bare_1x1_projection_that_is_the_only_zero(name: str) -> None:
    branch = build_seeded(lambda: REGISTRY.get(name).build(make_spec((16, 4, 4))), 0)
    *interior, last = branch.children()
    assert isinstance(last, nn.Conv2d)
    assert (last.kernel_size, last.bias) == ((1, 1), None)
    assert not last.weight.count_nonzero()
    inner = [part for part in interior if isinstance(part, nn.Conv2d)]
    assert all(conv.weight.count_nonzero() == conv.weight.numel() for conv in inner)


@pytest.mark.parametrize(
    ("base", "blocks", "kernel", "pools", "num_params"),
    [
        (8, 3, 3, 3, 6_418), (8, 5, 3, 5, 99_922), (16, 3, 3, 3, 24_346), (1, 3, 1, 3, 77), (2, 3, 1, 0, 164),
        (2, 5, 1, 5, 1_140), (32, 3, 3, 3, 94_762),
    ],
)  # fmt: skip
def test_parameters_of_convolutional_hosts(
    base: int, blocks: int, kernel: int, pools: int, num_params: int
) -> None:
    config = CNNHostConfig(
        in_channels=3,
        num_classes=10,
        base_channels=base,
        num_blocks=blocks,
        kernel_size=kernel,
        num_pools=pools,
    )
    assert count_trainable(CNNHost(config)) == num_params


@pytest.mark.parametrize(("norm", "num_params"), [("group", 6_418), ("none", 6_418 - 8 - 16 - 32)])
def test_convolutions_carry_a_bias_only_without_a_norm(norm: str, num_params: int) -> None:
    assert count_trainable(CNNHost(CNNHostConfig(in_channels=3, num_classes=10, norm=norm))) == num_params


@pytest.mark.parametrize(("norm", "num_params"), [("batch", 3_466 + 128), ("layer", 3_466 + 128)])
def test_parameters_of_a_normed_multi_layer_host(norm: str, num_params: int) -> None:
    assert count_trainable(MLPHost(MLPHostConfig(num_inputs=64, num_classes=10, norm=norm))) == num_params


def test_flops_of_hosts() -> None:
    cnn = CNNHost(CNNHostConfig(in_channels=3, num_classes=10))
    blocks = 32 * 32 * 8 * 3 * 9 + 16 * 16 * 16 * 8 * 9 + 8 * 8 * 32 * 16 * 9
    assert count_flops(cnn, (3, 32, 32)) == 2 * (blocks + 32 * 10) == 1_622_656
    mlp = MLPHost(MLPHostConfig(num_inputs=64, num_classes=10))
    assert count_flops(mlp, (64,)) == 2 * (64 * 32 + 32 * 32 + 32 * 10)
