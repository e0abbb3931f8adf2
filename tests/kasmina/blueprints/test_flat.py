from __future__ import annotations

import pytest
import torch

from esper.kasmina import build_seeded, builtin_registry
from esper.leyline import Layout
from kasmina.growing import draw, make_spec, stir


@pytest.mark.parametrize(("name", "count"), [("mlp", 552), ("mlp_small", 280), ("low_rank", 128)])
def test_parameters_for_eight_channels_are_known(name: str, count: int) -> None:
    assert builtin_registry().get(name).count_params(make_spec((8,), Layout.FLAT)) == count


def test_low_rank_map_has_at_most_rank_eight() -> None:
    spec = make_spec((32,), Layout.FLAT)
    branch = build_seeded(lambda: builtin_registry().get("low_rank").build(spec), 0)
    stir(branch)
    assert int(torch.linalg.matrix_rank(branch(draw(64, 32)))) == 8
