"""Schedulers of a user's optimiser over births and deaths: the host's rates never notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.lr_scheduler import LRScheduler

from esper.leyline import ConfigError
from esper.tolaria.guest_optimizer import GuestOptimizer
from esper.tolaria.schedules import compute_newborn_factor

from .guest_toys import SCHEDULERS, SLOTS, WARMUP, Loop, step_schedule

each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)
topologies = st.lists(st.sampled_from(["step", "step", *SLOTS]), min_size=1, max_size=24)


def _play(loop: Loop, twin: Loop, events: list[str]) -> Iterator[str]:
    """Change the topology of one of two loops and step both; a slot's name is its birth, then its death."""
    for event in events:
        if event in loop.seeds:
            loop.cull(event)
        elif event != "step":
            loop.germinate(event, reference=list(loop.host.parameters())[2 * (event == "s2")])
        else:
            for each in (loop, twin):
                each.optimizer.step()
            yield event
            for each in (loop, twin):
                for scheduler in each.schedulers:
                    step_schedule(scheduler)
        assert loop.host_settings() == twin.host_settings()


@each_scheduler
@settings(max_examples=15, deadline=None)
@given(events=topologies, optimizer=st.sampled_from(["sgd-momentum", "adamw", "adamw-tensor-lr"]))
def test_the_host_is_scheduled_as_without_growth(name: str, optimizer: str, events: list[str]) -> None:
    loop, twin = Loop(optimizer, name), Loop(optimizer, name)
    for num_steps, _ in enumerate(_play(loop, twin, events)):
        groups = {str(group.get("name")): group for group in loop.optimizer.param_groups}
        for slot, birth in loop.births.items():
            reference = loop.optimizer.param_groups[1 if slot == "s2" else 0]
            expected = float(reference["lr"]) * compute_newborn_factor(num_steps - birth, WARMUP)
            for suffix in ("decay", "no_decay"):
                group = groups[f"seed:{slot}/{suffix}"]
                assert float(group["lr"]) == pytest.approx(expected, rel=1e-6)
                assert group.get("betas") == reference.get("betas")
                assert group.get("momentum") == reference.get("momentum")
    for scheduler, other in zip(loop.schedulers, twin.schedulers, strict=True):
        assert scheduler.get_last_lr()[:2] == other.get_last_lr()
        assert len(scheduler.get_last_lr()) == len(loop.optimizer.param_groups)


@each_scheduler
@settings(max_examples=8, deadline=None)
@given(before=topologies, after=topologies)
def test_a_scheduler_that_is_built_after_growth_works_as_well(
    name: str, before: list[str], after: list[str]
) -> None:
    loop, twin = Loop(), Loop()
    for _ in _play(loop, twin, before):
        pass
    for each in (loop, twin):
        each.schedulers.append(SCHEDULERS[name](each.optimizer))
        each.guest.follow(each.schedulers[0])
    if "each" not in name:
        assert loop.host_settings() == twin.host_settings()
    for _ in _play(loop, twin, after):
        pass


def test_each_torch_scheduler_is_in_the_table() -> None:
    shipped = {
        kind.__name__
        for kind in vars(schedules).values()
        if isinstance(kind, type) and issubclass(kind, LRScheduler)
    } - {"LRScheduler", "_LRScheduler"}
    assert shipped <= {name.split("-")[0] for name in SCHEDULERS}


def test_a_birth_without_the_scheduler_is_refused_and_says_what_to_pass() -> None:
    loop = Loop()
    schedules.LambdaLR(loop.optimizer, lambda step: 0.5**step)
    with pytest.raises(ConfigError, match=r"none was given: pass schedulers=\[scheduler\]"):
        loop.germinate("s1")
    assert len(loop.optimizer.param_groups) == 2


def test_a_scheduler_of_another_optimizer_is_refused() -> None:
    loop, other = Loop(), Loop()
    with pytest.raises(ConfigError, match="StepLR drives another optimiser"):
        loop.guest.follow(schedules.StepLR(other.optimizer, 3))


def test_a_scheduler_on_a_wrapper_of_the_optimizer_is_followed() -> None:
    class Wrapper(torch.optim.Optimizer):
        """As trainers have: hands on to the optimiser inside."""

        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner, self.defaults = inner, inner.defaults

        @property
        def param_groups(self) -> list[dict[str, object]]:  # type: ignore[override]
            return self.inner.param_groups

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            self.inner.step()

    loop = Loop()
    scheduler = schedules.LambdaLR(Wrapper(loop.optimizer), lambda step: 0.5**step)
    loop.guest.follow(scheduler)
    loop.germinate("s1")
    scheduler.optimizer.step()
    scheduler.step()
    assert len(scheduler.base_lrs) == len(loop.optimizer.param_groups) > 2
    assert loop.optimizer.param_groups[0]["lr"] == 0.5 * scheduler.base_lrs[0]


def test_what_is_no_scheduler_is_refused_by_its_class() -> None:
    with pytest.raises(ConfigError, match=r"dict is no torch\.optim\.lr_scheduler\.LRScheduler"):
        Loop().guest.follow({})  # type: ignore[arg-type]


def test_a_scheduler_that_missed_a_group_is_named() -> None:
    loop = Loop(scheduler="CosineAnnealingLR")
    loop.optimizer.add_param_group({"params": [("own", nn.Parameter(torch.zeros(2)))]})
    with pytest.raises(ConfigError, match=r"CosineAnnealingLR\._?\w+ holds 2 values for 3 parameter groups"):
        loop.germinate("s1")


def test_an_inner_scheduler_is_extended_once_however_often_it_is_handed_over() -> None:
    loop, twin = Loop(), Loop(scheduler="SequentialLR")
    inner = schedules.LinearLR(loop.optimizer, 0.2, total_iters=3)
    rest = [schedules.CosineAnnealingLR(loop.optimizer, 6), SCHEDULERS["LambdaLR"](loop.optimizer)]
    outer = schedules.SequentialLR(loop.optimizer, [inner, *rest], milestones=[3, 8])
    for scheduler in (inner, outer, outer, inner):
        loop.guest.follow(scheduler)
    loop.schedulers.append(outer)
    assert len(loop.guest.state()[1]["schedulers"]) == 1  # type: ignore[arg-type]
    for _ in _play(loop, twin, ["s1", *["step"] * 10, "s1", "step"]):
        pass


# ---------------------------------------------------------------------- schedulers of users


class WarmList(LRScheduler):
    """Keeps a list of its own with one value per group, and a list that only happens to be as long."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.warm_lrs = [0.1 * group["lr"] for group in optimizer.param_groups]
        self.milestones = [2, 4]
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        share = sum(self.last_epoch >= milestone for milestone in self.milestones) / len(self.milestones)
        pairs = zip(self.warm_lrs, self.base_lrs, strict=True)
        return [warm + share * (float(base) - warm) for warm, base in pairs]


class ByIndex(WarmList):
    """Looks its own values up by the group's index."""

    def get_lr(self) -> list[float | torch.Tensor]:
        return [self.warm_lrs[index] for index, _ in enumerate(self.optimizer.param_groups)]


class FixedPair(LRScheduler):
    """Can never serve more than two groups."""

    def get_lr(self) -> list[float | torch.Tensor]:
        first, second = self.optimizer.param_groups
        return [first["lr"] * 0.9, second["lr"] * 0.8]


class MeanOfAll(LRScheduler):
    """Sets every rate to a share of the mean over all groups: another group moves the host."""

    def get_lr(self) -> list[float | torch.Tensor]:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return [0.9 * sum(rates) / len(rates) for _ in rates]


class NeedsLoss(WarmList):
    """Its step takes an argument that nobody here can guess."""

    def step(  # type: ignore[override]
        self, loss: float | None = None, epoch: int | None = None
    ) -> None:
        if self.last_epoch >= 0 and loss is None:
            raise TypeError("step() needs a loss")
        super().step()


@pytest.mark.parametrize("kind", [WarmList, ByIndex])
def test_lists_of_a_users_class_are_found_on_a_copy(kind: type[WarmList]) -> None:
    loop, twin = Loop(), Loop()
    for each in (loop, twin):
        each.schedulers.append(kind(each.optimizer))
        each.guest.follow(each.schedulers[0])
    for _ in _play(loop, twin, ["step", "s1", "step", "s2", "step", "step", "s1", "step", "step"]):
        pass
    scheduler = loop.schedulers[0]
    assert isinstance(scheduler, WarmList)
    assert scheduler.milestones == [2, 4]
    assert len(scheduler.warm_lrs) == 4


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(FixedPair, "too many values to unpack"), (MeanOfAll, "the host's rates would change")],
)
def test_a_users_class_that_would_break_is_named_before_any_growth(
    kind: type[LRScheduler], reason: str
) -> None:
    loop = Loop()
    scheduler = kind(loop.optimizer)
    before = [dict(group, params=None, param_names=None) for group in loop.optimizer.param_groups]
    with pytest.raises(ConfigError, match=rf"{kind.__name__} does not go on with one more .*{reason}"):
        loop.guest.follow(scheduler)
    assert [dict(g, params=None, param_names=None) for g in loop.optimizer.param_groups] == before
    assert scheduler.last_epoch == 0


def test_a_users_class_that_cannot_be_tried_takes_the_names_of_its_lists() -> None:
    loop = Loop()
    scheduler = NeedsLoss(loop.optimizer)
    with pytest.raises(ConfigError, match=r"could not be tried .*per_group=\('warm_lrs',\)"):
        loop.guest.follow(scheduler)
    with pytest.raises(ConfigError, match="has no attribute 'warm_lr'"):
        loop.guest.follow(scheduler, per_group=("warm_lr",))
    loop.guest.follow(scheduler, per_group=("warm_lrs",))
    loop.germinate("s1")
    loop.optimizer.step()
    scheduler.step(loss=1.0)
    assert len(scheduler.warm_lrs) == len(loop.optimizer.param_groups) == 4


def test_trying_a_users_class_leaves_optimizer_and_scheduler_alone() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)

    class Halving(schedules.StepLR):
        pass

    scheduler = Halving(optimizer, 1, gamma=0.5)
    before = dict(scheduler.state_dict())
    GuestOptimizer(optimizer, [scheduler])
    assert dict(scheduler.state_dict()) == before
    assert optimizer.param_groups[0]["lr"] == 0.1
