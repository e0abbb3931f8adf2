"""A host that fails again after every rollback: the run ends with code 6 and a report of what was wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cli.calling import call
from esper.leyline import RolledBack, RunFinished, UpdateSkipped
from esper.nissa import read_run
from esper.runtime.run_records import read_status
from esper.tolaria import TopologyOptimizer

RUN = (
    "train", "heuristic", "--task", "synthetic", "--epochs", "6", "--host.snapshot-every", "1",
    "--telemetry.progress", "none",
)  # fmt: skip


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its fifth step on every step of an optimiser leaves one weight of the host as NaN."""
    step, count = TopologyOptimizer.step, [0]

    def spoil(optimizer: TopologyOptimizer) -> None:
        step(optimizer)
        count[0] += 1
        if count[0] >= 5:
            with torch.no_grad():
                next(iter(optimizer.parameters().values())).view(-1)[0] = float("nan")

    monkeypatch.setattr(TopologyOptimizer, "step", spoil)


@pytest.mark.fault
@pytest.mark.battery("T34")
@pytest.mark.parametrize("allowed", [0, 2])
@pytest.mark.usefixtures("sick")
def test_a_host_that_never_recovers_ends_with_code_6_and_says_what_was_bad(
    allowed: int, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    answer = call([*RUN, "--run-dir", str(run), "--host.governor.max-rollbacks", str(allowed)])
    assert answer.code == 6
    assert "Traceback" not in answer.err
    (line,) = [line for line in answer.error_lines if line.startswith("esper: error: ")]
    assert f"failed again after {allowed} rollbacks: non_finite" in line
    assert "bad first: weight host." in line
    assert "last good epoch" in line
    status = read_status(run)
    assert (status["state"], status["exit_code"]) == ("failed", 6)
    events = [record.event for record in read_run(run).records]
    assert sum(isinstance(event, RolledBack) for event in events) == allowed
    skips = [event for event in events if isinstance(event, UpdateSkipped)]
    assert [event.place for event in skips if event.group == "host"] == ["weight"] * (allowed + 1)
    end = events[-1]
    assert isinstance(end, RunFinished)
    assert end.reason == "governor"
