"""Start-up: from nothing to a help text, and to the first training step, in fresh processes in turn.

    python benchmarks/start_up.py OUT.json [ROUNDS]

    pass          the interpreter alone
    help          esper --help
    runs          esper runs ls in an empty folder
    torch         import torch
    bare step     import torch and one step of SGD on one linear map: what any training with torch waits for
    first step    everything up to the end of the first batch of digits

CPU seconds count, because wall time measures the neighbours too; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

BARE_STEP = """
import torch
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.rand(2, 4)).sum().backward()
optimizer.step()
"""

FIRST_STEP = """
from dataclasses import replace
from esper.runtime.assemble import assemble
from esper.runtime.presets import build_preset
assembly = assemble(replace(build_preset("digits"), num_threads=1))
run = assembly.host_run
run.apply(assembly.policy.decide(run.observe()))
run.train_epoch(lambda: True)
assert run.progress.batch == 1
"""

COMMANDS = {
    "pass": ("-c", "pass"),
    "help": ("-m", "esper", "--help"),
    "runs": ("-m", "esper", "runs", "ls"),
    "torch": ("-c", "import torch"),
    "bare step": ("-c", BARE_STEP),
    "first step": ("-c", FIRST_STEP),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    wall: float
    cpu: float


def measure(arguments: tuple[str, ...], directory: str) -> Timing:
    """Run one interpreter to its end.

    Raises:
        CalledProcessError: If it fails.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        cwd=directory,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timing(wall=wall, cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description="Start-up in fresh processes, in turn.")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("rounds", type=int, nargs="?", default=9, help="processes per command, >= 1")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"rounds={arguments.rounds}: must be >= 1")
    taken: dict[str, list[Timing]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(arguments.rounds):
            for name, command in COMMANDS.items():
                taken[name].append(measure(command, directory))
    cpu = {name: statistics.median(timing.cpu for timing in timings) for name, timings in taken.items()}
    rows: list[dict[str, object]] = []
    print(f"{'what':<11} {'wall s':>8} {'least':>8} {'CPU s':>8} {'pass = 1':>9} {'torch = 1':>10}")
    for name, timings in taken.items():
        wall = statistics.median(timing.wall for timing in timings)
        least = min(timing.wall for timing in timings)
        to_pass, to_torch = cpu[name] / cpu["pass"], cpu[name] / cpu["torch"]
        print(f"{name:<11} {wall:>8.2f} {least:>8.2f} {cpu[name]:>8.2f} {to_pass:>9.1f} {to_torch:>10.2f}")
        rows.append({"what": name, "wall": wall, "least_wall": least, "cpu": cpu[name]})
    document = {"format": 1, "rounds": arguments.rounds, "rows": rows}
    arguments.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
