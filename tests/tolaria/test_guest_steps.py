"""Gradients are looked at when they are there: before a step, or inside one that computes them."""

from __future__ import annotations

import pytest
import torch

from esper.tolaria.guest_steps import before_step


def make_optimizer() -> tuple[torch.Tensor, torch.optim.Optimizer]:
    weight = torch.ones(1, requires_grad=True)
    return weight, torch.optim.SGD([weight], lr=0.5)


def test_without_a_closure_they_are_looked_at_before_the_step() -> None:
    weight, optimizer = make_optimizer()
    seen: list[object] = []
    assert before_step(lambda: seen.append(weight.grad), optimizer, (optimizer,), {}) is None
    assert seen == [None]


@pytest.mark.parametrize("by_name", [False, True])
def test_with_a_closure_they_are_looked_at_once_it_has_run_and_its_loss_comes_back(by_name: bool) -> None:
    weight, optimizer = make_optimizer()
    seen: list[object] = []

    def closure() -> float:
        loss = (3.0 * weight).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def hook(chosen: torch.optim.Optimizer, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return before_step(lambda: seen.append(weight.grad), chosen, args, kwargs)

    optimizer.register_step_pre_hook(hook)  # type: ignore[arg-type]
    loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    assert (loss, seen, float(weight.detach())) == (3.0, [torch.tensor([3.0])], -0.5)
