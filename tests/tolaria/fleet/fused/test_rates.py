"""Learning rates as a table equal the closed form, row by row."""

from __future__ import annotations

import torch
from torch import nn

from esper.tolaria import OptimizerConfig
from esper.tolaria.fleet.fused.bank import BankRow
from esper.tolaria.fleet.fused.rates import build_rates
from esper.tolaria.optimizers import TopologyOptimizer

CONFIG = OptimizerConfig(newborn_multiplier=2.0, warmup_fraction=0.2)


def build_row(config: OptimizerConfig, *, birth: int = 0, is_frozen: bool = False) -> BankRow:
    host = {"host.weight": nn.Parameter(torch.zeros(2, 2))}
    optimizer = TopologyOptimizer(config, host, total_batches=50, newborn_warmup_batches=6)
    seed = nn.Parameter(torch.zeros(2, 2))
    optimizer.add_seed("block1", {"slots.block1.seed.weight": seed}, birth_batch=birth)
    optimizer.set_frozen("block1", is_frozen)
    return BankRow(optimizer=optimizer, owner="block1", parameters={"weight": seed})


def test_each_row_follows_its_own_schedule_birth_and_freeze() -> None:
    other = OptimizerConfig(learning_rate=0.3, final_fraction=0.5)
    rows = [
        build_row(CONFIG, birth=10),
        build_row(CONFIG, birth=12),
        build_row(CONFIG, birth=10),
        build_row(CONFIG, birth=10, is_frozen=True),
        build_row(other, birth=10),
    ]
    starts = [10, 12, 25, 10, 10]
    rates = build_rates(rows, starts, 5)
    assert rates.dtype == torch.float64
    assert rates.shape == (5, 5)
    for batch in range(5):
        for place, (row, start) in enumerate(zip(rows, starts, strict=True)):
            assert rates[batch, place] == row.optimizer.learning_rate("block1", start + batch)
    assert not rates[:, 3].any()
    assert len({float(rate) for rate in rates[3]}) == 5


def test_a_fossil_has_the_rates_of_its_host() -> None:
    row = build_row(CONFIG, birth=10)
    row.optimizer.fossilize("block1")
    host = BankRow(optimizer=row.optimizer, owner="host", parameters={})
    rates = build_rates([row, host], [11, 11], 4)
    assert torch.equal(rates[:, 0], rates[:, 1])
