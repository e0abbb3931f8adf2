"""What a host costs by itself, by hand: 2 FLOPs per multiply-add."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.cost import count_call_flops, count_flops
from esper.kasmina.host_costs import measure_host
from esper.leyline import HostError
from kasmina.growing import draw, make_mlp
from kasmina.strangers import Encoder, SmallResNet, build


def test_a_chain_knows_what_comes_after_each_slot() -> None:
    host = make_mlp()  # 6 > 8 > 8 > 3
    costs = measure_host(host, draw(4, 6), {"a": "hidden1", "b": "hidden2"})
    assert costs.flops_per_item == 2 * (6 * 8 + 8 * 8 + 8 * 3)
    assert costs.tail_flops == {"a": 2 * (8 * 8 + 8 * 3), "b": 2 * 8 * 3}
    assert costs.tails["b"] == (host.head,)
    assert costs.num_params == sum(p.numel() for p in host.parameters())


def test_of_any_other_host_the_whole_pass_is_charged() -> None:
    host = build(SmallResNet)
    costs = measure_host(host, draw(2, 3, 8, 8), {"stages.0": "stages.0"})
    assert costs.tail_flops == {"stages.0": costs.flops_per_item}
    assert not costs.tails
    assert costs.flops_per_item == count_flops(host, (3, 8, 8))


def test_a_slot_at_no_segment_is_refused() -> None:
    with pytest.raises(HostError, match=r"'hidden1\.0' is none of the host's segments"):
        measure_host(make_mlp(), draw(2, 6), {"x": "hidden1.0"})


def test_several_arguments_are_counted_per_item_whatever_the_batch() -> None:
    encoder = build(Encoder)
    batches = [
        {"input_ids": torch.zeros(n, 5, dtype=torch.int64), "attention_mask": torch.ones(n, 5)}
        for n in (1, 4)
    ]
    counts = [count_call_flops(encoder, batch) for batch in batches]
    assert counts[0] == counts[1] > 2 * 5 * 8 * 16 * 2  # at least the first net's two maps of one layer


def test_a_forward_that_looks_at_values_is_run_for_real() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x) if float(x.sum()) > 0 else self.layer(-x)
            return out

    host = Looks()
    assert count_call_flops(host, draw(5, 4)) == 2 * 4 * 3
    assert not any(module._forward_hooks for module in host.modules())
