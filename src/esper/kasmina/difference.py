"""How far apart what two networks return is, whatever structure they return it in. Knows tensors alone."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from esper.kasmina.inputs import describe_inputs, each_tensor
from esper.leyline import ExportError

MAX_DIFFERENCE = 1e-5
"""Largest absolute difference between a grown network and its export on a sample (float32, eval)."""


def measure_largest(expected: object, got: object) -> float:
    """Return the largest absolute difference between two outputs, 0 where equal; NaN where one is no number.

    Args:
        expected: A tensor, or tuples, lists, mappings and dataclasses of them.
        got: The same structure, or one with the same tensors in the same order.

    Raises:
        ExportError: If there is no tensor to compare, or number or shapes of tensors differ.

    Example:
        >>> measure_largest(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
        0.5
    """
    pairs = list_tensors(expected), list_tensors(got)
    if not pairs[0]:
        raise ExportError(
            f"the network returns {type(expected).__name__}, in which no tensor is found to compare an "
            "export by; return tensors, tuples, mappings or dataclasses"
        )
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in pairs]
    if shapes[0] != shapes[1]:
        raise ExportError(
            f"the network returns {describe_inputs(pairs[0])}, its export {describe_inputs(pairs[1])}"
        )
    found = [_measure(one, other) for one, other in zip(*pairs, strict=True)]
    return math.nan if any(map(math.isnan, found)) else max(found)


def list_tensors(value: object) -> list[Tensor]:
    """Return every tensor in a structure, in order; fields of dataclasses that are no mapping count too.

    Example:
        >>> [tensor.shape for tensor in list_tensors([torch.zeros(2), "text"])]
        [torch.Size([2])]
    """
    if is_dataclass(value) and not isinstance(value, type) and not list(each_tensor(value)):
        return [
            tensor for field in fields(value) for tensor in list_tensors(getattr(value, field.name, None))
        ]
    return list(each_tensor(value))


def _measure(one: Tensor, other: Tensor) -> float:
    if one.numel() == 0:
        return 0.0
    wide = [
        tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)
        for tensor in (one, other)
    ]
    # Equal infinities have no difference that is a number.
    difference = torch.where(wide[0] == wide[1], 0.0, (wide[0] - wide[1]).abs())
    return float(difference.max())
