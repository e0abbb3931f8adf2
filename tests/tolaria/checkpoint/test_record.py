from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esper.leyline import ExitCode, ForeignCheckpointError
from esper.tolaria.checkpoint import Rejection, match_tensors

EXPECTED = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64)}


def test_equal_names_shapes_and_dtypes_match_in_any_order() -> None:
    match_tensors(EXPECTED, {"b": torch.tensor(7), "a": torch.ones(2, 3)})
    match_tensors({}, {})


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        ({"a": EXPECTED["a"]}, "lacks the tensor 'b'"),
        ({"a": EXPECTED["a"], "c": EXPECTED["b"]}, "lacks the tensor 'b'; found 'c', which is not expected"),
        (EXPECTED | {"c": torch.zeros(1)}, r"unexpected tensor 'c' .expected 2 tensors, found 3"),
        (EXPECTED | {"a": torch.zeros(3, 2)}, r"tensor 'a': expected shape \(2, 3\), found \(3, 2\)"),
        (EXPECTED | {"b": torch.zeros(())}, r"tensor 'b': expected torch\.int64, found torch\.float32"),
    ],
)
def test_the_first_difference_is_named(loaded: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ForeignCheckpointError, match=message) as caught:
        match_tensors(EXPECTED, loaded)
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_rejection_reads_as_file_and_reason() -> None:
    rejection = Rejection(name="e0012-b00000", file="state.json", reason="is missing")
    assert str(rejection) == "e0012-b00000/state.json: is missing"
