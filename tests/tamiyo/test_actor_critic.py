from __future__ import annotations

import math

import torch

from esper.tamiyo.actor_critic import Memory


def make_memory() -> Memory:
    """Two layers, three rows, four units, all different."""
    return Memory(torch.arange(24.0).reshape(2, 3, 4) + 1, torch.arange(24.0).reshape(2, 3, 4) + 100)


def test_clearing_zeroes_the_named_rows_and_keeps_the_others_bit_for_bit() -> None:
    memory = make_memory()
    cleared = memory.cleared(torch.tensor([False, True, False]))
    for before, after in zip(memory, cleared, strict=True):
        assert torch.equal(after[:, 1], torch.zeros(2, 4))
        assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])


def test_clearing_frees_a_row_of_numbers_that_are_not_finite() -> None:
    memory = Memory(torch.full((1, 2, 3), math.nan), torch.full((1, 2, 3), math.inf))
    cleared = memory.cleared(torch.tensor([True, False]))
    assert torch.equal(cleared.hidden[:, 0], torch.zeros(1, 3))
    assert torch.equal(cleared.cell[:, 0], torch.zeros(1, 3))
    assert cleared.hidden[:, 1].isnan().all()


def test_clearing_sends_no_gradient_into_the_cleared_rows() -> None:
    hidden = torch.ones(1, 2, 3, requires_grad=True)
    cleared = Memory(hidden, hidden).cleared(torch.tensor([True, False])).hidden
    (gradient,) = torch.autograd.grad(cleared.sum(), hidden)
    assert gradient[:, 0].eq(0).all()
    assert gradient[:, 1].eq(1).all()


def test_clearing_keeps_the_dtype() -> None:
    memory = Memory(torch.ones(1, 2, 3, dtype=torch.float64), torch.ones(1, 2, 3, dtype=torch.float64))
    assert memory.cleared(torch.tensor([True, False])).hidden.dtype is torch.float64


def test_selected_rows_are_contiguous_and_in_the_order_asked_for() -> None:
    memory = make_memory()
    chosen = memory.select(torch.tensor([2, 0]))
    assert chosen.hidden.is_contiguous()
    assert chosen.cell.is_contiguous()
    assert torch.equal(chosen.hidden, memory.hidden[:, [2, 0]])
    assert torch.equal(chosen.cell, memory.cell[:, [2, 0]])


def test_a_detached_memory_has_no_graph() -> None:
    weight = torch.ones(1, 2, 3, requires_grad=True)
    memory = Memory(weight * 2, weight * 3).detach()
    assert not memory.hidden.requires_grad
    assert not memory.cell.requires_grad
