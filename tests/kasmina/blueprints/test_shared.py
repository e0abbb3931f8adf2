from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.kasmina.blueprints.shared import GatedNorm, Nothing, choose_groups
from kasmina.growing import draw


@pytest.mark.parametrize(
    ("channels", "positions", "groups"),
    [(8, 25, 1), (16, 1, 1), (32, 1, 2), (48, 4, 1), (64, 1, 4), (512, 1, 32)],
)
def test_group_choice_is_known(channels: int, positions: int, groups: int) -> None:
    assert choose_groups(channels, positions) == groups


@given(st.integers(1, 2048), st.integers(1, 4096))
def test_groups_divide_the_channels_and_are_not_too_small(channels: int, positions: int) -> None:
    groups = choose_groups(channels, positions)
    assert channels % groups == 0
    assert groups == 1 or (channels // groups >= 16 and channels // groups * positions >= 4)


def test_nothing_is_zero_and_gated_norm_starts_at_zero() -> None:
    h = draw(2, 8)
    assert not Nothing()(h).count_nonzero()
    gated = GatedNorm(nn.LayerNorm(8))
    assert not gated(h).count_nonzero()
    with torch.no_grad():
        gated.gate.fill_(0.5)
    assert torch.equal(gated(h), torch.tanh(torch.tensor(0.5)) * (gated.norm(h) - h))
