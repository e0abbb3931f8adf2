"""A run's fossils are measured in its own rebuilt network (runtime/saved_host.py); the file says how."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cli.trainings import write_training
from esper.leyline import CheckpointError, ConfigError, RunDirectoryError
from esper.nissa import COALITIONS_NAME, read_coalitions, read_run
from esper.runtime.run import run_experiment
from esper.runtime.run_coalitions import measure_run
from esper.runtime.saved_host import load_saved_host
from nissa.sample_training import training_events
from runtime.test_run import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runs") / "run"
    run_experiment(tiny(), run_dir=target, provenance={})
    return target


def test_the_file_holds_every_subset_and_shares_without_a_rest(finished: Path) -> None:
    events = [path.read_bytes() for path in sorted(finished.glob("events-*.jsonl"))]
    table = measure_run(finished, num_items=100)
    assert read_coalitions(finished) == table
    assert (table.num_items, table.epoch, table.num_orders) == (100, 8, None)
    assert table.shares
    assert len(table.values) == 2 ** len(table.shares)
    whole = table.values[-1].metric - table.values[0].metric
    assert math.fsum(share.shapley for share in table.shares) == pytest.approx(whole, abs=1e-12)
    assert table.flops["counterfactual"] > 0
    assert [path.read_bytes() for path in sorted(finished.glob("events-*.jsonl"))] == events
    assert read_run(finished).bad_lines == ()


def test_measuring_twice_gives_the_same_file(finished: Path) -> None:
    measure_run(finished)
    first = (finished / COALITIONS_NAME).read_bytes()
    measure_run(finished)
    assert (finished / COALITIONS_NAME).read_bytes() == first
    assert json.loads(first)["format_version"] == 1


def test_the_metric_of_the_gates_is_named(finished: Path) -> None:
    saved = load_saved_host(finished, is_code_trusted=False)
    task = saved.assembly.task
    expected = "loss" if task.gates_use_loss else task.metric.name
    assert measure_run(finished, num_items=50).metric_name == expected
    assert saved.passed_over == ()


def test_a_training_of_a_policy_has_no_fossils(tmp_path: Path) -> None:
    training = write_training(tmp_path / "ppo", training_events(3))
    with pytest.raises(ConfigError, match="trained a policy"):
        measure_run(training)


def test_a_run_without_a_checkpoint_and_a_foreign_folder_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a run"):
        measure_run(tmp_path)
    for name in ("meta.json", "config.toml"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(CheckpointError):
        measure_run(tmp_path)
