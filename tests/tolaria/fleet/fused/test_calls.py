"""Rows of a stack pass a slot as the hosts' own features pass it."""

from __future__ import annotations

import pytest
import torch

from esper.kasmina import to_arrangement
from esper.tolaria.fleet.fused.calls import SeedBank, SeedCall, SlotCalls
from esper.tolaria.fleet.fused.seeds import SeedKinds, build_seed_banks
from tolaria.fleet.fused.groups import build_group, draw, stack_of

pytestmark = pytest.mark.usefixtures("in_double")

SLOT = "block1"


def build_calls() -> tuple[list[SeedBank], torch.Tensor, SeedCall, SeedCall]:
    """Return banks of block1, features [R, B, C, H, W], and calls for rows 2, 0 and 1 in that order."""
    runs = build_group()
    banks = build_seed_banks([run.bench for run in runs], stack_of(runs), SeedKinds())
    plain, gated = banks[:2]
    features = draw(4, 3, *runs[0].bench.model.slot(SLOT).spec.shape)
    return banks, features, SeedCall(plain, (2, 0), (1, 0)), SeedCall(gated, (1,), (0,))


def compute_alone(bank: SeedBank, row: int, feature: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return h + alpha r(h) of one host's own seed."""
    seed = bank.slots[row].seed
    assert seed is not None
    with torch.no_grad():
        out: torch.Tensor = feature + alpha * seed(feature)
    return out


def test_rows_with_seeds_are_blended_and_the_others_pass() -> None:
    banks, features, plain, gated = build_calls()
    arrangement = plain.source.stacked.arrangement_in
    calls = SlotCalls([plain, gated], 4, arrangement, alphas=[[0.25, 1.0], [0.5]])
    with torch.no_grad():
        found = calls.run(to_arrangement(features, arrangement))
    wanted = [
        compute_alone(banks[0], 0, features[0], 1.0),
        compute_alone(banks[1], 0, features[1], 0.5),
        compute_alone(banks[0], 1, features[2], 0.25),
        features[3],
    ]
    torch.testing.assert_close(
        found, to_arrangement(torch.stack(wanted), arrangement), rtol=1e-10, atol=1e-12
    )


def test_alphas_are_those_of_the_seeds_as_they_are_when_asked() -> None:
    banks, features, plain, _ = build_calls()
    arrangement = plain.source.stacked.arrangement_in
    calls = SlotCalls([SeedCall(banks[0], (0,), (0,))], 1, arrangement)
    entering = to_arrangement(features[:1], arrangement)
    slot = banks[0].slots[0]
    first = slot.state.alpha
    for alpha in (first, 0.75):
        slot.set_alpha(alpha)
        calls.forget_alphas()
        wanted = compute_alone(banks[0], 0, features[0], alpha)
        with torch.no_grad():
            torch.testing.assert_close(calls.run(entering), wanted, rtol=1e-10, atol=1e-12)


def test_a_slot_without_calls_gives_back_what_came() -> None:
    features = draw(2, 3)
    arrangement = build_calls()[2].source.stacked.arrangement_in
    assert SlotCalls([], 2, arrangement).run(features) is features


def test_frozen_seeds_get_no_gradient_and_features_do() -> None:
    banks, features, plain, gated = build_calls()
    arrangement = plain.source.stacked.arrangement_in
    entering = to_arrangement(features, arrangement).requires_grad_()
    calls = SlotCalls([SeedCall(plain.source, (2,), (0,)), gated], 4, arrangement)
    frozen = torch.autograd.grad(
        calls.run(entering, is_frozen=True).square().sum(),
        [entering, banks[0].bank.values],
        allow_unused=True,
    )
    open_ = torch.autograd.grad(calls.run(entering).square().sum(), [entering, banks[0].bank.values])
    assert [gradient is None for gradient in frozen] == [False, True]
    assert torch.equal(frozen[0], open_[0])
    assert open_[1][0].abs().sum() > 0.0
    assert not open_[1][1].any()  # host 3's seed was not called
