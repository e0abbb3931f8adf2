"""A drill inside a run: files, events, gradients and boundaries are struck; without an order nothing is."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from battery_rows import BatteryRecord
from cli.calling import call
from esper.leyline import CheckpointFailed, Event, Notice, NullProbe, PolicyUpdated, UpdateSkipped
from esper.nissa import effective_log, read_run
from esper.runtime.experiment import CheckpointConfig
from esper.runtime.fault_plan import Fault, FaultPlan, InjectedFaultError, parse_faults
from esper.runtime.fault_points import FaultPoints, flip_bit, spoil
from esper.runtime.policy_run import train_policy
from esper.runtime.run import run_experiment
from runtime.learning import tiny_training
from runtime.test_run import tiny

pytestmark = pytest.mark.fault


class NoSink:
    """Nothing may be told to it."""

    def emit(self, event: Event) -> None:
        raise AssertionError(f"told {event}")


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment, in which faults are permitted."""
    monkeypatch.setenv("ESPER_ALLOW_FAULTS", "1")
    return monkeypatch


def events_of(run_dir: Path) -> list[Event]:
    return [record.event for record in read_run(run_dir).records]


@pytest.mark.slow
@pytest.mark.battery("T03")
def test_a_run_goes_on_whichever_file_operation_of_its_first_save_fails(
    tmp_path: Path, order: pytest.MonkeyPatch, battery: BatteryRecord
) -> None:
    config = replace(tiny("never", epochs=2), checkpoint=CheckpointConfig(every_epochs=1))
    for call_number in range(1, 17):
        order.setenv("FAULTS", f"io-error@point=file,call={call_number}")
        path = tmp_path / str(call_number)
        assert run_experiment(config, run_dir=path, provenance={}).epochs == 2
        failed = [event.name for event in events_of(path) if isinstance(event, CheckpointFailed)]
        assert failed in (["e0001-b00000"], [])
        saved = {folder.name for folder in (path / "checkpoints").iterdir() if folder.is_dir()}
        # A save whose last steps fail counts as failed, although it is there.
        assert {"e0001-b00000", "e0002-b00000"} - saved <= set(failed)
        assert run_experiment(config, run_dir=path, provenance={}, resume=True).epochs == 2
        battery.record()


def test_without_an_order_a_run_is_handed_nothing_of_a_drill() -> None:
    points, stop = FaultPoints(FaultPlan()), lambda: False

    def keep(parameters: Sequence[nn.Parameter]) -> None:
        del parameters

    assert points.ask(stop) is stop
    assert points.reduce(keep) is keep
    assert not points.backends
    points.announce(NoSink(), 0)
    assert isinstance(points.probe, NullProbe)


def test_a_stop_check_and_a_reduction_are_points_and_still_do_their_work() -> None:
    points = FaultPoints(
        FaultPlan(parse_faults("exception@point=boundary,call=2;exception@point=minibatch,call=2"))
    )
    seen: list[int] = []
    ask, reduce = points.ask(lambda: True), points.reduce(lambda parameters: seen.append(len(parameters)))
    assert ask()
    with pytest.raises(InjectedFaultError):
        ask()
    reduce([nn.Parameter(torch.zeros(1))])
    with pytest.raises(InjectedFaultError):
        reduce([])
    assert seen == [1]


def test_a_run_whose_saving_fails_on_order_goes_on_and_says_that_it_was_a_drill(
    tmp_path: Path, order: pytest.MonkeyPatch
) -> None:
    order.setenv("FAULTS", "io-error@operation=fsync,call=2")
    run_experiment(tiny(), run_dir=tmp_path / "run", provenance={})
    events = events_of(tmp_path / "run")
    (failed,) = [event for event in events if isinstance(event, CheckpointFailed)]
    assert (failed.name, "Input/output error" in failed.error) == ("e0003-b00000", True)
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert notice.text == "a drill: faults on order: io-error@operation=fsync,call=2"
    run_experiment(tiny("never", epochs=1), run_dir=tmp_path / "drill", provenance={})
    order.delenv("FAULTS")
    run_experiment(tiny("never", epochs=1), run_dir=tmp_path / "plain", provenance={})
    assert effective_log(tmp_path / "drill") == effective_log(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nan", "bitflip"])
def test_one_number_of_one_gradient_is_spoilt_in_the_batch_that_was_named(
    tmp_path: Path, order: pytest.MonkeyPatch, kind: str
) -> None:
    order.setenv("FAULTS", f"{kind}@seed=host,step=2,batch=3{',bit=31' if kind == 'bitflip' else ''}")
    run_experiment(tiny(epochs=4), run_dir=tmp_path / "spoilt", provenance={})
    skipped = [event for event in events_of(tmp_path / "spoilt") if isinstance(event, UpdateSkipped)]
    assert [event.epoch for event in skipped] == ([3] if kind == "nan" else [])
    order.delenv("FAULTS")
    run_experiment(tiny(epochs=4), run_dir=tmp_path / "whole", provenance={})
    losses = [
        [getattr(event, "train_loss", None) for event in events_of(tmp_path / name) if event.epoch <= until]
        for name, until in (("spoilt", 2), ("whole", 2), ("spoilt", 4), ("whole", 4))
    ]
    assert [loss for loss in losses[0] if loss] == [loss for loss in losses[1] if loss]
    assert [loss for loss in losses[2] if loss] != [loss for loss in losses[3] if loss]


def test_any_other_fault_happens_between_a_backward_pass_and_its_step(
    tmp_path: Path, order: pytest.MonkeyPatch
) -> None:
    order.setenv("FAULTS", "exception@seed=host,step=1,batch=1")
    with pytest.raises(InjectedFaultError):
        run_experiment(tiny("never", epochs=2), run_dir=tmp_path / "run", provenance={})


@pytest.mark.slow
def test_an_exception_in_an_update_ends_a_training_as_a_program_error_does(
    tmp_path: Path, order: pytest.MonkeyPatch
) -> None:
    order.setenv("FAULTS", "exception@point=minibatch,call=2")
    with pytest.raises(InjectedFaultError):
        train_policy(tiny_training(), run_dir=tmp_path / "run", provenance={})
    assert not [event for event in events_of(tmp_path / "run") if isinstance(event, PolicyUpdated)]


def test_a_signal_at_an_event_stops_the_run_as_a_persons_does(
    tmp_path: Path, order: pytest.MonkeyPatch
) -> None:
    order.setenv("FAULTS", "sigterm@event=EpochCompleted,step=2")
    previous = signal.getsignal(signal.SIGTERM)
    flags = ["--task", "synthetic", "--epochs", "4", "--run-dir", str(tmp_path / "run")]
    assert call(["train", "never", *flags]).code == 143
    assert signal.getsignal(signal.SIGTERM) is previous
    assert (tmp_path / "run" / "checkpoints" / "e0002-b00000").is_dir()


@pytest.mark.parametrize("command", ["never", "ppo"])
def test_an_order_that_is_misspelt_is_refused_before_anything_is_written(
    tmp_path: Path, order: pytest.MonkeyPatch, command: str
) -> None:
    order.setenv("FAULTS", "kil@step=2")
    answer = call(["train", command, "--task", "synthetic", "--run-dir", str(tmp_path / "run")])
    assert answer.code == 2
    assert "did you mean 'kill'" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_order_without_permission_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS", "kill@event=RunStarted")
    monkeypatch.delenv("ESPER_ALLOW_FAULTS", raising=False)
    run_experiment(tiny("never", epochs=1), run_dir=tmp_path / "run", provenance={})
    assert not [event for event in events_of(tmp_path / "run") if isinstance(event, Notice)]
    assert os.environ["FAULTS"] == "kill@event=RunStarted"


@pytest.mark.parametrize(
    ("dtype", "bit", "before", "after"),
    [
        (torch.float32, 31, 1.5, -1.5),
        (torch.float32, 22, 1.0, 1.5),
        (torch.float64, 63, 2.0, -2.0),
        (torch.bfloat16, 15, 1.0, -1.0),
        (torch.float32, 54, 1.0, 1.5),
        (torch.int8, 7, 0, -128),
    ],
)
def test_one_bit_of_the_first_number_is_turned_and_turned_back(
    dtype: torch.dtype, bit: int, before: float, after: float
) -> None:
    values = torch.tensor([before, before], dtype=dtype)
    flip_bit(values, bit)
    assert values.tolist() == [after, before]
    flip_bit(values, bit)
    assert values.tolist() == [before, before]


def test_a_module_without_gradients_stays_as_it_is() -> None:
    module = nn.Linear(1, 1)
    before = [parameter.clone() for parameter in module.parameters()]
    spoil(Fault(kind="nan"), module)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
