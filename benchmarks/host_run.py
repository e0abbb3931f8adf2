"""Cost of a host run against a bare training loop that computes the same numbers, in turn in one process.

    python benchmarks/host_run.py OUT.json [--tasks fashion_mnist digits] [--rows 10000] [--epochs 30]

    bare     a plain loop over normalised tensors in memory: forward, loss, backward, clip, step; validation
    never    the same host as a host run with empty slots, under the policy that never grows
    held     a live seed in every slot, soon one each in PROBATIONARY, BLENDING (with three slots) and
             TRAINING, where they are held; counterfactuals, snapshots, events to JSONL
    grown    a user's run under the preset's heuristic; counterfactuals, snapshots, events to JSONL

One epoch of each in turn (bare never held grown bare ...), on one thread. `bare` and `never` start from the
same weights and see the same batches, and the script stops if their validation losses differ in a single
bit. Ratios pair an epoch with the bare epoch beside it; CPU seconds count, because wall time measures the
neighbours too. Where seeds live, the ratio is divided by that of the FLOPs, plain validation in both.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.data import ArraySplit, TaskData, build_storage, epoch_order
from esper.kasmina import build_seeded
from esper.leyline import Action, EventSink, LifecycleOp, TamiyoPolicy, TaskSpec, derive_seed
from esper.nissa import TelemetryConfig, build_hub
from esper.runtime.assemble import assemble, build_host
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import build_preset
from esper.runtime.tasks import load_task
from esper.tamiyo import FixedSchedulePolicy, ScheduledAction
from esper.tolaria import HostRun

TASKS = ("fashion_mnist", "digits")
"""The first one has targets; digits steps are all overhead and only shown."""
NEVER_TARGET = 1.10
GROWN_TARGET = 1.25
HELD_BLUEPRINT = "conv_heavy"
MATMUL_SIZE = 512
MATMUL_ROUNDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one epoch cost."""

    wall: float
    cpu: float
    train_cpu: float
    """Of `cpu`, until the last batch was done; the rest is validation, measuring and bookkeeping."""
    validation_loss: float
    flops: int
    """Of training, measuring and validation."""
    stages: tuple[str, ...] = ()
    num_live: int = 0


@dataclass(slots=True, kw_only=True)
class Column:
    """All epochs of one way to train."""

    epochs: list[Epoch] = field(default_factory=list)

    def ratios(self, bare: Column, *, is_training_only: bool = False) -> list[float]:
        """Return CPU time over that of the bare epoch beside it."""
        return [
            mine.train_cpu / other.train_cpu if is_training_only else mine.cpu / other.cpu
            for mine, other in zip(self.epochs, bare.epochs, strict=True)
        ]

    def normalised_ratios(self, bare: Column, *, num_live: int = 0) -> list[float]:
        """Return time ratio over FLOP ratio, for epochs with at least so many live seeds."""
        return [
            ratio / (mine.flops / other.flops)
            for ratio, mine, other in zip(self.ratios(bare), self.epochs, bare.epochs, strict=True)
            if mine.num_live >= num_live
        ]


class BareLoop:
    """A training loop as one writes it by hand, for a classifier, SGD, and one epoch at a time."""

    def __init__(
        self, config: ExperimentConfig, loaded: tuple[TaskSpec, TaskData], flops_per_epoch: int
    ) -> None:
        task, data = loaded
        self.config = config.host
        self.flops_per_epoch = flops_per_epoch
        self.model = build_seeded(build_host(config.model, task), derive_seed(config.seed, "host", 0))
        self.order_seed = derive_seed(config.seed, "data", 0)
        inputs, targets = read_tensors(data, data.train)
        # Copied, because an image of one channel read from disk has the strides of both memory formats, and
        # torch would train it channels-last: slower here, and in other roundings than gathered batches.
        self.train_items = (torch.empty(inputs.shape).copy_(inputs), targets)
        self.validation_items = read_tensors(data, data.validation)
        self.parameters = list(self.model.parameters())
        optimizer, decayed = self.config.optimizer, [p for p in self.parameters if p.dim() > 1]
        self.optimizer = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": optimizer.weight_decay},
                {"params": [p for p in self.parameters if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=optimizer.learning_rate,
            momentum=optimizer.momentum,
        )
        self.batches_per_epoch = math.ceil(len(self.train_items[1]) / self.config.batch_size)
        assert self.config.epochs is not None
        self.total_batches = self.config.epochs * self.batches_per_epoch
        self.epoch = 0

    def learning_rate(self, batch: int) -> float:
        """Linear warm-up, then cosine."""
        optimizer = self.config.optimizer
        warmup = int(optimizer.warmup_fraction * self.total_batches)
        if batch < warmup:
            return optimizer.learning_rate * ((batch + 1) / (warmup + 1))
        progress = min(1.0, (batch - warmup) / max(1, self.total_batches - 1 - warmup))
        final = optimizer.final_fraction
        return optimizer.learning_rate * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress)))

    def train(self) -> float:
        """Train one epoch; return the mean loss."""
        self.model.train()
        inputs, targets = self.train_items
        loss_sum, batch = 0.0, self.epoch * self.batches_per_epoch
        order = epoch_order(self.order_seed, self.epoch, len(targets))
        for rows in torch.split(order, self.config.batch_size):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(batch)
            self.optimizer.zero_grad(set_to_none=True)
            outputs = self.model(inputs.index_select(0, rows))
            loss = F.cross_entropy(outputs, targets.index_select(0, rows))
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.clip_norm)
            self.optimizer.step()
            loss_sum += loss.item() * len(rows)
            batch += 1
        self.epoch += 1
        return loss_sum / len(targets)

    def validate(self) -> tuple[float, float]:
        """Return mean loss and accuracy over the validation split."""
        self.model.eval()
        size = self.config.measuring.chunk_items
        loss = correct = 0.0
        with torch.no_grad():
            for inputs, targets in zip(
                *(torch.split(part, size) for part in self.validation_items), strict=True
            ):
                outputs = self.model(inputs)
                loss += F.cross_entropy(outputs, targets, reduction="none").sum(dtype=torch.float64).item()
                correct += (outputs.argmax(dim=1) == targets).sum().item()
        count = len(self.validation_items[1])
        return loss / count, correct / count

    def run_epoch(self) -> Epoch:
        """Train and validate once."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.train()
        trained = time.process_time()
        loss, _ = self.validate()
        return Epoch(
            wall=time.perf_counter() - wall,
            cpu=time.process_time() - cpu,
            train_cpu=trained - cpu,
            validation_loss=loss,
            flops=self.flops_per_epoch,
        )


class LastBatch:
    """Asked after every batch; at the last one it notes the time and where the seeds stand."""

    def __init__(self, run: HostRun) -> None:
        self.run = run
        self.slots = tuple(run.bench.model.each_slot())
        self.cpu = 0.0
        self.stages: tuple[str, ...] = ()
        self.num_live = 0

    def __call__(self) -> bool:
        # The clock is read once an epoch: where system calls are emulated it costs as much as a small step.
        if self.run.progress.batch == self.run.bench.batches.num_batches:
            self.cpu = time.process_time()
            self.stages = tuple(slot.state.stage.value for slot in self.slots)
            self.num_live = sum(slot.state.stage.is_live for slot in self.slots)
        return False


class GrowingLoop:
    """A host run under a policy, one epoch at a time."""

    def __init__(
        self,
        config: ExperimentConfig,
        loaded: tuple[TaskSpec, TaskData],
        *,
        sink: EventSink | None = None,
        policy: TamiyoPolicy | None = None,
    ) -> None:
        assembly = assemble(config, sink, loaded=loaded)
        self.run = assembly.host_run
        self.policy = assembly.policy if policy is None else policy
        self.last_batch = LastBatch(self.run)

    def run_epoch(self) -> Epoch:
        """Decide, apply, train, validate, measure, judge and tick once."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.run.apply(self.policy.decide(self.run.observe()))
        outcome = self.run.train_epoch(self.last_batch)
        wall, cpu_total = time.perf_counter() - wall, time.process_time() - cpu
        assert outcome is not None
        return Epoch(
            wall=wall,
            cpu=cpu_total,
            train_cpu=self.last_batch.cpu - cpu,
            validation_loss=outcome.validation_loss,
            flops=sum(outcome.flops.values()),
            stages=self.last_batch.stages,
            num_live=self.last_batch.num_live,
        )


def build_held(config: ExperimentConfig, loaded: tuple[TaskSpec, TaskData], sink: EventSink) -> GrowingLoop:
    """Return a run that soon has one seed in each stage and leaves them there, whatever they are worth."""
    gates = replace(config.host.gates, is_evidence_required=False, min_gradient_ratio=0.0)
    lifecycle = replace(config.host.lifecycle, is_blending_automatic=False)
    host = replace(config.host, gates=gates, lifecycle=lifecycle)
    slots = [f"block{index + 1}" for index in range(config.model.num_blocks)]
    births = [
        ScheduledAction(epoch=0, action=Action(op=LifecycleOp.GERMINATE, slot=slot, blueprint=HELD_BLUEPRINT))
        for slot in slots
    ]
    # The first slot goes two stages up, with three slots the second one goes one up, the last one stays.
    moves = [
        ScheduledAction(epoch=0, action=Action(op=LifecycleOp.ADVANCE, slot=slot))
        for slot in (slots[0], slots[0], *slots[1:-1])
    ]
    policy = FixedSchedulePolicy([*births, *moves])
    return GrowingLoop(replace(config, host=host, policy="never"), loaded, sink=sink, policy=policy)


def read_tensors(data: TaskData, split: ArraySplit) -> tuple[Tensor, Tensor]:
    """Return a split as normalised float32 tensors in memory."""
    storage = build_storage(split, device=torch.device("cpu"), mean=data.mean, std=data.std, kind="float32")
    return storage.inputs, storage.targets


def measure_matmul_rate() -> float:
    """Return the FLOP/s of a large float32 matrix product on one thread: the machine's practical ceiling."""
    left, right = torch.rand(MATMUL_SIZE, MATMUL_SIZE), torch.rand(MATMUL_SIZE, MATMUL_SIZE)
    rates = []
    for _ in range(MATMUL_ROUNDS):
        started = time.process_time()
        for _ in range(MATMUL_ROUNDS):
            torch.mm(left, right)
        rates.append(MATMUL_ROUNDS * 2 * MATMUL_SIZE**3 / (time.process_time() - started))
    return statistics.median(rates)


def compute_spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles."""
    if len(values) < 2:
        middle = values[0] if values else math.nan
        return {"median": middle, "low": middle, "high": middle}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def measure_task(name: str, rows: int | None, epochs: int | None) -> dict[str, object]:
    """Run the four ways in turn and return the task's part of the document."""
    preset = build_preset(name)
    loaded = load_task(replace(preset.task, num_train_rows=rows))
    task, data = loaded
    host = replace(preset.host, epochs=task.horizon_epochs if epochs is None else epochs)
    config = replace(preset, host=host, num_threads=1)
    with ExitStack() as stack:
        never = GrowingLoop(replace(config, policy="never"), loaded)
        held = build_held(config, loaded, open_log(stack))
        grown = GrowingLoop(replace(config, policy="heuristic"), loaded, sink=open_log(stack))
        host_flops = never.run.bench.model.host_flops
        train_flops = 3 * host_flops * data.train.num_items
        bare = BareLoop(config, loaded, train_flops + host_flops * data.validation.num_items)
        columns = run_in_turn(bare, never, held, grown)
    num_slots = len(held.last_batch.slots)
    plain, ledger = columns["bare"], grown.run.bench.ledger
    measuring = sum(ledger.totals()[kind] for kind in ("calibration", "counterfactual"))
    return {
        "task": name,
        "num_slots": num_slots,
        "rows": data.train.num_items,
        "validation_rows": data.validation.num_items,
        "batches_per_epoch": bare.batches_per_epoch,
        "train_flops_per_epoch": train_flops,
        "flops": ledger.totals(),
        "measuring_share": measuring / ledger.total,
        "columns": {way: [asdict(epoch) for epoch in column.epochs] for way, column in columns.items()},
        "never": compute_spread(columns["never"].ratios(plain)),
        "never_training": compute_spread(columns["never"].ratios(plain, is_training_only=True)),
        "held": compute_spread(columns["held"].ratios(plain)),
        "held_per_flop": compute_spread(columns["held"].normalised_ratios(plain, num_live=num_slots)),
        "grown": compute_spread(columns["grown"].ratios(plain)),
        "grown_per_flop": compute_spread(columns["grown"].normalised_ratios(plain)),
    }


def open_log(stack: ExitStack) -> EventSink:
    """Return a hub that writes its events to a temporary directory until the stack closes."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    hub = build_hub(
        TelemetryConfig(progress="none"),
        run_id="host-run",
        stream=sys.stderr,
        environ=os.environ,
        directory=directory,
    )
    stack.callback(hub.close)
    return hub


def run_in_turn(
    bare: BareLoop, never: GrowingLoop, held: GrowingLoop, grown: GrowingLoop
) -> dict[str, Column]:
    """Train one epoch of each in turn until the horizon.

    Raises:
        RuntimeError: If the bare loop and the run that never grows do not compute the same loss.
    """
    ways: dict[str, BareLoop | GrowingLoop] = {"bare": bare, "never": never, "held": held, "grown": grown}
    columns = {way: Column() for way in ways}
    while not never.run.is_finished:
        for way, loop in ways.items():
            columns[way].epochs.append(loop.run_epoch())
        plain, esper = columns["bare"].epochs[-1], columns["never"].epochs[-1]
        if plain.validation_loss != esper.validation_loss:
            raise RuntimeError(
                f"epoch {never.run.epoch}: the bare loop has validation loss {plain.validation_loss!r}, "
                f"the host run {esper.validation_loss!r}: they do not train the same network"
            )
    return columns


def print_task(result: dict[str, object], matmul_rate: float) -> None:
    columns, batches = result["columns"], result["batches_per_epoch"]
    assert isinstance(columns, dict)
    assert isinstance(batches, int)
    print(f"\n{result['task']}: {result['rows']} rows, {batches} batches per epoch")
    print(f"{'way':<7} {'wall s':>8} {'CPU s':>8} {'train CPU':>10} {'us/batch':>9} {'GFLOP/s':>8}")
    for way, epochs in columns.items():
        wall, cpu, train = (statistics.median(e[k] for e in epochs) for k in ("wall", "cpu", "train_cpu"))
        rate = statistics.median(e["flops"] / e["cpu"] for e in epochs) / 1e9
        print(f"{way:<7} {wall:>8.3f} {cpu:>8.3f} {train:>10.3f} {train / batches * 1e6:>9.0f} {rate:>8.2f}")
    has_target = result["task"] == TASKS[0]
    print_ratio("never / bare, whole epoch", result["never"], NEVER_TARGET if has_target else None)
    print_ratio("never / bare, training only", result["never_training"], None)
    print_ratio("held / bare, whole epoch", result["held"], None)
    print_ratio(
        f"held / bare per FLOP, {result['num_slots']} live seeds",
        result["held_per_flop"],
        GROWN_TARGET if has_target else None,
    )
    print_ratio("grown / bare, whole epoch", result["grown"], None)
    print_ratio("grown / bare per FLOP", result["grown_per_flop"], GROWN_TARGET if has_target else None)
    print(f"  {'measuring, share of the FLOPs of grown':<40} {result['measuring_share']:.3f}")
    print(f"  {'matrix product on one thread, GFLOP/s':<40} {matmul_rate / 1e9:.1f}")


def print_ratio(name: str, spread: object, target: float | None) -> None:
    assert isinstance(spread, dict)
    aim = "" if target is None else f"  target {target:.2f}"
    print(f"  {name:<40} {spread['median']:.3f} [{spread['low']:.3f}, {spread['high']:.3f}]{aim}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A host run against a bare loop, epoch by epoch in turn.")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--rows", type=int, default=10_000, help="training rows of fashion_mnist")
    parser.add_argument("--epochs", type=int, help="epochs of each way; default: the task's horizon")
    arguments = parser.parse_args()
    if arguments.epochs is not None and arguments.epochs < 1:
        parser.error(f"--epochs={arguments.epochs}: must be >= 1")
    batch_size = build_preset("fashion_mnist").host.batch_size
    if arguments.rows < batch_size or arguments.rows % batch_size == 1:
        parser.error(f"--rows={arguments.rows}: must be >= {batch_size} and leave no batch of one item")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    matmul_rate = measure_matmul_rate()
    results = []
    for name in arguments.tasks:
        rows = arguments.rows if name == "fashion_mnist" else None
        result = measure_task(name, rows, arguments.epochs)
        print_task(result, matmul_rate)
        results.append(result)
    document = {
        "format": 1,
        "torch": torch.__version__,
        "threads": 1,
        "matmul_flops_per_second": matmul_rate,
        "tasks": results,
    }
    arguments.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
