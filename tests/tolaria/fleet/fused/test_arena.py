"""Rows of several banks that are updated at once move as they move by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.tolaria import OptimizerConfig
from esper.tolaria.fleet.fused.arena import UpdateArena
from esper.tolaria.fleet.fused.bank import ParameterBank
from tolaria.fleet.fused.test_bank import build_row, draw

NAMES = ("sgd", "adam", "adamw")
SIZES = (3, 1, 2)


def build_banks(name: str) -> list[ParameterBank]:
    """Return banks of 3, 1 and 2 rows."""
    config = OptimizerConfig(name=name, weight_decay=0.1, clip_norm=1.5)
    firsts = [sum(SIZES[:place]) for place in range(len(SIZES))]
    return [
        ParameterBank([build_row(config, first + row) for row in range(size)])
        for first, size in zip(firsts, SIZES, strict=True)
    ]


def draw_gradients(banks: list[ParameterBank], step: int) -> list[torch.Tensor]:
    return [draw(bank.num_rows, bank.num_values, seed=10 * step + place) for place, bank in enumerate(banks)]


@pytest.mark.parametrize("name", NAMES)
def test_banks_in_one_arena_move_as_each_in_an_arena_of_its_own(name: str) -> None:
    together, apart = build_banks(name), build_banks(name)
    arena, arenas = UpdateArena(together), [UpdateArena([bank]) for bank in apart]
    for step in range(4):
        gradients = draw_gradients(together, step)
        is_due = torch.tensor([True, step != 1, True, step != 2, True, step > 0])
        rates = torch.linspace(0.01, 0.2, 6, dtype=torch.float64)
        norms = arena.compute_norms(gradients)
        arena.update(gradients, norms, is_due, rates)
        parts = [arena.split(each) for each in (norms, is_due, rates)]
        for own, gradient, norm, due, rate in zip(arenas, gradients, *parts, strict=True):
            own.update([gradient], norm, due, rate)
    for left, right in zip(together, apart, strict=True):
        torch.testing.assert_close(left.values, right.values, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(left.moments, right.moments, rtol=1e-12, atol=1e-14)
        assert torch.equal(left.steps, right.steps)
        assert torch.equal(left.num_updates, right.num_updates)


@pytest.mark.parametrize("name", NAMES)
def test_an_update_of_all_rows_is_that_of_masks_that_mask_nothing(name: str) -> None:
    """A row of another bank that is not due switches the masks on; the others must not see it."""
    whole, masked = build_banks(name)[:1], build_banks(name)
    arenas = UpdateArena(whole), UpdateArena(masked)
    for step in range(3):
        gradients = draw_gradients(masked, step)
        for arena, is_due in zip(arenas, (None, torch.tensor([True] * 5 + [False])), strict=True):
            own = gradients[: len(arena.banks)]
            rates = torch.full((len(arena.roots),), 0.1, dtype=torch.float64)
            arena.update(own, arena.compute_norms(own), is_due, rates)
    torch.testing.assert_close(whole[0].values, masked[0].values, rtol=1e-12, atol=1e-14)
    assert torch.equal(whole[0].steps, masked[0].steps)


def test_banks_look_at_their_part_of_the_arena() -> None:
    banks = build_banks("adam")
    before = [bank.values.detach().clone() for bank in banks]
    arena = UpdateArena(banks)
    for bank, was in zip(banks, before, strict=True):
        assert bank.values.requires_grad
        assert torch.equal(bank.values, was)
    gradients = draw_gradients(banks, 0)
    rates = torch.full((6,), 0.1, dtype=torch.float64)
    arena.update(gradients, arena.compute_norms(gradients), torch.tensor([False] * 5 + [True]), rates)
    changed = [not torch.equal(bank.values, was) for bank, was in zip(banks, before, strict=True)]
    assert changed == [False, False, True]
    assert [bank.num_updates.tolist() for bank in banks] == [[0, 0, 0], [0], [0, 1]]


@pytest.mark.parametrize("name", NAMES)
def test_a_bank_without_values_may_stand_among_large_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that does nothing has no weights; how values are filled by rows must not care."""
    host = build_row(OptimizerConfig(name=name), 9)
    host.optimizer.add_seed("idle", {}, birth_batch=0)
    empty = replace(host, owner="idle", parameters={})
    found = []
    for largest in (0, 1_000_000):  # filled part by part, gathered
        monkeypatch.setattr("esper.tolaria.fleet.fused.arena._LARGE_PART", largest)
        banks = [*build_banks(name), ParameterBank([empty, empty])]
        arena = UpdateArena(banks)
        gradients = draw_gradients(banks, 0)
        rates = torch.linspace(0.01, 0.2, 8, dtype=torch.float64)
        arena.update(gradients, arena.compute_norms(gradients), None, rates)
        found.append([bank.values.detach().clone() for bank in banks])
    for left, right in zip(*found, strict=True):
        assert torch.equal(left, right)
