"""Growth in width by the library: what is preserved, what is refused, and that its units live."""

from __future__ import annotations

import pytest
import torch
from growth.network import PlainMLP
from growth.width import WideningMLP
from torch import Tensor
from torch.nn import functional as F

from esper.kasmina import build_seeded

HIDDEN = (4, 4, 4)


def make_model() -> WideningMLP:
    return WideningMLP(build_seeded(lambda: PlainMLP(6, HIDDEN, 3), 0))


def make_rows(seed: int, count: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    # A product of two inputs: no linear map explains it.
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long() + (inputs[:, 2] > 1).long()


def loss_of(model: WideningMLP, rows: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(rows[0]), rows[1]))


def test_it_starts_with_the_weights_it_is_given() -> None:
    start = build_seeded(lambda: PlainMLP(6, HIDDEN, 3), 0)
    inputs = make_rows(0)[0]
    assert torch.equal(WideningMLP(start)(inputs), start(inputs))


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_random_units_change_nothing_at_first_and_can_learn(layer: int) -> None:
    model, rows = make_model(), make_rows(0)
    before = model(rows[0]).detach()
    result = model.grow_random(layer, 3)
    assert result.num_units == 3
    assert model.shape.hidden[layer - 1] == HIDDEN[layer - 1] + 3
    assert torch.allclose(model(rows[0]), before, atol=1e-6)
    F.cross_entropy(model(rows[0]), rows[1]).backward()  # type: ignore[no-untyped-call]
    weights = model.named_weights()
    outgoing = weights[f"layer{layer}.weight"]
    assert outgoing.grad is not None
    assert bool((outgoing.grad[:, -3:] != 0).any(dim=0).all())
    assert bool((weights[f"layer{layer - 1}.weight"][-3:] != 0).any(dim=1).all())


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_tiny_never_raises_the_loss_on_the_rows_of_the_search(layer: int) -> None:
    model, held_out = make_model(), make_rows(1)
    before = loss_of(model, held_out)
    result = model.grow_tiny(layer, 2, [make_rows(0, 2_000)], [held_out])
    assert (result.num_units == 0) == (result.factor == 0.0)
    assert model.shape.hidden[layer - 1] == HIDDEN[layer - 1] + result.num_units
    assert loss_of(model, held_out) <= before + 1e-6


def test_tiny_lowers_the_loss_where_the_network_is_too_narrow() -> None:
    model, held_out = make_model(), make_rows(1)
    before = loss_of(model, held_out)
    assert model.grow_tiny(1, 2, [make_rows(0, 2_000)], [held_out]).num_units == 2
    assert loss_of(model, held_out) < before - 1e-3


def test_the_chosen_factor_gives_the_loss_that_the_search_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    original = WideningMLP._compute_extended_loss

    def note(self: WideningMLP, batches: list[tuple[Tensor, Tensor]]) -> float:
        seen.append(original(self, batches))
        return seen[-1]

    monkeypatch.setattr(WideningMLP, "_compute_extended_loss", note)
    model, held_out = make_model(), make_rows(1)
    before = loss_of(model, held_out)
    model.grow_tiny(1, 2, [make_rows(0, 2_000)], [held_out])
    assert seen[0] == pytest.approx(before, abs=1e-5)  # the factor 0 is the network as it was
    assert loss_of(model, held_out) == pytest.approx(min(seen), abs=1e-5)


def test_a_rejected_growth_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WideningMLP, "_search", lambda self, module, batches: 0.0)
    model, rows = make_model(), make_rows(0)
    before, names = model(rows[0]).detach(), set(dict(model.named_parameters()))
    result = model.grow_tiny(2, 2, [rows], [rows])
    assert result.num_units == 0
    assert result.num_proposed > 0
    assert model.shape.hidden == HIDDEN
    assert set(dict(model.named_parameters())) == names
    assert torch.equal(model(rows[0]), before)


def test_rank_bounds_the_units_of_the_last_layer() -> None:
    result = make_model().grow_tiny(3, 10, [make_rows(0, 500)], [make_rows(1)])
    assert result.num_proposed <= 3


def test_layers_can_be_grown_one_after_the_other_again_and_again() -> None:
    model = make_model()
    for turn in range(2):
        for layer in (1, 2, 3):
            model.grow_tiny(layer, 2, [make_rows(turn, 500)], [make_rows(5)])
            model.grow_random(layer, 1)
    widths = model.shape.hidden
    assert all(after >= before + 2 for before, after in zip(HIDDEN, widths, strict=True))
    assert model(make_rows(0)[0]).shape == (200, 3)
