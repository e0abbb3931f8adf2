"""Do scores tell where and what to grow? Predicted against realised gain of every slot and blueprint.

    python benchmarks/score_study.py --task digits --seeds 1000-1011 --shard 0/2 &
    python benchmarks/score_study.py --task digits --seeds 1000-1011 --shard 1/2

A host is trained without growth up to a probed epoch and scored there, exactly, without random projections.
From that state it goes on K epochs ungrown (the twin) and, for each pair of slot and blueprint with a score
and for each of several build seeds, K epochs with that seed: incubated, blended in, at full alpha to the end.
Same data order, same learning rates; gates ask for no evidence. Realised gain = validation loss of the twin
less that of the grown network.

`scripts/score_tables.py` makes of the rows what stands in docs/results.md.

This chooses what a policy may use: tuning seeds, validation split, the test split is never read.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from study_queue import (
    FIRST_TUNING_SEED,
    Row,
    append_row,
    find_row,
    hash_config,
    hash_protocol,
    parse_seeds,
    parse_shard,
    seeds_of_shard,
)

from esper.data import DeviceCache, TaskData
from esper.leyline import Action, Decision, GovernorGaveUpError, LifecycleOp, TaskSpec
from esper.runtime.assemble import assemble
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import PRESET_NAMES, build_preset
from esper.runtime.tasks import load_task
from esper.tolaria import HostRun
from esper.tolaria.checkpoint import StateRecord

RESULTS = Path(__file__).parent / "results"
INCUBATION_EPOCHS = 3
TEMPO_EPOCHS = 2
SCORED_BY_HAND = 10**6
"""An interval between scores that no run reaches: the scorer exists and is asked here alone."""
EXACT_WIDTH = 4096
REPLICATE_STRIDE = 1000
"""Distance between the event counts of two build seeds: the path of a seed's weights holds the count."""
NUM_RESAMPLES = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What all hosts of a study share."""

    config: ExperimentConfig
    protocol: str
    loaded: tuple[TaskSpec, TaskData]
    cache: DeviceCache
    path: Path
    epochs: tuple[int, ...]
    """Probed epochs, ascending."""
    span: int
    """K: intervals from a probed epoch to the comparison."""
    replicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One host at one probed epoch."""

    seed: int
    epoch: int
    state: StateRecord
    pairs: tuple[Row, ...]
    """Slot, blueprint, what the score says and what the seed costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Where K intervals led."""

    loss: float | None
    """Validation loss; None for a run that failed."""
    metric: float | None
    cpu_seconds: float


def build_config(task: str, threads: int) -> ExperimentConfig:
    preset = build_preset(task)
    gates = replace(
        preset.host.gates, is_evidence_required=False, max_metric_drop=1.0, min_gradient_ratio=0.0
    )
    measuring = replace(preset.host.measuring, score_every=SCORED_BY_HAND, score_width=EXACT_WIDTH)
    host = replace(preset.host, gates=gates, measuring=measuring)
    return replace(preset, policy="never", num_threads=threads, host=host)


def score_pairs(run: HostRun) -> tuple[Row, ...]:
    """Every pair that has a score now, with its cost."""
    scorer = run.bench.scorer
    assert scorer is not None
    with run.bench.rng.installed():
        sheet = scorer.score(run.bench.model, run.epoch)
    pairs: list[Row] = []
    for slot, scores in sheet.slots.items():
        for blueprint, share in (scores.blueprint_gains or {}).items():
            cost = run.bench.space.descriptors[slot][blueprint]
            pairs.append(
                {
                    "slot": slot,
                    "blueprint": blueprint,
                    "share": share,
                    "energy": scores.gradient_energy,
                    "linear_share": scores.linear_share,
                    "saturation": scores.saturation,
                    "num_params": cost.num_params,
                    "flops_per_item": cost.flops_per_item,
                }
            )
    return tuple(pairs)


def go_on(run: HostRun, probe: Probe, span: int, action: Action | None, replicate: int = 0) -> End:
    """Continue from a probed state for `span` intervals; with an action, that seed is grown."""
    started = time.process_time()
    run.restore(probe.state)
    run.event_count += replicate * REPLICATE_STRIDE
    outcome = None
    try:
        for offset in range(span):
            decision = Decision()
            if action is not None and offset == 0:
                decision = Decision(action=action)
            elif action is not None and offset == INCUBATION_EPOCHS:
                decision = Decision(action=Action(op=LifecycleOp.ADVANCE, slot=action.slot))
            result = run.apply(decision)
            if result.refusal is not None:
                raise RuntimeError(f"{probe.seed}, epoch {run.epoch}: {result.refusal}")
            outcome = run.train_epoch()
    except GovernorGaveUpError:
        return End(loss=None, metric=None, cpu_seconds=time.process_time() - started)
    assert outcome is not None
    is_sound = math.isfinite(outcome.validation_loss) and run.epoch == probe.epoch + span
    return End(
        loss=outcome.validation_loss if is_sound else None,
        metric=outcome.metric if is_sound else None,
        cpu_seconds=time.process_time() - started,
    )


def run_trials(study: Study, run: HostRun, probe: Probe, config: ExperimentConfig) -> None:
    """Every pair and build seed of one probed host that has no row yet; the twin once, when it is needed."""
    twin: End | None = None
    for pair in probe.pairs:
        for replicate in range(study.replicates):
            key: Row = {
                "arm": "score",
                "task": config.task.name,
                "seed": probe.seed,
                "epoch": probe.epoch,
                "slot": pair["slot"],
                "blueprint": pair["blueprint"],
                "replicate": replicate,
            }
            if find_row(study.path, key, study.protocol) is not None:
                continue
            twin = go_on(run, probe, study.span, None) if twin is None else twin
            action = Action(
                op=LifecycleOp.GERMINATE,
                slot=str(pair["slot"]),
                blueprint=str(pair["blueprint"]),
                tempo_epochs=TEMPO_EPOCHS,
            )
            grown = go_on(run, probe, study.span, action, replicate)
            row: Row = {
                "format": 1,
                "protocol_hash": study.protocol,
                "config_hash": hash_config(config),
                "torch": torch.__version__,
                "num_threads": torch.get_num_threads(),
                "span": study.span,
                "horizon": run.horizon_epochs,
                "twin_loss": twin.loss,
                "twin_metric": twin.metric,
                "grown_loss": grown.loss,
                "grown_metric": grown.metric,
                "cpu_seconds": grown.cpu_seconds,
            }
            append_row(study.path, key | pair | row)
            print(describe(key | pair | row), flush=True)


def run_host(study: Study, seed: int) -> None:
    """One host: on to each probed epoch, scored, and its trials; what has rows is passed over."""
    config = replace(study.config, seed=seed)
    base = assemble(config, loaded=study.loaded, cache=study.cache).host_run
    trial_run = assemble(config, loaded=study.loaded, cache=study.cache).host_run
    for epoch in study.epochs:
        while base.epoch < epoch:
            base.apply(Decision())
            base.train_epoch()
        probe = Probe(seed=seed, epoch=epoch, state=base.state(), pairs=score_pairs(base))
        run_trials(study, trial_run, probe, config)


def describe(row: Row) -> str:
    gain = compute_gain(row)
    return (
        f"seed {row['seed']:<5} epoch {row['epoch']:<3} {row['slot']} {row['blueprint']:<12} "
        f"#{row['replicate']} share {float(str(row['share'])):.4f} energy {float(str(row['energy'])):.4g} "
        f"gain {'failed' if gain is None else f'{gain:+.4f}'} cpu {float(str(row['cpu_seconds'])):.2f}"
    )


def compute_gain(row: Row) -> float | None:
    """Twin loss less grown loss; None where a run failed."""
    twin, grown = row["twin_loss"], row["grown_loss"]
    return None if twin is None or grown is None else float(str(twin)) - float(str(grown))


def main() -> int:
    parser = argparse.ArgumentParser(description="Scores against realised gains.")
    parser.add_argument("--task", default="digits", choices=PRESET_NAMES)
    parser.add_argument("--seeds", default=parse_seeds("1000-1011"), type=parse_seeds)
    parser.add_argument("--epochs", nargs="+", type=int, default=[5, 15], help="probed epochs")
    parser.add_argument("--span", type=int, default=10, help="epochs from there to the comparison")
    parser.add_argument("--replicates", type=int, default=3, help="build seeds per pair")
    parser.add_argument("--shard", default=(0, 1), type=parse_shard, help="INDEX/COUNT of the seeds")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows files")
    options = parser.parse_args()
    path = options.results / f"score_{options.task}.jsonl"
    if min(options.seeds) < FIRST_TUNING_SEED:
        parser.error(f"--seeds: a setting is chosen on seeds from {FIRST_TUNING_SEED} on")
    if options.span <= INCUBATION_EPOCHS + TEMPO_EPOCHS:
        parser.error(f"--span: must exceed {INCUBATION_EPOCHS + TEMPO_EPOCHS}, where alpha reaches 1")
    config = build_config(options.task, options.threads)
    study = Study(
        config=config,
        # The span is no setting of the experiment, but rows of two spans must not meet.
        protocol=f"{hash_protocol(config)}-k{options.span}",
        loaded=load_task(config.task),
        cache=DeviceCache(),
        path=path,
        epochs=tuple(sorted(options.epochs)),
        span=options.span,
        replicates=options.replicates,
    )
    for seed in seeds_of_shard(options.seeds, options.shard):
        run_host(study, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
