"""A stand-in takes what its target takes: names, defaults, and what one call handed over beyond them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.arguments import Argument, read_arguments


class _Layer(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        return x


class _KeywordOnly(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, position: Tensor) -> Tensor:
        return x


class _Anything(nn.Module):
    def forward(self, x: Tensor, flag: bool = False, *rest: Tensor, **more: object) -> Tensor:
        return x


class _Odd(nn.Module):
    """Has defaults that cannot be written down."""

    def forward(self, x: Tensor, table: Mapping[str, int] = {"a": 1}, kind: object = (1, "b")) -> Tensor:
        return x


X = torch.zeros(2, 3)


def _names(arguments: tuple[Argument, ...]) -> list[str]:
    return [
        ("" if argument.is_positional else "*") + argument.name + ("" if not argument.default else "=")
        for argument in arguments
    ]


@pytest.mark.parametrize(
    ("module", "args", "kwargs", "expected"),
    [
        (_Layer(), (X,), {}, ["x", "*mask=", "*scale="]),
        (_Layer(), (X, X), {}, ["x", "mask=", "*scale="]),
        (_Layer(), (), {"mask": X, "x": X}, ["*x", "*mask=", "*scale="]),
        (_KeywordOnly(), (X,), {"position": X}, ["x", "*mask=", "*position="]),
        (_Anything(), (X, True, X, X), {}, ["x", "flag", "rest_2", "rest_3"]),
        (_Anything(), (X,), {"deep": X, "empty": None}, ["x", "*flag=", "*deep=", "*empty="]),
        (_Odd(), (X,), {}, ["x", "*kind="]),
        (_Odd(), (X, {"b": 2}), {}, ["x", "table", "*kind="]),
        (nn.Sequential(), (X,), {}, ["input"]),
    ],
)
def test_arguments_are_those_of_the_forward_and_of_the_call(
    module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], expected: list[str]
) -> None:
    assert _names(read_arguments(module, args, kwargs)) == expected


def test_defaults_are_the_forwards_own() -> None:
    defaults = {argument.name: argument.default for argument in read_arguments(_Layer(), (X,), {})}
    assert defaults == {"x": (), "mask": (None,), "scale": (2.0,)}


def test_a_call_that_does_not_fit_the_forward_is_taken_as_it_is() -> None:
    arguments = read_arguments(_Layer(), (X,), {"extra": X})
    assert _names(arguments) == ["argument_0", "*extra"]


def test_every_order_is_one_that_python_accepts() -> None:
    for module, args, kwargs in (
        (_KeywordOnly(), (X,), {"position": X}),
        (_Anything(), (X, True, X), {"deep": X}),
        (_Anything(), (X,), {"empty": None, "deep": X}),
    ):
        inspect.Signature(
            [
                inspect.Parameter(
                    argument.name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=argument.default[0] if argument.default else inspect.Parameter.empty,
                )
                for argument in read_arguments(module, args, kwargs)
            ]
        )
