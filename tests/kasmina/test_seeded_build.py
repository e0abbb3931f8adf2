from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.kasmina import build_seeded


def _draw(seed: int) -> Tensor:
    return build_seeded(lambda: nn.Linear(4, 4), seed).weight.detach()


@given(st.integers(0, 2**63 - 1))
def test_one_seed_gives_one_module_and_moves_no_stream(seed: int) -> None:
    before = torch.get_rng_state()
    assert torch.equal(_draw(seed), _draw(seed))
    assert torch.equal(torch.get_rng_state(), before)


def test_both_halves_of_the_seed_count() -> None:
    assert not torch.equal(_draw(1), _draw(2))
    assert not torch.equal(_draw(1), _draw(1 + (1 << 40)))


def test_stream_is_put_back_after_an_error() -> None:
    def fail() -> nn.Module:
        torch.rand(3)
        raise RuntimeError("stop")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"):
        build_seeded(fail, 1)
    assert torch.equal(torch.get_rng_state(), before)
