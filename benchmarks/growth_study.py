"""Does growth pay? Every arm on the same seeds, one row per run, resumable.

    python benchmarks/growth_study.py --task fashion_mnist --seeds 0-9 --shard 0/2 &
    python benchmarks/growth_study.py --task fashion_mnist --seeds 0-9 --shard 1/2

    never                the host alone
    never_flops          the host alone, for as many epochs as the heuristic's FLOPs pay for
    heuristic            the heuristic policy
    random               random legal actions, germinating as often (where it is legal) as the heuristic did
    static_final_epochs  the network that the heuristic ended with, from scratch, for the same epochs
    static_final_flops   the same network, for as many epochs as the heuristic's FLOPs pay for

All but never and heuristic build on the heuristic's row of the same seed; --grown-rate says of which learning
rate, where it is not the arm's own. Every schedule decays within its own budget. Seeds from 1000 on are for
tuning: their rows carry validation results only.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from esper.leyline import (
    Action,
    BlendForm,
    Event,
    GovernorGaveUpError,
    JsonValue,
    LifecycleOp,
    Observation,
    SeedStage,
    TamiyoPolicy,
    TaskSpec,
    derive_seed,
)
from esper.runtime.assemble import Assembly, assemble
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import PRESET_NAMES, build_preset
from esper.runtime.tasks import load_task
from esper.tamiyo import RandomPolicy, choosable_ops
from esper.tolaria import FlopsLedger, HostRun
from esper.tolaria.snapshot import capture_state
from esper.tolaria.steps import charge_training

ARMS = ("never", "heuristic", "random", "static_final_epochs", "static_final_flops", "never_flops")
"""In the order in which they run: all after the second need the heuristic's row."""

NEEDS_HEURISTIC = frozenset(ARMS[2:])
FLOP_MATCHED = frozenset({"static_final_flops", "never_flops"})

RESULTS = Path(__file__).parent / "results"


class EventCounter:
    """Counts events by kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def emit(self, event: Event) -> None:
        self.counts[event.kind] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What all runs of a study share."""

    base: ExperimentConfig
    loaded: tuple[TaskSpec, TaskData]
    cache: DeviceCache
    path: Path
    protocol_hash: str

    @property
    def epochs(self) -> int:
        assert self.base.host.epochs is not None
        return self.base.host.epochs

    def key(self, arm: str, learning_rate: float, seed: int) -> Row:
        return {"arm": arm, "task": self.base.task.name, "learning_rate": learning_rate, "seed": seed}

    def find(self, arm: str, learning_rate: float, seed: int) -> Row | None:
        return find_row(self.path, self.key(arm, learning_rate, seed), self.protocol_hash)

    def config(self, policy: str, learning_rate: float, seed: int, epochs: int) -> ExperimentConfig:
        optimizer = replace(self.base.host.optimizer, learning_rate=learning_rate)
        host = replace(self.base.host, optimizer=optimizer, epochs=epochs)
        return replace(self.base, seed=seed, policy=policy, host=host)

    def assemble(self, config: ExperimentConfig, counter: EventCounter) -> Assembly:
        return assemble(config, counter, loaded=self.loaded, cache=self.cache)


@dataclass(slots=True, kw_only=True)
class Life:
    """What was seen while a host was trained."""

    num_legal: int = 0
    """Decisions at which some germination was legal."""
    num_germinated: int = 0
    """Of these, decisions that germinated."""
    train_loss: float = math.nan
    curve: list[JsonValue] = field(default_factory=list)
    """[FLOPs so far, validation accuracy] after each epoch."""


def can_germinate(observation: Observation) -> bool:
    return any(LifecycleOp.GERMINATE in choosable_ops(report, observation) for report in observation.slots)


def train(run: HostRun, policy: TamiyoPolicy) -> Life:
    life = Life()
    while not run.is_finished:
        observation = run.observe()
        decision = policy.decide(observation)
        result = run.apply(decision)
        if can_germinate(observation):
            life.num_legal += 1
            life.num_germinated += result.effective.op is LifecycleOp.GERMINATE
        outcome = run.train_epoch()
        assert outcome is not None
        life.train_loss = outcome.train_loss
        life.curve.append([run.bench.ledger.total, outcome.metric])
    return life


def list_fossils(run: HostRun) -> list[JsonValue]:
    fossils: list[JsonValue] = []
    for slot in run.bench.model.each_slot():
        state = slot.state
        if state.stage is not SeedStage.FOSSILIZED:
            continue
        estimate = state.contribution
        fossils.append(
            {
                "slot": state.slot,
                "blueprint": state.blueprint,
                "blend": state.blend.value,
                "num_params": state.num_params,
                "contribution": None if estimate is None else estimate.mean,
                "standard_error": None if estimate is None else estimate.standard_error,
            }
        )
    return fossils


def read_fossils(row: Row) -> list[Mapping[str, JsonValue]]:
    fossils = row["fossils"]
    assert isinstance(fossils, list)
    return [fossil for fossil in fossils if isinstance(fossil, dict)]


def plant_fossils(run: HostRun, fossils: list[Mapping[str, JsonValue]]) -> None:
    """Give an untrained host fresh seeds that are part of it from the first batch on, at alpha 1."""
    model = run.bench.model
    for fossil in fossils:
        action = Action(
            op=LifecycleOp.GERMINATE,
            slot=str(fossil["slot"]),
            blueprint=str(fossil["blueprint"]),
            blend=BlendForm(fossil["blend"]),
        )
        build_seed = derive_seed(run.run_seed, "static-final", str(fossil["slot"]))
        model.apply_action(action, run.clock, build_seed=build_seed)
    tensors, records = model.state()
    for fossil in fossils:
        record = records[str(fossil["slot"])]
        assert isinstance(record, dict)
        record |= {"stage": SeedStage.FOSSILIZED.value, "alpha": 1.0, "epochs_in_stage": 0}
    model.restore(tensors, records)
    run.bench.rebuild_optimizer_groups()
    run.last_good = capture_state(run, with_last_good=False)


def affordable_epochs(study: Study, arm: str, heuristic: Row, learning_rate: float, seed: int) -> int:
    """The number of epochs whose FLOPs come nearest to what the heuristic's run spent, at least one."""
    counter = EventCounter()
    run = study.assemble(study.config("never", learning_rate, seed, study.epochs), counter).host_run
    if arm.startswith("static"):
        plant_fossils(run, read_fossils(heuristic))
    ledger = FlopsLedger()
    charge_training(ledger, run.bench.model, run.bench.batches.num_items)
    return max(1, round(int(str(heuristic["flops_total"])) / ledger.total))


def run_job(study: Study, arm: str, learning_rate: float, seed: int, heuristic: Row | None) -> Row:
    """Run one arm on one seed and return its row."""
    policy_name = arm if arm in ("never", "heuristic", "random") else "never"
    epochs = study.epochs
    if arm in FLOP_MATCHED:
        assert heuristic is not None
        epochs = affordable_epochs(study, arm, heuristic, learning_rate, seed)
    config = study.config(policy_name, learning_rate, seed, epochs)
    counter, started = EventCounter(), time.monotonic()
    assembly = study.assemble(config, counter)
    run, policy = assembly.host_run, assembly.policy
    if arm == "random":
        assert heuristic is not None
        rate = float(str(heuristic["germination_rate"]))
        policy = RandomPolicy(derive_seed(seed, "policy", 0), germination_rate=rate)
        policy.reset()
    if arm.startswith("static"):
        assert heuristic is not None
        plant_fossils(run, read_fossils(heuristic))
        counter.counts.clear()
    row = study.key(arm, learning_rate, seed) | {
        "format": 1,
        "epochs": epochs,
        "grown_rate": None if heuristic is None else heuristic["learning_rate"],
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "config_hash": hash_config(config),
        "protocol_hash": study.protocol_hash,
    }
    try:
        life = train(run, policy)
        return row | report(run, life, counter, seed) | {"seconds": time.monotonic() - started}
    except GovernorGaveUpError as error:
        return row | report_failure(run, counter, str(error), seed) | {"seconds": time.monotonic() - started}


def report(run: HostRun, life: Life, counter: EventCounter, seed: int) -> Row:
    test = run.finish()
    bench = run.bench
    validation = bench.evaluator.evaluate(bench.model, *bench.validation)
    is_published = seed < FIRST_TUNING_SEED
    return {
        "failure": None,
        "test_accuracy": test.metric if is_published else None,
        "test_loss": test.loss if is_published else None,
        "validation_accuracy": validation.metric,
        "validation_loss": validation.loss,
        "train_loss": life.train_loss,
        "curve": life.curve,
        "germination_rate": life.num_germinated / life.num_legal if life.num_legal else 0.0,
    } | describe_network(run, counter)


def report_failure(run: HostRun, counter: EventCounter, failure: str, seed: int) -> Row:
    """A run that broke down counts as one that learned nothing, not as a missing one."""
    chance = 1.0 / run.task.num_outputs
    return {
        "failure": failure,
        "test_accuracy": chance if seed < FIRST_TUNING_SEED else None,
        "test_loss": run.task.chance_loss if seed < FIRST_TUNING_SEED else None,
        "validation_accuracy": chance,
        "validation_loss": run.task.chance_loss,
        "train_loss": None,
        "curve": [],
        "germination_rate": 0.0,
    } | describe_network(run, counter)


def describe_network(run: HostRun, counter: EventCounter) -> Row:
    model, ledger = run.bench.model, run.bench.ledger
    by_kind: dict[str, JsonValue] = dict(ledger.totals())
    return {
        "params_host": model.host_params,
        "params_total": model.num_params,
        "flops": by_kind,
        "flops_total": ledger.total,
        "fossils": list_fossils(run),
        "num_germinated": counter.counts["SeedGerminated"],
        "num_culled": counter.counts["SeedCulled"],
        "num_rollbacks": counter.counts["RolledBack"],
        "num_decisions": counter.counts["DecisionMade"],
    }


def build_study(arguments: argparse.Namespace) -> Study:
    preset = build_preset(arguments.task)
    loaded = load_task(preset.task)
    epochs = loaded[0].horizon_epochs if arguments.epochs is None else arguments.epochs
    base = replace(preset, num_threads=arguments.threads, host=replace(preset.host, epochs=epochs))
    return Study(
        base=base,
        loaded=loaded,
        cache=DeviceCache(),
        path=arguments.results / f"growth_{arguments.task}.jsonl",
        protocol_hash=hash_protocol(base),
    )


def work(
    study: Study, arms: tuple[str, ...], learning_rate: float, seed: int, grown_rate: float | None
) -> bool:
    """Run what is missing of one seed; return whether every arm has its row."""
    is_complete = True
    for arm in arms:
        if study.find(arm, learning_rate, seed) is not None:
            continue
        heuristic = (
            study.find("heuristic", grown_rate or learning_rate, seed) if arm in NEEDS_HEURISTIC else None
        )
        if arm in NEEDS_HEURISTIC and heuristic is None:
            print(f"seed {seed} {arm}: left out, it needs the row of arm heuristic", file=sys.stderr)
            is_complete = False
            continue
        row = run_job(study, arm, learning_rate, seed, heuristic)
        append_row(study.path, row)
        accuracy = row["test_accuracy"] if row["test_accuracy"] is not None else row["validation_accuracy"]
        print(
            f"seed {seed:<5} lr {learning_rate:<8g} {arm:<20} accuracy {float(str(accuracy)):.4f} "
            f"params {row['params_total']} GFLOP {int(str(row['flops_total'])) / 1e9:.2f} "
            f"epochs {row['epochs']} seconds {float(str(row['seconds'])):.1f}",
            flush=True,
        )
    return is_complete


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Growth against its baselines, one JSON line per run.")
    parser.add_argument("--task", required=True, choices=PRESET_NAMES)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument(
        "--seeds", default=parse_seeds("0-9"), type=parse_seeds, help='such as "0-9" or "3,5"'
    )
    parser.add_argument("--learning-rate", nargs="+", type=float, help="peak rates; default: the preset's")
    parser.add_argument("--grown-rate", type=float, help="peak rate of the heuristic's row to build on")
    parser.add_argument("--epochs", type=int, help="epochs of every arm that is not matched by FLOPs")
    parser.add_argument("--shard", default=(0, 1), type=parse_shard, help="INDEX/COUNT of the seeds")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows files")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    study = build_study(arguments)
    rates = arguments.learning_rate or [study.base.host.optimizer.learning_rate]
    arms = tuple(arm for arm in ARMS if arm in arguments.arms)
    complete = [
        work(study, arms, rate, seed, arguments.grown_rate)
        for seed in seeds_of_shard(arguments.seeds, arguments.shard)
        for rate in rates
    ]
    return 0 if all(complete) else 1


if __name__ == "__main__":
    sys.exit(main())
