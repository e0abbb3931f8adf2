"""Classes: a confusion against a loop by hand; its rows are the items, its sum all of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from esper.nissa.diagnostics.classes import ClassFacts, ClassMeter


def test_chunks_add_up_to_what_a_loop_by_hand_counts() -> None:
    generator = torch.Generator().manual_seed(2)
    outputs = torch.randn(50, 4, generator=generator)
    targets = torch.randint(3, (50,), generator=generator)  # no item of the last class
    meter = ClassMeter(4)
    for start in (0, 20, 40):
        meter.add(outputs[start : start + 20], targets[start : start + 20])
    facts = meter.read()
    assert facts is not None
    counted = [[0] * 4 for _ in range(4)]
    for row, target in zip(outputs, targets.tolist(), strict=True):
        counted[target][int(row.argmax())] += 1
    assert facts.confusion == tuple(map(tuple, counted))
    assert sum(map(sum, facts.confusion)) == sum(facts.num_items) == 50
    losses = F.cross_entropy(outputs, targets, reduction="none")
    for place in range(3):
        is_here = targets == place
        assert facts.accuracy[place] == counted[place][place] / int(is_here.sum())
        assert facts.loss[place] == pytest.approx(float(losses[is_here].mean()), rel=1e-5)
    assert facts.num_items[3] == 0
    assert facts.accuracy[3] is None
    assert facts.loss[3] is None
    assert meter.read() is None


def test_what_was_cleared_does_not_come_back() -> None:
    meter = ClassMeter(2)
    meter.add(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    meter.clear()
    assert meter.read() is None


@pytest.mark.parametrize(
    ("accuracy", "spread"), [((1.0, 0.0), 0.5), ((0.7, 0.7, None), 0.0), ((None, 0.5), 0.0)]
)
def test_spread_is_the_deviation_over_classes_with_items(
    accuracy: tuple[float | None, ...], spread: float
) -> None:
    facts = ClassFacts(num_items=(), accuracy=accuracy, loss=(), confusion=())
    assert facts.spread == pytest.approx(spread)
