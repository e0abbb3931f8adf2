"""Many growing hosts at once: bare loops, one after another, and as one program, in turn.

    python benchmarks/fleets.py OUT.jsonl [--tasks digits synthetic] [--hosts 1 8 32] [--epochs 12]

    bare         a plain loop over one host without slots, as `benchmarks/host_run.py` has it; one host
    bare stack   the same loop over E hosts as stacked modules: what is possible without a lifecycle
    serial       host runs that take turns; few of them, because each costs the same
    fused        the E host runs of a `FusedFleet`
    dormant      the same fleet where nobody ever grows: what the lifecycle itself costs

Fleets carry out the same recorded heuristic decisions, with seeds in every stage, counterfactuals, validation
and the governor; the bare loops validate too, and both take torch's own optimiser. An epoch of each in turn,
on one thread, CPU seconds. `kept` is the gain of fused over serial divided by that of the bare stack over the
bare loop; `flops` is what the fleet's ledgers charge over what the bare loops do. Worker processes are timed
by `benchmarks/process_fleet.py`. Absolute numbers say nothing about another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.data import StackedBatches
from esper.kasmina import StackContext, to_arrangement
from esper.leyline import Decision, Observation
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.families import HostFactory
from esper.runtime.policies import find_policy
from esper.runtime.presets import build_preset
from esper.tamiyo import HeuristicConfig
from esper.tolaria import Fleet, FusedFleet, HostRun, OptimizerConfig, SerialFleet
from esper.tolaria.fleet.fused.stack import HostStack, NormRows

FIRST_SEED = 1000
NUM_SERIAL = 2
WARM_EPOCHS = 1
MIB = 2**20
WHERE = {"device": "cpu", "torch": torch.__version__, "threads": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One size of one task; microseconds per host and training step unless the name says otherwise."""

    task: str
    num_hosts: int
    num_batches: int
    num_epochs: int
    bare: float
    bare_stack: float
    serial: float
    fused: float
    dormant: float
    flops: float
    """Of the fused fleet over those of as many bare loops, seeds and measuring included."""
    gain_bare: float
    """bare / bare stack, the median of the epochs' ratios."""
    gain_fused: float
    """serial / fused, likewise."""
    kept: float
    """gain_fused / gain_bare."""
    fused_share: float
    """Of the intervals in which a seed lived, the part that ran fused."""
    acting_share: float
    """Time to observe and to apply over the whole of a fused epoch; deciding is the policy's."""
    rss_per_host_mib: float
    stages: dict[str, int]
    """Host intervals by the stages of their slots."""


@dataclass(slots=True)
class Clock:
    """CPU seconds of one way, per epoch."""

    cpu: list[float] = field(default_factory=list)

    def measure(self, work: Callable[[], object]) -> None:
        """Do the work and add what it took."""
        started = time.process_time()
        work()
        self.cpu.append(time.process_time() - started)


def record_decisions(
    config: ExperimentConfig, factory: HostFactory, instances: Sequence[int], num_epochs: int
) -> tuple[list[list[Decision]], dict[str, int]]:
    """Return [epoch][host] what the heuristic decides, and how often slots were in which stage."""
    fleet = FusedFleet(factory.build, instances, encode=tuple)
    policies = [find_policy("heuristic", config, seed=i, is_greedy=False).policy for i in instances]
    decisions, stages = [], dict[str, int]()
    for policy in policies:
        policy.reset()
    for _ in range(num_epochs):
        observations = fleet.observations()
        decisions.append([policy.decide(o) for policy, o in zip(policies, observations, strict=True)])
        fleet.apply(decisions[-1])
        fleet.train_epoch()
        for observation in fleet.observations():
            for slot in observation.slots:
                stages[slot.stage.value] = stages.get(slot.stage.value, 0) + 1
    return decisions, stages


def build_optimizer(config: OptimizerConfig, weights: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Return torch's own; it works number by number, so that one may step stacked weights."""
    if config.name == "sgd":
        return torch.optim.SGD(weights, lr=1e-3, momentum=config.momentum, weight_decay=5e-4)
    return torch.optim.AdamW(weights, lr=1e-4)


class BareLoop:
    """One host, trained by a plain loop."""

    def __init__(self, run: HostRun) -> None:
        self.bench, self.epoch = run.bench, 0
        self.host = run.bench.model.host
        config = run.config.optimizer
        self.clip = config.clip_norm
        self.optimizer = build_optimizer(config, list(self.host.parameters()))

    def run(self) -> None:
        """Train one epoch, then validate."""
        bench, host = self.bench, self.host
        host.train()
        for index in range(bench.batches.num_batches):
            inputs, targets, _ = bench.batches.row(self.epoch, index, 0)
            self.optimizer.zero_grad()
            F.cross_entropy(host(inputs), targets).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(host.parameters(), self.clip)
            self.optimizer.step()
        host.eval()
        with torch.no_grad():
            F.cross_entropy(host(bench.validation[0]), bench.validation[1])
        self.epoch += 1


class BareStack:
    """E hosts as stacked modules, trained by a plain loop."""

    def __init__(self, runs: Sequence[HostRun]) -> None:
        self.runs, self.epoch = runs, 0
        self.stack = HostStack(runs[0].bench.model)
        hosts = [run.bench.model.host for run in runs]
        self.weights = {
            name: torch.stack(
                [dict(host.named_parameters())[name].detach() for host in hosts]
            ).requires_grad_()
            for name, _ in hosts[0].named_parameters()
        }
        config = runs[0].config.optimizer
        self.clip = config.clip_norm
        self.optimizer = build_optimizer(config, list(self.weights.values()))
        self.norms = NormRows(hosts)

    def run(self) -> None:
        """Train one epoch with a clip per host, then validate."""
        num_hosts, bench = len(self.runs), self.runs[0].bench
        batches = StackedBatches([run.bench.batches for run in self.runs], [self.epoch] * num_hosts)
        context = StackContext(num_rows=num_hosts, running=self.norms.running)
        names = list(self.weights)
        for index in range(bench.batches.num_batches):
            batch = batches.batch(index)
            out = self._forward(batch.inputs, context)
            loss = F.cross_entropy(out.mT, batch.targets, reduction="none").mean(dim=1).sum()
            gradients = torch.autograd.grad(loss, [self.weights[name] for name in names])
            total = sum(gradient.flatten(1).square().sum(dim=1) for gradient in gradients)
            assert isinstance(total, Tensor)
            factor = (self.clip / (total.sqrt() + 1e-6)).clamp(max=1.0)
            for name, gradient in zip(names, gradients, strict=True):
                self.weights[name].grad = gradient * factor.view(-1, *[1] * (gradient.dim() - 1))
            self.optimizer.step()
        with torch.no_grad():
            inputs, targets = bench.validation
            wanted = targets.expand(num_hosts, *targets.shape)
            frozen = replace(context, is_training=False)
            for start in range(0, len(targets), 64):
                chunk = inputs[start : start + 64]
                out = self._forward(chunk.expand(num_hosts, *chunk.shape), frozen)
                F.cross_entropy(out.mT, wanted[:, start : start + 64])
        self.epoch += 1

    def _forward(self, inputs: Tensor, context: StackContext) -> Tensor:
        entering = to_arrangement(inputs, self.stack.arrangement_in)
        return self.stack.run(entering, 0, lambda _: self.weights, lambda _: context, lambda _, h: h)


def measure(config: ExperimentConfig, num_hosts: int, num_epochs: int) -> Row:
    """Return the row of one size."""
    factory = HostFactory(config)
    instances = range(FIRST_SEED, FIRST_SEED + num_hosts)
    decisions, stages = record_decisions(config, factory, instances, num_epochs)
    few = instances[: min(NUM_SERIAL, num_hosts)]
    before = resident_bytes()
    fused = FusedFleet(factory.build, instances, encode=tuple, min_rows=1)
    fleets: dict[str, Fleet[tuple[Observation, ...]]] = {
        "serial": SerialFleet(factory.build, few, encode=tuple),
        "fused": fused,
        "dormant": FusedFleet(factory.build, instances, encode=tuple, min_rows=1),
    }
    bare, stack = BareLoop(factory.build(FIRST_SEED)), BareStack([factory.build(i) for i in instances])
    clocks = {name: Clock() for name in ("bare", "stack", "acting", *fleets)}
    for epoch in range(num_epochs):
        clocks["bare"].measure(bare.run)
        clocks["stack"].measure(stack.run)
        for name, fleet in fleets.items():
            own = [Decision()] * num_hosts if name == "dormant" else decisions[epoch][: fleet.num_hosts]

            def act(fleet: Fleet[tuple[Observation, ...]] = fleet, own: list[Decision] = own) -> None:
                fleet.observations()
                fleet.apply(own)

            (clocks["acting"] if name == "fused" else Clock()).measure(act)
            clocks[name].measure(fleet.train_epoch)
    memory = (resident_bytes() - before) / num_hosts / MIB
    row = build_row(config.task.name, clocks, fused, len(few), memory, stages)
    for fleet in fleets.values():
        fleet.close()
    return row


def count_flops(fused: FusedFleet[tuple[Observation, ...]], num_epochs: int) -> float:
    """Return what the fleet's ledgers hold over what as many bare loops do, validation included."""
    spent = sum(run.bench.ledger.total for run in fused.runs)
    bench = fused.runs[0].bench
    items = 3 * bench.data.train.num_items + bench.data.validation.num_items
    return float(spent / (bench.model.host_flops * items * num_epochs * len(fused.runs)))


def build_row(
    task: str,
    clocks: dict[str, Clock],
    fused: FusedFleet[tuple[Observation, ...]],
    num_serial: int,
    memory: float,
    stages: dict[str, int],
) -> Row:
    """Return the row of what the clocks say."""
    num_hosts, num_batches = fused.num_hosts, fused.runs[0].bench.batches.num_batches
    hosts = {"bare": 1, "serial": num_serial}

    def per_step(name: str) -> list[float]:
        return [
            1e6 * value / hosts.get(name, num_hosts) / num_batches for value in clocks[name].cpu[WARM_EPOCHS:]
        ]

    def gain(slow: str, fast: str) -> float:
        return statistics.median(a / b for a, b in zip(per_step(slow), per_step(fast), strict=True))

    bare_gain, fused_gain = gain("bare", "stack"), gain("serial", "fused")
    acting = sum(per_step("acting"))
    return Row(
        task=task,
        num_hosts=num_hosts,
        num_batches=num_batches,
        num_epochs=len(clocks["bare"].cpu),
        bare=statistics.median(per_step("bare")),
        bare_stack=statistics.median(per_step("stack")),
        serial=statistics.median(per_step("serial")),
        fused=statistics.median(per_step("fused")),
        dormant=statistics.median(per_step("dormant")),
        flops=count_flops(fused, len(clocks["bare"].cpu)),
        gain_bare=bare_gain,
        gain_fused=fused_gain,
        kept=fused_gain / bare_gain,
        fused_share=fused.share.with_seeds,
        acting_share=acting / (acting + sum(per_step("fused"))),
        rss_per_host_mib=memory,
        stages=stages,
    )


def resident_bytes() -> int:
    """Return the resident set size of this process; its highest one where the present one is not told."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def grow_early(config: ExperimentConfig) -> ExperimentConfig:
    """Return the experiment with a heuristic that plants from the first epochs on, so that stages mix."""
    early: HeuristicConfig = replace(
        config.heuristic,
        is_stability_required=False,
        first_germination_epoch=1,
        germination_interval_epochs=2,
    )
    return replace(config, heuristic=early, num_threads=1)


def show(row: Row) -> None:
    """Print one row."""
    parts = [
        f"{row.task:<10} E {row.num_hosts:>3}",
        f"bare {row.bare:7.1f} > {row.bare_stack:6.1f} ({row.gain_bare:4.2f}x)",
        f"fleet {row.serial:7.1f} > {row.fused:6.1f} ({row.gain_fused:4.2f}x)",
        f"kept {row.kept:4.2f}",
        f"dormant {row.dormant:6.1f}",
        f"flops {row.flops:4.2f}",
        f"fused {row.fused_share:4.2f}",
        f"acting {row.acting_share:4.2f}",
    ]
    parts.append(f"{row.rss_per_host_mib:.1f} MiB/host")
    print("  ".join(parts), flush=True)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["digits", "synthetic"])
    parser.add_argument("--hosts", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for task in args.tasks:
        for num_hosts in args.hosts:
            config = grow_early(build_preset(task))
            rows.append(measure(config, num_hosts, args.epochs))
            show(rows[-1])
            lines = [json.dumps(asdict(row) | WHERE, sort_keys=True) for row in rows]
            args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
