"""The end of a host: what was not kept goes; the validation split can be read without the test split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline import SeedStage
from esper.tolaria import SplitResult
from tolaria.small_run import HORIZON, ListSink, drive, make_parts, make_run

if TYPE_CHECKING:
    import pytest


def test_concluding_culls_live_seeds_and_keeps_fossils() -> None:
    sink = ListSink()
    run = make_run(parts=make_parts(sink=sink))
    drive(run, HORIZON)
    run.conclude()
    stages = {report.slot: report.stage for report in run.observe().slots}
    assert stages["block1"] is SeedStage.FOSSILIZED
    assert not any(stage.is_live for stage in stages.values())
    culled = [event.reason for event in sink.of("SeedCulled")]  # type: ignore[attr-defined]
    assert culled[-1] == "horizon"


def test_concluding_reads_validation_and_never_the_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    drive(run, HORIZON)
    read: list[object] = []
    evaluate = run.bench.evaluator.evaluate

    def spy(model: object, inputs: object, targets: object) -> SplitResult:
        read.append(inputs)
        return evaluate(model, inputs, targets)  # type: ignore[arg-type]

    monkeypatch.setattr(run.bench.evaluator, "evaluate", spy)
    run.conclude()
    assert [inputs is run.bench.validation[0] for inputs in read] == [True]


def test_concluding_twice_and_finishing_after_it_give_the_same_network() -> None:
    once, twice = make_run(), make_run()
    for run in (once, twice):
        drive(run, HORIZON)
    assert twice.conclude() == twice.conclude()
    assert once.finish() == twice.finish()
