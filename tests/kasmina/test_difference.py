"""Outputs of any structure are compared value by value; other shapes, NaN and nothing at all are found."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from esper.kasmina import list_tensors, measure_largest
from esper.leyline import ExportError


@dataclass
class _Record:
    logits: Tensor
    more: tuple[Tensor, ...] = ()


def test_the_largest_difference_of_all_tensors_counts() -> None:
    one = {"a": torch.zeros(3), "b": (torch.ones(2), [torch.tensor([1, 2])])}
    other = {"a": torch.tensor([0.0, 0.25, 0.0]), "b": (torch.ones(2), [torch.tensor([1, 4])])}
    assert measure_largest(one, one) == 0.0
    assert measure_largest(one, other) == 2.0
    assert measure_largest(torch.zeros(0, 3), torch.zeros(0, 3)) == 0.0
    assert measure_largest(torch.tensor([1 + 1j]), torch.tensor([1 - 2j])) == 3.0


def test_structures_with_the_same_tensors_are_compared() -> None:
    assert measure_largest(OrderedDict(a=torch.ones(2)), [torch.ones(2) + 0.5]) == 0.5


def test_fields_of_dataclasses_count() -> None:
    record = _Record(torch.ones(2), (torch.zeros(3),))
    assert [tuple(tensor.shape) for tensor in list_tensors(record)] == [(2,), (3,)]
    assert measure_largest(record, _Record(torch.ones(2), (torch.ones(3),))) == 1.0


def test_equal_infinities_are_equal_and_nan_is_nothing() -> None:
    masked = torch.tensor([0.0, -math.inf])
    assert measure_largest(masked, masked.clone()) == 0.0
    assert measure_largest(masked, torch.tensor([0.0, math.inf])) == math.inf
    sick = (torch.tensor([1.0]), torch.tensor([math.nan]), torch.tensor([1.0]))
    assert math.isnan(measure_largest(sick, sick))


def test_nothing_to_compare_and_other_shapes_are_refused() -> None:
    with pytest.raises(ExportError, match="returns float, in which no tensor"):
        measure_largest(1.0, 1.0)
    with pytest.raises(ExportError, match=r"returns \(\[2\]\), its export \(\[2\], \[2\]\)"):
        measure_largest(torch.ones(2), [torch.ones(2), torch.ones(2)])
