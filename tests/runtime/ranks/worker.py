"""python -m runtime.ranks.worker SCENARIO FOLDER: one rank as a process, placed by torchrun's variables.

Whoever starts it names the rank that misbehaves in VICTIM, and stops or kills it from outside where it cannot
do so itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from esper.runtime.ranks import DistributedConfig, Heartbeat, leave, read_rank_environment
from esper.runtime.ranks.rank_group import RankGroup

CONFIG = DistributedConfig(
    init_timeout_s=60.0,
    gradient_timeout_s=5.0,
    control_timeout_s=5.0,
    # Two seconds of silence, twenty of the beats that `main` starts: a rank that waits for a core lives.
    heartbeat_every_s=0.5,
    preempt_after_fraction=0.5,
)
STEP = 7


def exchange_everything(group: RankGroup, folder: Path) -> None:
    """Use every exchange once; write what came out."""
    rank, collective = group.collective.rank, group.collective
    group.enter("rollout", STEP)
    pace = group.pace(10)
    pace.finish(STEP)
    group.barrier()
    is_cut = pace.should_cut(3, STEP)
    group.enter("update", STEP)
    module = nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.fill_(rank + 0.5)
    group.broadcast_module(module)
    module.weight.grad = torch.full((1, 2), float(rank))
    group.reduce_gradients(list(module.parameters()))
    assert module.bias.grad is not None
    result = {
        "sum": collective.all_sum([float(rank), 0.1 * rank]),
        "max": collective.all_max([float(-rank)]),
        "first": collective.broadcast([float(rank + 5)]),
        "agree": [collective.all_agree("a"), collective.all_agree("a" if rank else "b")],
        "weight": module.weight.tolist(),
        "gradients": [module.weight.grad.tolist(), module.bias.grad.tolist()],
        "is_cut": is_cut,
    }
    group.barrier()
    (folder / f"result-{rank}.json").write_text(json.dumps(result), encoding="ascii")


def add_forever(group: RankGroup, _folder: Path) -> None:
    """Exchange until something happens from outside."""
    group.enter("update", STEP)
    while True:
        group.collective.all_sum([1.0])


def miss_the_end_of_a_rollout(group: RankGroup, _folder: Path) -> None:
    """One rank never comes back from its rollout."""
    group.enter("rollout", STEP)
    if group.collective.rank == int(os.environ["VICTIM"]):
        threading.Event().wait()
    group.collective.all_sum([1.0])


def hold_the_interpreter(group: RankGroup, _folder: Path) -> None:
    """One rank is caught in a call that lets no other thread run, its heartbeat included."""
    group.enter("rollout", STEP)
    group.barrier()
    if group.collective.rank == int(os.environ["VICTIM"]):
        ctypes.PyDLL(None).sleep(600)
    group.collective.all_sum([1.0])


def miss_a_gradient(group: RankGroup, _folder: Path) -> None:
    """One rank goes on to something else while the others reduce gradients."""
    group.enter("update", STEP)
    if group.collective.rank == int(os.environ["VICTIM"]):
        raise MemoryError("no room for the gradient")
    group.reduce_gradients([nn.Parameter(torch.zeros(3))])


SCENARIOS: Mapping[str, Callable[[RankGroup, Path], None]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            exchange_everything,
            add_forever,
            miss_the_end_of_a_rollout,
            hold_the_interpreter,
            miss_a_gradient,
        )
    }
)


def main() -> None:
    scenario, folder = SCENARIOS[sys.argv[1]], Path(sys.argv[2])
    environment = read_rank_environment(os.environ)
    assert environment is not None
    torch.set_num_threads(1)
    heartbeat = Heartbeat(folder, rank=environment.rank, session=environment.session, every_s=0.1)
    ranks = RankGroup(environment, CONFIG, heartbeat=heartbeat, folder=folder, device=torch.device("cpu"))
    try:
        with ranks as group:
            scenario(group, folder)
    except Exception as error:  # noqa: BLE001 - the outermost place of a rank
        leave(
            error,
            folder=folder,
            environment=environment,
            heartbeat=heartbeat,
            log=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201 - a program of its own
        )


if __name__ == "__main__":
    main()
