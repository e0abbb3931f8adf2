"""An isolated seed changes no bit of the host; a sick seed at alpha 0 is never multiplied in."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina import (
    NORMAL_PLAN,
    ForwardPlan,
    MorphogeneticModel,
    apply_seed_gradient,
    compute_residual_target,
    norms_with_statistics,
    untouched_rng,
    untouched_statistics,
)
from esper.kasmina.isolation import pass_straight_through, teach_residual
from esper.leyline import SeedStage
from kasmina.growing import draw, grow, make_clock, make_cnn, make_model, stir

INPUTS = draw(6, 3, 8, 8, seed=1)
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])


def _train_step(model: MorphogeneticModel) -> dict[str, Tensor]:
    """One training pass with incubation, as the host's trainer does it; everything of the host it left."""
    model.train()
    slot = model.slot("block2")
    rng = torch.get_rng_state()
    with model.planned(ForwardPlan(is_recording=True)):
        logits = model(INPUTS)
    loss = F.cross_entropy(logits, TARGETS)
    loss.backward()  # type: ignore[no-untyped-call]
    host_rng = torch.get_rng_state()
    if slot.seed is not None and slot.features is not None:
        norms = norms_with_statistics(model)
        with untouched_statistics(norms), untouched_rng(torch.device("cpu")):
            own = model.incubation.compute_loss(
                slot.seed,
                slot.features,
                slot.feature_gradient,
                lambda features: F.cross_entropy(model.run_tail("block2", features, INPUTS), TARGETS),
            )
            apply_seed_gradient(own, list(slot.seed.parameters()))
    assert torch.equal(torch.get_rng_state(), host_rng)
    torch.set_rng_state(rng)
    left = {"logits": logits.detach(), "loss": loss.detach()}
    left |= {f"grad {name}": p.grad for name, p in model.host.named_parameters() if p.grad is not None}
    left |= {f"state {name}": value for name, value in model.host.state_dict().items()}
    return left


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("incubation", ["shadow", "residual", "straight_through"])
def test_incubating_seed_changes_no_bit_of_the_host(incubation: str, dropout: float, norm: str) -> None:
    state = torch.get_rng_state()
    bare = _train_step(make_model(make_cnn(norm=norm, dropout=dropout), incubation=incubation))
    model = make_model(make_cnn(norm=norm, dropout=dropout), incubation=incubation)
    slot = grow(model, "block2", SeedStage.TRAINING)
    torch.set_rng_state(state)
    grown = _train_step(model)
    assert set(bare) == set(grown)
    for name, value in bare.items():
        assert torch.equal(value, grown[name]), name
    assert slot.seed is not None
    assert all(p.grad is not None and p.grad.count_nonzero() for p in slot.seed.parameters())


@pytest.mark.parametrize("incubation", ["shadow", "residual", "straight_through"])
def test_host_stays_bit_equal_over_several_optimiser_steps(incubation: str) -> None:
    models = [make_model(incubation=incubation) for _ in range(2)]
    slot = grow(models[1], "block2", SeedStage.TRAINING)
    for model in models:
        host = torch.optim.SGD(model.host.parameters(), lr=0.1, momentum=0.9)
        seeds = torch.optim.SGD(model.slots.parameters(), lr=0.1) if model is models[1] else None
        for _ in range(3):
            host.zero_grad()
            _train_step(model)
            host.step()
            if seeds is not None:
                seeds.step()
                seeds.zero_grad()
            model.forget_records()
    assert slot.features is None
    first, second = (model.host.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stage", [SeedStage.GERMINATED, SeedStage.TRAINING])
def test_isolated_seed_leaves_a_normal_pass_bit_equal(stage: SeedStage) -> None:
    model, bare = make_model(), make_model()
    grow(model, "block1", stage)
    assert torch.equal(model(INPUTS), bare(INPUTS))


@pytest.mark.battery("T30")
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("incubation", ["shadow", "residual", "straight_through"])
def test_sick_seed_in_training_leaves_output_bit_equal(incubation: str, poison: float) -> None:
    model, bare = make_model(incubation=incubation), make_model(incubation=incubation)
    slot = grow(model, "block2", SeedStage.TRAINING)
    assert slot.seed is not None
    with torch.no_grad():
        for parameter in slot.seed.parameters():
            parameter.fill_(poison)
    for plan in (NORMAL_PLAN, ForwardPlan(is_recording=True)):
        with model.planned(plan), bare.planned(plan):
            assert torch.equal(model(INPUTS), bare(INPUTS))


@pytest.mark.battery("T30")
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_sick_blending_seed_at_alpha_zero_leaves_output_bit_equal(poison: float) -> None:
    model, bare = make_model(), make_model()
    slot = grow(model, "block2", SeedStage.BLENDING)
    slot.set_alpha(0.0)
    assert slot.seed is not None
    with torch.no_grad():
        for parameter in slot.seed.parameters():
            parameter.fill_(poison)
    assert torch.equal(model(INPUTS), bare(INPUTS))


@pytest.mark.battery("T30")
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_override_zero_skips_a_sick_seed(poison: float) -> None:
    model, bare = make_model().eval(), make_model().eval()
    slot = grow(model, "block2", SeedStage.PROBATIONARY)
    assert slot.seed is not None
    with torch.no_grad():
        for parameter in slot.seed.parameters():
            parameter.fill_(poison)
    with model.planned(ForwardPlan(overrides={"block2": 0.0})):
        assert torch.equal(model(INPUTS), bare(INPUTS))


def test_live_alpha_does_change_output_and_host_gradient() -> None:
    model, bare = make_model(), make_model()
    grow(model, "block2", SeedStage.BLENDING)
    changed, plain = _train_step(model), _train_step(bare)
    assert not torch.equal(changed["logits"], plain["logits"])
    name = "grad block1.0.weight"
    assert not torch.equal(changed[name], plain[name])


@pytest.mark.battery("T30")
@pytest.mark.parametrize("poison", [0.0, math.nan, math.inf])
def test_straight_through_keeps_value_and_hands_on_the_gradient(poison: float) -> None:
    h, residual = draw(2, 3).requires_grad_(), torch.full((2, 3), poison, requires_grad=True)
    out = pass_straight_through(h, residual)
    assert torch.equal(out, h)
    out.backward(draw(2, 3, seed=2))  # type: ignore[no-untyped-call]
    for tensor in (h, residual):
        assert tensor.grad is not None
        assert torch.equal(tensor.grad, draw(2, 3, seed=2))


def test_culled_seed_is_gone_from_the_pass() -> None:
    model, bare = make_model(), make_model()
    slot = grow(model, "block3", SeedStage.PROBATIONARY)
    stir(slot)
    model.cull_live(make_clock(2), "test")
    assert torch.equal(model(INPUTS), bare(INPUTS))


def test_a_lesson_in_the_backward_pass_is_the_residual_objectives_own_gradient() -> None:
    """The oracle is the objective computed apart, from the recorded feature and the host's gradient."""
    tail = nn.Linear(4, 3)
    features = draw(6, 4, seed=1).requires_grad_()
    seed = nn.Linear(4, 4)
    weight = torch.tensor(7.0)
    out = tail(teach_residual(features, seed(features.detach()), weight, 0.5)).square().sum()
    out.backward()  # type: ignore[no-untyped-call]
    taught = [parameter.grad.clone() for parameter in seed.parameters() if parameter.grad is not None]

    twin = features.detach().clone().requires_grad_()
    tail(twin).square().sum().backward()
    assert twin.grad is not None
    assert features.grad is not None
    assert torch.equal(features.grad, twin.grad)
    target = compute_residual_target(features.detach(), twin.grad, 0.5)
    loss = 7.0 * (seed(features.detach()) - target).square().mean()
    expected = torch.autograd.grad(loss, list(seed.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(taught, expected, strict=True))


def test_a_lesson_bears_what_follows_in_place_and_scales_with_its_weight() -> None:
    grads = []
    for weight in (1.0, 8.0):
        seed, h = nn.Linear(4, 4), draw(6, 4, seed=2)
        nn.init.constant_(seed.weight, 0.1)
        nn.init.zeros_(seed.bias)
        out = teach_residual(h.requires_grad_() * 1.0, seed(h.detach()), torch.tensor(weight), 0.5)
        torch.relu_(out).sum().backward()  # type: ignore[no-untyped-call]
        assert seed.weight.grad is not None
        grads.append(seed.weight.grad)
    assert torch.allclose(grads[1], 8.0 * grads[0])
