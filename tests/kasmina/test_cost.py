from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import InjectionPoint, builtin_registry, count_flops, count_saved_bytes, count_trainable
from esper.kasmina.cost import count_call_flops
from esper.leyline import HostError, SeedStage
from kasmina.growing import draw, grow, make_cnn, make_model, make_seed_module, make_spec


def test_flops_are_two_per_multiply_add() -> None:
    assert count_flops(nn.Linear(6, 4, bias=False), (6,)) == 2 * 6 * 4
    assert count_flops(nn.Conv2d(3, 5, 3, padding=1, bias=False), (3, 7, 7)) == 2 * 49 * 9 * 3 * 5
    assert count_flops(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (3, 8, 8)) == 0


def test_counting_leaves_the_module_as_it_is() -> None:
    host = make_cnn()
    before = {name: value.clone() for name, value in host.state_dict().items()}
    count_flops(host, (3, 8, 8))
    assert host.training
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())


def test_frozen_and_shared_parameters_are_not_counted_twice() -> None:
    layer = nn.Linear(3, 3)
    assert count_trainable(nn.Sequential(layer, layer)) == 12
    layer.bias.requires_grad_(False)
    assert count_trainable(layer) == 9


def test_seeds_are_not_part_of_the_price_of_the_host() -> None:
    model = make_model()
    grow(model, "block2", SeedStage.PROBATIONARY)
    assert count_flops(model.host, (3, 8, 8)) == model.host_flops
    assert model(draw(1, 3, 8, 8)).shape == (1, 5)


class Deciding(nn.Module):
    """Chooses its path by the values that it sees."""

    def __init__(self, *, is_guarded: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4, bias=False)
        self.is_guarded = is_guarded

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs)
        if self.is_guarded and inputs.is_meta:
            return out
        return out if bool(inputs.sum() > 0.0) else -out


def test_a_forward_that_looks_at_values_is_refused_by_name_with_a_remedy() -> None:
    with pytest.raises(HostError) as caught:
        count_flops(Deciding(is_guarded=False), (6,))
    text = str(caught.value)
    assert text.startswith("Deciding: ")
    assert "shape (1, 6)" in text
    assert "is_meta" in text
    assert "\n" not in text


def test_the_remedy_helps() -> None:
    assert count_flops(Deciding(is_guarded=True), (6,)) == 2 * 6 * 4


class DecidingHost(nn.Module):
    """A host that chooses its path by the values that it sees."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.inner = make_cnn(in_channels=in_channels)

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        points = self.inner.injection_points()
        return tuple(replace(point, path=f"inner.{point.path}") for point in points)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.inner(inputs)
        return out if float(inputs.sum()) < 1e9 else -out


def test_a_host_that_looks_at_values_is_counted_by_a_pass_with_values() -> None:
    host = DecidingHost()
    assert make_model(host).host_flops == make_model(make_cnn()).host_flops


class ClassToken(nn.Module):
    """As vision transformers have: a parameter, seen once per item, is handed to a layer as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.zeros(1, 1, 4)), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        token: Tensor = self.layer(self.token.expand(len(x), -1, -1))
        return torch.cat((token, x), dim=1)


def test_a_view_of_a_parameter_may_be_an_argument_of_a_layer() -> None:
    assert count_call_flops(ClassToken(), torch.zeros(3, 2, 4)) == 2 * 4 * 4
    host = ClassToken()
    count_call_flops(host, torch.zeros(3, 2, 4))
    assert all(parameter.requires_grad for parameter in host.parameters())


def saved_by(module: nn.Module, inputs: Tensor) -> int:
    """Bytes that a real pass keeps for its backward pass: each storage once, without weights and input."""
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers(), inputs)
    }
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(inputs)
    assert out.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("batch_size", [1, 5, 33])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_saved_bytes_counted_on_shapes_are_those_of_a_real_pass(norm: str, batch_size: int) -> None:
    host = make_cnn(norm=norm)
    counted = count_saved_bytes(host, (3, 8, 8), batch_size=batch_size).total
    assert counted == saved_by(host, draw(batch_size, 3, 8, 8))


@pytest.mark.parametrize("blueprint", [b for b in builtin_registry().fitting(make_spec()) if b != "noop"])
def test_saved_bytes_of_every_image_blueprint_are_those_of_a_real_pass(blueprint: str) -> None:
    seed = make_seed_module(make_spec(), blueprint)
    assert count_saved_bytes(seed, (8, 5, 5), batch_size=6).total == saved_by(seed, draw(6, 8, 5, 5))


def test_saved_bytes_are_counted_without_gradients_too_and_leave_the_module_alone() -> None:
    host = make_cnn(dropout=0.2)
    before = {name: value.clone() for name, value in host.state_dict().items()}
    stream = torch.get_rng_state()
    with torch.no_grad():
        assert count_saved_bytes(host.eval(), (3, 8, 8), batch_size=4).total > 0
    assert not host.training
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())


def test_a_module_that_cannot_be_copied_is_refused_with_the_reason() -> None:
    module = nn.Linear(2, 2)
    module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(HostError, match=r"Linear cannot be copied.*lock.*keep only parameters"):
        count_call_flops(module, torch.zeros(1, 2))
