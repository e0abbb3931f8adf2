from __future__ import annotations

import pytest
import torch

from esper.kasmina import build_seeded
from esper.kasmina.blueprints.image import IMAGE_BLUEPRINTS, SqueezeExcite
from kasmina.growing import draw, make_spec, stir

COUNTS = {
    "attention": 42, "depthwise": 216, "conv_small": 144, "conv_light": 656, "conv_heavy": 1248,
    "bottleneck": 720,
}  # fmt: skip


@pytest.mark.parametrize("blueprint", IMAGE_BLUEPRINTS, ids=lambda b: b.id)
def test_parameters_for_eight_channels_are_known(blueprint: object) -> None:
    (found,) = [item for item in IMAGE_BLUEPRINTS if item is blueprint]
    branch = build_seeded(lambda: found.build(make_spec()), 0)
    assert found.count_params(make_spec()) == COUNTS[found.id] == sum(p.numel() for p in branch.parameters())


def test_attention_scales_whole_channels() -> None:
    branch, h = SqueezeExcite(8), draw(2, 8, 3, 3)
    stir(branch)
    scale = branch(h) / h
    assert torch.allclose(scale, scale[:, :, :1, :1].expand_as(scale), atol=1e-5)
    assert float(scale.detach().abs().max()) <= 1.0
