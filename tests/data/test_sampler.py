from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.data.sampler import epoch_order


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10_000), num_items=st.integers(1, 300))
def test_order_is_a_permutation_and_pure(seed: int, epoch: int, num_items: int) -> None:
    order = epoch_order(seed, epoch, num_items)
    assert order.sort().values.tolist() == list(range(num_items))
    assert torch.equal(order, epoch_order(seed, epoch, num_items))


def test_order_differs_by_seed_and_epoch() -> None:
    first = epoch_order(0, 0, 100)
    assert not torch.equal(first, epoch_order(0, 1, 100))
    assert not torch.equal(first, epoch_order(1, 0, 100))


def test_global_generator_is_not_moved() -> None:
    before = torch.get_rng_state()
    epoch_order(0, 0, 100)
    assert torch.equal(before, torch.get_rng_state())
