"""Isolated seeds of many hosts learn from their tails what each learns from its own."""

from __future__ import annotations

import pytest
import torch

from esper.tolaria.fleet.fused.bank import ParameterBank
from esper.tolaria.fleet.fused.plan import TrainingPlan, read_modes
from esper.tolaria.fleet.fused.seeds import SeedKinds, build_seed_banks, describe_host
from tolaria.fleet.fused.double_hosts import cnn
from tolaria.fleet.fused.groups import MODES, build_group, draw, stack_of

pytestmark = pytest.mark.usefixtures("in_double")


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_gradients_are_those_of_each_hosts_own_tail_and_touch_no_host(norm: str) -> None:
    runs = build_group(cnn(norm))
    stack = stack_of(runs)
    banks = build_seed_banks([run.bench for run in runs], stack, SeedKinds())
    plan = TrainingPlan(banks, read_modes(banks), stack, len(runs))
    host = ParameterBank([describe_host(run.bench) for run in runs])
    assert plan.lessons is not None
    features = {
        slot_id: draw(len(runs), 5, *runs[0].bench.model.slot(slot_id).spec.shape, seed=place)
        for place, slot_id in enumerate(stack.segment_of)
    }
    targets = torch.arange(20).view(4, 5) % 4
    entering = {
        slot_id: torch.cat(list(feature), dim=1).contiguous(memory_format=torch.channels_last)
        for slot_id, feature in features.items()
    }
    found = plan.lessons.compute_gradients(entering, host, targets, runs[0].bench.objective)
    for place, gradient in zip(plan.lessons.banks, found, strict=True):
        bank = banks[place]
        for row, member in enumerate(bank.members):
            is_taught = MODES[bank.slot_id][member].name == "INCUBATING"
            bench = runs[member].bench
            if not is_taught:
                assert not gradient[row].any()
                continue
            seed = bench.model.slot(bank.slot_id).seed
            assert seed is not None
            h = features[bank.slot_id][member]
            bench.model.train()
            outputs = bench.model.run_tail(bank.slot_id, h + seed(h), h)
            loss = bench.objective.loss(outputs, targets[member])
            wanted = torch.autograd.grad(loss, list(seed.parameters()))
            flat = torch.cat([part.flatten() for part in wanted])
            torch.testing.assert_close(gradient[row], flat, rtol=1e-9, atol=1e-12)
    assert host.values.grad is None
