from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.inputs import (
    call_host,
    count_items,
    describe_inputs,
    each_tensor,
    map_tensors,
    run_on_copies,
    split_arguments,
    to_device,
)
from esper.leyline import HostError
from kasmina.growing import draw, make_mlp
from kasmina.strangers import Encoder, build

IDS = torch.arange(6).view(2, 3)


def test_a_tensor_a_tuple_and_a_mapping_become_arguments() -> None:
    x, y = draw(2, 3), draw(2, seed=1)
    assert split_arguments(x) == ((x,), {})
    assert split_arguments((x, y)) == ((x, y), {})
    assert split_arguments({"a": x, "b": None}) == ((), {"a": x, "b": None})


def test_a_host_gets_its_own_arguments() -> None:
    mlp, encoder = make_mlp(), build(Encoder).eval()
    x = draw(2, 6)
    assert torch.equal(call_host(mlp, x), call_host(mlp, [x]))  # type: ignore[arg-type]
    named = call_host(encoder, {"input_ids": IDS, "attention_mask": torch.ones(2, 3)})
    ordered = call_host(encoder, (IDS, torch.ones(2, 3)))
    assert torch.equal(named["logits"], ordered["logits"])  # type: ignore[index]


def test_tensors_are_found_and_replaced_at_any_depth() -> None:
    nested = {"a": draw(2, 3), "b": (IDS, [draw(1), "text"]), "c": None}
    assert [tuple(tensor.shape) for tensor in each_tensor(nested)] == [(2, 3), (2, 3), (1,)]
    changed = map_tensors(nested, lambda tensor: tensor + 1)
    assert isinstance(changed, dict)
    assert torch.equal(changed["b"][0], IDS + 1)
    assert changed["b"][1][1] == "text"
    assert changed["c"] is None
    moved = to_device({"a": draw(2, 3)}, torch.device("meta"))
    assert next(each_tensor(moved)).is_meta


def test_items_are_counted_on_the_first_axis_of_the_first_tensor() -> None:
    assert count_items(draw(5, 2)) == 5
    assert count_items({"flag": torch.tensor(True), "ids": IDS}) == 2


@pytest.mark.parametrize("inputs", [(), {"a": 3}, torch.tensor(1.0), torch.zeros(0, 4)])
def test_a_sample_without_items_is_refused(inputs: object) -> None:
    with pytest.raises(HostError, match="sample holds no batch: expected a tensor"):
        count_items(inputs)  # type: ignore[arg-type]


def test_inputs_are_described_by_their_shapes() -> None:
    assert describe_inputs(draw(2, 3)) == "[2, 3]"
    assert describe_inputs({"ids": IDS, "mask": None}) == "ids [2, 3], mask NoneType"
    assert describe_inputs((IDS, IDS)) == "([2, 3], [2, 3])"


class Counting(nn.Module):
    """Counts its passes in place, and keeps its last input by another tensor under the same name."""

    passes: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.passes.add_(1)
        self.last = x.detach()
        out: Tensor = self.body(x)
        return out


def test_a_pass_on_copies_changes_no_buffer_and_reaches_the_parameters() -> None:
    host, x = Counting(), torch.ones(2, 3)
    out = run_on_copies(host, lambda: host(x))
    assert isinstance(out, Tensor)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(out, host.body(x))
    assert host.body.weight.grad is not None
    assert (float(host.passes), host.last.shape) == (0.0, (1, 3))
