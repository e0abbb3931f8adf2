"""What goes between a fleet and its workers: plain data, and what goes in comes out."""

from __future__ import annotations

import torch

from esper.tolaria import StateRecord
from esper.tolaria.fleet.messages import describe_failure, pack_state, rebuild_error, unpack_state
from tolaria.small_run import assert_same

from .fleets import UnlikeItsArgumentsError


def test_a_state_comes_back_bit_for_bit_and_may_be_written_to() -> None:
    shared = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    tensors = {
        "a": shared,
        "same": shared,
        "turned": shared.t(),
        "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "flag": torch.tensor(True),
        "step": torch.tensor(3, dtype=torch.int64),
        "none": torch.empty(0, 4),
    }
    back = unpack_state(pack_state(StateRecord(tensors=tensors, state={"epoch": 3})))
    assert back.state == {"epoch": 3}
    assert_same(
        {name: tensor for name, tensor in tensors.items() if name != "half"},
        {name: tensor for name, tensor in back.tensors.items() if name != "half"},
    )
    assert torch.equal(back.tensors["half"].view(torch.int16), tensors["half"].view(torch.int16))
    assert back.tensors["a"] is back.tensors["same"]
    back.tensors["a"].zero_()
    assert float(shared.sum()) == 15.0


def test_an_error_is_rebuilt_without_its_constructor() -> None:
    try:
        raise UnlikeItsArgumentsError("one", 2)
    except UnlikeItsArgumentsError as error:
        failure = describe_failure(error, 4)
    back = rebuild_error(failure)
    assert isinstance(back, UnlikeItsArgumentsError)
    assert (str(back), back.second, failure.row) == ("one and 2", 2, 4)
    assert "test_messages.py" in back.__notes__[0]
