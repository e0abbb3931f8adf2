from __future__ import annotations

import torch
from torch import nn

from esper.runtime.ranks.lone import LoneRank, Ranks


def test_a_process_alone_has_what_all_agree_on_and_stops_where_it_wants() -> None:
    ranks: Ranks = LoneRank()
    module = nn.Linear(2, 1)
    before = [p.detach().clone() for p in module.parameters()]
    ranks.enter("rollout", 0)
    ranks.broadcast_module(module)
    ranks.reduce_gradients(list(module.parameters()))
    ranks.barrier()
    assert all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())
    assert ranks.collective.world_size == 1
    pace = ranks.pace(3)
    pace.finish(0)
    pace.go_on()
    assert not pace.should_cut(3, 0)
    assert [pace.should_stop(is_wanted, 1, 0) for is_wanted in (True, False)] == [True, False]
