from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest

from builders import make_descriptor, make_space
from esper.leyline import (
    OP_STAGES,
    WAIT,
    Action,
    ActionSpace,
    AlphaCurve,
    BlendForm,
    LifecycleOp,
    SeedStage,
)


def test_the_order_of_operations_is_frozen() -> None:
    assert [op.value for op in LifecycleOp] == [
        "WAIT",
        "GERMINATE",
        "ADVANCE",
        "FOSSILIZE",
        "CULL",
        "SET_ALPHA",
    ]
    assert [form.value for form in BlendForm] == ["add", "gate", "valve"]
    assert [curve.value for curve in AlphaCurve] == ["linear", "cosine", "sigmoid"]


def test_every_operation_has_its_stages() -> None:
    assert set(OP_STAGES) == set(LifecycleOp)
    assert OP_STAGES[LifecycleOp.WAIT] == set(SeedStage)


@pytest.mark.parametrize("stage", list(SeedStage))
def test_operations_agree_with_the_transition_table(stage: SeedStage) -> None:
    assert (stage in OP_STAGES[LifecycleOp.GERMINATE]) == stage.can_become(SeedStage.GERMINATED)
    assert (stage in OP_STAGES[LifecycleOp.CULL]) == stage.is_live
    assert (stage in OP_STAGES[LifecycleOp.FOSSILIZE]) == stage.can_become(SeedStage.FOSSILIZED)
    advances = any(
        stage.can_become(target)
        for target in (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY)
    )
    assert (stage in OP_STAGES[LifecycleOp.ADVANCE]) == advances
    assert (stage in OP_STAGES[LifecycleOp.SET_ALPHA]) == (stage.affects_output and stage.is_live)


def test_wait_is_the_default_action() -> None:
    assert Action() == WAIT
    assert WAIT.op is LifecycleOp.WAIT
    with pytest.raises(FrozenInstanceError):
        WAIT.slot = "a"  # type: ignore[misc]


def test_sizes_count_each_id_table() -> None:
    space = make_space(("a", "b"))
    assert space.sizes == (6, 2, 5, 3, 3, 4, 3)
    assert math.prod(space.sizes) == 6 * 2 * 5 * 3 * 3 * 4 * 3


def test_a_blueprint_fits_where_it_has_a_descriptor() -> None:
    space = make_space(("a", "b"), fits={"b": ["norm"]})
    assert space.fits("a", "conv_light")
    assert space.fits("b", "norm")
    assert not space.fits("b", "conv_light")
    assert not space.fits("c", "norm")
    assert not space.fits("a", "mine")


def test_duplicate_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="slot_ids holds a duplicate"):
        ActionSpace(slot_ids=("a", "a"), blueprint_ids=(), descriptors={})
    with pytest.raises(ValueError, match="blueprint_ids holds a duplicate"):
        ActionSpace(slot_ids=("a",), blueprint_ids=("norm", "norm"), descriptors={})


def test_descriptors_of_an_unknown_slot_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown slots"):
        ActionSpace(slot_ids=("a",), blueprint_ids=("x",), descriptors={"b": {"x": make_descriptor("x")}})
