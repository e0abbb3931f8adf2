"""Which function a compiled host calls when, shown with a stand-in for `torch.compile`.

What really compiled code computes is compared in tests/tolaria/test_run_settings.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from esper.kasmina import ForwardPlan, MorphogeneticModel, compiled
from esper.leyline import SeedStage

from .growing import draw, grow, make_mlp, make_model, stir

INPUTS = draw(4, 6)


@dataclass(slots=True)
class FakeCompiler:
    """Stands in for `torch.compile`: keeps functions and modes, and counts the calls of what it returned."""

    functions: list[FunctionType] = field(default_factory=list)
    modes: list[str | None] = field(default_factory=list)
    calls: int = 0

    def __call__(self, function: FunctionType, *, mode: str | None) -> Callable[[Tensor], Tensor]:
        """Return the function itself, counted."""
        self.functions.append(function)
        self.modes.append(mode)

        def counted(inputs: Tensor) -> Tensor:
            self.calls += 1
            out: Tensor = function(inputs)
            return out

        return counted


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    fake = FakeCompiler()
    # Only this module's torch: the compiler looks up `torch.compile` itself while it is imported.
    monkeypatch.setattr(compiled, "torch", SimpleNamespace(compile=fake))
    return fake


def _make_compiled(incubation: str = "shadow", mode: str = "default") -> MorphogeneticModel:
    model = make_model(make_mlp(), incubation=incubation, sample=INPUTS)
    model.compile_host(mode)
    return model


def test_one_topology_is_one_function_and_the_next_is_another(compiler: FakeCompiler) -> None:
    model = _make_compiled()
    for _ in range(2):
        assert torch.equal(model(INPUTS), model.host(INPUTS))
    assert (len(compiler.functions), compiler.calls) == (1, 2)
    grow(model, "hidden1", SeedStage.TRAINING, blueprint="mlp")
    model(INPUTS)
    grow(model, "hidden2", SeedStage.FOSSILIZED, blueprint="mlp")
    stir(model.slot("hidden2"))
    assert torch.equal(model(INPUTS), model.host(INPUTS))
    assert len(compiler.functions) == 3


def test_alpha_leaving_zero_is_a_new_topology_and_its_further_way_is_none(compiler: FakeCompiler) -> None:
    model = _make_compiled()
    slot = grow(model, "hidden1", SeedStage.BLENDING, blueprint="mlp")
    stir(slot)
    for alpha in (0.0, 0.25, 0.5, 1.0):
        slot.set_alpha(alpha)
        assert torch.equal(model(INPUTS), model.host(INPUTS))
    assert len(compiler.functions) == 2


def test_no_two_hosts_share_a_code_object(compiler: FakeCompiler) -> None:
    for _ in range(2):
        _make_compiled()(INPUTS)
    first, second = (function.__code__ for function in compiler.functions)
    assert first is not second


@pytest.mark.parametrize(("mode", "handed"), [("default", None), ("reduce-overhead", "reduce-overhead")])
def test_the_mode_is_handed_on(mode: str, handed: str | None, compiler: FakeCompiler) -> None:
    _make_compiled(mode=mode)(INPUTS)
    assert compiler.modes == [handed]


@pytest.mark.parametrize(("incubation", "calls"), [("shadow", 0), ("residual", 0), ("straight_through", 1)])
def test_what_records_features_is_left_to_the_plain_host(
    incubation: str, calls: int, compiler: FakeCompiler
) -> None:
    model = _make_compiled(incubation)
    slot = grow(model, "hidden1", SeedStage.TRAINING, blueprint="mlp")
    with model.planned(ForwardPlan(is_recording=True)):
        model(INPUTS).sum().backward()
    assert (slot.features is not None) is (incubation != "straight_through")
    assert (slot.feature_gradient is not None) is (incubation == "residual")
    assert compiler.calls == calls
    model(INPUTS)
    assert compiler.calls == calls + 1


def test_a_deep_copy_calls_its_own_host(compiler: FakeCompiler) -> None:
    model = _make_compiled()
    before = model(INPUTS)
    other = copy.deepcopy(model)
    stir(other.host)
    assert torch.equal(other(INPUTS), other.host(INPUTS))
    assert not torch.equal(other(INPUTS), before)
    assert torch.equal(model(INPUTS), before)
    assert len(compiler.functions) == 2
