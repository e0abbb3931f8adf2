"""Does a contribution tell what a seed was worth? Each germination against a twin that never had that seed.

    python benchmarks/twin_study.py --task fashion_mnist --seeds 0-6 --shard 0/2 &
    python benchmarks/twin_study.py --task fashion_mnist --seeds 0-6 --shard 1/2

A contribution is the price of removing a seed from a network that grew used to it. What the seed was worth is
another question: where would the run be if it had never germinated and its FLOPs had gone into more epochs?
So the heuristic grows a network, and for each of its germinations a twin starts from the same host state and
goes on with the same data order and the same decisions, less those about this seed, for as many epochs more
as the seed's FLOPs pay for; its learning rate decays within its own budget. Gates ask the twin for no
evidence, so that the other seeds are kept where they were kept.

One row per germination: contribution when it was decided and at the end, and test results of both networks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from study_queue import (
    Row,
    append_row,
    find_row,
    hash_config,
    hash_protocol,
    parse_seeds,
    parse_shard,
    read_rows,
    seeds_of_shard,
)

from esper.data import DeviceCache, TaskData
from esper.leyline import WAIT, Decision, EpochOutcome, JsonValue, LifecycleOp, SeedStage, TaskSpec
from esper.runtime.assemble import Assembly, assemble
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import PRESET_NAMES, build_preset
from esper.runtime.tasks import load_task
from esper.tolaria import HostRun, SplitResult, estimate_mean
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.measuring import Setting

RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True, kw_only=True)
class Birth:
    """One germination of the base run, and what became of it."""

    slot: str
    blueprint: str
    epoch: int
    """Intervals finished when it germinated."""
    state: StateRecord
    """The run just before."""
    slot_flops_at_birth: int
    seed_flops: int = 0
    """Spent on training this seed in its whole life."""
    measuring_flops: float = 0.0
    """Its share of what measuring cost: all of it in an interval in which it alone was measured."""
    until_epoch: int | None = None
    """Epoch of the next germination in the same slot; decisions about the slot from there on are not its."""
    contribution: float | None = None
    standard_error: float | None = None
    """Of the contribution as it stood when the seed was kept or culled."""
    is_kept: bool = False


@dataclass(slots=True, kw_only=True)
class Base:
    """A finished run of the heuristic."""

    births: list[Birth]
    decisions: list[Decision]
    """Carried out, one per interval."""
    host_epoch_flops: int
    """What the last interval spent on the host and on seeds, without measuring."""
    slot_epoch_flops: dict[str, int]
    """Of that, on each slot."""
    run: HostRun
    test: SplitResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What all runs of a study share."""

    preset: ExperimentConfig
    loaded: tuple[TaskSpec, TaskData]
    cache: DeviceCache
    path: Path

    def assemble(self, config: ExperimentConfig) -> Assembly:
        return assemble(config, loaded=self.loaded, cache=self.cache)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """A run's bill: on training, on measuring, and on each slot's seeds."""

    training: int
    measuring: int
    slots: dict[str, int]

    @classmethod
    def read(cls, run: HostRun) -> Spending:
        ledger = run.bench.ledger
        measuring = sum(ledger.totals()[kind] for kind in ("calibration", "counterfactual"))
        slots = {slot: ledger.of_slot(slot) for slot in run.bench.model.slot_ids}
        return cls(training=ledger.total - measuring, measuring=measuring, slots=slots)

    def minus(self, other: Spending) -> Spending:
        return Spending(
            training=self.training - other.training,
            measuring=self.measuring - other.measuring,
            slots={slot: flops - other.slots[slot] for slot, flops in self.slots.items()},
        )

    def share(self, slot: str, outcome: EpochOutcome) -> float:
        """What would not have been spent on measuring without the slot's seed.

        The network as it is costs one pass, each seed one more.
        """
        measured = {
            name
            for name, of_slot in outcome.slots.items()
            if of_slot.contribution is not None or of_slot.shadow_gain is not None
        }
        if slot not in measured:
            return 0.0
        return float(self.measuring) if len(measured) == 1 else self.measuring / (len(measured) + 1)


def note_contribution(run: HostRun, birth: Birth) -> None:
    state = run.bench.model.slot(birth.slot).state
    if state.stage.has_seed and state.contribution is not None:
        birth.contribution = state.contribution.mean
        birth.standard_error = state.contribution.standard_error
    birth.is_kept = state.stage is SeedStage.FOSSILIZED
    birth.seed_flops = run.bench.ledger.of_slot(birth.slot) - birth.slot_flops_at_birth


def grow(study: Study, config: ExperimentConfig) -> Base:
    """Let the heuristic run, and keep the state before each germination."""
    assembly = study.assemble(config)
    run, policy = assembly.host_run, assembly.policy
    births: dict[str, Birth] = {}
    finished: list[Birth] = []
    decisions: list[Decision] = []
    while not run.is_finished:
        decision = policy.decide(run.observe())
        action = decision.action
        before = run.state() if action.op is LifecycleOp.GERMINATE else None
        result = run.apply(decision)
        decisions.append(replace(decision, action=result.effective, evidence=None))
        if result.effective.op is LifecycleOp.GERMINATE:
            assert before is not None
            assert action.slot is not None
            assert action.blueprint is not None
            if action.slot in births:
                births[action.slot].until_epoch = run.epoch
                finished.append(births[action.slot])
            births[action.slot] = Birth(
                slot=action.slot,
                blueprint=action.blueprint,
                epoch=run.epoch,
                state=before,
                slot_flops_at_birth=run.bench.ledger.of_slot(action.slot),
            )
        spent = Spending.read(run)
        outcome = run.train_epoch()
        assert outcome is not None
        last = Spending.read(run).minus(spent)
        for birth in births.values():
            note_contribution(run, birth)
            birth.measuring_flops += last.share(birth.slot, outcome)
    test = run.finish()
    for birth in births.values():
        birth.is_kept = run.bench.model.slot(birth.slot).state.stage is SeedStage.FOSSILIZED
    return Base(
        births=[*finished, *births.values()],
        decisions=decisions,
        host_epoch_flops=last.training,
        slot_epoch_flops=last.slots,
        run=run,
        test=test,
    )


def measure_at_end(run: HostRun, birth: Birth) -> tuple[float | None, float | None]:
    """Contribution to the finished network, fresh, over the items that gates use."""
    if not birth.is_kept:
        return None, None
    bench = run.bench
    with bench.rng.installed():
        setting = [Setting(slot=birth.slot, alpha=0.0)]
        difference = bench.evaluator.compute_differences(
            bench.model, setting, bench.calibration, bench.gate_items
        )[0][0]
    estimate = estimate_mean(difference)
    return estimate.mean, estimate.standard_error


def run_twin(study: Study, config: ExperimentConfig, base: Base, birth: Birth) -> Row:
    """The same run without one seed, for as many epochs as its FLOPs pay for."""
    horizon = base.run.horizon_epochs
    # Further epochs cost what the last one did, less this seed, if it was still there.
    still_there = base.slot_epoch_flops[birth.slot] if birth.until_epoch is None else 0
    saved = birth.seed_flops + birth.measuring_flops
    extra = round(saved / (base.host_epoch_flops - still_there))
    gates = replace(
        config.host.gates, is_evidence_required=False, max_metric_drop=1.0, min_gradient_ratio=0.0
    )
    host = replace(config.host, epochs=horizon + extra, gates=gates)
    run = study.assemble(replace(config, policy="never", host=host)).host_run
    run.restore(birth.state)
    refused = 0
    waiting: list[Decision] = []
    while not run.is_finished:
        decision = base.decisions[run.epoch] if run.epoch < horizon else Decision(action=WAIT)
        until = horizon if birth.until_epoch is None else birth.until_epoch
        if decision.action.slot == birth.slot and birth.epoch <= run.epoch < until:
            decision = Decision(action=WAIT)
        if decision.action.op is LifecycleOp.WAIT and waiting:
            decision = waiting.pop(0)
        # What the other seeds are ready for may come an interval later here; asked again until it is granted.
        if run.apply(decision).refusal is not None:
            refused += 1
            waiting.append(decision)
        run.train_epoch()
    test = run.finish()
    return {
        "twin_epochs": horizon + extra,
        "twin_flops": run.bench.ledger.total,
        "twin_params": run.bench.model.num_params,
        "twin_test_accuracy": test.metric,
        "twin_test_loss": test.loss,
        "twin_refusals": refused,
    }


def run_seed(study: Study, config: ExperimentConfig, protocol: str) -> None:
    """Every germination of one seed's run; the base run is repeated if the queue was stopped within it."""
    task = config.task.name
    present = [row for row in read_rows(study.path) if row["seed"] == config.seed]
    ends = [row["germination"] for row in present if row["is_last"]]
    if ends and len(present) == int(str(ends[0])) + 1:
        return
    started = time.monotonic()
    base = grow(study, config)
    seconds = time.monotonic() - started
    validation_items = len(base.run.bench.gate_items[1])
    for index, birth in enumerate(base.births):
        key: Row = {"arm": "twin", "task": task, "seed": config.seed, "germination": index}
        if find_row(study.path, key, protocol) is not None:
            continue
        mean, error = measure_at_end(base.run, birth)
        started = time.monotonic()
        twin = run_twin(study, config, base, birth)
        row: Row = {
            "format": 1,
            "learning_rate": config.host.optimizer.learning_rate,
            "protocol_hash": protocol,
            "config_hash": hash_config(config),
            "torch": torch.__version__,
            "num_threads": torch.get_num_threads(),
            "is_last": index == len(base.births) - 1,
            "slot": birth.slot,
            "blueprint": birth.blueprint,
            "birth_epoch": birth.epoch,
            "is_kept": birth.is_kept,
            "gate_metric": "loss" if base.run.task.gates_use_loss else "accuracy",
            "num_gate_items": validation_items,
            "contribution": birth.contribution,
            "standard_error": birth.standard_error,
            "final_contribution": mean,
            "final_standard_error": error,
            "seed_flops": birth.seed_flops,
            "measuring_flops": birth.measuring_flops,
            "epochs": base.run.horizon_epochs,
            "flops_total": base.run.bench.ledger.total,
            "params_total": base.run.bench.model.num_params,
            "test_accuracy": base.test.metric,
            "test_loss": base.test.loss,
            "num_test_items": base.test.num_items,
            "seconds": seconds,
            "twin_seconds": time.monotonic() - started,
        }
        append_row(study.path, key | row | twin)
        print(describe(key | row | twin), flush=True)


def describe(row: dict[str, JsonValue]) -> str:
    gain = float(str(row["test_accuracy"])) - float(str(row["twin_test_accuracy"]))
    flops = float(str(row["twin_flops"])) / float(str(row["flops_total"]))
    return (
        f"seed {row['seed']:<5} {row['slot']} {row['blueprint']} born {row['birth_epoch']} "
        f"kept {row['is_kept']} contribution {row['contribution']} gain {gain:+.4f} "
        f"twin epochs {row['twin_epochs']} FLOPs x{flops:.3f} refused {row['twin_refusals']} "
        f"seconds {row['seconds']:.0f} + {row['twin_seconds']:.0f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Contributions against twins that lack one seed.")
    parser.add_argument("--task", required=True, choices=PRESET_NAMES)
    parser.add_argument("--seeds", default=parse_seeds("0-6"), type=parse_seeds)
    parser.add_argument("--learning-rate", type=float, help="peak rate; default: the preset's")
    parser.add_argument("--epochs", type=int, help="default: the task's horizon")
    parser.add_argument("--shard", default=(0, 1), type=parse_shard, help="INDEX/COUNT of the seeds")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows files")
    options = parser.parse_args(arguments)
    preset = build_preset(options.task)
    rate = options.learning_rate or preset.host.optimizer.learning_rate
    host = replace(
        preset.host, epochs=options.epochs, optimizer=replace(preset.host.optimizer, learning_rate=rate)
    )
    preset = replace(preset, num_threads=options.threads, host=host, policy="heuristic")
    study = Study(
        preset=preset,
        loaded=load_task(preset.task),
        cache=DeviceCache(),
        path=options.results / f"twin_{options.task}.jsonl",
    )
    for seed in seeds_of_shard(options.seeds, options.shard):
        run_seed(study, replace(preset, seed=seed), hash_protocol(preset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
