"""Optimisers and schedulers as a user builds them, and a host and seeds that they train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from esper.tolaria.guest_optimizer import GuestOptimizer

from .optimizer_toys import build_host, build_seed, compute_loss, named

WARMUP = 6
SLOTS = ("s1", "s2", "s3")

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = MappingProxyType(
    {
        "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05),
        "sgd-momentum": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
        "sgd-fused": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, fused=True),
        "sgd-foreach": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, foreach=True),
        "adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
        "adam-amsgrad": lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True),
        "adam-fused": lambda groups: torch.optim.Adam(groups, lr=0.01, fused=True),
        "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
        "adamw-foreach": lambda groups: torch.optim.AdamW(groups, lr=0.01, foreach=True),
        "adamw-tensor-lr": lambda groups: torch.optim.AdamW(
            groups, lr=torch.tensor(0.01), foreach=False, capturable=False
        ),
        "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.5),
        "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.01),
        "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.01),
        "radam": lambda groups: torch.optim.RAdam(groups, lr=0.01),
        "adamax": lambda groups: torch.optim.Adamax(groups, lr=0.01),
        "adadelta": lambda groups: torch.optim.Adadelta(groups, lr=0.5),
        "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.01),
    }
)

SchedulerBuilder = Callable[[torch.optim.Optimizer], LRScheduler]


def _halve(step: int) -> float:
    return 0.5**step


def _shrink(step: int) -> float:
    return 0.9 if step % 2 else 0.99


def _each(optimizer: torch.optim.Optimizer, first: float, rest: float) -> list[float]:
    """One value per group, the first group's its own."""
    return [first, *[rest] * (len(optimizer.param_groups) - 1)]


def _build_sequence(o: torch.optim.Optimizer) -> LRScheduler:
    parts = [
        schedules.LinearLR(o, 0.2, total_iters=3),
        schedules.CosineAnnealingLR(o, 6),
        schedules.LambdaLR(o, _halve),
    ]
    return schedules.SequentialLR(o, parts, milestones=[3, 8])


SCHEDULERS: Mapping[str, SchedulerBuilder] = MappingProxyType(
    {
        "LambdaLR": lambda o: schedules.LambdaLR(o, _halve),
        "LambdaLR-each": lambda o: schedules.LambdaLR(o, [_halve, *[_shrink] * (len(o.param_groups) - 1)]),
        "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, _shrink),
        "StepLR": lambda o: schedules.StepLR(o, 3, gamma=0.3),
        "MultiStepLR": lambda o: schedules.MultiStepLR(o, [2, 5, 5], gamma=0.3),
        "ConstantLR": lambda o: schedules.ConstantLR(o, 0.25, total_iters=4),
        "LinearLR": lambda o: schedules.LinearLR(o, 0.1, 0.7, total_iters=7),
        "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
        "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 5, eta_min=1e-4),
        "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3, T_mult=2),
        "PolynomialLR": lambda o: schedules.PolynomialLR(o, 9, power=2.0),
        "CyclicLR": lambda o: schedules.CyclicLR(
            o, 0.01, 0.1, step_size_up=3, cycle_momentum=_has_momentum(o)
        ),
        "CyclicLR-each": lambda o: schedules.CyclicLR(
            o,
            _each(o, 0.01, 0.02),
            _each(o, 0.1, 0.3),
            step_size_up=2,
            mode="exp_range",
            gamma=0.9,
            cycle_momentum=_has_momentum(o),
        ),
        "OneCycleLR": lambda o: schedules.OneCycleLR(
            o, 0.3, total_steps=100, pct_start=0.05, cycle_momentum=_has_momentum(o)
        ),
        "OneCycleLR-each": lambda o: schedules.OneCycleLR(
            o, _each(o, 0.3, 0.1), total_steps=100, three_phase=True, cycle_momentum=_has_momentum(o)
        ),
        "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, patience=0, factor=0.5),
        "ReduceLROnPlateau-each": lambda o: schedules.ReduceLROnPlateau(
            o, patience=0, factor=0.3, min_lr=_each(o, 1e-2, 1e-3)
        ),
        "SequentialLR": _build_sequence,
        "ChainedScheduler": lambda o: schedules.ChainedScheduler(
            [schedules.LinearLR(o, 0.2, total_iters=4), schedules.ExponentialLR(o, 0.9)]
        ),
        "ChainedScheduler-nested": lambda o: schedules.ChainedScheduler(
            [_build_sequence(o), schedules.MultiplicativeLR(o, _shrink)]
        ),
        "SWALR": lambda o: SWALR(o, 0.003, anneal_epochs=4),
    }
)


def _has_momentum(optimizer: torch.optim.Optimizer) -> bool:
    return bool({"betas", "momentum"} & optimizer.defaults.keys())


def step_schedule(scheduler: LRScheduler) -> None:
    """One step as a user's loop makes it; a plateau scheduler sees a metric that never improves."""
    if isinstance(scheduler, schedules.ReduceLROnPlateau):
        scheduler.step(1.0)
    else:
        scheduler.step()


class Loop:
    """A user's loop around a host of two parameter groups, with seeds that come and go."""

    def __init__(
        self, optimizer: str = "adamw", scheduler: str | None = None, *, is_named: bool = True
    ) -> None:
        self.host = build_host()
        pairs = list(named(self.host, "host").items())
        halves = [pairs[:2], pairs[2:]]
        rates: list[dict[str, object]] = [{}, {"lr": 0.02}]
        if optimizer.endswith("tensor-lr"):
            rates[1] = {"lr": torch.tensor(0.02)}
        groups = [
            {"params": half if is_named else [p for _, p in half]} | rate
            for half, rate in zip(halves, rates, strict=True)
        ]
        self.optimizer = OPTIMIZERS[optimizer](groups)
        self.schedulers = [] if scheduler is None else [SCHEDULERS[scheduler](self.optimizer)]
        self.guest = GuestOptimizer(
            self.optimizer,
            self.schedulers,
            newborn_warmup_batches=WARMUP,
            host_parameters=named(self.host, "host"),
        )
        self.seeds: dict[str, nn.Linear] = {}
        self.births: dict[str, int] = {}

    def germinate(self, slot: str, generator_seed: int = 1, **where: nn.Parameter | None) -> nn.Linear:
        """A seed of two parameters whose reference is the host's second group unless said otherwise."""
        seed = build_seed(generator_seed)
        reference = where.get("reference", list(self.host.parameters())[2])
        self.guest.add_seed(slot, named(seed, slot), reference=reference)
        self.seeds[slot] = seed
        self.births[slot] = self.guest.num_steps
        return seed

    def cull(self, slot: str) -> None:
        """Take a seed out."""
        self.guest.remove_seed(slot)
        del self.seeds[slot], self.births[slot]

    def train(self, batch: int) -> None:
        """Forward, backward, step, schedule."""
        self.optimizer.zero_grad()
        compute_loss(self.host, dict(self.seeds), batch).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for scheduler in self.schedulers:
            step_schedule(scheduler)

    def rates(self) -> list[float]:
        """Of every group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def host_settings(self) -> list[dict[str, object]]:
        """Everything that a scheduler may write into the host's two groups."""
        return [
            {key: value for key, value in group.items() if key not in ("params", "param_names")}
            for group in self.optimizer.param_groups[:2]
        ]
