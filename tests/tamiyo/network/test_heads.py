from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esper.leyline import ConfigError
from esper.tamiyo.action_layout import ActionLayout
from esper.tamiyo.distributions import ActionLogits, ActionMask
from esper.tamiyo.network.encoder import Encoded
from esper.tamiyo.network.heads import GrowthHeads
from tamiyo.network.network_cases import LAYOUT, SMALL, make_network

HEADS = make_network(spread=0.3).double().heads
NO_MASK = ActionMask(op=torch.ones(1, 6, dtype=torch.bool))


def compute(core: Tensor, slots: Tensor, blueprints: Tensor) -> ActionLogits:
    logits: ActionLogits = HEADS(core, Encoded(core, slots, blueprints), NO_MASK)
    return logits


def make_tokens(slots: int = 3, blueprints: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = ((2, 10), (2, slots, 8), (2, slots, blueprints, 8))
    core, tokens, offers = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    return core, tokens, offers


def part(logits: ActionLogits, head: str) -> Tensor:
    table = {"op": logits.op, "slot": logits.slot, "blueprint": logits.blueprint, **logits.arguments}[head]
    assert table is not None
    return table


@pytest.mark.parametrize(("slots", "blueprints"), [(1, 1), (3, 4), (64, 12)])
def test_logits_follow_the_numbers_of_slots_and_blueprints(slots: int, blueprints: int) -> None:
    logits = compute(*make_tokens(slots, blueprints))
    assert part(logits, "op").shape == (2, 6)
    assert part(logits, "slot").shape == (2, 6, slots)
    assert part(logits, "blueprint").shape == (2, slots, blueprints)
    for head, size in LAYOUT.argument_sizes.items():
        assert part(logits, head).shape == (2, 6, slots, size)


def test_slots_depend_on_the_operation_blueprints_on_the_slot_and_arguments_on_both() -> None:
    logits = compute(*make_tokens())
    slot, blueprint = part(logits, "slot").softmax(-1), part(logits, "blueprint").softmax(-1)
    assert not torch.allclose(slot[:, 1], slot[:, 2], atol=1e-4)
    assert not torch.allclose(blueprint[:, 0], blueprint[:, 1], atol=1e-4)
    for head in LAYOUT.argument_sizes:
        table = part(logits, head).softmax(-1)
        assert not torch.allclose(table[:, 1, 0], table[:, 2, 0], atol=1e-4)
        assert not torch.allclose(table[:, 1, 0], table[:, 1, 1], atol=1e-4)


def test_the_same_offer_is_judged_by_the_slot_that_it_is_for() -> None:
    core, tokens, offers = make_tokens()
    offers = offers[:, :1].expand(2, 3, 4, 8)
    blueprint = part(compute(core, tokens, offers), "blueprint").softmax(-1)
    assert not torch.allclose(blueprint[:, 0], blueprint[:, 1], atol=1e-4)


def test_exchanging_slots_or_blueprints_exchanges_their_logits() -> None:
    core, tokens, offers = make_tokens()
    slot_order, offer_order = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    plain = compute(core, tokens, offers)
    moved = compute(core, tokens[:, slot_order], offers[:, slot_order][:, :, offer_order])
    torch.testing.assert_close(part(moved, "op"), part(plain, "op"))
    torch.testing.assert_close(part(moved, "slot"), part(plain, "slot")[:, :, slot_order])
    expected = part(plain, "blueprint")[:, slot_order][:, :, offer_order]
    torch.testing.assert_close(part(moved, "blueprint"), expected)
    torch.testing.assert_close(part(moved, "tempo"), part(plain, "tempo")[:, :, slot_order])


def test_actions_without_slots_are_refused() -> None:
    plain = ActionLayout(op_names=("A",), uses={"op": (True,)})
    with pytest.raises(ConfigError, match="use kind='flat'"):
        GrowthHeads(plain, SMALL)
