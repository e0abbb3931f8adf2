"""How training in several processes scales: environment steps per second at the same work per process.

    python benchmarks/rank_scaling.py OUT.json --ranks 1 2 --envs-per-rank 4 --rounds 10 --repeats 3

Trains a policy under `esper launch` with each number of processes in turn, `--repeats` times, and reads when
each round was finished from the run's events. Every training has as many hosts as a process has environments,
and as many first rounds are left out: after them each process has met all of them, and trained the
never-grown life of each once. Each process has one thread. A ratio pairs trainings beside each other. Needs
as many idle cores as processes; the figure means nothing otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Speed(NamedTuple):
    """What one training did once every host was known."""

    steps_per_s: float
    cpu_s_per_step: float
    """Of all processes together, start-up and first rounds included."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Environment steps per second by number of processes.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--envs-per-rank", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10, help="per training, more than --envs-per-rank + 1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--task", default="digits")
    arguments = parser.parse_args()
    speeds: dict[int, list[Speed]] = {size: [] for size in arguments.ranks}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            for size in arguments.ranks:
                run_dir = Path(folder) / f"{size}-{repeat}"
                speeds[size].append(train(run_dir, size, arguments))
                print(f"{size} processes: {speeds[size][-1].steps_per_s:.2f} steps/s", file=sys.stderr)
    base = speeds[arguments.ranks[0]]
    ratios = {
        str(size): [mine.steps_per_s / its.steps_per_s for mine, its in zip(found, base, strict=True)]
        for size, found in speeds.items()
    }
    report = {
        "settings": {name: str(value) for name, value in vars(arguments).items() if name != "out"},
        "cores": os.cpu_count(),
        "speeds": {str(size): [speed._asdict() for speed in found] for size, found in speeds.items()},
        "ratios": ratios,
    }
    arguments.out.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    for name, found in ratios.items():
        print(f"{name} processes: {statistics.median(found):.2f} times the steps/s of {arguments.ranks[0]}")
    return 0


def train(run_dir: Path, size: int, arguments: argparse.Namespace) -> Speed:
    """Train once and return its speed."""
    before = os.times()
    subprocess.run(
        [
            *(sys.executable, "-m", "esper", "launch", "--nproc-per-node", str(size), "--", "train", "ppo"),
            *("--task", arguments.task, "--rounds", str(arguments.rounds), "--run-dir", str(run_dir)),
            *("--envs", str(size * arguments.envs_per_rank)),
            *("--envs.num-hosts", str(arguments.envs_per_rank), "--num-threads", "1"),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    spent = os.times()
    rounds = read_rounds(run_dir)[arguments.envs_per_rank - 1 :]
    (begun_s, before_steps), (ended_s, steps) = rounds[0], rounds[-1]
    cpu_s = spent.children_user - before.children_user + spent.children_system - before.children_system
    return Speed((steps - before_steps) / (ended_s - begun_s), cpu_s / steps)


def read_rounds(run_dir: Path) -> list[tuple[float, int]]:
    """Return when each round was finished and how many steps there had been."""
    lines = (run_dir / "events-0.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [
        (float(record["wall_time"]), int(record["event"]["num_env_steps"]))
        for record in records
        if record["kind"] == "PolicyUpdated"
    ]


if __name__ == "__main__":
    begun = time.monotonic()
    code = main()
    print(f"took {time.monotonic() - begun:.0f} s", file=sys.stderr)
    raise SystemExit(code)
