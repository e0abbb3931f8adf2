import torch
from simic.tiny_networks import Script, build_bench, TypedEnv
from esper.simic.collector import build_carry


def test_a41_trajectories_do_not_depend_on_how_rows_lie_on_processes():
    whole = build_bench(num_envs=4, script=Script(lengths=(7,)))
    halves = [build_bench(num_envs=2, first_row=f, script=Script(lengths=(7,))) for f in (0, 2)]
    a = whole.collect().batch.actions
    b = torch.cat([h.collect().batch.actions for h in halves])
    assert torch.equal(a, b)
