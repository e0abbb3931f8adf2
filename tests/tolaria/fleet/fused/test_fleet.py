"""Hosts trained as one program live exactly as they live one after another, whatever grows in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esper.leyline import AlphaCurve, BlendForm, LifecycleOp
from esper.tolaria import HostRunParts
from tolaria.fleet.fused.double_hosts import (
    Kind,
    cnn,
    do,
    grow,
    make_host_parts,
    mlp,
    quick_config,
    word_data,
    word_task,
    words,
)
from tolaria.fleet.fused.twins import Script, Twins

pytestmark = pytest.mark.usefixtures("in_double")

IMAGE_SEEDS = ("conv_light", "attention", "norm", "depthwise", "noop")
FLAT_SEEDS = ("low_rank", "mlp_small", "norm", "mlp", "noop")
WORD_SEEDS = ("lora_small", "mlp_small", "norm", "causal_attention", "noop")


def make_episode(first: str, second: str, seeds: tuple[str, ...]) -> Script:
    """Return an episode of four hosts in 7 intervals; each lives another life in the same slots."""
    a, b, c, d, e = seeds
    advance, cull = LifecycleOp.ADVANCE, LifecycleOp.CULL
    return {
        (0, 0): grow(first, a, tempo=2),
        (2, 0): do(advance, first),  # blends over two intervals, then is on probation
        (5, 0): do(LifecycleOp.FOSSILIZE, first),
        (6, 0): grow(second, b),
        (0, 1): grow(first, b, BlendForm.GATE, AlphaCurve.COSINE, target=0.5),
        (1, 1): do(advance, first),
        (2, 1): do(LifecycleOp.SET_ALPHA, first, tempo=2),
        (4, 1): do(cull, first, tempo=3),  # ramps down, frozen, while the host trains on
        (0, 2): grow(first, c),
        (1, 2): do(cull, first),  # in isolation, at once; the slot then cools down
        (2, 2): grow(second, d, BlendForm.VALVE, AlphaCurve.SIGMOID, tempo=1),
        (3, 2): do(advance, second),
        (5, 2): grow(first, e),  # has nothing to learn, and so stays in isolation
        (0, 3): grow(second, a),
        (1, 3): grow(first, d),
        (2, 3): do(advance, second),
        (3, 3): do(advance, first),  # two seeds at work, one behind the other
        (5, 3): do(cull, first),
    }


def kind_of(build: Callable[[], object], seeds: tuple[str, ...], **changes: object) -> Kind:
    """Return hosts of images whose builder and blueprints are given."""

    def parts() -> HostRunParts:
        return make_host_parts(build, blueprints=seeds)  # type: ignore[arg-type]

    return Kind(parts=parts, config=quick_config(**changes))


WORDS = Kind(parts=lambda: make_host_parts(words, word_data(), blueprints=WORD_SEEDS), task=word_task())
FAMILIES = {
    "cnn batch": (kind_of(cnn("batch"), IMAGE_SEEDS), make_episode("block1", "block2", IMAGE_SEEDS)),
    "cnn group": (kind_of(cnn("group"), IMAGE_SEEDS), make_episode("block2", "block3", IMAGE_SEEDS)),
    "cnn none": (kind_of(cnn("none"), IMAGE_SEEDS), make_episode("block1", "block3", IMAGE_SEEDS)),
    "mlp none": (kind_of(mlp("none"), FLAT_SEEDS), make_episode("hidden1", "hidden2", FLAT_SEEDS)),
    "mlp batch": (kind_of(mlp("batch"), FLAT_SEEDS), make_episode("hidden1", "hidden2", FLAT_SEEDS)),
    "mlp layer": (kind_of(mlp("layer"), FLAT_SEEDS), make_episode("hidden1", "hidden2", FLAT_SEEDS)),
    "transformer": (WORDS, make_episode("block1", "block2", WORD_SEEDS)),
}
SCRIPTED = [
    pytest.param(name, marks=() if name in ("cnn batch", "mlp layer", "transformer") else pytest.mark.slow)
    for name in FAMILIES
]


@pytest.mark.parametrize("family", SCRIPTED)
def test_four_different_lives_are_lived_as_one_after_another(family: str) -> None:
    kind, episode = FAMILIES[family]
    twins = Twins(kind, range(4))
    for _ in range(7):
        twins.step(episode)
    assert twins.fused.share.alone == 0
    assert twins.fused.share.fused == 28
