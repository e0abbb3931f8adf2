"""kasmina/stacking/blocks.py: every blueprint in every form of blending, every segment of our hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import nn

from esper.kasmina import (
    CNNHost,
    CNNHostConfig,
    MLPHost,
    MLPHostConfig,
    SegmentedHost,
    SlotSpec,
    TransformerHost,
    TransformerHostConfig,
    build_seed,
    builtin_registry,
)
from esper.kasmina.stacking import StackArrangement, StackContext, build_stacked
from esper.leyline import BlendForm, Layout
from kasmina.growing import make_spec
from kasmina.stacking.oracle import (
    NUM_ROWS,
    assert_passes_agree,
    assert_stack_equals_rows,
    build_rows,
    draw,
    draw_tokens,
    run_separate,
    run_stacked,
    stack_weights,
)

REGISTRY = builtin_registry()
SLOTS = {
    Layout.MAP_2D: make_spec((6, 4, 4)),
    Layout.SEQUENCE: make_spec((5, 32), Layout.SEQUENCE),
    Layout.FLAT: make_spec((9,), Layout.FLAT),
}
CASES = [
    (name, layout)
    for name in REGISTRY.ids
    if not REGISTRY.get(name).spans_pair
    for layout in sorted(REGISTRY.get(name).layouts, key=lambda each: each.value)
]
DTYPES = (torch.float64, torch.float32)


def arrangement_of(layout: Layout) -> StackArrangement:
    return StackArrangement.MAPS if layout is Layout.MAP_2D else StackArrangement.ROWS


def seed_builder(name: str, spec: SlotSpec, form: BlendForm) -> Callable[[], nn.Module]:
    channel_dim = 1 if spec.layout is not Layout.SEQUENCE else -1
    return lambda: build_seed(
        REGISTRY.get(name).build(spec), form, spec.num_channels, channel_dim, len(spec.shape) - 1
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("form", BlendForm)
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_stacked_seed_equals_its_rows(
    name: str, layout: Layout, form: BlendForm, num_rows: int, dtype: torch.dtype
) -> None:
    spec = SLOTS[layout]
    inputs = draw(num_rows, 4, *spec.shape, dtype=dtype)
    assert_stack_equals_rows(
        seed_builder(name, spec, form), arrangement_of(layout), inputs, prefix="block1.seed"
    )


def _cnn(norm: str, num_blocks: int, num_pools: int, in_channels: int) -> SegmentedHost:
    return CNNHost(
        CNNHostConfig(
            in_channels=in_channels,
            num_classes=5,
            base_channels=3,
            num_blocks=num_blocks,
            num_pools=num_pools,
            norm=norm,
        )
    )


def _mlp(norm: str) -> SegmentedHost:
    return MLPHost(MLPHostConfig(num_inputs=12, num_classes=4, hidden=(7, 5), norm=norm))


def _transformer(positions: str) -> SegmentedHost:
    return TransformerHost(
        TransformerHostConfig(
            vocabulary=11, context=6, width=16, num_blocks=2, num_heads=2, positions=positions
        )
    )


def _host_cases() -> Iterator[tuple[str, Callable[[], SegmentedHost], tuple[int, ...], int]]:
    """Yield (name, builder, one item's input shape, vocabulary or 0)."""
    for norm in ("batch", "group", "none"):
        for num_pools in (1, 2, 3):
            channels = 1 + num_pools % 2
            build = partial(_cnn, norm, max(2, num_pools), num_pools, channels)
            yield f"cnn-{norm}-{num_pools}", build, (channels, 8, 8), 0
    for norm in ("none", "batch", "layer"):
        yield f"mlp-{norm}", partial(_mlp, norm), (3, 2, 2), 0
    for positions in ("learned", "sinusoidal"):
        yield f"transformer-{positions}", partial(_transformer, positions), (5,), 11


HOSTS = list(_host_cases())


@pytest.mark.parametrize("form", BlendForm)
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_stacked_seed_under_bf16_autocast_differs_by_rounding_alone(
    name: str, layout: Layout, form: BlendForm
) -> None:
    spec = SLOTS[layout]
    modules = build_rows(seed_builder(name, spec, form), 3, torch.float32)
    inputs = draw(3, 4, *spec.shape, dtype=torch.float32)
    stacked = build_stacked(modules[0], arrangement_of(layout))
    with torch.autocast("cpu", torch.bfloat16):
        got = run_stacked(stacked, inputs, stack_weights(modules), StackContext(num_rows=3))
        wanted = run_separate(modules, inputs)
    assert_passes_agree(got, wanted, 2e-2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("is_data", [False, True])
@pytest.mark.parametrize(("name", "build", "shape", "vocabulary"), HOSTS, ids=[each[0] for each in HOSTS])
def test_stacked_segments_of_a_host_equal_its_rows(
    name: str,
    build: Callable[[], SegmentedHost],
    shape: tuple[int, ...],
    vocabulary: int,
    is_data: bool,
    num_rows: int,
    dtype: torch.dtype,
) -> None:
    def chain() -> nn.Module:
        return nn.Sequential(*[segment for _, segment in build().segments()])

    is_map = name.startswith("cnn")
    if vocabulary:
        inputs = draw_tokens(num_rows, 4, *shape, vocabulary=vocabulary)
        dtype = torch.float64
    else:
        inputs = draw(num_rows, 4, *shape, dtype=dtype)
    for is_training in (True, False):
        assert_stack_equals_rows(
            chain,
            StackArrangement.MAPS if is_map else StackArrangement.ROWS,
            inputs,
            is_training=is_training,
            is_data=is_data,
        )
