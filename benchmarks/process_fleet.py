"""Wall time of fleets in worker processes on two cores, against bare loops and a serial fleet, in turn.

    python benchmarks/process_fleet.py OUT.jsonl [--cases cifar:never:4:5 digits:heuristic:8:10 ...]
                                                 [--batches 10]

    bare_many    plain loops over one host each, one host after another, with torch's default of two threads
    bare_one     the same with one thread
    serial       host runs that take turns, one thread
    process      the host runs in two workers with one thread each
    fused        host runs of one architecture as one program, one thread
    fused_process   that in each of two workers

A case is TASK:POLICY:HOSTS:EPOCHS. `digits` is its preset. `cifar` is a host of 6,418 parameters at batch 512
on generated pictures of 3 x 32 x 32: so many batches of training rows, 1,024 validation rows, not augmented.
An epoch of each way in turn, and each way lives in a process of its own; the others wait meanwhile. An epoch
is applying, training, validating and observing; deciding is not timed. `never` leaves every slot dormant;
with `heuristic` rules look at the serial fleet, and all fleets carry out what they decide. Bare loops cannot
grow and are measured beside `never` alone. They have the optimiser, clip, schedule, batches and validation of
the host runs, and the script stops where losses of `serial` differ in one bit from those of `process` or,
without seeds, of `bare_one`.

The first epoch is left out. `peak_mib` sums the largest resident sets of a way's process and of all that it
started; memory that they share is counted in each. Needs two idle cores; wall time means nothing otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from operator import ne
from pathlib import Path
from typing import cast
from unittest import mock

import torch
from fleets import FIRST_SEED, grow_early
from host_run import BareLoop
from precision import generate_images
from turn_taking import Link, measure_peaks

from esper.data import TaskData
from esper.kasmina import build_seeded
from esper.leyline import WAIT, Action, Decision, Observation, TamiyoPolicy, TaskSpec
from esper.runtime import families
from esper.runtime.assemble import build_host
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.families import HostFactory
from esper.runtime.fleets import build_fleet
from esper.runtime.policies import find_policy
from esper.runtime.presets import build_preset
from esper.runtime.tasks import load_task
from esper.tolaria import Fleet, FleetConfig

BARE = {"bare_many": 2, "bare_one": 1}
"""Way -> threads."""
FLEETS = ("serial", "process", "fused", "fused_process")
CASES = ("cifar:never:4:5", "cifar:heuristic:4:4", "digits:heuristic:8:10", "digits:heuristic:32:6")
WORKERS = 2
WARM_EPOCHS = 1
CIFAR_BATCH, CIFAR_VALIDATION = 512, 1024
WHERE = {"device": "cpu", "torch": torch.__version__, "threads": 1}


@dataclass(frozen=True, slots=True)
class Case:
    """What is trained."""

    task: str
    policy: str
    num_hosts: int
    num_epochs: int
    num_batches: int
    """Per epoch, of `cifar`."""

    @property
    def ways(self) -> tuple[str, ...]:
        """Names in the order of their turns."""
        return (*BARE, *FLEETS) if self.policy == "never" else FLEETS

    @property
    def instances(self) -> range:
        return range(FIRST_SEED, FIRST_SEED + self.num_hosts)


@dataclass(frozen=True, slots=True)
class Turn:
    """One epoch of one way."""

    wall: float
    cpu: float
    """Of the way's own process; what workers do is not in it."""
    losses: list[float | None]
    """[E] of validation."""
    effects: list[Action]
    """[E] what was carried out."""
    decided: tuple[Decision, ...]
    """[E] for the next epoch; of the serial fleet alone."""
    num_live: int
    """Hosts with a live seed at its end."""


@dataclass(slots=True, kw_only=True)
class Way:
    """What the epochs of one way took; those that warm up are not in it."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    processes: int = 0
    apart: int = 0
    """Decisions that came to something else than in the serial fleet, from the first epoch on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A case with its experiment and data."""

    case: Case
    config: ExperimentConfig
    loaded: tuple[TaskSpec, TaskData]


def load_case(case: Case) -> Setup:
    """Return a case with what it needs."""
    name = "cifar10" if case.task == "cifar" else case.task
    config = grow_early(build_preset(name))
    if case.task == "cifar":
        spec, data = generate_images(name, case.num_batches * CIFAR_BATCH)
        rows = torch.arange(CIFAR_VALIDATION)
        data = replace(data, validation=data.validation.rows(rows, f"{data.validation.source}/first"))
        config = replace(
            config,
            task=replace(config.task, is_augmented=False),
            host=replace(config.host, batch_size=CIFAR_BATCH),
        )
    else:
        spec, data = load_task(config.task)
    config = replace(config, host=replace(config.host, epochs=spec.horizon_epochs))
    return Setup(case=case, config=config, loaded=(spec, data))


class BareHosts:
    """E plain loops, trained one after another."""

    def __init__(self, setup: Setup) -> None:
        configs = [replace(setup.config, seed=seed) for seed in setup.case.instances]
        self.loops = [BareLoop(config, setup.loaded, 0) for config in configs]
        self.decided: tuple[Decision, ...] = ()
        self.num_live = 0
        for loop in self.loops:  # data is read once, as whoever trains several would
            loop.train_items = self.loops[0].train_items
            loop.validation_items = self.loops[0].validation_items

    def run_epoch(self, decisions: Sequence[Decision]) -> tuple[list[float | None], list[Action]]:
        """Return losses, and that nothing was carried out."""
        return [loop.run_epoch().validation_loss for loop in self.loops], [WAIT] * len(decisions)

    def close(self) -> None:
        """Nothing to do."""


class FleetHosts:
    """A fleet, and the rules that look at it if there are any."""

    def __init__(self, fleet: Fleet[tuple[Observation, ...]], policies: Sequence[TamiyoPolicy]) -> None:
        self.fleet, self.policies = fleet, policies
        self.observations = fleet.observations()

    @property
    def decided(self) -> tuple[Decision, ...]:
        """What the rules make of what is seen; empty without rules."""
        return tuple(p.decide(o) for p, o in zip(self.policies, self.observations, strict=False))

    def run_epoch(self, decisions: Sequence[Decision]) -> tuple[list[float | None], list[Action]]:
        """Return losses and what was carried out."""
        results = self.fleet.apply(decisions)
        outcomes, _ = self.fleet.train_epoch()
        self.observations = self.fleet.observations()
        losses = [None if outcome is None else outcome.validation_loss for outcome in outcomes]
        return losses, [result.effective for result in results]

    @property
    def num_live(self) -> int:
        """Hosts with a live seed."""
        return sum(any(slot.stage.is_live for slot in seen.slots) for seen in self.observations)

    def close(self) -> None:
        self.fleet.close()


def build_hosts(setup: Setup, way: str) -> BareHosts | FleetHosts:
    """Return what trains the hosts of a case in one way, in this process."""
    case, config = setup.case, setup.config
    if way in BARE:
        torch.set_num_threads(BARE[way])
        return BareHosts(setup)
    torch.set_num_threads(1)
    with mock.patch.object(families, "load_task", return_value=setup.loaded):
        factory = HostFactory(config)
        fleet = build_fleet(FleetConfig(kind=way, workers=WORKERS), factory, case.instances, tuple)
    policies: list[TamiyoPolicy] = []
    if way == "serial":
        choices = [find_policy(case.policy, config, seed=i, is_greedy=False) for i in case.instances]
        policies = [choice.policy for choice in choices]
        for policy in policies:
            policy.reset()
    return FleetHosts(fleet, policies)


def serve(pipe: Connection, setup: Setup, way: str) -> None:
    """Train an epoch for every list of decisions that comes; None asks for memory and ends."""
    hosts = build_hosts(setup, way)
    pipe.send(hosts.decided)
    while (decisions := pipe.recv()) is not None:
        cpu, wall = time.process_time(), time.perf_counter()
        losses, effects = hosts.run_epoch(decisions)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        pipe.send(Turn(wall, cpu, losses, effects, hosts.decided, hosts.num_live))
    pipe.send(measure_peaks(os.getpid()))
    hosts.close()


def measure(case: Case) -> dict[str, object]:
    """Return the row of a case."""
    setup = load_case(case)
    ways = {name: Way() for name in case.ways}
    links: dict[str, Link] = {}
    num_live = 0
    try:
        for name in ways:
            links[name] = Link(partial(serve, setup=setup, way=name))
        decisions = {name: link.receive() for name, link in links.items()}["serial"]
        for epoch in range(case.num_epochs):
            turns = {name: cast("Turn", link.ask(decisions)) for name, link in links.items()}
            refuse_other_numbers(turns, case, epoch)
            keep(turns, ways, is_warm=epoch >= WARM_EPOCHS)
            num_live += turns["serial"].num_live
            decisions = turns["serial"].decided
        for name, link in links.items():
            peaks = cast("list[float]", link.ask(None))
            ways[name].peak_mib, ways[name].processes = sum(peaks), len(peaks)
    finally:
        for link in reversed(links.values()):
            link.close()
    return describe(setup, ways, num_live / (case.num_epochs * case.num_hosts))


def refuse_other_numbers(turns: Mapping[str, Turn], case: Case, epoch: int) -> None:
    """Stop where ways that compute the same numbers do not.

    Raises:
        RuntimeError: If a loss differs in one bit.
    """
    for name in ("process", *(("bare_one",) if case.policy == "never" else ())):
        if turns[name].losses != turns["serial"].losses:
            raise RuntimeError(
                f"{case.task}, epoch {epoch}: serial has the losses {turns['serial'].losses}, {name} "
                f"{turns[name].losses}: they do not train the same networks"
            )


def keep(turns: Mapping[str, Turn], ways: Mapping[str, Way], *, is_warm: bool) -> None:
    """Add an epoch to what each way took; times only once it is warm."""
    for name, turn in turns.items():
        if is_warm:
            ways[name].wall.append(round(turn.wall, 6))
            ways[name].cpu.append(round(turn.cpu, 6))
        ways[name].apart += sum(map(ne, turn.effects, turns["serial"].effects))


def describe(setup: Setup, ways: Mapping[str, Way], live_share: float) -> dict[str, object]:
    """Return the row of a case."""
    config, (spec, data) = setup.config, setup.loaded
    with torch.device("meta"):
        host = build_seeded(build_host(config.model, spec), 0)
    return {
        "task": setup.case.task,
        "policy": setup.case.policy,
        "num_hosts": setup.case.num_hosts,
        "host_params": sum(parameter.numel() for parameter in host.parameters()),
        "batch_size": config.host.batch_size,
        "rows": data.train.num_items,
        "validation_rows": data.validation.num_items,
        "workers": WORKERS,
        "bare_threads": BARE["bare_many"],
        "live_share": live_share,
        "ways": {name: asdict(way) for name, way in ways.items()},
        **WHERE,
    }


def show(row: Mapping[str, object]) -> None:
    """Print one row."""
    ways = row["ways"]
    assert isinstance(ways, Mapping)
    print(
        f"\n{row['task']}, {row['num_hosts']} hosts of {row['host_params']} parameters, {row['policy']}, "
        f"with a live seed {row['live_share']:.2f}"
    )
    print(f"{'way':<14} {'wall s':>8} {'over bare':>10} {'serial over it':>15} {'MiB':>7} {'apart':>6}")
    for name, way in ways.items():
        over_bare = find_ratio(way, ways["bare_many"]) if "bare_many" in ways else math.nan
        print(
            f"{name:<14} {statistics.median(way['wall']):>8.3f} {over_bare:>10.3f} "
            f"{find_ratio(ways['serial'], way):>15.3f} {way['peak_mib']:>7.0f} {way['apart']:>6}",
            flush=True,
        )


def find_ratio(above: Mapping[str, list[float]], below: Mapping[str, list[float]]) -> float:
    """Return the median ratio of wall times of epochs that stand side by side."""
    return statistics.median(a / b for a, b in zip(above["wall"], below["wall"], strict=True))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", nargs="+", default=CASES, help="each TASK:POLICY:HOSTS:EPOCHS")
    parser.add_argument("--batches", type=int, default=10, help="training batches per epoch of cifar")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for text in given.cases:
        task, policy, num_hosts, num_epochs = text.split(":")
        rows.append(measure(Case(task, policy, int(num_hosts), int(num_epochs), given.batches)))
        show(rows[-1])
        lines = [json.dumps(row, sort_keys=True) for row in rows]
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
