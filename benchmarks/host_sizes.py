"""How small must a host be for growth to show? The host alone against the heuristic, host by host.

    python benchmarks/host_sizes.py --seeds 1000-1003

Digits under the preset, but for the size of the host. It chooses a setting, so it runs on tuning seeds and
validation, and writes no rows: it prints the table that stands in docs/LOG.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace

from study_queue import FIRST_TUNING_SEED, parse_seeds

from esper.data import DeviceCache, TaskData
from esper.leyline import TaskSpec
from esper.runtime.assemble import assemble
from esper.runtime.experiment import ExperimentConfig, ModelConfig
from esper.runtime.presets import build_preset
from esper.runtime.tasks import load_task


def hosts() -> tuple[ModelConfig, ...]:
    """From three blocks to two, from two channels to four."""
    preset = build_preset("digits").model
    sizes = ((2, 3), (3, 3), (2, 2), (3, 2), (4, 2))
    return tuple(replace(preset, base_channels=base, num_blocks=blocks) for base, blocks in sizes)


def measure(
    config: ExperimentConfig, loaded: tuple[TaskSpec, TaskData], cache: DeviceCache
) -> tuple[float, int]:
    """Validation accuracy of the network that leaves, and the host's parameters."""
    assembly = assemble(config, loaded=loaded, cache=cache)
    run, policy = assembly.host_run, assembly.policy
    while not run.is_finished:
        run.apply(policy.decide(run.observe()))
        run.train_epoch()
    run.finish()
    bench = run.bench
    return bench.evaluator.evaluate(bench.model, *bench.validation).metric, bench.model.host_params


def main() -> int:
    parser = argparse.ArgumentParser(description="The host alone against growth, by the host's size.")
    parser.add_argument("--seeds", default=parse_seeds("1000-1003"), type=parse_seeds)
    seeds = parser.parse_args().seeds
    if min(seeds) < FIRST_TUNING_SEED:
        parser.error(f"--seeds: a setting is chosen on seeds from {FIRST_TUNING_SEED} on")
    preset, cache = build_preset("digits"), DeviceCache()
    loaded = load_task(preset.task)
    print("| host | parameters | never | heuristic | difference by seed |\n|---|---|---|---|---|")
    for model in hosts():
        accuracies: dict[str, list[float]] = {}
        params = 0
        for policy in ("never", "heuristic"):
            for seed in seeds:
                config = replace(preset, policy=policy, seed=seed, model=model)
                accuracy, params = measure(config, loaded, cache)
                accuracies.setdefault(policy, []).append(accuracy)
        pairs = zip(accuracies["never"], accuracies["heuristic"], strict=True)
        differences = ", ".join(f"{grown - alone:+.3f}" for alone, grown in pairs)
        means = " | ".join(f"{statistics.fmean(values):.4f}" for values in accuracies.values())
        size = f"{model.base_channels} channels, {model.num_blocks} blocks"
        print(f"| {size} | {params} | {means} | {differences} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
