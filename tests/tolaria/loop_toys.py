"""A loop that somebody else runs, small: a two-layer net on made-up classes, and a controller in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina import (
    GateConfig,
    LifecycleConfig,
    MorphogeneticModel,
    PointWishes,
    QualityGates,
    build_seeded,
    builtin_registry,
    find_growth_points,
)
from esper.leyline import (
    WAIT,
    Action,
    Decision,
    Event,
    LifecycleOp,
    MetricSpec,
    Observation,
)
from esper.tolaria import Budget, GuestOptimizer, LoopConfig, LoopController

BATCHES = 4
"""Batches in an interval."""


class Net(nn.Module):
    """[B, 6] to 3 logits, with a norm that keeps statistics if asked for; grows after `body`."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(6, 8)]
        layers += [nn.BatchNorm1d(8)] if norm else []
        self.body = nn.Sequential(*layers, nn.ReLU(inplace=True))
        self.neck = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.neck(self.body(x)))
        return out


def make_data(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs [N, 6] and classes [N] that a curved border separates."""
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, ((inputs[:, 0] * inputs[:, 1] > 0).long() + (inputs[:, 2] > 1).long()).clamp(max=2)


TRAIN, VALIDATION = make_data(32 * BATCHES), make_data(100, seed=1)


def grow_net(host: nn.Module | None = None, **wishes: object) -> MorphogeneticModel:
    """Return a host with slots at `body` and `neck`."""
    host = build_seeded(Net, 0) if host is None else host
    points = find_growth_points(host, TRAIN[0][:2], PointWishes(at=("body", "neck"), **wishes))  # type: ignore[arg-type]
    return MorphogeneticModel(
        host,
        TRAIN[0][:2],
        registry=builtin_registry(),
        gates=QualityGates(GateConfig(), keep_threshold=0.0),
        lifecycle=LifecycleConfig(incubation="residual"),
        points=[point.point for point in points],
    )


@dataclass
class Script:
    """A policy that asks for one action per decision, and then waits."""

    actions: Sequence[Action | None] = ()
    seen: list[Observation] = field(default_factory=list)

    count: int = 0

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        action = self.actions[self.count] if self.count < len(self.actions) else None
        self.count += 1
        return Decision(action=WAIT if action is None else action, reason="as written")

    def reset(self) -> None:
        self.count = 0

    def state(self) -> dict[str, object]:
        return {"count": self.count}

    def restore(self, state: dict[str, object]) -> None:
        self.count = int(str(state["count"]))


def germinate(slot: str = "body", blueprint: str = "mlp_small") -> Action:
    """Return the action that plants a seed whose blend takes one interval."""
    return Action(op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint, tempo_epochs=1)


def advance(slot: str = "body") -> Action:
    """Return the action that moves a seed on."""
    return Action(op=LifecycleOp.ADVANCE, slot=slot)


def fossilize(slot: str = "body") -> Action:
    """Return the action that keeps a seed."""
    return Action(op=LifecycleOp.FOSSILIZE, slot=slot)


def cull(slot: str = "body") -> Action:
    """Return the action that removes a seed at once."""
    return Action(op=LifecycleOp.CULL, slot=slot, tempo_epochs=1)


@dataclass
class Loop:
    """Somebody's training: model, optimiser, controller, and what happened."""

    model: MorphogeneticModel
    optimizer: torch.optim.Optimizer
    controller: LoopController
    events: list[Event] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def run(self, intervals: int, *, evaluate: bool = True, accumulation: int = 1) -> Loop:
        """Train a number of intervals in the order act, train, observe."""
        for _ in range(intervals):
            self.events += self.controller.act()
            self.model.train()
            for batch in range(BATCHES):
                rows = slice(batch * 32, batch * 32 + 32)
                self.optimizer.zero_grad()
                for part in range(accumulation):
                    x, y = TRAIN[0][rows][part::accumulation], TRAIN[1][rows][part::accumulation]
                    loss = F.cross_entropy(self.model(x), y) / accumulation
                    loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.controller.step(loss.detach())
                self.losses.append(float(loss.detach()))
            self.events += self.controller.observe(
                None if evaluate else self.item_losses().mean(),
                evaluate=self.item_losses if evaluate else None,
            )
        return self

    def item_losses(self) -> Tensor:
        """Return the validation loss of each item, [100]."""
        self.model.eval()
        with torch.no_grad():
            return F.cross_entropy(self.model(VALIDATION[0]), VALIDATION[1], reduction="none")


def make_loop(
    actions: Sequence[Action | None] = (),
    *,
    host: nn.Module | None = None,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    budget: Budget | None = None,
    gates: GateConfig | None = None,
    **settings: object,
) -> Loop:
    """Return a loop under a scripted policy; gates ask for no evidence unless they are given."""
    model = grow_net(host)
    build = make_optimizer or (lambda module: torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9))
    optimizer = build(model.host)
    config = LoopConfig(
        metric=MetricSpec(name="loss", is_higher_better=False, scale=0.1),
        budget=budget or Budget(),
        gates=gates
        or GateConfig(
            min_incubation_epochs=1, min_probation_epochs=1, min_measurements=1, is_evidence_required=False
        ),
        **settings,  # type: ignore[arg-type]
    )
    guest = GuestOptimizer(optimizer, newborn_warmup_batches=4, host_parameters=model.host_parameters())
    return Loop(model, optimizer, LoopController(model, optimizer, guest, Script(actions), config))
