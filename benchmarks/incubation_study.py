"""Which incubation objective? Same seeds, slots and epochs; only the objective differs.

    python benchmarks/incubation_study.py --tasks digits synthetic fashion_mnist --seeds 1000-1004

A fixed schedule germinates one blueprint in every slot, one slot an epoch, lets each incubate a fixed number
of epochs, blends it in and keeps it. Gates ask for no evidence, so that a bad seed stays and shows. When a
slot's incubation ends, the change of the validation loss is measured at the first non-zero alpha and at full
alpha, with normalisation statistics re-estimated for each.

This chooses a setting: it runs on tuning seeds, and the test split is never read.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
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
from esper.kasmina import INCUBATION_NAMES
from esper.leyline import (
    Action,
    EpochOutcome,
    GovernorGaveUpError,
    JsonValue,
    LifecycleOp,
    SeedStage,
    TaskSpec,
)
from esper.runtime.assemble import assemble
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import PRESET_NAMES, build_preset
from esper.runtime.tasks import load_task
from esper.tamiyo import FixedSchedulePolicy, ScheduledAction
from esper.tolaria import HostRun, estimate_mean
from esper.tolaria.measuring import Setting

RESULTS = Path(__file__).parent / "results"
FIRST_EPOCH = 2
TEMPO_EPOCHS = 3


def build_schedule(slots: tuple[str, ...], blueprint: str, incubation: int) -> tuple[ScheduledAction, ...]:
    """One germination an epoch; with incubation >= number of slots no two operations fall on one epoch."""
    births, blends, keeps = [], [], []
    for epoch, slot in enumerate(slots, start=FIRST_EPOCH):
        birth = Action(op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint, tempo_epochs=TEMPO_EPOCHS)
        births.append(ScheduledAction(epoch=epoch, action=birth))
        advance = Action(op=LifecycleOp.ADVANCE, slot=slot)
        blend = epoch + incubation
        blends.append(ScheduledAction(epoch=blend, action=advance, until_epoch=blend))
        keep = Action(op=LifecycleOp.FOSSILIZE, slot=slot)
        keeps.append(ScheduledAction(epoch=blend + TEMPO_EPOCHS, action=keep))
    return (*births, *blends, *keeps)


def build_config(task: str, objective: str, epochs: int | None, threads: int) -> ExperimentConfig:
    preset = build_preset(task)
    gates = replace(preset.host.gates, is_evidence_required=False, max_metric_drop=1.0)
    lifecycle = replace(preset.host.lifecycle, incubation=objective)
    host = replace(preset.host, gates=gates, lifecycle=lifecycle, epochs=epochs)
    return replace(preset, policy="schedule", num_threads=threads, host=host)


def measure_blend(run: HostRun, slot_id: str) -> dict[str, JsonValue]:
    """What turning the seed up does to the validation loss (nats), before the host can adapt."""
    bench = run.bench
    first_alpha = 1.0 / (TEMPO_EPOCHS * bench.batches.num_batches)
    rises = []
    with bench.rng.installed():
        for alpha in (first_alpha, 1.0):
            setting = [Setting(slot=slot_id, alpha=alpha)]
            change = bench.evaluator.compute_differences(
                bench.model, setting, bench.calibration, bench.gate_items
            )[0][0]
            rises.append(estimate_mean(change).mean)
    gain = bench.model.slot(slot_id).state.shadow_gain
    return {
        "slot": slot_id,
        "shadow_gain": None if gain is None else gain.mean,
        "shadow_gain_error": None if gain is None else gain.standard_error,
        "loss_rise_first_alpha": rises[0],
        "loss_rise_full_alpha": rises[1],
    }


def train(run: HostRun, policy: FixedSchedulePolicy, blends: list[JsonValue]) -> EpochOutcome:
    outcome = None
    while not run.is_finished:
        decision = policy.decide(run.observe())
        action = decision.action
        if action.op is LifecycleOp.ADVANCE and action.slot is not None:
            blends.append(measure_blend(run, action.slot))
        result = run.apply(decision)
        assert result.refusal is None, result.refusal
        outcome = run.train_epoch()
    assert outcome is not None
    return outcome


def run_job(
    config: ExperimentConfig, incubation: int, loaded: tuple[TaskSpec, TaskData], cache: DeviceCache
) -> Row:
    """Run one objective on one seed; the network is measured as it stands after the last epoch."""
    started = time.monotonic()
    run = assemble(config, loaded=loaded, cache=cache).host_run
    slots = run.bench.model.slot_ids
    if incubation < len(slots):
        raise SystemExit(f"--incubation {incubation}: must be >= {len(slots)}, the number of slots")
    blueprint = choose_blueprint(config)
    policy = FixedSchedulePolicy(build_schedule(slots, blueprint, incubation), config.heuristic)
    blends: list[JsonValue] = []
    failure = None
    accuracy, loss = 1.0 / run.task.num_outputs, run.task.chance_loss
    try:
        outcome = train(run, policy, blends)
        accuracy, loss = outcome.metric, outcome.validation_loss
    except GovernorGaveUpError as error:
        failure = str(error)
    by_kind: dict[str, JsonValue] = dict(run.bench.ledger.totals())
    stages = [slot.state.stage for slot in run.bench.model.each_slot()]
    return {
        "format": 1,
        "epochs": run.horizon_epochs,
        "blueprint": blueprint,
        "incubation_epochs": incubation,
        "failure": failure,
        "validation_accuracy": accuracy,
        "validation_loss": loss,
        "blends": blends,
        "num_kept": stages.count(SeedStage.FOSSILIZED),
        "num_slots": len(stages),
        "num_rollbacks": run.bench.governor.rollback_count,
        "params_host": run.bench.model.host_params,
        "params_total": run.bench.model.num_params,
        "flops": by_kind,
        "flops_total": run.bench.ledger.total,
        "seconds": time.monotonic() - started,
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "config_hash": hash_config(config),
    }


def choose_blueprint(config: ExperimentConfig) -> str:
    return "mlp" if config.model.kind == "mlp" else "conv_light"


def work(task: str, arguments: argparse.Namespace) -> None:
    """Run what is missing of one task."""
    loaded, cache = load_task(build_preset(task).task), DeviceCache()
    path = arguments.results / f"incubation_{task}.jsonl"
    base = build_config(task, INCUBATION_NAMES[0], arguments.epochs, arguments.threads)
    # The incubation's length is no setting of the experiment, but rows of two lengths must not meet.
    protocol = f"{hash_protocol(base)}-i{arguments.incubation}"
    for seed in seeds_of_shard(arguments.seeds, arguments.shard):
        for objective in arguments.objectives:
            config = build_config(task, objective, arguments.epochs, arguments.threads)
            rate = config.host.optimizer.learning_rate
            key: Row = {"arm": objective, "task": task, "learning_rate": rate, "seed": seed}
            if find_row(path, key, protocol) is not None:
                continue
            row = run_job(replace(config, seed=seed), arguments.incubation, loaded, cache)
            append_row(path, key | {"protocol_hash": protocol} | row)
            accuracy, loss = float(str(row["validation_accuracy"])), float(str(row["validation_loss"]))
            print(
                f"{task:<14} seed {seed:<5} {objective:<17} accuracy {accuracy:.4f} loss {loss:.4f} "
                f"kept {row['num_kept']}/{row['num_slots']} "
                f"GFLOP {int(str(row['flops_total'])) / 1e9:.2f} seconds {float(str(row['seconds'])):.1f}",
                flush=True,
            )


def main() -> int:
    parser = argparse.ArgumentParser(description="Incubation objectives against each other.")
    parser.add_argument("--tasks", nargs="+", default=["digits", "synthetic"], choices=PRESET_NAMES)
    parser.add_argument("--objectives", nargs="+", default=INCUBATION_NAMES, choices=INCUBATION_NAMES)
    parser.add_argument("--seeds", default=parse_seeds("1000-1004"), type=parse_seeds)
    parser.add_argument("--incubation", type=int, default=5, help="epochs in TRAINING, >= number of slots")
    parser.add_argument("--epochs", type=int, help="default: the task's horizon")
    parser.add_argument("--shard", default=(0, 1), type=parse_shard, help="INDEX/COUNT of the seeds")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows files")
    arguments = parser.parse_args()
    if min(arguments.seeds) < FIRST_TUNING_SEED:
        parser.error(f"--seeds: a setting is chosen on seeds from {FIRST_TUNING_SEED} on")
    for task in arguments.tasks:
        work(task, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
