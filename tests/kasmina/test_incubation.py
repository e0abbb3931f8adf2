from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import (
    Incubation,
    apply_seed_gradient,
    compute_residual_target,
    norms_with_statistics,
    untouched_rng,
    untouched_statistics,
)
from kasmina.growing import draw


def _no_tail(features: Tensor) -> Tensor:
    raise AssertionError(f"the tail was run on {features.shape}")


def test_shadow_is_the_loss_with_the_seed_at_full_alpha() -> None:
    seed, h = nn.Linear(4, 4), draw(3, 4)
    loss = Incubation("shadow").compute_loss(seed, h, None, lambda x: x.square().mean())
    assert torch.equal(loss, (h + seed(h)).square().mean())


def test_residual_regresses_on_its_target() -> None:
    seed, h, gradient = nn.Linear(4, 4), draw(3, 4), draw(3, 4, seed=2)
    loss = Incubation("residual", residual_scale=0.5, residual_weight=3.0).compute_loss(
        seed, h, gradient, _no_tail
    )
    target = compute_residual_target(h, gradient, 0.5)
    assert torch.equal(loss, 3.0 * (seed(h) - target).square().mean())


def test_target_points_against_the_gradient_with_the_size_of_the_features() -> None:
    h, gradient = draw(50, 4), 1e-3 * draw(50, 4, seed=2)
    target = compute_residual_target(h, gradient, 0.5)
    assert float((target * gradient).sum()) < 0
    assert float(target.square().mean().sqrt()) == pytest.approx(0.5 * float(h.std()), rel=1e-5)
    assert not compute_residual_target(h, torch.zeros_like(h), 0.5).count_nonzero()


@pytest.mark.parametrize("name", ["residual", "straight_through"])
def test_objective_without_a_loss_here_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=name):
        Incubation(name).compute_loss(nn.Linear(4, 4), draw(3, 4), None, _no_tail)


@pytest.mark.parametrize("name", ["shadow", "residual", "straight_through"])
def test_each_objective_needs_one_thing(name: str) -> None:
    incubation = Incubation(name)
    needs = (incubation.needs_tail, incubation.needs_host_gradient, incubation.is_in_graph)
    assert needs == (name == "shadow", name == "residual", name == "straight_through")


def test_seed_gradient_reaches_the_seed_alone_and_adds_up() -> None:
    seed, tail, unused = nn.Linear(4, 4), nn.Linear(4, 1), nn.Parameter(torch.ones(1))
    for _ in range(2):
        apply_seed_gradient(tail(seed(draw(3, 4))).sum(), [*seed.parameters(), unused])
    assert all(parameter.grad is None for parameter in (*tail.parameters(), unused))
    once = torch.autograd.grad(tail(seed(draw(3, 4))).sum(), [seed.bias])[0]
    assert seed.bias.grad is not None
    assert torch.equal(seed.bias.grad, once + once)


@pytest.mark.parametrize("is_training", [True, False])
def test_statistics_stay_and_outputs_are_those_of_the_mode(is_training: bool) -> None:
    net = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.BatchNorm2d(3, track_running_stats=False),
    ).train(is_training)
    norms = norms_with_statistics(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with untouched_statistics(norms):
        quiet = net(draw(4, 3, 2, 2))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(quiet, net(draw(4, 3, 2, 2)))
    assert len(norms) == 2
    assert all(norm.track_running_stats for norm in norms)


def test_statistics_tracking_comes_back_after_an_error() -> None:
    norm = nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError, match="stop"), untouched_statistics([norm]):
        raise RuntimeError("stop")
    assert norm.track_running_stats


def test_random_stream_is_put_back() -> None:
    before = torch.get_rng_state()
    with untouched_rng(torch.device("cpu")):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_without_parameters_has_nothing_to_learn_and_harms_no_training() -> None:
    host = nn.Linear(4, 4)
    apply_seed_gradient(host(draw(3, 4)).sum(), list(nn.Identity().parameters()))
    assert host.weight.grad is None
