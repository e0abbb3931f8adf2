"""Looked-up prices are those that counting gives, for every blueprint and for hosts of every kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina import (
    CNNHost,
    CNNHostConfig,
    MLPHost,
    MLPHostConfig,
    PriceBook,
    build_seeded,
    builtin_registry,
    price_items,
    price_saved,
)
from esper.kasmina.blueprints.spec import SlotSpec
from esper.kasmina.cost import count_call_flops, count_flops, count_saved_bytes
from esper.kasmina.pricing import price_host, price_module
from esper.leyline import Layout

SPECS = (
    SlotSpec(slot_id="a", layout=Layout.MAP_2D, num_channels=8, shape=(8, 4, 4)),
    SlotSpec(slot_id="b", layout=Layout.MAP_2D, num_channels=8, shape=(8, 2, 2)),
    SlotSpec(slot_id="c", layout=Layout.FLAT, num_channels=16, shape=(16,)),
    SlotSpec(slot_id="d", layout=Layout.SEQUENCE, num_channels=16, shape=(5, 16)),
)


class Unknown(nn.Linear):
    """A type that no stack knows."""


def test_every_blueprint_costs_what_counting_gives_first_and_again() -> None:
    registry, book = builtin_registry(), PriceBook()
    for _ in range(2):
        for spec in SPECS:
            for name in registry.fitting(spec):
                branch = build_seeded(lambda n=name, s=spec: registry.get(n).build(s), 0)  # type: ignore[misc]
                counted = count_flops(branch, spec.seed_shape)
                assert price_module(branch, spec.seed_shape, book) == counted, (spec.slot_id, name)


def test_hosts_of_different_settings_are_told_apart() -> None:
    book = PriceBook()
    for blocks in (2, 3):
        for channels in (2, 4):
            config = CNNHostConfig(in_channels=1, num_classes=3, num_blocks=blocks, base_channels=channels)
            host, sample = CNNHost(config), torch.zeros(2, 1, 8, 8)
            assert price_host(host, sample, book) == count_call_flops(host, sample)
            assert price_items(host, (1, 8, 8), torch.float32, book) == count_flops(host, (1, 8, 8))
    wide = MLPHost(MLPHostConfig(num_inputs=4, num_classes=2, hidden=(9,)))
    assert price_host(wide, torch.zeros(3, 4), book) == count_call_flops(wide, torch.zeros(3, 4))


def test_what_autograd_keeps_is_what_counting_gives_first_and_again() -> None:
    book = PriceBook()
    for _ in range(2):
        for channels, items in ((2, 4), (4, 4), (4, 8)):
            config = CNNHostConfig(in_channels=1, num_classes=3, num_blocks=2, base_channels=channels)
            host = CNNHost(config)
            saved = price_saved(host, (1, 8, 8), book, batch_size=items)
            assert saved == count_saved_bytes(host, (1, 8, 8), batch_size=items)
        layer = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
        assert price_saved(layer, (6,), book, batch_size=4) == count_saved_bytes(layer, (6,), batch_size=4)
    assert len(book) == 8


@pytest.mark.parametrize("size", [3, 5])
def test_an_unknown_module_is_counted_every_time(size: int) -> None:
    book = PriceBook()
    assert price_module(Unknown(size, 2), (size,), book) == 2 * size * 2
    assert price_host(Unknown(size, 2), torch.zeros(1, size), book) == 2 * size * 2
    saved = price_saved(Unknown(size, 2), (size,), book, batch_size=4)
    assert saved == count_saved_bytes(Unknown(size, 2), (size,), batch_size=4)
    assert len(book) == 0
