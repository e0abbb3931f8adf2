"""`esper.Controller` in loops of one's own; how it works inside: tests/tolaria/test_loop_controller.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper.leyline import CheckpointError, ConfigError, EsperError, MetricSpec
from esper.runtime.controller import Controller
from esper.runtime.growable import Growable
from esper.tolaria import LoopConfig, LoopLoss
from runtime.own_models import grow_net, item_losses, train_batches
from tolaria.loop_toys import TRAIN, Script, advance, fossilize, germinate

LIFE = [germinate(), None, None, advance(), None, None, fossilize()]


def _train(
    grown: Growable,
    optimizer: torch.optim.Optimizer,
    controller: Controller,
    epochs: int,
    loss_fn: LoopLoss | None = None,
) -> list[str]:
    told = []
    ask = F.cross_entropy if loss_fn is None else controller.loss
    for _ in range(epochs):
        told += [str(event) for event in controller.act()]
        grown.train()
        for x, y in train_batches():
            loss = ask(grown(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            controller.step(loss.detach())
        told += [str(event) for event in controller.observe(evaluate=item_losses)]
    return told


def test_the_loop_of_the_readme_grows_and_tells_it_in_sentences() -> None:
    grown = grow_net(policy=Script(LIFE))
    optimizer = torch.optim.AdamW(grown.named_parameters(), lr=3e-3)
    controller = Controller(grown, optimizer, epochs=8)
    told = _train(grown, optimizer, controller, 5)
    assert "body: seed body#1 (mlp_small) GERMINATED: +280 params, 512 FLOPs per item" in told
    assert any("TRAINING -> BLENDING" in line for line in told)
    assert (controller.epoch, controller.steps) == (5, 20)


@pytest.mark.parametrize("loss_fn", [None, F.cross_entropy])
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_a_saved_loop_goes_on_bit_for_bit(tmp_path: Path, cut: int, loss_fn: LoopLoss | None) -> None:
    def make(
        seed: int,
    ) -> tuple[Growable, torch.optim.Optimizer, Controller, torch.optim.lr_scheduler.LRScheduler]:
        grown = grow_net(policy=Script(LIFE), norm=True, seed=seed)
        optimizer = torch.optim.AdamW(grown.named_parameters(), lr=3e-3)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=40)
        return grown, optimizer, Controller(grown, optimizer, scheduler, loss_fn=loss_fn), scheduler

    def run(
        parts: tuple[Growable, torch.optim.Optimizer, Controller, torch.optim.lr_scheduler.LRScheduler],
        n: int,
    ) -> None:
        grown, optimizer, controller, scheduler = parts
        for _ in range(n):
            _train(grown, optimizer, controller, 1, loss_fn)
            scheduler.step()

    whole = make(0)
    run(whole, cut)
    whole[2].save(tmp_path / "saved")
    run(whole, 8 - cut)
    resumed = make(3)
    resumed[2].load(tmp_path / "saved")
    run(resumed, 8 - cut)
    expected = whole[0].model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed[0].model.state_dict().items())
    assert [g["lr"] for g in resumed[1].param_groups] == [g["lr"] for g in whole[1].param_groups]


def test_a_save_of_another_model_or_none_at_all_is_refused(tmp_path: Path) -> None:
    grown = grow_net(norm=True)
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    controller = Controller(grown, optimizer)
    _train(grown, optimizer, controller, 1)
    controller.save(tmp_path)
    other = grow_net()
    with pytest.raises(CheckpointError, match=r"host\.body\.1"):
        Controller(other, torch.optim.SGD(other.parameters(), lr=0.1)).load(tmp_path)
    controller.close()
    with pytest.raises(CheckpointError):
        Controller(grown, torch.optim.SGD(grown.parameters(), lr=0.1)).load(tmp_path / "none")


def test_a_model_has_one_controller_at_a_time() -> None:
    grown = grow_net()
    first = Controller(grown, torch.optim.SGD(grown.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="has a controller already: close"):
        Controller(grown, torch.optim.SGD(grown.parameters(), lr=0.1))
    first.close()
    Controller(grown, torch.optim.SGD(grown.parameters(), lr=0.1))


def test_an_optimiser_that_cannot_take_groups_is_refused_by_name() -> None:
    grown = grow_net()
    with pytest.raises(ConfigError, match="LBFGS"):
        Controller(grown, torch.optim.LBFGS(grown.parameters()))
    assert grown.controller is None


def test_under_a_loss_scaler_a_seeds_overflow_skips_the_seed_alone() -> None:
    grown = grow_net(policy=Script([germinate()]))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    controller = Controller(grown, optimizer, scaler=scaler)
    controller.act()
    x, y = TRAIN[0][:32], TRAIN[1][:32]
    scaler.scale(F.cross_entropy(grown(x), y)).backward()  # type: ignore[no-untyped-call]
    seed = list(grown["body"].parameters())
    assert seed[0].grad is not None
    seed[0].grad[0] = float("inf")
    before = [p.detach().clone() for p in seed]
    head = grown.host.get_parameter("head.weight").detach().clone()
    controller.unscale()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(now, then) for now, then in zip(seed, before, strict=True))
    assert not torch.equal(grown.host.get_parameter("head.weight"), head)
    assert scaler.get_scale() == 1024.0


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_what_a_seed_learns_does_not_depend_on_the_loss_scale(scale: float) -> None:
    def learn(factor: float | None) -> list[torch.Tensor]:
        grown = grow_net(policy=Script([germinate()]))
        optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
        scaler = None if factor is None else torch.amp.GradScaler("cpu", init_scale=factor)
        controller = Controller(grown, optimizer, scaler=scaler)
        controller.act()
        for x, y in train_batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(grown(x), y)
            if scaler is None:
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            else:
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                scaler.step(optimizer)
                scaler.update()
        return [p.detach().clone() for p in grown["body"].parameters()]

    plain, scaled = learn(None), learn(scale)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(plain, scaled, strict=True))


def test_unscale_without_a_scaler_says_what_to_pass() -> None:
    grown = grow_net()
    with pytest.raises(ConfigError, match=r"pass scaler= to esper\.Controller"):
        Controller(grown, torch.optim.SGD(grown.parameters(), lr=0.1)).unscale()


def test_bf16_autocast_trains_host_and_seed() -> None:
    grown = grow_net(policy=Script(LIFE))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    controller = Controller(grown, optimizer)
    for _ in range(5):
        controller.act()
        for x, y in train_batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(grown(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        controller.observe(evaluate=item_losses)
    assert all(p.dtype is torch.float32 and bool(p.isfinite().all()) for p in grown.parameters())
    assert all(float(p.detach().abs().max()) > 0 for p in grown["body"].parameters())


def test_a_scheduler_that_is_made_later_is_followed() -> None:
    grown = grow_net(policy=Script([germinate()]))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    controller = Controller(grown, optimizer)
    controller.act()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    controller.follow(scheduler)
    nn.functional.cross_entropy(grown(TRAIN[0]), TRAIN[1]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("by_name", [False, True])
def test_a_loop_whose_step_computes_the_gradients_itself_shows_and_guards_the_same(by_name: bool) -> None:
    def learn(is_closure: bool) -> tuple[list[torch.Tensor], object]:
        grown = grow_net(policy=Script([germinate()]))
        optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
        controller = Controller(grown, optimizer)
        controller.act()
        for place, (x, y) in enumerate(train_batches()):

            def compute(x: torch.Tensor = x, y: torch.Tensor = y, place: int = place) -> float:
                optimizer.zero_grad()
                loss = F.cross_entropy(grown(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                if place == 1:
                    gradient = next(iter(grown["body"].parameters())).grad
                    assert gradient is not None
                    gradient.fill_(float("nan"))
                return float(loss.detach())

            if not is_closure:
                compute()
                optimizer.step()
            elif by_name:
                optimizer.step(closure=compute)
            else:
                assert optimizer.step(compute) == pytest.approx(1.1, abs=1.0)
        return [p.detach().clone() for p in grown.parameters()], dict(controller.gradients())

    plain, closed = learn(False), learn(True)
    assert all(torch.equal(a, b) for a, b in zip(plain[0], closed[0], strict=True))
    assert plain[1] == closed[1]


def test_a_policy_that_waits_says_why() -> None:
    grown = grow_net(policy="heuristic")
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    controller = Controller(grown, optimizer)
    assert controller.reason == ""
    assert controller.act() == []
    assert controller.reason.startswith("wait: the host is not stable yet")


def test_a_configuration_beside_its_own_parts_is_refused() -> None:
    grown = grow_net()
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    config = LoopConfig(metric=MetricSpec(name="loss", is_higher_better=False, scale=0.1))
    with pytest.raises(ConfigError, match="was given config= and metric"):
        Controller(grown, optimizer, metric="accuracy", config=config)


def test_a_controller_that_cannot_be_made_leaves_no_hook_behind() -> None:
    grown = grow_net()
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    config = LoopConfig(
        metric=MetricSpec(name="loss", is_higher_better=False, scale=0.1), blueprints=("mlpp",)
    )
    for wrong in ({"config": config}, {"policy": "heurstic"}):
        with pytest.raises(EsperError):
            Controller(grown, optimizer, **wrong)
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
    assert grown.controller is None


def test_with_a_loss_function_a_seed_learns_in_a_pass_of_its_own_that_is_billed() -> None:
    weights, bills = [], []
    for loss_fn in (None, F.cross_entropy):
        grown = grow_net(policy=Script([germinate()]))
        optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
        controller = Controller(grown, optimizer, loss_fn=loss_fn)
        _train(grown, optimizer, controller, 3, loss_fn)
        weights.append([p.detach().clone() for p in grown["body"].parameters()])
        bills.append(dict(controller.flops))
    assert any(not torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert bills[0].get("incubation", 0) == 0 < bills[1]["incubation"]


def test_the_next_controller_of_a_model_may_teach_otherwise() -> None:
    grown = grow_net(policy=Script([germinate()]))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    first = Controller(grown, optimizer, loss_fn=F.cross_entropy)
    _train(grown, optimizer, first, 1, F.cross_entropy)
    first.close()
    before = [p.detach().clone() for p in grown["body"].parameters()]
    second = Controller(grown, optimizer, policy="never")
    _train(grown, optimizer, second, 2)
    assert any(not torch.equal(a, b) for a, b in zip(before, grown["body"].parameters(), strict=True))
    with pytest.raises(ConfigError, match=r"loss\(\) without a loss function: pass loss_fn="):
        second.loss(torch.zeros(1))


def test_a_loss_that_was_not_asked_for_is_noticed_at_the_end_of_the_interval() -> None:
    grown = grow_net(policy=Script([germinate()]))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    controller = Controller(grown, optimizer, loss_fn=F.cross_entropy)
    with pytest.raises(ConfigError, match=r"loss\(\) was not called in this interval"):
        _train(grown, optimizer, controller, 1)


def test_a_loss_function_and_a_configuration_must_agree() -> None:
    grown = grow_net()
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    config = LoopConfig(metric=MetricSpec(name="loss", is_higher_better=False, scale=0.1))
    shadow = replace(config, lifecycle=replace(config.lifecycle, incubation="shadow"))
    with pytest.raises(ConfigError, match="the config says 'residual': change one"):
        Controller(grown, optimizer, config=config, loss_fn=F.cross_entropy)
    with pytest.raises(ConfigError, match="needs loss_fn="):
        Controller(grown, optimizer, config=shadow)
    with pytest.raises(ConfigError, match="loss_fn is a str: expected a function"):
        Controller(grown, optimizer, loss_fn="mse")  # type: ignore[arg-type]
    assert not optimizer._optimizer_step_pre_hooks
    Controller(grown, optimizer, config=shadow, loss_fn=F.cross_entropy)
