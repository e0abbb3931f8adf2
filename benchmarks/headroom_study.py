"""Is there anything to learn? Many fixed schedules on the same hosts: best per host less best overall.

    python benchmarks/headroom_study.py --task digits --family width --seeds 1000-1019

If one schedule were the best on every host, no policy could win; so before a policy is trained, the mean over
hosts of (best of N schedules there, less the schedule that is best on average) must exceed two standard
errors, and never growing must be best on a fifth of the hosts. The best of N noisy numbers is too good by
itself: what a second life of the same host, with another data order, makes of the schedule chosen by the
first is reported beside it.

This chooses hosts and prices: it runs on tuning seeds, and the test split is never read.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

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

from esper.leyline import Action, LifecycleOp, SeedStage
from esper.runtime.experiment import ExperimentConfig, FamilyConfig
from esper.runtime.families import HostFactory, vary
from esper.runtime.presets import PRESET_NAMES, build_preset
from esper.tamiyo import FixedSchedulePolicy, NeverGrow, ScheduledAction
from esper.tolaria import HostRun

RESULTS = Path(__file__).parent / "results"
REPLICATE_OFFSET = 500_000
"""Added to a seed for the second life: other weights and another order, the same place in the family."""

FAMILIES: Mapping[str, FamilyConfig] = MappingProxyType(
    {
        "fixed": FamilyConfig(),
        "width": FamilyConfig(base_channels=(2, 3, 4, 6, 8, 12)),
        "hidden": FamilyConfig(hidden_widths=(4, 8, 16, 32, 64)),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One schedule: seeds of one blueprint in the last `num_seeds` slots, from an epoch on."""

    name: str
    blueprint: str
    num_seeds: int
    first_epoch: int

    def build(self, slots: tuple[str, ...]) -> FixedSchedulePolicy | NeverGrow:
        if self.num_seeds == 0:
            return NeverGrow()
        entries: list[ScheduledAction] = []
        for turn, slot in enumerate(reversed(slots[-self.num_seeds :])):
            birth = self.first_epoch + turn
            for epoch, op in (
                (birth, LifecycleOp.GERMINATE),
                (birth + 3, LifecycleOp.ADVANCE),
                (birth + 6, LifecycleOp.FOSSILIZE),
            ):
                blueprint = self.blueprint if op is LifecycleOp.GERMINATE else None
                action = Action(op=op, slot=slot, blueprint=blueprint, tempo_epochs=3)
                entries.append(ScheduledAction(epoch=epoch, action=action))
        return FixedSchedulePolicy(entries)


def list_plans(blueprints: tuple[str, ...], horizon: int) -> tuple[Plan, ...]:
    """Return never growing and every combination of blueprint, number of seeds and beginning."""
    plans = [Plan(name="never", blueprint="", num_seeds=0, first_epoch=0)]
    for blueprint in blueprints:
        for num_seeds in (1, 2):
            for fraction in (0.05, 0.3, 0.55):
                first = round(fraction * horizon)
                name = f"{blueprint} x{num_seeds} from {first}"
                plans.append(Plan(name=name, blueprint=blueprint, num_seeds=num_seeds, first_epoch=first))
    return tuple(plans)


def live(run: HostRun, plan: Plan) -> Row:
    policy = plan.build(run.bench.space.slot_ids)
    while not run.is_finished:
        run.apply(policy.decide(run.observe()))
        run.train_epoch()
    result, budgets = run.conclude(), run.observe().budgets
    return {
        "metric": result.metric,
        "loss": result.loss,
        "host_params": budgets.host_params,
        "added_params": budgets.added_params,
        "flops_spent": budgets.flops_spent,
        "never_grow_flops": budgets.never_grow_flops,
        "num_fossils": sum(s.stage is SeedStage.FOSSILIZED for s in run.observe().slots),
        "failure": run.verdict.kind if run.is_terminated else None,
    }


def build_config(task: str, family: str, epochs: int | None) -> ExperimentConfig:
    preset = build_preset(task)
    host = replace(preset.host, epochs=epochs)
    return replace(preset, num_threads=1, host=host, family=FAMILIES[family])


def main() -> int:
    parser = argparse.ArgumentParser(description="Best schedule per host against the best schedule overall.")
    parser.add_argument("--task", required=True, choices=PRESET_NAMES)
    parser.add_argument("--family", default="fixed", choices=tuple(FAMILIES))
    parser.add_argument("--seeds", default=parse_seeds("1000-1019"), type=parse_seeds)
    parser.add_argument("--blueprints", nargs="+", default=["conv_heavy", "depthwise"])
    parser.add_argument("--epochs", type=int, help="default: the task's horizon")
    parser.add_argument("--shard", default=(0, 1), type=parse_shard, help="INDEX/COUNT of the seeds")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows files")
    arguments = parser.parse_args()
    if min(arguments.seeds) < FIRST_TUNING_SEED:
        parser.error(f"seeds below {FIRST_TUNING_SEED} are for published results")
    config = build_config(arguments.task, arguments.family, arguments.epochs)
    factory = HostFactory(config)
    path = arguments.results / f"headroom_{arguments.task}_{arguments.family}.jsonl"
    protocol = hash_protocol(config)
    for seed in seeds_of_shard(arguments.seeds, arguments.shard):
        for plan in list_plans(tuple(arguments.blueprints), factory.horizon_epochs):
            for replicate in (0, 1):
                key: Row = {"schedule": plan.name, "seed": seed, "replicate": replicate}
                if find_row(path, key, protocol) is not None:
                    continue
                started = time.monotonic()
                run = factory.build_replicate(seed, replicate * REPLICATE_OFFSET)
                seconds = time.monotonic() - started
                shape = vary(config, seed).model
                append_row(
                    path,
                    key
                    | {"task": arguments.task, "family": arguments.family, "protocol_hash": protocol}
                    | {"base_channels": shape.base_channels, "hidden": list(shape.hidden)}
                    | live(run, plan)
                    | {"format": 1, "build_seconds": seconds, "seconds": time.monotonic() - started},
                )
        print(f"seed {seed}: done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
