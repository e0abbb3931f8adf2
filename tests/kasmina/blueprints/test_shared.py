from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.kasmina import SlotSpec
from esper.kasmina.blueprints.shared import GatedNorm, Nothing, choose_groups, has_values_to_normalise
from esper.leyline import Layout
from kasmina.growing import draw, make_spec


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (8, 1), (16, 1), (32, 2), (48, 2), (64, 4), (512, 32), (2048, 32)]
)
def test_group_choice_is_known(channels: int, groups: int) -> None:
    assert choose_groups(channels) == groups


@given(st.integers(1, 2048))
def test_groups_divide_the_channels_and_are_not_too_small(channels: int) -> None:
    groups = choose_groups(channels)
    assert channels % groups == 0
    assert groups == 1 or channels // groups >= 16


@pytest.mark.parametrize(
    ("spec", "has_values"),
    [
        (make_spec((1, 1, 1)), False),
        (make_spec((1, 2, 2)), True),
        (make_spec((3,), Layout.FLAT), False),
        (make_spec((9, 3), Layout.SEQUENCE), False),
        (make_spec((9, 4), Layout.SEQUENCE), True),
    ],
)
def test_norm_needs_four_values_of_one_item(spec: SlotSpec, has_values: bool) -> None:
    assert has_values_to_normalise(spec) == has_values


def test_nothing_is_zero_and_gated_norm_starts_at_zero() -> None:
    h = draw(2, 8)
    assert not Nothing()(h).count_nonzero()
    gated = GatedNorm(nn.LayerNorm(8))
    assert not gated(h).count_nonzero()
    with torch.no_grad():
        gated.gate.fill_(0.5)
    assert torch.equal(gated(h), torch.tanh(torch.tensor(0.5)) * (gated.norm(h) - h))
