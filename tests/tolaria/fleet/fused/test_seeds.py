"""Seeds of a group are sorted by slot and kind, with their owners' places kept."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from esper.kasmina import Seed
from esper.leyline import BlendForm
from esper.tolaria.fleet.fused.seeds import SeedKinds, build_seed_banks, describe_host, is_stackable
from tolaria.fleet.fused.groups import build_group, stack_of


def test_seeds_of_one_blueprint_and_blend_form_share_a_bank_unless_they_are_isolated() -> None:
    runs = build_group()
    banks = build_seed_banks([run.bench for run in runs], stack_of(runs), SeedKinds())
    assert [(bank.slot_id, bank.members) for bank in banks] == [
        ("block1", (0, 3)),
        ("block1", (1,)),  # the same blueprint behind a gate
        ("block1", (2,)),  # the same as the first, in training
        ("block2", (2,)),
        ("block3", (0,)),
    ]
    for bank in banks:
        for row, (slot, member) in enumerate(zip(bank.slots, bank.members, strict=True)):
            assert slot is runs[member].bench.model.slot(bank.slot_id)
            assert slot.seed is not None
            flat = torch.cat([parameter.detach().flatten() for parameter in slot.seed.parameters()])
            assert torch.equal(bank.bank.values[row].detach(), flat)


def test_a_host_is_described_by_the_paths_of_its_own_modules() -> None:
    (run,) = build_group(num_hosts=1)
    row = describe_host(run.bench)
    named = dict(run.bench.model.host.named_parameters())
    assert list(row.parameters) == list(named)
    assert all(row.parameters[path] is parameter for path, parameter in named.items())


@pytest.mark.parametrize("what", ["host weight", "seed weight", "seed buffer"])
def test_frozen_weights_and_buffers_of_seeds_cannot_be_rows(what: str) -> None:
    (run,) = build_group(num_hosts=1)
    model = run.bench.model
    assert is_stackable(model)
    seed = model.slot("block1").seed
    assert seed is not None
    if what == "host weight":
        next(model.host.parameters()).requires_grad_(False)
    elif what == "seed weight":
        next(seed.parameters()).requires_grad_(False)
    else:
        seed.register_buffer("count", torch.zeros(1))
    assert not is_stackable(model)


def test_a_kind_is_asked_once_in_a_seeds_life_and_forgotten_with_it() -> None:
    kinds = SeedKinds()
    held = [Seed(nn.Linear(2, 2), BlendForm.ADD, None) for _ in range(2)]
    assert kinds.find(held[0]) == kinds.find(held[1])
    held[0].branch = nn.Identity()  # seeds of one kind stay of that kind; only a new one is looked at
    assert kinds.find(held[0]) == kinds.find(held[1])
    assert len(kinds) == 2
    held.clear()
    gc.collect()
    assert len(kinds) == 0
