"""kasmina/stacking/build.py, kasmina/stacking/kinds.py, kasmina/stacking/contract.py: what can be stacked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from esper.kasmina import TransformerHost, TransformerHostConfig, build_seed, build_seeded, builtin_registry
from esper.kasmina.blending import Seed
from esper.kasmina.stacking import (
    StackArrangement,
    StackContext,
    UnstackableError,
    build_stacked,
    signature,
    take_rows,
    to_arrangement,
)
from esper.leyline import BlendForm, EsperError, Layout
from kasmina.growing import make_spec
from kasmina.stacking.oracle import build_rows, draw, run_stacked, stack_weights

REGISTRY = builtin_registry()


class _Doubled(nn.Linear):
    """A subclass that computes something else than its parent."""


def _nested(inner: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.Sequential(inner))


def _tied() -> nn.Module:
    host = TransformerHost(
        TransformerHostConfig(vocabulary=7, context=4, width=8, num_heads=2, num_blocks=1, is_tied=True)
    )
    return nn.Sequential(*[segment for _, segment in host.segments()])


def _recomputed() -> nn.Module:
    seed = make_seed("conv_light")
    seed.is_recomputed = True
    return seed


def make_seed(name: str, form: BlendForm = BlendForm.ADD, shape: tuple[int, ...] = (8, 5, 5)) -> Seed:
    spec = make_spec(shape)
    return build_seeded(
        lambda: build_seed(REGISTRY.get(name).build(spec), form, spec.num_channels, 1, len(shape) - 1), 3
    )


UNKNOWN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a type": (lambda: nn.Conv1d(2, 2, 3), r"'1.0' \(Conv1d\).*type is not known"),
    "a subclass": (lambda: _Doubled(2, 2), r"\(_Doubled\)"),
    "dropout": (lambda: nn.Dropout(0.1), r"\(Dropout\).*p=0.1"),
    "ceil_mode": (lambda: nn.MaxPool2d(2, ceil_mode=True), "ceil_mode=True"),
    "indices": (lambda: nn.MaxPool2d(2, return_indices=True), "return_indices=True"),
    "ceil_mode of a mean": (lambda: nn.AvgPool2d(2, ceil_mode=True), "ceil_mode=True"),
    "padding mode": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
    "a larger pool": (lambda: nn.AdaptiveAvgPool2d(2), "output_size=2"),
    "a part of the axes": (lambda: nn.Flatten(2), "start_dim=2"),
    "in place": (lambda: nn.ReLU(inplace=True), "inplace=True"),
    "cumulative statistics": (lambda: nn.BatchNorm2d(2, momentum=None), "momentum=None"),
    "a norm over two axes": (lambda: nn.LayerNorm((2, 3)), r"normalized_shape=\(2, 3\)"),
    "a padding token": (lambda: nn.Embedding(3, 2, padding_idx=0), "padding_idx=0"),
    "sparse gradients": (lambda: nn.Embedding(3, 2, sparse=True), "sparse=True"),
    "recomputed activations": (_recomputed, "is_recomputed=True"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_not_known_is_refused_by_name(what: str) -> None:
    build, message = UNKNOWN[what]
    module = _nested(build())
    with pytest.raises(UnstackableError, match=message):
        signature(module)
    refusals = []
    for arrangement in StackArrangement:
        with pytest.raises(UnstackableError) as caught:
            build_stacked(module, arrangement, "block")
        refusals.append(str(caught.value))
    assert all("'block.1.0" in refusal for refusal in refusals)


def test_a_refusal_is_an_error_that_a_user_can_act_on() -> None:
    assert issubclass(UnstackableError, EsperError)
    with pytest.raises(UnstackableError, match="the module itself"):
        signature(nn.Conv1d(2, 2, 3))


def test_a_shared_parameter_is_refused() -> None:
    with pytest.raises(UnstackableError, match="share a parameter"):
        signature(_tied())
    with pytest.raises(UnstackableError, match="share a parameter"):
        build_stacked(_tied(), StackArrangement.ROWS)


@pytest.mark.parametrize(
    ("module", "arrangement", "message"),
    [
        (nn.Linear(2, 2), StackArrangement.MAPS, "takes ROWS"),
        (nn.Conv2d(2, 2, 1), StackArrangement.ROWS, "takes MAPS"),
        (nn.Sequential(nn.Flatten(), nn.Conv2d(2, 2, 1)), StackArrangement.MAPS, "'1' .*takes MAPS"),
        (make_seed("conv_light", BlendForm.GATE), StackArrangement.ROWS, "takes MAPS"),
        (make_seed("norm", BlendForm.GATE), StackArrangement.ROWS, "takes MAPS"),
        (make_seed("noop", BlendForm.GATE), StackArrangement.ROWS, "pools other axes"),
        (Seed(nn.Flatten(), BlendForm.ADD, None), StackArrangement.MAPS, "another arrangement than it takes"),
    ],
)
def test_a_module_in_the_wrong_arrangement_is_refused(
    module: nn.Module, arrangement: StackArrangement, message: str
) -> None:
    signature(module)
    with pytest.raises(UnstackableError, match=message):
        build_stacked(module, arrangement)


def test_every_blueprint_has_one_signature_whatever_its_weights() -> None:
    seen = set()
    for name in REGISTRY.fitting(make_spec()):
        for form in BlendForm:
            one, other = make_seed(name, form), make_seed(name, form)
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter.fill_(7.0)
            assert signature(one) == signature(other.eval())
            assert hash(signature(one)) == hash(signature(other))
            seen.add(signature(one))
    assert len(seen) == len(REGISTRY.fitting(make_spec())) * len(BlendForm)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.Linear(2, 3), nn.Linear(2, 4)),
        (nn.Linear(2, 3), nn.Linear(2, 3, bias=False)),
        (nn.Linear(2, 3), nn.Linear(2, 3).double()),
        (nn.ReLU(), nn.Tanh()),
        (nn.GELU(), nn.GELU(approximate="tanh")),
        (nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, padding=1)),
        (nn.Conv2d(4, 4, 1, groups=1), nn.Conv2d(4, 4, 1, groups=4)),
        (nn.GroupNorm(1, 4), nn.GroupNorm(2, 4)),
        (nn.LayerNorm(4), nn.LayerNorm(4, eps=1e-3)),
        (nn.BatchNorm2d(4), nn.BatchNorm2d(4, momentum=0.2)),
        (nn.MaxPool2d(2), nn.MaxPool2d(2, stride=1)),
        (nn.AvgPool2d(2), nn.AvgPool2d(2, padding=1)),
        (nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU())),
        (nn.Sequential(nn.ReLU()), nn.ReLU()),
        (make_seed("norm"), make_seed("norm", BlendForm.VALVE)),
    ],
)
def test_modules_that_differ_in_what_they_compute_differ_in_signature(
    one: nn.Module, other: nn.Module
) -> None:
    assert signature(one) != signature(other)


MODULES: dict[str, tuple[Callable[[], nn.Module], StackArrangement, tuple[int, ...]]] = {
    "seed of maps": (lambda: make_seed("conv_heavy", BlendForm.GATE), StackArrangement.MAPS, (8, 5, 5)),
    "squeeze": (lambda: make_seed("attention", BlendForm.VALVE), StackArrangement.MAPS, (8, 5, 5)),
    "norm of maps": (lambda: make_seed("norm"), StackArrangement.MAPS, (8, 5, 5)),
    "block of a host": (
        lambda: nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        StackArrangement.MAPS,
        (8, 6, 6),
    ),
    "head": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        StackArrangement.MAPS,
        (8, 6, 6),
    ),
    "flat": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8)),
        StackArrangement.ROWS,
        (8,),
    ),
    "attention": (
        lambda: REGISTRY.get("causal_attention").build(make_spec((5, 32), Layout.SEQUENCE)),
        StackArrangement.ROWS,
        (5, 32),
    ),
}


@pytest.mark.parametrize("poison", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("place", ["inputs", "weights"])
@pytest.mark.parametrize("name", MODULES)
def test_a_poisoned_row_reaches_no_other_row(name: str, place: str, poison: float) -> None:
    build, arrangement, shape = MODULES[name]
    modules = build_rows(build, 4, torch.float32)
    inputs = draw(4, 6, *shape, dtype=torch.float32)
    stacked, context = build_stacked(modules[0], arrangement), StackContext(num_rows=4)
    clean = run_stacked(stacked, inputs, stack_weights(modules), context)
    weights = stack_weights(modules)
    with torch.no_grad():
        if place == "inputs":
            inputs[1] = poison
        else:
            for each in weights.values():
                each[1] = poison
    got = run_stacked(stacked, inputs, weights, context)
    assert not bool(got.out[1].isfinite().all())
    others = [0, 2, 3]
    assert torch.equal(got.out[others], clean.out[others])
    assert got.inputs is not None
    assert clean.inputs is not None
    assert torch.equal(got.inputs[others], clean.inputs[others])
    for parameter, grad in clean.weights.items():
        assert torch.equal(got.weights[parameter][others], grad[others]), parameter


def test_fewer_rows_than_were_built_for_are_as_good_as_all() -> None:
    modules = build_rows(lambda: make_seed("conv_light", BlendForm.GATE), 5, torch.float64)
    stacked = build_stacked(modules[0], StackArrangement.MAPS)
    weights = stack_weights(modules)
    x = to_arrangement(draw(5, 4, 8, 5, 5), StackArrangement.MAPS)
    rows = torch.tensor([3, 1])
    some = stacked(
        take_rows(x, rows, StackArrangement.MAPS, 5),
        {name: each[rows] for name, each in weights.items()},
        StackContext(num_rows=2),
    )
    wanted = take_rows(stacked(x, weights, StackContext(num_rows=5)), rows, StackArrangement.MAPS, 5)
    assert torch.allclose(some, wanted, rtol=0.0, atol=1e-12)
