from __future__ import annotations

import torch
from torch import nn

from esper.kasmina import count_flops, count_trainable
from esper.leyline import SeedStage
from kasmina.growing import draw, grow, make_cnn, make_model


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
