from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina import Arrangement, Tap
from esper.kasmina.tap import CANONICAL, find_selections
from esper.leyline import HostError, Layout
from kasmina.growing import draw
from kasmina.strangers import Pair

SHAPES = {4: (2, 3, 5, 7), 3: (2, 3, 5), 2: (2, 3)}


@pytest.mark.parametrize("arrangement", list(Arrangement))
def test_the_way_there_and_back_is_the_same_tensor_bit_for_bit(arrangement: Arrangement) -> None:
    h = draw(*SHAPES[arrangement.rank])
    canonical = arrangement.to_canonical(h)
    assert torch.equal(arrangement.from_canonical(canonical), h)
    assert canonical.data_ptr() == h.data_ptr()


@pytest.mark.parametrize("arrangement", list(Arrangement))
def test_items_and_channels_are_where_seeds_look_for_them(arrangement: Arrangement) -> None:
    h = draw(*SHAPES[arrangement.rank])
    canonical = arrangement.to_canonical(h)
    assert canonical.shape[0] == h.shape[arrangement.batch_dim]
    channel_dim = -1 if arrangement.layout is Layout.SEQUENCE else 1
    assert canonical.shape[channel_dim] == h.shape[arrangement.channel_dim]


def test_every_layout_has_a_canonical_arrangement_that_changes_nothing() -> None:
    for layout in Layout:
        h = draw(*SHAPES[CANONICAL[layout].rank])
        assert CANONICAL[layout].layout is layout
        assert CANONICAL[layout].to_canonical(h) is h


@given(st.sampled_from(["tuple", "list", "mapping", "named"]))
def test_only_the_selected_part_is_replaced_and_the_output_given_stays(kind: str) -> None:
    feature, other = draw(2, 3, 4), draw(2, seed=1)
    outputs: dict[str, tuple[object, int | str]] = {
        "tuple": ((other, feature), 1),
        "list": ([feature, None], 0),
        "mapping": (OrderedDict(hidden=feature, other=other), "hidden"),
        "named": (Pair(feature, 3), 0),
    }
    output, select = outputs[kind]
    tap = Tap(arrangement=Arrangement.NCL, select=select)
    assert torch.equal(tap.take(output), feature.transpose(1, 2))
    changed = tap.put(output, tap.take(output) + 1.0)
    assert type(changed) is type(output)
    assert torch.equal(changed[select], feature + 1.0)  # type: ignore[index]
    assert torch.equal(tap.choose(output), feature)
    assert len(changed) == len(output)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "select", "message"),
    [
        ((draw(2), draw(2)), None, r"returns tuple, needs one tensor; there are tensors at select=0, 1"),
        ((draw(2),), 3, r"select=3 does not fit an output of type tuple; tensors are at 0"),
        ({"a": draw(2)}, "b", r"select='b' does not fit .* tensors are at 'a'"),
        ((1, draw(2)), 0, r"returns int, needs one tensor at select=0; there are tensors at select="),
        (3, None, r"returns int, needs one tensor; there are tensors at select=no place"),
    ],
)
def test_a_place_without_a_tensor_is_refused_and_those_with_one_are_named(
    output: object, select: int | str | None, message: str
) -> None:
    with pytest.raises(HostError, match=message):
        Tap(arrangement=Arrangement.FLAT, select=select).choose(output)


def test_selections_are_the_floating_tensors_alone() -> None:
    assert find_selections((draw(2), torch.arange(3), None)) == (0,)
    assert find_selections({"ids": torch.arange(3), "hidden": draw(2)}) == ("hidden",)
    assert find_selections(draw(2)) == ()
