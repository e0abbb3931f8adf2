from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.tolaria.checkpoint import StateRecord, capture_rng, restore_rng
from esper.tolaria.checkpoint.strict_json import encode_json, parse_json


@pytest.fixture(autouse=True)
def streams_as_before() -> Iterator[None]:
    python, cpu = random.getstate(), torch.get_rng_state()
    yield
    random.setstate(python)
    torch.set_rng_state(cpu)


def draw() -> tuple[list[float], list[float]]:
    return [random.gauss(0.0, 1.0) for _ in range(3)] + [random.random()], torch.randn(5).tolist()


def through_json(record: StateRecord) -> StateRecord:
    state = parse_json(encode_json(record.state, where="state"))
    assert isinstance(state, dict)
    return StateRecord(tensors=record.tensors, state=state)


@pytest.mark.parametrize("num_drawn", [0, 1, 2])
def test_streams_continue_where_they_were_captured(num_drawn: int) -> None:
    for _ in range(num_drawn):  # an odd number of Gaussians leaves one waiting inside `random`
        random.gauss(0.0, 1.0)
        torch.rand(1)
    record = through_json(capture_rng())
    first = draw()
    assert draw() != first
    restore_rng(record)
    assert draw() == first


def test_capturing_draws_nothing() -> None:
    before = random.getstate(), torch.get_rng_state()
    record = capture_rng()
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(record.tensors["torch.cpu"], before[1])
    assert record.tensors["torch.cpu"].dtype == torch.uint8


def _changed(**changes: torch.Tensor) -> StateRecord:
    record = capture_rng()
    return StateRecord(tensors={**record.tensors, **changes}, state=record.state)


def _changed_python(value: JsonValue) -> StateRecord:
    return StateRecord(tensors=capture_rng().tensors, state={"python": value})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: _changed(**{"torch.cuda.63": torch.zeros(16, dtype=torch.uint8)}), "no such device"),
        (lambda: _changed(**{"torch.cpu": torch.zeros(7, dtype=torch.uint8)}), "expected 5056 bytes"),
        (lambda: _changed(**{"torch.cpu": torch.zeros(5056)}), "found torch.float32"),
        (
            lambda: _changed(**{"torch.cpu": torch.full((5056,), 255, dtype=torch.uint8)}),
            "not a generator state",
        ),
        (lambda: StateRecord(tensors={}, state=capture_rng().state), "lack 'torch.cpu'"),
        (lambda: StateRecord(tensors=capture_rng().tensors, state={}), "must be"),
        (lambda: _changed_python([3, [1, 2], None]), "cannot be restored"),
        (lambda: _changed_python([3, ["a"] * 625, None]), "cannot be restored"),
        (lambda: _changed_python([3, [-1] * 625, None]), "cannot be restored"),
        (lambda: _changed_python([9, [1] * 625, None]), "cannot be restored"),
        (lambda: _changed_python([3, [*range(624), 624], "x"]), "must be"),
        (lambda: _changed_python("x"), "must be"),
    ],
)
def test_a_stream_that_does_not_fit_is_refused_and_nothing_changes(build: object, message: str) -> None:
    assert callable(build)
    record = build()
    before = random.getstate(), torch.get_rng_state()
    with pytest.raises(ForeignCheckpointError, match=message):
        restore_rng(record)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
