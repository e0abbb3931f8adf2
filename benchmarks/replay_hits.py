"""Would a tree of recorded lives save hosts? How many steps of a policy's lives were lived before.

    python benchmarks/replay_hits.py --task digits --policies random runs/a --hosts 16 --lives 4

A recorded tree answers a step without training an epoch if the same host took the same actions up to and
including that step before. This lives `--lives` lives on each host, as often as a training meets each of its
hosts, and counts such steps; and of them those in which nothing had been planted yet: the life of every
training host that never grows is kept anyway. Hosts are tuning seeds; validation only.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from esper.leyline import Action, LifecycleOp, TamiyoPolicy, derive_seed
from esper.runtime.config_file import load_config
from esper.runtime.devices import set_threads
from esper.runtime.families import HostFactory
from esper.runtime.policies import find_policy
from esper.runtime.presets import PRESET_NAMES, build_preset

FIRST_HOST = 1000


def live(factory: HostFactory, host: int, policy: TamiyoPolicy) -> list[Action]:
    """Return the actions of one life as they were carried out, one per interval."""
    run = factory.build(host)
    policy.reset()
    actions = []
    while not run.is_finished:
        actions.append(run.apply(policy.decide(run.observe())).effective)
        run.train_epoch()
    return actions


def count(lives: list[tuple[int, list[Action]]]) -> tuple[int, int, int]:
    """Return steps, steps that were lived before, and those of the latter before anything was planted."""
    known: set[tuple[int, tuple[Action, ...]]] = set()
    steps = hits = bare = 0
    for host, actions in lives:
        prefixes = [(host, tuple(actions[: t + 1])) for t in range(len(actions))]
        lived = [prefix for prefix in prefixes if prefix in known]
        steps, hits = steps + len(prefixes), hits + len(lived)
        bare += sum(all(action.op is LifecycleOp.WAIT for action in taken) for _, taken in lived)
        known.update(prefixes)
    return steps, hits, bare


def main() -> int:
    parser = argparse.ArgumentParser(description="Steps that a tree of recorded lives would answer.")
    parser.add_argument("--task", required=True, choices=PRESET_NAMES)
    parser.add_argument("--config", type=Path, help="TOML laid over the task's preset")
    parser.add_argument("--policies", nargs="+", required=True)
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--lives", type=int, default=4)
    arguments = parser.parse_args()
    set_threads(1)
    preset = build_preset(arguments.task)
    config = preset if arguments.config is None else load_config(arguments.config, preset).config
    factory = HostFactory(replace(config, num_threads=1))
    for reference in arguments.policies:
        lives = []
        for life in range(arguments.lives):
            for host in range(FIRST_HOST, FIRST_HOST + arguments.hosts):
                seed = derive_seed(host, "replay-hits", life)
                policy = find_policy(reference, config, seed=seed, is_greedy=False).policy
                lives.append((host, live(factory, host, policy)))
        steps, hits, bare = count(lives)
        print(f"{reference}: {steps} steps, {hits / steps:.3f} lived before, {bare / steps:.3f} of them bare")
    return 0


if __name__ == "__main__":
    sys.exit(main())
