"""Where the time of a policy training goes with a serial and with a fused fleet, a round of each in turn.

    python benchmarks/training_shares.py OUT.jsonl [--envs 32] [--hosts 16] [--rounds 2] [--repeats 1]

Two processes do what `esper train ppo --task digits --envs 32` does, event log and checkpoints included, one
with `--fleet serial`, one with `--fleet fused`, same seed, one thread; one waits while the other has its
turn. Seconds per round and part, each without the parts that it calls:

    training hosts             Fleet.train_epoch
    observing and encoding     observations of hosts, columns for the network, what only the critic sees
    masks and policy           normalised inputs, noise, forward pass of the policy
    applying                   Fleet.apply
    beginning and concluding   hosts built for an episode; at its end what was not kept goes, metric read
    rewards and buffer         the collector's and the environment's own lines, rewards among them
    never-grown lives          of hosts that are met; here all of them before the first round
    PPO update                 PPOLearner.update
    rest                       a critic that knows but the time, events, checkpoints, the loop

Environments meet `--hosts` different hosts, fewer than by default, so that less time goes into their lives.
`--epochs` shortens all lives, but what a life costs once then weighs more than it does. The two trainings
compute the same up to rounding, after which policies may decide differently: pairs of rounds are no twins. A
repeat has another seed. From the serial training's share p of training hosts, and what they gain, s, follows
by Amdahl 1 / ((1 - p) + p / s) for the whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import torch
from turn_taking import Link

from esper.leyline import Collective
from esper.runtime import policy_run
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.life_sharing import share_lives
from esper.runtime.presets import build_preset
from esper.runtime.tasks import task_spec
from esper.simic import GrowthRolloutEnv, NeverRuns, PPOLearner, growth_env, trainer
from esper.simic.collector import RolloutCarry
from esper.simic.normalizers import InputNormalizer
from esper.tamiyo import RecurrentActorCritic
from esper.tolaria import FusedFleet, SerialFleet

KINDS = ("serial", "fused")
TRAINING, OBSERVING, ACTING = "training hosts", "observing and encoding", "masks and policy"
APPLYING, BEGINNING, PAYING = "applying", "beginning and concluding", "rewards and buffer"
LIVES, UPDATE, REST = "never-grown lives", "PPO update", "rest"
PARTS = (TRAINING, OBSERVING, ACTING, APPLYING, BEGINNING, PAYING, LIVES, UPDATE, REST)
BOOKKEEPING = (OBSERVING, ACTING, APPLYING, BEGINNING, PAYING)
"""Of a rollout, what is neither training hosts nor never-grown lives."""
UNDIVIDED = (LIVES, UPDATE)
"""What these call is theirs, whatever it is."""
WHERE = {"device": "cpu", "torch": torch.__version__, "threads": 1}
Seconds = Mapping[str, tuple[float, float]]
"""Part -> wall and CPU seconds."""


class EnoughError(Exception):
    """Leaves a training after its last round."""


def read_clocks() -> tuple[float, float]:
    """Return wall and CPU seconds."""
    return time.perf_counter(), time.process_time()


@dataclass(slots=True)
class PartClock:
    """Wall and CPU seconds by part; what runs inside another part is taken from that."""

    read: Callable[[], tuple[float, float]] = read_clocks
    spent: dict[str, list[float]] = field(default_factory=dict)
    stack: list[str] = field(default_factory=lambda: [REST])
    mark: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        """Begin a round."""
        self.spent = {part: [0.0, 0.0] for part in PARTS}
        self.mark = self.read()

    def stop(self) -> Seconds:
        """Return what the round took."""
        self.charge()
        return {part: (wall, cpu) for part, (wall, cpu) in self.spent.items()}

    def charge(self) -> None:
        """Give the time since the last look to the part that runs."""
        now = self.read()
        spent = self.spent.setdefault(self.stack[-1], [0.0, 0.0])
        spent[0] += now[0] - self.mark[0]
        spent[1] += now[1] - self.mark[1]
        self.mark = now

    def run(self, part: str, call: Callable[[], object]) -> object:
        """Do something that belongs to a part."""
        if self.stack[-1] in UNDIVIDED:
            return call()
        self.charge()
        self.stack.append(part)
        try:
            return call()
        finally:
            self.charge()
            self.stack.pop()

    def watch(self, owner: object, names: str, part: str) -> None:
        """Count calls of an owner's functions to a part from now on."""
        for name in names.split():
            setattr(owner, name, self._wrap(getattr(owner, name), part))

    def _wrap(self, original: Callable[..., object], part: str) -> Callable[..., object]:
        def timed(*args: object, **kwargs: object) -> object:
            return self.run(part, partial(original, *args, **kwargs))

        return timed


def watch_training(clock: PartClock) -> None:
    """Let a clock see every part; for the rest of this process."""
    for fleet in (SerialFleet, FusedFleet):
        clock.watch(fleet, "train_epoch", TRAINING)
        clock.watch(fleet, "observe observations", OBSERVING)
        clock.watch(fleet, "apply", APPLYING)
        clock.watch(fleet, "reset conclude", BEGINNING)
    clock.watch(growth_env, "build_privileged", OBSERVING)
    clock.watch(InputNormalizer, "observe normalize", ACTING)
    clock.watch(RolloutCarry, "draw_noise", ACTING)
    clock.watch(RecurrentActorCritic, "act compute_values", ACTING)
    clock.watch(GrowthRolloutEnv, "step reset", PAYING)
    clock.watch(trainer, "collect_rollout", PAYING)
    clock.watch(PPOLearner, "update", UPDATE)


def train(pipe: Connection, config: ExperimentConfig) -> None:
    """Train, a round for each question; None ends it. The first answer says that all is built."""
    torch.set_num_threads(1)
    clock = PartClock()
    watch_training(clock)
    envs, num_begun = config.envs, 0

    def begin_round(never_runs: NeverRuns, _instances: Sequence[int], collective: Collective) -> None:
        nonlocal num_begun
        pipe.send(clock.stop() if num_begun else None)
        if pipe.recv() is None:
            raise EnoughError
        num_begun += 1
        clock.start()
        every = range(envs.first_seed, envs.first_seed + envs.num_hosts)
        clock.run(LIVES, lambda: share_lives(never_runs, every, collective))

    setattr(policy_run, share_lives.__name__, begin_round)
    with tempfile.TemporaryDirectory() as folder:
        try:
            policy_run.train_policy(config, run_dir=Path(folder) / "run", provenance={})
        except EnoughError:
            return


def configure(given: argparse.Namespace, kind: str, seed: int) -> ExperimentConfig:
    """Return the experiment of one training."""
    config = build_preset(given.task)
    return replace(
        config,
        policy="ppo",
        seed=seed,
        num_threads=1,
        host=replace(config.host, epochs=given.epochs),
        envs=replace(config.envs, num_envs=given.envs, num_hosts=given.hosts),
        fleet=replace(config.fleet, kind=kind),
        # One more than is trained, so that what ends a training is in none of the rounds.
        training=replace(config.training, num_updates=given.rounds + 1),
        telemetry=replace(config.telemetry, progress="none"),
    )


def measure(given: argparse.Namespace, seed: int) -> list[dict[str, object]]:
    """Return the rows of both trainings with one seed."""
    links: dict[str, Link] = {}
    rounds: dict[str, list[Seconds]] = {kind: [] for kind in KINDS}
    try:
        for kind in KINDS:
            links[kind] = Link(partial(train, config=configure(given, kind, seed)))
        for link in links.values():
            link.receive()
        for _ in range(given.rounds):
            for kind, link in links.items():
                rounds[kind].append(cast("Seconds", link.ask(True)))
        for link in links.values():
            link.send(None)
    finally:
        for link in reversed(links.values()):
            link.close()
    facts = {
        "task": given.task,
        "num_envs": given.envs,
        "num_hosts": given.hosts,
        "epochs": given.epochs or task_spec(given.task).horizon_epochs,
        "seed": seed,
    }
    return [{**facts, "fleet": kind, **split(rounds[kind]), **WHERE} for kind in KINDS]


def split(rounds: Sequence[Seconds]) -> dict[str, dict[str, list[float]]]:
    """Return the wall and the CPU seconds of each part, round by round."""
    return {
        name: {part: [round(seconds[part][place], 6) for seconds in rounds] for part in PARTS}
        for place, name in enumerate(("wall", "cpu"))
    }


def show(serial: Mapping[str, object], fused: Mapping[str, object]) -> None:
    """Print two trainings side by side, medians over rounds."""
    print(f"\n{serial['task']}, {serial['num_envs']} environments, seed {serial['seed']}")
    print(f"{'part':<26} {'serial s':>10} {'fused s':>10} {'ratio':>7}")
    columns = [cast("Mapping[str, list[float]]", row["wall"]) for row in (serial, fused)]
    for part in PARTS:
        one, other = (statistics.median(column[part]) for column in columns)
        print(f"{part:<26} {one:>10.3f} {other:>10.3f} {one / max(other, 1e-9):>7.2f}", flush=True)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--hosts", type=int, default=16, help="different hosts that are met")
    parser.add_argument("--epochs", type=int, help="intervals of a life; default: the task's")
    parser.add_argument("--rounds", type=int, default=2, help="of each training")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for seed in range(given.repeats):
        rows += measure(given, seed)
        show(*rows[-2:])
        lines = [json.dumps(row, sort_keys=True) for row in rows]
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
