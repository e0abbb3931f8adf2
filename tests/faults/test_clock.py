"""A clock on the wall that jumps changes nothing but what is shown."""

from __future__ import annotations

import datetime
import itertools
import time
from pathlib import Path
from typing import Self

import pytest

from battery_rows import BatteryRecord
from esper.leyline import EpochCompleted
from esper.nissa import effective_log, read_run
from esper.nissa import record as record_module
from esper.runtime import policy_run, run_folder
from esper.runtime import run as run_module
from esper.runtime.policy_run import train_policy
from esper.runtime.run import run_experiment
from runtime.learning import tiny_training
from runtime.test_run import tiny

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.battery("T42")]

DAY_S, HOUR_S = 86_400.0, 3_600.0
JUMPS = {
    "a day on and back": (0.0, DAY_S, 0.0, -DAY_S),
    "summer and winter time": (0.0, HOUR_S, 0.0),
    "ten seconds back again and again": (0.0, -10.0, -20.0, -30.0, -40.0),
}


@pytest.fixture(params=JUMPS)
def jumps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that is somewhere else each time it is read; returns what was read from it."""
    offsets, read = itertools.cycle(JUMPS[request.param]), []
    true_time, true_class = time.time, datetime.datetime  # noqa: TID251 - the clock that is patched

    def jumping_time() -> float:
        read.append(true_time() + next(offsets))
        return read[-1]

    class JumpingDatetime(true_class):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Self:
            return cls.fromtimestamp(jumping_time(), tz)  # type: ignore[no-any-return]

    monkeypatch.setattr(time, "time", jumping_time)
    monkeypatch.setattr(datetime, "datetime", JumpingDatetime)
    for module in (record_module, run_folder, run_module, policy_run):
        monkeypatch.setattr(module, "datetime", JumpingDatetime)
    return read


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a training under an ordinary clock."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_experiment(tiny(), run_dir=folder / "run", provenance={})
    train_policy(tiny_training(1), run_dir=folder / "training", provenance={})
    return folder


def test_a_run_and_a_training_come_to_the_same_in_the_same_order(
    undisturbed: Path, tmp_path: Path, jumps: list[float], battery: BatteryRecord
) -> None:
    run_experiment(tiny(), run_dir=tmp_path / "run", provenance={})
    train_policy(tiny_training(1), run_dir=tmp_path / "training", provenance={})
    assert len(jumps) > 20, "the clock is read for every event"
    assert any(after < before for before, after in itertools.pairwise(jumps))
    for name in ("run", "training"):
        assert effective_log(tmp_path / name) == effective_log(undisturbed / name)
        records = read_run(tmp_path / name).records
        assert [record.seq for record in records] == list(range(len(records)))
        assert any(a.wall_time > b.wall_time for a, b in itertools.pairwise(records))
        durations = [record.event.seconds for record in records if isinstance(record.event, EpochCompleted)]
        assert all(duration >= 0 for duration in durations)
        battery.record()


def test_a_run_is_resumed_under_another_date(
    undisturbed: Path, tmp_path: Path, jumps: list[float], battery: BatteryRecord
) -> None:
    for _ in range(3):
        first = run_experiment(tiny(epochs=2), run_dir=tmp_path / str(len(jumps)), provenance={})
        assert first.run_dir is not None
        again = run_experiment(tiny(epochs=2), run_dir=first.run_dir, provenance={}, resume=True)
        assert again == first
        battery.record()
    assert undisturbed.exists()
