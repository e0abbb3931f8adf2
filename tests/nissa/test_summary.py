"""A run's summary holds at every moment of its life, and is valid JSON whatever its numbers are."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from esper.leyline import Event, RunStarted
from esper.nissa import RunSummary, compute_summary, summary_to_plain
from nissa.sample_run import EPOCHS, HOST_PARAMS, finished_epoch, numbered, run_events

EVENTS = list(run_events())


def summary_of(events: list[Event]) -> RunSummary:
    return compute_summary(numbered(events))


def test_a_finished_run_in_numbers() -> None:
    summary = summary_of(EVENTS)
    assert (summary.status, summary.task, summary.policy, summary.seed) == (
        "horizon",
        "digits",
        "heuristic",
        3,
    )
    assert (summary.num_epochs, summary.horizon_epochs) == (EPOCHS, EPOCHS)
    best = max(range(1, EPOCHS + 1), key=lambda epoch: finished_epoch(epoch).metric)
    assert (summary.best_epoch, summary.best_metric) == (best, finished_epoch(best).metric)
    assert summary.last_metric == finished_epoch(EPOCHS).metric
    assert summary.seconds == 60.0
    assert summary.flops == finished_epoch(EPOCHS).flops
    assert (summary.host_params, summary.total_params) == (HOST_PARAMS, HOST_PARAMS + 1_204)


def test_a_run_that_has_just_started() -> None:
    summary = summary_of(EVENTS[:1])
    assert (summary.status, summary.num_epochs, summary.best_metric) == ("unfinished", 0, None)
    assert summary.total_params == HOST_PARAMS


def test_no_record_at_all() -> None:
    assert summary_of([]) == RunSummary()


def test_a_run_in_the_middle() -> None:
    summary = summary_of(EVENTS[:-1])
    assert (summary.status, summary.test_metrics) == ("unfinished", {})
    assert summary.total_params == HOST_PARAMS + 1_204


def test_a_resume_after_the_end_is_unfinished_again() -> None:
    start = EVENTS[0]
    assert isinstance(start, RunStarted)
    assert summary_of([*EVENTS, replace(start, is_resumed=True)]).status == "unfinished"


def test_a_metric_that_is_not_finite_is_never_the_best() -> None:
    events: list[Event] = [finished_epoch(1), replace(finished_epoch(2), metric=math.nan)]
    assert summary_of(events).best_epoch == 1


def test_the_best_of_a_lower_is_better_metric_is_the_lowest() -> None:
    events: list[Event] = [
        replace(finished_epoch(epoch), metric=-loss, raw_metrics={"loss": loss})
        for epoch, loss in ((1, 2.0), (2, 1.0), (3, 1.5))
    ]
    summary = summary_of(events)
    assert (summary.metric_name, summary.best_epoch, summary.best_metric) == ("loss", 2, 1.0)


def test_json_holds_no_bare_nan() -> None:
    plain = summary_to_plain(summary_of([replace(finished_epoch(1), train_loss=math.nan)]))
    assert isinstance(plain, dict)
    json.dumps(plain, allow_nan=False)
    assert plain["last_train_loss"] is None
    assert plain["nonfinite"] == (("last_train_loss", "nan"),)
    assert plain["schema_version"] == 1
