"""A rank that exchanges numbers with the others; in the first attempt one of them dies meanwhile.

`python launch_talker.py VICTIM ARGS...`
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from esper.leyline import RankFailureError
from esper.runtime.ranks import DistributedConfig, Heartbeat, Pulse, leave, read_rank_environment
from esper.runtime.ranks.heartbeat import read_pulse
from esper.runtime.ranks.rank_group import RankGroup


def main() -> None:
    """Talk once, and once more with whoever is left."""
    environment = read_rank_environment(os.environ)
    assert environment is not None
    run_dir = Path(
        next(arg.partition("=")[2] for arg in sys.argv[2:] if arg.startswith(("--run", "--resume")))
    )
    folder, config = run_dir / "ranks", DistributedConfig(heartbeat_every_s=0.05)
    heartbeat = Heartbeat(folder, rank=environment.rank, session=environment.session, every_s=0.05)
    group = RankGroup(environment, config, heartbeat=heartbeat, folder=folder, device=torch.device("cpu"))
    try:
        with group:
            assert group.collective.all_sum([1.0]) == [float(environment.world_size)]
            if environment.restart_count == 0:
                if environment.rank == int(sys.argv[1]):
                    die(run_dir, group, environment.session)
                group.barrier()
    except RankFailureError as error:
        leave(error, folder=folder, environment=environment, heartbeat=heartbeat, log=lambda _: None)


def die(run_dir: Path, group: RankGroup, session: str) -> None:
    """Leave a checkpoint, be seen in a phase, and be killed."""
    (run_dir / "checkpoints" / "e0003-b00000").mkdir(parents=True)
    group.enter("talk", step=3)
    while True:
        pulse = read_pulse(run_dir / "ranks", group.heartbeat.pulse.rank, session)
        if isinstance(pulse, Pulse) and pulse.phase == "talk":
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
