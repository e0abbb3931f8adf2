"""A seed that adds one constant per channel is worth nothing where a batch norm takes the constant away.

It does so exactly in hosts whose next layer turns a constant per channel into a constant per channel: a norm
itself, a 1x1 convolution, a 3x3 convolution whose padding repeats the border. (Zero padding makes an edge
pattern of it, which is a real effect.) Measured with the statistics of the network with the seed, the same
seed seems worth a lot: that is the fault which re-estimation removes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal, final

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina import (
    BlueprintRegistry,
    BlueprintSpec,
    ForwardPlan,
    InjectionPoint,
    SlotSpec,
    builtin_registry,
)
from esper.leyline import Estimate, Layout
from esper.tolaria import HostRun, estimate_mean
from esper.tolaria.measuring import Setting, eval_mode

from .digit_hosts import train_on_digits
from .null_seeds import ConstantOffset
from .small_run import plant_at_full_alpha

SEEDS = range(5)
HOST_EPOCHS = 4
CHANNELS = (8, 16)


PADDINGS: Mapping[str, Literal["zeros", "reflect", "replicate"]] = {
    "zeros": "zeros",
    "reflect": "reflect",
    "replicate": "replicate",
}


@final
class NormedHost(nn.Module):
    """Convolution, then three normed parts and a head; the growth point is what comes before the second norm.

    `kind` says what lies between growth point and norm: "norm" nothing, else a convolution.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        first, second = CHANNELS
        size = 1 if kind == "pointwise" else 3
        mode = PADDINGS.get(kind, "replicate")
        stem = [nn.Conv2d(1, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
        between = nn.Conv2d(first, second, size, padding=size // 2, padding_mode=mode, bias=False)
        rest = [nn.BatchNorm2d(second), nn.ReLU(), nn.MaxPool2d(2)]
        if kind == "norm":
            self.stem = nn.Sequential(*stem, nn.MaxPool2d(2), between)
            self.body = nn.Sequential(*rest)
        else:
            self.stem = nn.Sequential(*stem, nn.MaxPool2d(2))
            self.body = nn.Sequential(between, *rest)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(second * 4, 10))
        self._num_channels = second if kind == "norm" else first

    def segments(self) -> tuple[tuple[str, nn.Module], ...]:
        return ("stem", self.stem), ("body", self.body), ("head", self.head)

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        return (
            InjectionPoint(
                slot_id="stem", path="stem", layout=Layout.MAP_2D, num_channels=self._num_channels
            ),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.stem(inputs)))
        return out


def _build_offset(spec: SlotSpec) -> nn.Module:
    return ConstantOffset(spec.num_channels)


def _registry() -> BlueprintRegistry:
    registry = builtin_registry().extended()
    registry.add(
        BlueprintSpec(
            id="offset",
            family="test",
            layouts=frozenset({Layout.MAP_2D}),
            build=_build_offset,
            count_params=lambda _: 0,
        )
    )
    return registry


def _plant(kind: str, seed: int) -> HostRun:
    run = train_on_digits(partial(NormedHost, kind), epochs=HOST_EPOCHS, seed=seed, registry=_registry())
    assert run.signals.metric > 0.8, "an untrained host tells nothing"
    plant_at_full_alpha(run, "stem", "offset")
    return run


def _measure(run: HostRun) -> tuple[Estimate, Estimate]:
    """Contribution in accuracy and in nats, as the system measures it."""
    bench = run.bench
    estimates = []
    for gates_use_loss in (False, True):
        bench.evaluator._gates_use_loss = gates_use_loss
        differences, _ = bench.evaluator.compute_differences(
            bench.model, [Setting(slot="stem", alpha=0.0)], bench.calibration, bench.gate_items
        )
        estimates.append(estimate_mean(differences[0]))
    return estimates[0], estimates[1]


def _measure_without_statistics(run: HostRun) -> tuple[Estimate, Estimate]:
    """The same two, all with the statistics of the network with the seed."""
    bench, (inputs, targets) = run.bench, run.bench.gate_items
    bench.evaluator.refresh_statistics(bench.model, bench.calibration)
    losses, hits = [], []
    for overrides in ({}, {"stem": 0.0}):
        with torch.no_grad(), eval_mode(bench.model), bench.model.planned(ForwardPlan(overrides=overrides)):
            outputs = bench.model(inputs)
        losses.append(F.cross_entropy(outputs, targets, reduction="none"))
        hits.append((outputs.argmax(dim=1) == targets).float())
    return estimate_mean(hits[0] - hits[1]), estimate_mean(losses[1] - losses[0])


def _is_nothing(estimate: Estimate) -> bool:
    """Within two standard errors of 0; where no item differs at all, the mean must be 0 itself."""
    if estimate.standard_error == 0.0:
        return estimate.mean == 0.0
    return abs(estimate.mean) < 2.0 * estimate.standard_error


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["norm", "pointwise", "replicate", "reflect"])
def test_a_constant_that_a_norm_takes_away_is_worth_nothing_on_5_of_5_seeds(kind: str) -> None:
    for seed in SEEDS:
        run = _plant(kind, seed)
        accuracy, loss = _measure(run)
        assert _is_nothing(accuracy), (seed, accuracy)
        # Losses keep the rounding of two sets of statistics, which all items share; measured: 1.3e-6 nats.
        assert abs(loss.mean) < 1e-5, (seed, loss)
        assert loss.standard_error < 1e-5, (seed, loss)
        naive_accuracy, naive_loss = _measure_without_statistics(run)
        assert not _is_nothing(naive_accuracy)
        assert naive_accuracy.mean > 0.2, (seed, naive_accuracy)
        assert naive_loss.mean > 1.0, (seed, naive_loss)


@pytest.mark.slow
def test_where_padding_makes_an_edge_of_the_constant_the_real_effect_is_measured() -> None:
    for seed in SEEDS:
        accuracy, loss = _measure(_plant("zeros", seed))
        assert accuracy.upper(5.0) < 0.0, (seed, accuracy)
        assert loss.upper(5.0) < 0.0, (seed, loss)
