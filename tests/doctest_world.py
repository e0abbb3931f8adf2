"""What examples in docstrings may name without making it: one small finished life of a host.

Names: `observation` and `report`, what a policy sees of a fresh host with free slots, and the first of them;
`model`, that host with nothing in its slots; `runs` and `run_dir`, a folder of runs and the run in it; `log`,
that run, read back; `host_run()`, a fresh host of one epoch; `build_policy`, of tamiyo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from esper.nissa import read_run
from esper.runtime.assemble import assemble
from esper.runtime.presets import synthetic
from esper.runtime.run import run_experiment
from esper.tamiyo import build_policy


def build_world(folder: Path) -> Mapping[str, object]:
    """Return the names; runs a host of 612 parameters for 8 epochs.

    Args:
        folder: An empty one, for the run.
    """
    config = synthetic()
    config = replace(
        config,
        policy="cycle",
        host=replace(config.host, epochs=8),
        telemetry=replace(config.telemetry, progress="none", has_report=False),
    )
    run_dir = folder / "runs" / "one"
    run_experiment(config, run_dir=run_dir, provenance={})
    host_run = assemble(config).host_run
    observation = host_run.observe()
    short = replace(config, host=replace(config.host, epochs=1))
    return {
        "observation": observation,
        "report": observation.slots[0],
        "model": host_run.bench.model,
        "runs": run_dir.parent,
        "run_dir": run_dir,
        "log": read_run(run_dir),
        "host_run": lambda: assemble(short).host_run,
        "build_policy": build_policy,
    }
