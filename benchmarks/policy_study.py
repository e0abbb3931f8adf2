"""Does the learned policy pay? Every policy on the same fresh hosts, one row per host, resumable.

    python benchmarks/policy_study.py --name digits_width --task digits --seeds 0-19 \\
        --config benchmarks/policies/digits_width.toml --arms never random heuristic greedy schedule \\
        --schedule benchmarks/policies/digits_schedule.json
    python benchmarks/policy_study.py --name digits_width --task digits --seeds 0-19 \\
        --config benchmarks/policies/digits_width.toml --trained 0=runs/a 1=runs/b --trained-arm ppo

never, random, heuristic   rules (random: legal operations, then arguments, all alike)
greedy                     the score of the functional gradient every fifth interval, its FLOPs counted
schedule                   the schedule that was best on average in headroom_study.py, from a file
--trained                  policies by training seed, drawn as they were trained; --trained-arm names them

The prices of the objective and the family of hosts are those of the configuration. The test split is read
once per host. Seeds from 1000 on are for tuning, and their rows tell of validation only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from study_queue import (
    FIRST_TUNING_SEED,
    Row,
    append_row,
    find_row,
    hash_protocol,
    parse_seeds,
    parse_shard,
    seeds_of_shard,
)

from esper.leyline import canonical_hash, derive_seed
from esper.runtime.config_file import load_config
from esper.runtime.devices import set_threads
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.families import HostFactory, vary
from esper.runtime.policies import SCHEDULE_PREFIX, add_scores, find_policy
from esper.runtime.presets import PRESET_NAMES, build_preset
from esper.simic import run_episode

RESULTS = Path(__file__).parent / "results"
RULES = ("never", "random", "heuristic", "greedy", "schedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One policy of the table."""

    name: str
    training_seed: int | None
    reference: str
    """As `runtime.policies` takes it."""


def list_arms(arguments: argparse.Namespace) -> list[Arm]:
    arms = []
    for name in arguments.arms:
        reference = f"{SCHEDULE_PREFIX}{arguments.schedule}" if name == "schedule" else name
        arms.append(Arm(name=name, training_seed=None, reference=reference))
    for entry in arguments.trained:
        seed, _, folder = entry.partition("=")
        arms.append(Arm(name=arguments.trained_arm, training_seed=int(seed), reference=folder))
    return arms


def live(config: ExperimentConfig, factory: HostFactory, arm: Arm, seed: int) -> Row:
    started = time.monotonic()
    policy_seed = derive_seed(seed, "policy-study", arm.name)
    policy = find_policy(arm.reference, config, seed=policy_seed, is_greedy=False).policy
    shape = vary(config, seed).model
    result = run_episode(factory.build(seed), policy, seed, prices=config.reward).to_json()
    if seed >= FIRST_TUNING_SEED:
        result = {name: value for name, value in result.items() if not name.startswith("test_")}
    return result | {
        "base_channels": shape.base_channels,
        "num_blocks": shape.num_blocks,
        "seconds": time.monotonic() - started,
    }


def run_study(
    config: ExperimentConfig, arms: Sequence[Arm], seeds: Sequence[int], path: Path, facts: Row
) -> None:
    protocol = hash_protocol(config)
    # Lists that are empty are left out, so that a new kind of list does not disown the rows of old families.
    lists = {name: list(values) for name, values in asdict(config.family).items() if values}
    family = canonical_hash(
        {
            "channels": lists.pop("base_channels", []),
            "blocks": lists.pop("num_blocks", []),
            "prices": [config.reward.lambda_p, config.reward.lambda_f],
        }
        | lists
    )[:8]
    for arm in arms:
        of_arm = add_scores(config, arm.reference)
        factory = HostFactory(of_arm)
        for seed in seeds:
            key: Row = {"arm": arm.name, "training_seed": arm.training_seed, "seed": seed}
            if find_row(path, key, f"{protocol}-{family}") is None:
                row = key | facts | {"protocol_hash": f"{protocol}-{family}"}
                append_row(path, row | live(of_arm, factory, arm, seed))
        print(f"{arm.name} {arm.training_seed if arm.training_seed is not None else ''}: done", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Every policy on the same fresh hosts.")
    parser.add_argument("--name", required=True, help="rows go to policy_NAME.jsonl")
    parser.add_argument("--task", required=True, choices=PRESET_NAMES)
    parser.add_argument("--config", type=Path, help="TOML laid over the task's preset: family, prices")
    parser.add_argument("--seeds", default=parse_seeds("0-19"), type=parse_seeds)
    parser.add_argument("--arms", nargs="*", default=[], choices=RULES)
    parser.add_argument("--schedule", type=Path, help="file of the arm schedule")
    parser.add_argument("--trained", nargs="*", default=[], metavar="SEED=RUN")
    parser.add_argument("--trained-arm", default="ppo", help="name of the arm of trained policies")
    parser.add_argument("--shard", default=(0, 1), type=parse_shard, help="INDEX/COUNT of the seeds")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows files")
    arguments = parser.parse_args()
    if "schedule" in arguments.arms and arguments.schedule is None:
        parser.error("the arm schedule needs --schedule FILE")
    preset = build_preset(arguments.task)
    config = preset if arguments.config is None else load_config(arguments.config, preset).config
    set_threads(1)
    run_study(
        replace(config, num_threads=1),
        list_arms(arguments),
        seeds_of_shard(arguments.seeds, arguments.shard),
        arguments.results / f"policy_{arguments.name}.jsonl",
        {"task": arguments.task, "format": 1},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
