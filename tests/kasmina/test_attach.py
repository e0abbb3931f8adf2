from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import InjectionPoint, SeedSlot
from esper.kasmina.attach import attach_hooks, probe_slots
from esper.leyline import HostError, Layout
from kasmina.growing import draw, make_cnn, make_mlp


class _Odd(nn.Module):
    """Layer `twice` is called twice, `never` never, `pair` returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never = nn.Linear(4, 4), nn.Linear(4, 4)
        self.pair = nn.LSTM(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.pair(self.twice(self.twice(inputs)))[0]
        return out


def _point(path: str, layout: Layout = Layout.FLAT, channels: int = 4) -> InjectionPoint:
    return InjectionPoint(slot_id=path, path=path, layout=layout, num_channels=channels)


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        (_point("twicce"), "did you mean 'twice'"),
        (_point("twice"), "called 2 times"),
        (_point("never"), "called 0 times"),
        (_point("pair"), "returns tuple, needs one tensor"),
    ],
)
def test_declaration_that_the_forward_does_not_honour_is_refused(point: InjectionPoint, reason: str) -> None:
    with pytest.raises(HostError, match=reason):
        probe_slots(_Odd(), [point], draw(3, 4))


def test_wrong_layout_or_channels_are_refused() -> None:
    with pytest.raises(HostError, match="needs 4 dimensions"):
        probe_slots(make_mlp(), [_point("hidden1", Layout.MAP_2D, 8)], draw(2, 6))
    with pytest.raises(HostError, match="declares 9 channels"):
        probe_slots(make_mlp(), [_point("hidden1", channels=9)], draw(2, 6))


def test_a_host_that_does_not_take_the_sample_is_named_and_left_as_it_was() -> None:
    host = make_mlp().train()
    with pytest.raises(HostError, match=r"MLPHost does not take inputs of shape \(7,\): mat1 and mat2"):
        probe_slots(host, [_point("hidden1")], draw(2, 7))
    assert all(module.training for module in host.modules())
    assert not any(module._forward_hooks for module in host.modules())


def test_compiled_host_is_refused() -> None:
    # What torch.compile returns, without paying for a compilation.
    compiled = make_mlp()
    compiled.add_module("_orig_mod", nn.Identity())
    with pytest.raises(HostError, match="already compiled"):
        probe_slots(compiled, [], draw(2, 6))


def test_specs_come_in_forward_order_and_leave_no_trace() -> None:
    host = make_cnn()
    before = {name: value.clone() for name, value in host.state_dict().items()}
    specs = probe_slots(host, host.injection_points()[::-1], draw(1, 3, 8, 8))
    assert [(spec.slot_id, spec.shape) for spec in specs] == [
        ("block1", (4, 4, 4)), ("block2", (8, 2, 2)), ("block3", (16, 1, 1)),
    ]  # fmt: skip
    assert host.training
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
    assert not any(module._forward_hooks for module in host.modules())


def test_handles_take_the_hooks_off_again() -> None:
    host = make_cnn()
    (spec, *_) = probe_slots(host, host.injection_points(), draw(1, 3, 8, 8))
    (handle,) = attach_hooks(host, ["block1"], [SeedSlot(spec)])
    assert host.get_submodule("block1")._forward_hooks
    handle.remove()
    assert not host.get_submodule("block1")._forward_hooks
